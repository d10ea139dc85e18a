"""The worker processes of one node: what each is doing, found without a search.

A worker belongs to no job until it serves a queue or hosts an actor, and to that one for life after. A worker that
hosts an actor ends with it. What is given to a worker (its queue, its GPU devices) stays its own until it has left
the queue or is gone, also while it is being stopped.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeVar

from actorflow.core.events import ActorId, JobId, QueueId, WorkerId
from actorflow.core.resources import GpuShare
from actorflow.errors import InternalError


class WorkerState(enum.Enum):
    """What a worker is doing, as far as the node knows."""

    FRESH = "waits, has no job"
    IDLE = "waits, has served a queue of its job"
    SERVING = "reads a queue"
    LEAVING = "reads a queue and was asked to leave it"
    HOSTING = "is an actor"
    STOPPING = "was told to end"


_NEXT: dict[WorkerState, frozenset[WorkerState]] = {
    WorkerState.FRESH: frozenset({WorkerState.SERVING, WorkerState.HOSTING, WorkerState.STOPPING}),
    WorkerState.IDLE: frozenset({WorkerState.SERVING, WorkerState.STOPPING}),
    WorkerState.SERVING: frozenset({WorkerState.LEAVING, WorkerState.IDLE, WorkerState.STOPPING}),
    WorkerState.LEAVING: frozenset({WorkerState.IDLE, WorkerState.STOPPING}),
    WorkerState.HOSTING: frozenset({WorkerState.STOPPING}),
    WorkerState.STOPPING: frozenset(),
}
_TASK_STATES = frozenset({WorkerState.IDLE, WorkerState.SERVING, WorkerState.LEAVING})


@dataclass(slots=True, eq=False)
class Worker:
    """One process. `since_s`: when it came into its state. `environment`: that of the queues it serves, for life."""

    id: WorkerId
    state: WorkerState
    since_s: float
    job: JobId | None = None
    environment: str = ""
    queue: QueueId | None = None
    actor: ActorId | None = None
    gpus: GpuShare = ()


Workers = dict[WorkerId, Worker]
Home = tuple[JobId, str]  # a job, and the environment in which its calls run
Key = TypeVar("Key", JobId, QueueId, Home)


class WorkerPool:
    """All workers, indexed by what they are looked for by. Each index keeps the order of arrival."""

    def __init__(self) -> None:
        self.workers: Workers = {}
        self.starting = 0  # asked for, not yet ready
        self.fresh: Workers = {}
        self.task_workers = 0
        self._idle: dict[Home, Workers] = {}
        self._of_job: dict[JobId, Workers] = {}  # its task workers
        self._reading: dict[QueueId, Workers] = {}  # SERVING
        self._leaving: dict[QueueId, Workers] = {}  # LEAVING
        self._of_queue: dict[QueueId, int] = {}  # those two and those that are stopped while they read it

    # -- looking -----------------------------------------------------------------------------------
    def idle(self, job: JobId, environment: str) -> Workers:
        """Workers of the job that wait, and have that environment."""
        return self._idle.get((job, environment), {})

    def all_idle(self) -> list[Workers]:
        """Workers that wait, those of one job and environment together."""
        return list(self._idle.values())

    def of_job(self, job: JobId) -> Workers:
        """The job's task workers that were not told to end."""
        return self._of_job.get(job, {})

    def reading(self, queue: QueueId) -> Workers:
        """Workers that serve the queue and were not asked to leave, those on their way to it included."""
        return self._reading.get(queue, {})

    def leaving(self, queue: QueueId) -> Workers:
        """Workers that read the queue and were asked to leave it."""
        return self._leaving.get(queue, {})

    def attached(self, queue: QueueId) -> int:
        """How many workers have the queue, those that are being stopped included."""
        return self._of_queue.get(queue, 0)

    # -- what happens ------------------------------------------------------------------------------
    def ready(self, worker: WorkerId, now_s: float) -> Worker:
        """A started worker waits for its first order."""
        if worker in self.workers:
            raise InternalError(reason=f"worker {worker} was ready twice")
        self.starting = max(0, self.starting - 1)
        self.workers[worker] = self.fresh[worker] = Worker(worker, WorkerState.FRESH, now_s)
        return self.workers[worker]

    def not_started(self, count: int) -> None:
        """So many that were asked for will not come."""
        self.starting = max(0, self.starting - count)

    def serve(self, worker: Worker, home: Home, queue: QueueId, gpus: GpuShare, now_s: float) -> None:
        """Gives a waiting worker to a queue of its job and environment."""
        if worker.job is not None and (worker.job, worker.environment) != home:
            own = (worker.job, worker.environment)
            raise InternalError(reason=f"worker {worker.id} of {own} was given to {home}")
        (worker.job, worker.environment), worker.gpus = home, gpus
        self._attach(worker, queue)
        self._move(worker, WorkerState.SERVING, now_s)

    def host(self, worker: Worker, job: JobId, actor: ActorId, gpus: GpuShare, now_s: float) -> None:
        """Makes a fresh worker an actor."""
        worker.job, worker.actor, worker.gpus = job, actor, gpus
        self._move(worker, WorkerState.HOSTING, now_s)

    def ask_to_leave(self, worker: Worker, now_s: float) -> None:
        """The worker is to leave its queue once it executes nothing."""
        self._move(worker, WorkerState.LEAVING, now_s)

    def left(self, worker: Worker, now_s: float) -> tuple[QueueId | None, GpuShare]:
        """The worker has left its queue: returns the queue and the devices that it had."""
        queue, gpus = self._detach(worker)
        if worker.state in (WorkerState.SERVING, WorkerState.LEAVING):
            self._move(worker, WorkerState.IDLE, now_s, queue)
        return queue, gpus

    def stop(self, worker: Worker, now_s: float) -> None:
        """The worker was told to end. It keeps its queue until it has left it or is gone."""
        self._move(worker, WorkerState.STOPPING, now_s)

    def gone(self, worker: Worker) -> tuple[QueueId | None, GpuShare]:
        """The process has ended: forgets it and returns the queue and the devices that it had."""
        queue, gpus = self._detach(worker)
        self._unlist(worker, queue)
        del self.workers[worker.id]
        return queue, gpus

    # -- indexes -----------------------------------------------------------------------------------
    def _move(self, worker: Worker, state: WorkerState, now_s: float, queue: QueueId | None = None) -> None:
        if state not in _NEXT[worker.state]:
            raise InternalError(
                reason=f"worker {worker.id} cannot go from {worker.state.name} to {state.name}"
            )
        self._unlist(worker, queue if queue is not None else worker.queue)
        worker.state, worker.since_s = state, now_s
        self._list(worker)

    def _attach(self, worker: Worker, queue: QueueId) -> None:
        worker.queue = queue
        self._of_queue[queue] = self._of_queue.get(queue, 0) + 1

    def _detach(self, worker: Worker) -> tuple[QueueId | None, GpuShare]:
        queue, gpus = worker.queue, worker.gpus
        worker.queue, worker.gpus = None, ()
        if queue is not None:
            _count_down(self._of_queue, queue)
        return queue, gpus

    def _list(self, worker: Worker) -> None:
        state, job = worker.state, worker.job
        if state in _TASK_STATES and job is not None:
            self.task_workers += 1
            self._of_job.setdefault(job, {})[worker.id] = worker
            if state is WorkerState.IDLE:
                self._idle.setdefault((job, worker.environment), {})[worker.id] = worker
            elif worker.queue is not None:
                index = self._reading if state is WorkerState.SERVING else self._leaving
                index.setdefault(worker.queue, {})[worker.id] = worker

    def _unlist(self, worker: Worker, queue: QueueId | None) -> None:
        state, job = worker.state, worker.job
        if state is WorkerState.FRESH:
            del self.fresh[worker.id]
        elif state in _TASK_STATES and job is not None:
            self.task_workers -= 1
            _take_out(self._of_job, job, worker)
            if state is WorkerState.IDLE:
                _take_out(self._idle, (job, worker.environment), worker)
            elif queue is not None:
                _take_out(self._reading if state is WorkerState.SERVING else self._leaving, queue, worker)

    def validate(self) -> None:
        """Raises InternalError unless each index has exactly the workers that belong in it."""
        expected = WorkerPool()
        for worker in self.workers.values():
            _validate_worker(worker)
            if worker.state is WorkerState.FRESH:
                expected.fresh[worker.id] = worker
            if worker.queue is not None:
                expected._attach(worker, worker.queue)
            expected._list(worker)
        for index in ("fresh", "task_workers", "_idle", "_of_job", "_reading", "_leaving", "_of_queue"):
            if getattr(self, index) != getattr(expected, index):
                raise InternalError(reason=f"the worker pool's {index} is not what its workers say")
        if self.starting < 0:
            raise InternalError(reason=f"{self.starting} workers are starting")


def _validate_worker(worker: Worker) -> None:
    state = worker.state
    right = {
        WorkerState.FRESH: worker.job is None and worker.queue is None,
        WorkerState.IDLE: worker.job is not None and worker.queue is None,
        WorkerState.SERVING: worker.job is not None and worker.queue is not None,
        WorkerState.LEAVING: worker.job is not None and worker.queue is not None,
        WorkerState.HOSTING: worker.job is not None and worker.actor is not None and worker.queue is None,
        WorkerState.STOPPING: worker.queue is None or worker.actor is None,
    }
    if not right[state] or (worker.gpus and worker.queue is None and worker.actor is None):
        raise InternalError(reason=f"worker {worker.id} is {state.name} and has {worker}")


def _take_out(index: dict[Key, Workers], key: Key, worker: Worker) -> None:
    workers = index[key]
    del workers[worker.id]
    if not workers:
        del index[key]


def _count_down(counts: dict[QueueId, int], queue: QueueId) -> None:
    counts[queue] -= 1
    if not counts[queue]:
        del counts[queue]
