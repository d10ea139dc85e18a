"""Random programs on the model of a node: whatever is called, blocked, killed, stopped or ended, the rest comes about.

A failing seed is in the test's name and replays alone (`--seeds 17:18`). What must hold after each step is checked by
the model: what executes always, the scheduler's invariants, which cost more than all the rest, after one event in
some, and after every event of a seed that fails.
"""

from __future__ import annotations

import random

from actorflow.core import events as ev
from actorflow.core.resources import ResourceSet
from tests.unit.test_core_node_model import SimulatedNode, SimulatedQueue, Work, all_done

VALIDATE_EVERY = 20
NOTHING = ResourceSet()
SHAPES: list[dict[str, float]] = [
    {"CPU": 1},
    {"CPU": 1},
    {"CPU": 2},
    {"CPU": 3},
    {"CPU": 0.5},
    {},
    {"CPU": 1, "GPU": 1},
    {"CPU": 1, "GPU": 0.5},
    {"CPU": 1, "GPU": 2},
    {"GPU": 0.3},
    {"CPU": 0.5, "disk": 1},
]


class Program:
    """Drivers that do at random what drivers do."""

    def __init__(self, seed: int, validate_every: int) -> None:
        self.random = random.Random(seed)
        self.cpus = self.random.choice([1, 2, 4, 8])
        self.node = SimulatedNode(seed, None, validate_every, CPU=self.cpus, GPU=2, disk=2)
        self.queues: dict[ev.JobId, list[SimulatedQueue]] = {}
        self.calls: dict[ev.JobId, list[Work]] = {}

    def run(self) -> None:
        """Some steps, then the end of everything."""
        steps = [self.start_job, self.make_calls, self.make_calls, self.make_calls, self.kill_worker]
        steps += [self.end_job, self.request_actors, self.drop_actor, self.stall_worker]
        for _ in range(self.random.randint(3, 25)):
            self.random.choice(steps)()
            self.node.run_for(self.random.choice([0, 0.001, 0.01, 0.1, 0.3]))
        for actor in self.node.requested:
            self.node.tell(ev.ActorGone(actor))
        self.node.run(all_done([work for works in self.calls.values() for work in works]), 60.0)
        for job in list(self.queues):
            self.node.end_job(job)
        self.node.run_for(5.0)

    def start_job(self) -> None:
        """A driver with some queues, one of which takes what children need: they must not need what parents keep."""
        job = self.node.job()
        shapes: list[dict[str, float]] = [*self.random.sample(SHAPES, self.random.randint(1, 4)), {"CPU": 1}]
        self.queues[job] = [
            self.node.queue(job, **shape) for shape in shapes if shape.get("CPU", 0) <= self.cpus
        ]
        self.calls[job] = []

    def some_job(self) -> ev.JobId:
        """A running job."""
        if not self.queues:
            self.start_job()
        return self.random.choice(list(self.queues))

    def make_calls(self) -> None:
        """One call or many, into one of the job's queues each."""
        job = self.some_job()
        for _ in range(self.random.choice([1, 3, 40])):
            work = self.work(self.queues[job], 0)
            self.calls[job].append(self.node.push(self.random.choice(self.queues[job]), work))

    def work(self, queues: list[SimulatedQueue], depth: int) -> Work:
        """A call that may block on others."""
        children = []
        if depth < 3 and self.random.random() < 0.35:
            giving = [queue for queue in queues if not queue.shape.others]
            for _ in range(self.random.randint(1, 3)):
                children.append((self.random.choice(giving), self.work(queues, depth + 1)))
        return Work(self.random.choice([0.0002, 0.002, 0.02]), children, self.random.choice([0, 0.001]))

    def kill_worker(self) -> None:
        """Any process dies."""
        if self.node.workers:
            self.node.kill(self.random.choice(list(self.node.workers.values())))

    def stall_worker(self) -> None:
        """Any process is stopped for a while; its answers come late."""
        if self.node.workers:
            worker = self.random.choice(list(self.node.workers.values()))
            self.node.stall(worker, self.random.choice([0.005, 0.1, 2.0]))

    def end_job(self) -> None:
        """A driver is gone; what it called is of no interest."""
        if len(self.queues) > 1:
            job = self.some_job()
            del self.queues[job], self.calls[job]
            self.node.end_job(job)

    def request_actors(self) -> None:
        """One actor or some, of one kind."""
        job = self.some_job()
        one_cpu, all_cpus = ResourceSet.of(CPU=1), ResourceSet.of(CPU=self.cpus)
        demands = [(one_cpu, NOTHING), (NOTHING, ResourceSet.of(CPU=0.5)), (all_cpus, NOTHING)]
        demands.append((NOTHING, ResourceSet.of(GPU=0.5)))
        to_place, to_run = self.random.choice(demands)
        for _ in range(self.random.choice([1, 5])):
            self.node.actor(job, to_place, to_run)

    def drop_actor(self) -> None:
        """The last handle of an actor goes."""
        if self.node.requested:
            self.node.tell(ev.ActorGone(self.random.choice(list(self.node.requested))))


def test_everything_comes_about_and_all_is_given_back(simulated_seed: int) -> None:
    program = Program(simulated_seed, VALIDATE_EVERY)
    try:
        program.run()
    except Exception:
        Program(simulated_seed, 1).run()  # the same again: fails where the state goes wrong first
        raise
    scheduler = program.node.scheduler
    scheduler.validate()
    assert scheduler.available == scheduler.total
    assert len(program.node.workers) <= max(program.cpus, 1), "idle workers above the floor have ended"
    assert not program.node.infeasible
