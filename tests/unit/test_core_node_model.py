"""A model of one node: queues in shared memory, workers, calls that take time and block; it runs the real scheduler.

The model does what the engine does, no more: a reader takes a call while active < allowed, a blocked call takes itself
out of `active`, a push rings the node only where it finds no reader to wake. After each step it checks that what
really executes fits into the node, and after each event, or one in `validate_every`, the scheduler's own invariants.
The tests at the end are of the model.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from actorflow.core import events as ev
from actorflow.core.policy import Policy
from actorflow.core.resources import ResourceSet, Units, add
from actorflow.core.scheduler import Scheduler

LOOK_S = 0.1
FORK_S = 0.003
MESSAGE_S = 0.0002


@dataclass(eq=False)
class Work:
    """A call: runs for `before_s`, makes the calls `children` and waits for them, then runs for `after_s`."""

    before_s: float
    children: Sequence[tuple[SimulatedQueue, Work]] = ()
    after_s: float = 0.0
    depth: int = 0
    parent: Work | None = None
    waits_for: int = 0
    is_blocked: bool = False
    was_blocked: bool = False
    started_s: float | None = None
    done_s: float | None = None


@dataclass(eq=False)
class SimulatedQueue:
    """What shared memory has of one task queue."""

    id: ev.QueueId
    job: ev.JobId
    shape: ResourceSet
    unread: list[tuple[int, int, Work]] = field(default_factory=list)  # deepest first, then in order
    allowed: int = 0
    active: int = 0
    blocked: int = 0
    readers: dict[ev.WorkerId, SimulatedWorker] = field(default_factory=dict)
    bell_armed: bool = True
    closed: bool = False


@dataclass(eq=False)
class SimulatedWorker:
    """A process."""

    id: ev.WorkerId
    queue: SimulatedQueue | None = None
    work: Work | None = None
    must_leave: bool = False
    must_stop: bool = False
    dead: bool = False
    actor: ev.ActorId | None = None
    stalled_until_s: float = 0.0  # it was stopped, or gets no CPU: does nothing before then


class SimulatedNode:
    """Time, memory and processes of a node around its scheduler."""

    def __init__(
        self, seed: int = 0, policy: Policy | None = None, validate_every: int = 1, **total: float
    ) -> None:
        self.validate_every = validate_every
        self.total = ResourceSet.from_amounts(total)
        self.scheduler = Scheduler(self.total, policy)
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.queues: dict[ev.QueueId, SimulatedQueue] = {}
        self.workers: dict[ev.WorkerId, SimulatedWorker] = {}
        self.actors: dict[ev.ActorId, ResourceSet] = {}  # that have a process: what each takes
        self.requested: dict[ev.ActorId, ev.ActorRequested] = {}
        self.infeasible: list[ev.ReportActorInfeasible | ev.ReportQueueInfeasible] = []
        self.events = 0
        self.most_workers = 0
        self._at_once = 0  # steps since time has passed
        self._numbers = itertools.count(1)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.tell(ev.Tick())
        self.after(LOOK_S, self._look)

    # -- time --------------------------------------------------------------------------------------
    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Does something later."""
        heapq.heappush(self._agenda, (self.now_s + delay_s, next(self._numbers), action))

    def run(self, until: Callable[[], bool], limit_s: float = 100.0) -> None:
        """Lets time pass until the condition holds; fails after `limit_s` of it."""
        end_s = self.now_s + limit_s
        while not until():
            before_s = self.now_s
            self.now_s, _, action = heapq.heappop(self._agenda)
            assert self.now_s <= end_s, "it did not come about in time"
            self._at_once = self._at_once + 1 if self.now_s == before_s else 0
            assert self._at_once < 1000, "the scheduler and the node go round in circles"
            action()
            self._check()

    def run_for(self, seconds: float) -> None:
        """Lets so much time pass."""
        end_s = self.now_s + seconds
        self.after(seconds, lambda: None)
        self.run(lambda: self.now_s >= end_s, seconds + 1)

    def _look(self) -> None:
        for queue in list(self.queues.values()):
            if queue.unread or queue.blocked:
                self.observe(queue)
        self.tell(ev.Tick())
        self.after(LOOK_S, self._look)

    # -- what drivers do ---------------------------------------------------------------------------
    def job(self) -> ev.JobId:
        """Attaches a driver."""
        job = ev.JobId(next(self._numbers))
        self.tell(ev.JobStarted(job))
        return job

    def queue(self, job: ev.JobId, **shape: float) -> SimulatedQueue:
        """Opens a task queue."""
        queue = SimulatedQueue(ev.QueueId(next(self._numbers)), job, ResourceSet.from_amounts(shape))
        self.queues[queue.id] = queue
        self.tell(ev.QueueOpened(queue.id, job, queue.shape))
        return queue

    def push(self, queue: SimulatedQueue, work: Work) -> Work:
        """Makes a call."""
        heapq.heappush(queue.unread, (-work.depth, next(self._numbers), work))
        reader = next((r for r in queue.readers.values() if r.work is None and not r.must_leave), None)
        if reader is not None:
            self._take(reader)
        elif queue.bell_armed:
            queue.bell_armed = False
            self.after(MESSAGE_S, lambda: self._answer_bell(queue))
        return work

    def calls(self, queue: SimulatedQueue, count: int, seconds: float) -> list[Work]:
        """Makes many calls that do not block."""
        return [self.push(queue, Work(seconds)) for _ in range(count)]

    def actor(self, job: ev.JobId, to_place: ResourceSet, to_run: ResourceSet) -> ev.ActorId:
        """Asks for an actor."""
        actor = ev.ActorId(next(self._numbers))
        self.requested[actor] = ev.ActorRequested(actor, job, to_place, to_run)
        self.tell(self.requested[actor])
        return actor

    def end_job(self, job: ev.JobId) -> None:
        """The driver is gone."""
        for queue in [queue for queue in self.queues.values() if queue.job == job]:
            queue.unread.clear()
            queue.closed = True
            del self.queues[queue.id]
        self.tell(ev.JobEnded(job))

    def kill(self, worker: SimulatedWorker) -> None:
        """The process dies; the coroner settles its slot and the node is told."""
        if worker.dead:
            return
        worker.dead = True
        queue, work = worker.queue, worker.work
        if queue is not None:
            queue.readers.pop(worker.id, None)
            if work is not None:
                queue.blocked -= work.is_blocked
                queue.active -= not work.is_blocked
                self._settled(work)
            self._take_all(queue)
        if worker.actor is not None:
            self.actors.pop(worker.actor, None)
        del self.workers[worker.id]
        self.after(self._delay(), lambda: self.tell(ev.WorkerGone(worker.id)))

    def stall(self, worker: SimulatedWorker, seconds: float) -> None:
        """The process does nothing for a while: what it was to do, and to say, comes late."""
        worker.stalled_until_s = self.now_s + seconds
        self.after(seconds, lambda: self._next(worker))

    def _once_awake(self, worker: SimulatedWorker, action: Callable[[], None]) -> bool:
        """False if the worker is stalled: then the action is done when it goes on."""
        rest_s = worker.stalled_until_s - self.now_s
        if rest_s > 0:
            self.after(rest_s, action)
        return rest_s <= 0

    # -- the node ----------------------------------------------------------------------------------
    def _answer_bell(self, queue: SimulatedQueue) -> None:
        queue.bell_armed = True
        self.observe(queue)

    def observe(self, queue: SimulatedQueue) -> None:
        """Reads a queue's facts and tells the scheduler."""
        if queue.closed:
            return
        facts = (len(queue.unread), queue.active, queue.allowed, len(queue.readers), queue.blocked)
        self.tell(ev.QueueObserved(queue.id, *facts))

    def tell(self, event: ev.Event) -> None:
        """Hands an event to the scheduler and performs what it asks for."""
        self.events += 1
        effects = self.scheduler.handle(event, self.now_s)
        if self.events % self.validate_every == 0:
            self.scheduler.validate()
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: ev.Effect) -> None:
        match effect:
            case ev.SetAllowed(queue_id, allowed):
                self._set_allowed(self.queues.get(queue_id), allowed)
            case ev.LookAt(queue_id, after_s):
                if queue_id in self.queues:
                    queue = self.queues[queue_id]
                    self.after(after_s, lambda: self.observe(queue))
            case ev.ServeQueue(worker_id, queue_id, _):
                self.after(self._delay(), lambda: self._join(worker_id, queue_id))
            case ev.LeaveQueue(worker_id):
                self._ask(worker_id, stop=False)
            case ev.StopWorker(worker_id, force):
                if force:
                    self.after(self._delay(), lambda: self._kill(worker_id))
                else:
                    self._ask(worker_id, stop=True)
            case ev.StartWorkers(count):
                for _ in range(count):
                    self.after(FORK_S + self._delay(), self._start)
            case ev.HostActor(worker_id, actor, _):
                self._host(self.workers.get(worker_id), actor)
            case ev.ReportActorInfeasible() | ev.ReportQueueInfeasible():
                self.infeasible.append(effect)

    def _delay(self) -> float:
        return MESSAGE_S * self.random.uniform(0.5, 2.0)

    def _set_allowed(self, queue: SimulatedQueue | None, allowed: int) -> None:
        if queue is None:
            return
        if allowed >= queue.allowed:
            queue.allowed = allowed
        else:
            queue.allowed = min(queue.allowed, max(queue.active, allowed))
        self.after(0.0, lambda: self.observe(queue))
        self._take_all(queue)

    # -- workers -----------------------------------------------------------------------------------
    def _start(self) -> None:
        worker = SimulatedWorker(ev.WorkerId(next(self._numbers)))
        self.workers[worker.id] = worker
        self.most_workers = max(self.most_workers, len(self.workers))
        self.tell(ev.WorkerReady(worker.id))

    def _kill(self, worker_id: ev.WorkerId) -> None:
        if worker_id in self.workers:
            self.kill(self.workers[worker_id])

    def _join(self, worker_id: ev.WorkerId, queue_id: ev.QueueId) -> None:
        worker, queue = self.workers.get(worker_id), self.queues.get(queue_id)
        if worker is None or not self._once_awake(worker, lambda: self._join(worker_id, queue_id)):
            return
        worker.queue = queue
        if queue is not None:
            queue.readers[worker.id] = worker
        self._next(worker)

    def _host(self, worker: SimulatedWorker | None, actor: ev.ActorId) -> None:
        if worker is None:
            return
        request = self.requested[actor]
        worker.actor, self.actors[actor] = actor, request.to_place.most(request.to_run)

        def started() -> None:
            if not worker.dead and self._once_awake(worker, started):
                self.actors[actor] = request.to_run
                self.tell(ev.ActorStarted(actor))

        self.after(self._delay(), started)

    def _ask(self, worker_id: ev.WorkerId, stop: bool) -> None:
        worker = self.workers.get(worker_id)
        if worker is not None:
            worker.must_leave, worker.must_stop = True, stop or worker.must_stop
            self.after(self._delay(), lambda: self._next(worker))

    def _next(self, worker: SimulatedWorker) -> None:
        """A worker that executes nothing looks what to do."""
        if worker.dead or worker.work is not None or self.now_s < worker.stalled_until_s:
            return
        queue = worker.queue
        if worker.must_stop and (queue is None or worker.id in queue.readers or queue.closed):
            self.kill(worker)
        elif worker.must_leave and queue is not None and worker.id in queue.readers:
            del queue.readers[worker.id]
            worker.queue, worker.must_leave = None, False
            self._take_all(queue)
            self.tell(ev.WorkerLeftQueue(worker.id))
        else:
            self._take(worker)

    def _take_all(self, queue: SimulatedQueue) -> None:
        for worker in list(queue.readers.values()):
            if worker.work is None:
                self._take(worker)

    def _take(self, worker: SimulatedWorker) -> None:
        queue = worker.queue
        if queue is None or worker.dead or worker.id not in queue.readers or worker.work is not None:
            return
        if worker.must_leave or not queue.unread or queue.active >= queue.allowed:
            return
        if self.now_s < worker.stalled_until_s:
            return
        queue.active += 1
        work = heapq.heappop(queue.unread)[2]
        worker.work, work.started_s = work, self.now_s
        self.after(work.before_s, lambda: self._halfway(worker, work))

    def _halfway(self, worker: SimulatedWorker, work: Work) -> None:
        queue = worker.queue
        if worker.dead or queue is None or not self._once_awake(worker, lambda: self._halfway(worker, work)):
            return
        if not work.children:
            self._done(worker, work)
            return
        work.waits_for, work.is_blocked, work.was_blocked = len(work.children), True, True
        queue.active -= 1
        queue.blocked += 1
        for child_queue, child in work.children:
            child.depth, child.parent = work.depth + 1, work
            self.push(child_queue, child)
        self._take_all(queue)

    def _resume(self, work: Work) -> None:
        worker = next((w for w in self.workers.values() if w.work is work), None)
        if worker is None or worker.queue is None or not self._once_awake(worker, lambda: self._resume(work)):
            return
        worker.queue.blocked -= 1
        worker.queue.active += 1
        work.is_blocked = False
        self.after(work.after_s, lambda: self._done(worker, work))

    def _done(self, worker: SimulatedWorker, work: Work) -> None:
        if worker.dead or worker.queue is None:
            return
        if not self._once_awake(worker, lambda: self._done(worker, work)):
            return
        worker.queue.active -= 1
        worker.work = None
        self._settled(work)
        self._next(worker)

    def _settled(self, work: Work) -> None:
        work.done_s = self.now_s
        parent = work.parent
        if parent is not None:
            parent.waits_for -= 1
            if not parent.waits_for:
                self.after(self._delay() / 10, lambda: self._resume(parent))

    # -- checks ------------------------------------------------------------------------------------
    def _check(self) -> None:
        """What executes fits into the node, but for calls that go on after they were blocked."""
        room: Units = dict(self.total.units)
        for worker in self.workers.values():
            work = worker.work
            if work is not None and worker.queue is not None:
                add(room, worker.queue.shape, -(not work.was_blocked), -1)
        for held in self.actors.values():
            add(room, held, -1, -1)
        assert min(room.values(), default=0) >= 0, f"more executes than there is: {room} at {self.now_s}"

    def serving(self) -> int:
        """Workers that read a queue."""
        return sum(len(queue.readers) for queue in self.queues.values())


