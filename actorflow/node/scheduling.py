"""Does what the scheduler decides: reads the queues' facts, gives orders to workers, sets what may run at once.

The decisions are `actorflow.core.scheduler`'s. All events go through `tell`, which handles one at a time and performs
its effects before the next, whoever causes it.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from actorflow import _hot, config
from actorflow.client.waiting import LoopPort
from actorflow.core import events
from actorflow.core.events import GroupId, QueueId
from actorflow.core.resources import ResourceSet
from actorflow.core.scheduler import Scheduler
from actorflow.errors import DeathKind
from actorflow.node.actors import Actors
from actorflow.node.jobs import Job, Queue
from actorflow.node.workers import Workers
from actorflow.shm.store import Store

LOOK_S = 0.1  # while there is mail: what a lost ring costs at most
IDLE_LOOK_S = 1.0
CLOSE_AGAIN_S = (
    0.01  # a reader has a mailbox for a microsecond, one that is being killed until that is settled
)
REARM_S = 0.001  # a flood into a queue without readers rings once in this time, not at each push


class Scheduling:
    """The scheduler's hands."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        port: LoopPort,
        store: Store,
        scheduler: Scheduler,
        workers: Workers,
        actors: Actors,
    ) -> None:
        self._loop = loop
        self._port = port
        self._store = store
        self._scheduler = scheduler
        self._workers = workers
        self._actors = actors
        self._credit = config.current().lane_credit
        self._queues: dict[QueueId, Queue] = {}
        self._queue_count = 0
        self._events: deque[events.Event] = deque()
        self._telling = False
        self.group_reserved: Callable[[GroupId], None] = _ignore_group
        self._timer: asyncio.TimerHandle | None = None
        self._perform: dict[type[Any], Callable[[Any], None]] = {
            events.SetAllowed: self._set_allowed,
            events.LookAt: self._look_at,
            events.ServeQueue: self._serve_queue,
            events.LeaveQueue: self._leave_queue,
            events.StartWorkers: self._start_workers,
            events.StopWorker: self._stop_worker,
            events.HostActor: self._host_actor,
            events.GroupReserved: lambda effect: self.group_reserved(effect.group),
            events.ReportQueueInfeasible: self._report_queue,
            events.ReportActorInfeasible: self._report_actor,
        }

    def tell(self, event: events.Event) -> None:
        """Hands an event to the scheduler and does what it asks for, events that follow from that included."""
        self._events.append(event)
        if self._telling:
            return
        self._telling = True
        try:
            while self._events:
                for effect in self._scheduler.handle(self._events.popleft(), monotonic()):
                    self._perform[type(effect)](effect)
        finally:
            self._telling = False

    # -- queues

    def open_queue(
        self, job: Job, shape: ResourceSet, is_async: bool, environment: str, group: Any = None
    ) -> Queue:
        """The job's queue for calls of that shape, kind and environment, made at first use. `group`: of the Queue."""
        key = (shape, is_async, environment, group)
        queue = job.queues.get(key)
        if queue is None:
            self._queue_count += 1
            mailbox = _hot.make_mailbox(_hot.SHARED, job.id, self._credit)
            queue = Queue(QueueId(self._queue_count), job, shape, environment, mailbox, group)
            self._queues[queue.id] = job.queues[key] = queue
            self.tell(events.QueueOpened(queue.id, job.id, shape, environment))
            self._attend(queue)
        return queue

    def end_job(self, job: Job, error: bytes) -> None:
        """Closes the job's queues, what waits in them getting `error`, and has its task workers ended."""
        for queue in job.queues.values():
            del self._queues[queue.id]
            self._port.ignore(queue.mailbox)
        queues = list(job.queues.values())
        job.queues.clear()
        self.tell(events.JobEnded(job.id))
        for queue in queues:
            self._close(queue, error)

    def end_group(self, group: GroupId, error: bytes) -> None:
        """Closes the queues of a placement group, what waits in them getting `error`, and kills their workers."""
        for queue in [queue for queue in self._queues.values() if queue.shape.group == group]:
            del self._queues[queue.id]
            queue.job.queues = {key: kept for key, kept in queue.job.queues.items() if kept is not queue}
            self._port.ignore(queue.mailbox)
            for worker in self._workers:
                if worker.queue is queue:
                    death = self._workers.death(worker, DeathKind.KILLED, "its placement group was removed")
                    self._workers.kill(worker, death)
            self.tell(events.QueueClosed(queue.id))
            self._close(queue, error)

    def _close(self, queue: Queue, error: bytes) -> None:
        if not self._store.close(queue.mailbox.name, error):
            self._loop.call_later(CLOSE_AGAIN_S, self._close, queue, error)

    def _attend(self, queue: Queue) -> None:
        if queue.id in self._queues and self._port.attend(
            queue.mailbox, functools.partial(self._rung, queue)
        ):
            self._observe(queue)

    def _rung(self, queue: Queue) -> None:
        """A push found no reader to wake."""
        self._observe(queue)
        self._loop.call_later(REARM_S, self._attend, queue)

    def _observe(self, queue: Queue) -> None:
        if queue.id not in self._queues:
            return
        facts = self._store.facts(queue.mailbox.name)
        queue.last_depth = facts.depth
        if facts.depth:
            self._set_timer(LOOK_S)
        self.tell(
            events.QueueObserved(
                queue=queue.id,
                depth=facts.depth,
                active=facts.active,
                allowed=facts.allowed,
                readers=facts.readers,
                blocked=facts.blocked,
            )
        )

    # -- the timed look

    def look_at_all(self) -> None:
        """Has the scheduler know what the queues do now."""
        for queue in list(self._queues.values()):
            self._observe(queue)

    def start(self) -> None:
        """Begins to look at the queues from time to time."""
        self.tell(events.Tick())
        self._set_timer(IDLE_LOOK_S)

    def stop(self) -> None:
        """Looks no more and performs nothing more. Readers of queues are woken, to see that the node is stopping."""
        for queue in self._queues.values():
            self._store.rouse(queue.mailbox.name)
        self._queues.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self, after_s: float) -> None:
        due = self._loop.time() + after_s
        if self._timer is not None:
            if self._timer.when() <= due and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        """Finds what no ring told of, and lets the scheduler see that time passes."""
        self._timer = None
        self.look_at_all()
        self._actors.drop_abandoned()
        self.tell(events.Tick())
        self._set_timer(LOOK_S if any(queue.last_depth for queue in self._queues.values()) else IDLE_LOOK_S)

    # -- effects

    def _set_allowed(self, effect: events.SetAllowed) -> None:
        queue = self._queues.get(effect.queue)
        if queue is not None:
            self._store.allow(queue.mailbox.name, effect.allowed)
            self._observe(queue)

    def _look_at(self, effect: events.LookAt) -> None:
        queue = self._queues.get(effect.queue)
        if queue is not None:
            self._loop.call_later(effect.after_s, self._observe, queue)

    def _serve_queue(self, effect: events.ServeQueue) -> None:
        queue = self._queues.get(effect.queue)
        if queue is not None:
            self._workers.serve(effect.worker, queue, effect.gpus)

    def _leave_queue(self, effect: events.LeaveQueue) -> None:
        self._workers.ask_to_leave(effect.worker)

    def _start_workers(self, effect: events.StartWorkers) -> None:
        started = self._workers.start(effect.count)
        if started < effect.count:
            self.tell(events.WorkersNotStarted(effect.count - started))

    def _stop_worker(self, effect: events.StopWorker) -> None:
        self._workers.stop(effect.worker, effect.force)

    def _host_actor(self, effect: events.HostActor) -> None:
        self._actors.host(effect.actor, effect.worker, effect.gpus)

    def _report_queue(self, effect: events.ReportQueueInfeasible) -> None:
        queue = self._queues.get(effect.queue)
        if queue is not None:
            queue.why_never = effect.why

    def _report_actor(self, effect: events.ReportActorInfeasible) -> None:
        self._actors.infeasible(effect.actor, effect.why)


def _ignore_group(_: GroupId) -> None:
    """Nobody has asked for placement groups."""
