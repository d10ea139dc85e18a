"""The scheduler against any order of events: workers, calls, deaths and looks come when they please.

A hand-kept memory takes the place of shared memory. Unlike in the model of a node nothing happens by itself: each step
is drawn, so orders come up that no clock would bring about. What really executes is summed up after each step. At the
end all that is due is done, round by round, until no call waits: so whatever went before, everything goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from actorflow.core import events as ev
from actorflow.core.policy import Policy
from actorflow.core.resources import ResourceSet, add
from actorflow.core.scheduler import Scheduler

SHAPES = [
    ResourceSet.of(CPU=1),
    ResourceSet.of(CPU=2),
    ResourceSet.of(CPU=0.5),
    ResourceSet(),
    ResourceSet.of(CPU=1, GPU=1),
    ResourceSet.of(GPU=0.4),
    ResourceSet.of(CPU=1, disk=1),
]
TOTAL = ResourceSet.of(CPU=3, GPU=2, disk=1)
Kinds = st.sampled_from(SHAPES)
Number = st.integers(0, 999)


@dataclass(eq=False)
class Memory:
    """One queue as shared memory has it."""

    id: ev.QueueId
    job: ev.JobId
    shape: ResourceSet
    environment: str = ""
    depth: int = 0
    allowed: int = 0


@dataclass(eq=False)
class Process:
    """One worker. `call`: "" when it executes nothing, else "runs", "waits" or, once it has waited, "goes on"."""

    id: ev.WorkerId
    serves: Memory | None = None
    joined: bool = False
    call: str = ""
    leaves: bool = False
    stops: bool = False
    actor: ev.ActorId | None = None
    orders: list[ev.Effect] = field(default_factory=list)


class AnyOrder(RuleBasedStateMachine):
    """See the module's first lines."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(TOTAL, Policy(fresh_workers=1, idle_workers=1, parallel_limit=6))
        self.now_s = 0.0
        self.made = 0
        self.jobs: list[ev.JobId] = []
        self.queues: dict[ev.QueueId, Memory] = {}
        self.processes: dict[ev.WorkerId, Process] = {}
        self.actors: dict[ev.ActorId, tuple[ResourceSet, ResourceSet]] = {}
        self.starting = 0

    # -- the node
    def tell(self, event: ev.Event) -> None:
        effects = self.scheduler.handle(event, self.now_s)
        self.scheduler.validate()
        written = []
        for effect in effects:
            if isinstance(effect, ev.SetAllowed):
                self.write(effect)
                written.append(effect.queue)
            elif isinstance(effect, ev.StartWorkers):
                self.starting += effect.count
            elif isinstance(effect, ev.ServeQueue | ev.LeaveQueue | ev.StopWorker | ev.HostActor):
                if effect.worker in self.processes:
                    self.processes[effect.worker].orders.append(effect)
            elif isinstance(effect, ev.ReportQueueInfeasible | ev.ReportActorInfeasible):
                raise AssertionError(effect)
        for queue in written:
            self.look(queue)

    def write(self, effect: ev.SetAllowed) -> None:
        memory = self.queues.get(effect.queue)
        if memory is not None:
            active = self.facts(memory)[0]
            lowered = min(memory.allowed, max(active, effect.allowed))
            memory.allowed = effect.allowed if effect.allowed >= memory.allowed else lowered

    def facts(self, memory: Memory) -> tuple[int, int, int]:
        """Active, readers, blocked."""
        readers = [
            process for process in self.processes.values() if process.serves is memory and process.joined
        ]
        blocked = sum(process.call == "waits" for process in readers)
        return sum(bool(process.call) for process in readers) - blocked, len(readers), blocked

    def look(self, queue: ev.QueueId) -> None:
        memory = self.queues.get(queue)
        if memory is not None:
            active, readers, blocked = self.facts(memory)
            self.tell(ev.QueueObserved(queue, memory.depth, active, memory.allowed, readers, blocked))

    def some(self, number: int) -> Process | None:
        processes = list(self.processes.values())
        return processes[number % len(processes)] if processes else None

    # -- drivers
    @initialize()
    def first_job(self) -> None:
        self.start_job()

    @rule()
    def start_job(self) -> None:
        self.made += 1
        self.jobs.append(ev.JobId(self.made))
        self.tell(ev.JobStarted(self.jobs[-1]))

    @rule(
        number=Number, shape=Kinds, depth=st.sampled_from([1, 2, 30]), environment=st.sampled_from(["", "e"])
    )
    def push(self, number: int, shape: ResourceSet, depth: int, environment: str) -> None:
        """Into the job's queue of that shape and environment, which is opened by it."""
        if not self.jobs:
            return
        job = self.jobs[number % len(self.jobs)]
        wanted = (job, shape, environment)
        memory = next((m for m in self.queues.values() if (m.job, m.shape, m.environment) == wanted), None)
        if memory is None:
            self.made += 1
            memory = self.queues[ev.QueueId(self.made)] = Memory(ev.QueueId(self.made), *wanted)
            self.tell(ev.QueueOpened(memory.id, job, shape, environment))
        memory.depth += depth
        self.look(memory.id)

    @rule(number=Number)
    def end_job(self, number: int) -> None:
        if len(self.jobs) > 1:
            job = self.jobs.pop(number % len(self.jobs))
            for memory in [memory for memory in self.queues.values() if memory.job == job]:
                del self.queues[memory.id]
            self.tell(ev.JobEnded(job))

    @rule(number=Number, to_place=st.sampled_from(SHAPES[:4]), to_run=Kinds)
    def request_actor(self, number: int, to_place: ResourceSet, to_run: ResourceSet) -> None:
        if self.jobs:
            self.made += 1
            self.actors[ev.ActorId(self.made)] = (to_place, to_run)
            job = self.jobs[number % len(self.jobs)]
            self.tell(ev.ActorRequested(ev.ActorId(self.made), job, to_place, to_run))

    @rule(number=Number)
    def drop_actor(self, number: int) -> None:
        if self.actors:
            self.tell(ev.ActorGone(list(self.actors)[number % len(self.actors)]))

    # -- time and processes
    @rule(number=Number)
    def any_look(self, number: int) -> None:
        if self.queues:
            self.look(list(self.queues)[number % len(self.queues)])

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.0125, 0.1, 2.0]))
    def tick(self, seconds: float) -> None:
        self.now_s += seconds
        self.tell(ev.Tick())

    @rule(works=st.booleans())
    def worker_starts(self, works: bool) -> None:
        if self.starting:
            self.starting -= 1
            if works:
                self.made += 1
                worker = ev.WorkerId(self.made)
                self.processes[worker] = Process(worker)
                self.tell(ev.WorkerReady(worker))
            else:
                self.tell(ev.WorkersNotStarted(1))

    @rule(number=Number)
    def worker_dies(self, number: int) -> None:
        process = self.some(number)
        if process is not None:
            del self.processes[process.id]
            self.tell(ev.WorkerGone(process.id))

    @rule(number=Number)
    def worker_obeys(self, number: int) -> None:
        """Takes its next order, if it can while it executes what it does; else acts on an earlier one."""
        process = self.some(number)
        if process is None:
            return
        order = process.orders.pop(0) if process.orders else None
        if isinstance(order, ev.ServeQueue):
            process.serves, process.joined = self.queues.get(order.queue), True
        elif isinstance(order, ev.HostActor):
            process.actor = order.actor
            self.tell(ev.ActorStarted(order.actor))
        elif isinstance(order, ev.LeaveQueue):
            process.leaves = True
        elif isinstance(order, ev.StopWorker):
            process.stops = True
        if process.stops and (not process.call or process.actor is not None):
            del self.processes[process.id]
            self.tell(ev.WorkerGone(process.id))
        elif process.leaves and process.joined and not process.call:
            process.serves, process.joined, process.leaves = None, False, False
            self.tell(ev.WorkerLeftQueue(process.id))

    @rule(number=Number)
    def wears_out(self, number: int) -> None:
        """Has run enough calls: leaves unasked, and is to end."""
        process = self.some(number)
        if process is not None and process.joined and not process.call:
            process.serves, process.joined, process.leaves = None, False, False
            self.tell(ev.WorkerLeftQueue(process.id, worn_out=True))

    @rule(number=Number)
    def call_starts(self, number: int) -> None:
        process = self.some(number)
        if process is None or process.serves is None or process.call or process.leaves or process.stops:
            return
        memory = process.serves
        if memory.depth and self.facts(memory)[0] < memory.allowed:
            memory.depth -= 1
            process.call = "runs"

    @rule(number=Number, blocks=st.booleans())
    def call_goes_on(self, number: int, blocks: bool) -> None:
        process = self.some(number)
        if process is not None and process.call:
            if process.call == "waits":
                process.call = "goes on"
            else:
                process.call = "waits" if blocks else ""

    # -- what must hold
    @invariant()
    def what_executes_fits(self) -> None:
        room = dict(TOTAL.units)
        for process in self.processes.values():
            if process.serves is not None and process.call:
                add(room, process.serves.shape, -(process.call == "runs"), -1)
            if process.actor is not None:
                add(room, self.actors[process.actor][1], -1, -1)
        assert min(room.values()) >= 0, room

    def teardown(self) -> None:
        """Whatever went before, calls that do not block come to an end once actors have gone."""
        for actor in list(self.actors):
            self.tell(ev.ActorGone(actor))
        for memory in self.queues.values():
            memory.depth = min(memory.depth, 3)  # the rest is cancelled
        for _ in range(300):
            self.now_s += 0.02
            while self.starting:
                self.worker_starts(True)
            for position in range(2 * len(self.processes)):
                self.worker_obeys(position)
            for position in range(len(self.processes)):
                self.call_goes_on(position, False)
                self.call_starts(position)
            for queue in list(self.queues):
                self.look(queue)
            self.tell(ev.Tick())
            self.what_executes_fits()
            if not any(memory.depth for memory in self.queues.values()):
                return
        raise AssertionError(
            f"calls wait for ever: {list(self.queues.values())}, {list(self.processes.values())}"
        )


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=100, stateful_step_count=80, deadline=None)