def all_done(works: Sequence[Work]) -> Callable[[], bool]:
    """The condition that all these calls are done."""
    return lambda: all(work.done_s is not None for work in works)


def test_a_call_that_blocks_lends_its_unit_to_its_child() -> None:
    node = SimulatedNode(CPU=1)
    queue = node.queue(node.job(), CPU=1)
    child = Work(0.01)
    parent = node.push(queue, Work(0.01, [(queue, child)], 0.01))
    node.run(all_done([parent, child]), 1.0)
    assert child.started_s is not None
    assert parent.started_s is not None
    assert parent.started_s < child.started_s < (child.done_s or 0) < (parent.done_s or 0)


def test_a_stalled_worker_holds_up_no_other_call_and_answers_late() -> None:
    node = SimulatedNode(CPU=2)
    queue = node.queue(node.job(), CPU=1)
    first = node.push(queue, Work(0.01))
    node.run(lambda: first.started_s is not None)
    node.stall(next(worker for worker in node.workers.values() if worker.work is first), 5.0)
    others = node.calls(queue, 20, 0.001)
    node.run(all_done(others), 1.0)
    assert not all_done([first])()
    node.run(all_done([first]), 6.0)
    assert (first.done_s or 0) >= (first.started_s or 0) + 4.9


def test_the_model_notices_what_does_not_fit() -> None:
    node = SimulatedNode(CPU=1)
    queue = node.queue(node.job(), CPU=1)
    works = node.calls(queue, 2, 0.05)
    node.run(lambda: works[0].started_s is not None)
    queue.allowed = 2  # as a scheduler that counts wrongly would write
    worker = SimulatedWorker(ev.WorkerId(0), queue)
    node.workers[worker.id] = queue.readers[worker.id] = worker
    node._take(worker)
    with pytest.raises(AssertionError, match="more executes than there is"):
        node._check()
