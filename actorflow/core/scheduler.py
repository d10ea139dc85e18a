"""The node's scheduler: who may execute what on which worker. Events in, effects out; it never touches a single call.

How it works, in the order of one event:

 1. The event changes facts: a queue's numbers, a worker, an actor.
 2. If that could let anyone have more, resources are divided anew: actors first (placing), then queues (sharing).
 3. What a queue may execute at once is written to shared memory; the readers of a queue that must give units back
    are asked to leave it, those of one that may execute more are found or started (staffing).
 4. Workers are handed out: to actors, then to queues, then kept fresh.

While calls come and go within what their queue was lent, none of this happens. Guarantees: what is lent and held never
exceeds the node's resources (but for CPUs of calls that go on after they were blocked); a queue with mail is lent
something as soon as what it needs falls free, and in its turn where others want the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Any

from actorflow.core import events as ev
from actorflow.core.book import Book
from actorflow.core.events import Effect, Event
from actorflow.core.placing import Placing
from actorflow.core.policy import Policy
from actorflow.core.queues import Queue
from actorflow.core.resources import ONE, GpuDevices, GpuShare, ResourceSet, in_ones, plain, why_never
from actorflow.core.sharing import Division
from actorflow.core.staffing import Staffing
from actorflow.core.workers import Worker, WorkerPool, WorkerState
from actorflow.errors import InternalError

_LOOKS_AT_ONCE = 8  # a look costs 10 us; each 100 ms the node looks at every queue anyway


class Scheduler:
    """The decisions of one node. `total`: what it has; `policy`: defaults by `Policy.for_node`."""

    def __init__(self, total: ResourceSet, policy: Policy | None = None) -> None:
        self._policy = policy or Policy.for_node(total)
        self._book = Book(total, self._policy)
        self._pool = WorkerPool()
        self._placing = Placing(self._book)
        self._staffing = Staffing(self._book, self._pool)
        self._effects: list[Effect] = []
        self._now_s = 0.0
        self._unserved: Queue | None = None  # the first that could not be served at the last division
        self._divide_again_s = self._look_again_s = float("-inf")
        self._failed_starts = 0  # in a row
        self._start_after_s = float("-inf")
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            ev.JobStarted: self._job_started,
            ev.JobEnded: self._job_ended,
            ev.QueueOpened: self._queue_opened,
            ev.QueueClosed: self._queue_closed,
            ev.QueueObserved: self._queue_observed,
            ev.WorkerReady: self._worker_ready,
            ev.WorkersNotStarted: self._workers_not_started,
            ev.WorkerLeftQueue: self._worker_left_queue,
            ev.WorkerGone: self._worker_gone,
            ev.ActorRequested: self._actor_requested,
            ev.ActorStarted: self._actor_started,
            ev.ActorGone: self._actor_gone,
            ev.GroupRequested: self._group_requested,
            ev.GroupReleased: self._group_released,
            ev.Tick: self._tick,
        }

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """Takes one event at a time that never goes back; returns what is to be done, in that order.

        InternalError: the event cannot be, after those before it.
        """
        self._now_s = now_s
        self._effects = []
        self._handlers[type(event)](event)
        if self._book.pools:
            self._placing.give_back_groups()
        self._divide()
        if self._placing.reserved:
            self._effects += [ev.GroupReserved(group) for group in self._placing.reserved]
            self._placing.reserved.clear()
        self._write_changes()
        self._hand_out_workers()
        return self._effects

    @property
    def total(self) -> dict[str, float]:
        """The node's resources, in ones."""
        return in_ones(plain(self._book.total.units))

    @property
    def available(self) -> dict[str, float]:
        """What no placement group, actor or executing call takes, in ones; calls as they were last observed."""
        return in_ones(plain(self._book.unused()))

    # -- jobs and queues ---------------------------------------------------------------------------
    def _job_started(self, event: ev.JobStarted) -> None:
        self._book.start_job(event.job)

    def _job_ended(self, event: ev.JobEnded) -> None:
        job = self._book.job(event.job)
        job.ended = True
        for worker in list(self._pool.of_job(job.id).values()):
            self._stop(worker, force=True)
        for queue in list(job.queues.values()):
            self._close(queue)
        self._book.forget_job_if_done(job)

    def _queue_opened(self, event: ev.QueueOpened) -> None:
        queue = self._book.open_queue(event.queue, event.job, event.shape, event.environment)
        queue.idle_since_s = self._now_s
        why = why_never(event.shape, self._book.total)
        if why is not None:
            self._effects.append(ev.ReportQueueInfeasible(event.queue, why))

    def _queue_closed(self, event: ev.QueueClosed) -> None:
        queue = self._book.queues.get(event.queue)
        if queue is not None:
            self._close(queue)

    def _close(self, queue: Queue) -> None:
        self._book.close_queue(queue)
        self._forget_if_done(queue)

    def _forget_if_done(self, queue: Queue) -> None:
        if queue.closing and not self._pool.attached(queue.id):
            self._staffing.forget(queue)
            self._book.forget_queue(queue)
            if self._unserved is queue:
                self._unserved = None

    def _queue_observed(self, event: ev.QueueObserved) -> None:
        queue = self._book.queues.get(event.queue)
        if queue is not None:
            queue.observe(event, self._now_s)
            self._book.settle(queue)

    # -- workers -----------------------------------------------------------------------------------
    def _worker_ready(self, event: ev.WorkerReady) -> None:
        self._pool.ready(event.worker, self._now_s)

    def _workers_not_started(self, event: ev.WorkersNotStarted) -> None:
        self._pool.not_started(event.count)
        self._start_failed()

    def _start_failed(self) -> None:
        """No worker is started for a while, which doubles with each failure in a row."""
        delay_s = self._policy.start_retry_s * 2.0 ** min(self._failed_starts, 30)
        self._start_after_s = self._now_s + min(delay_s, self._policy.start_retry_most_s)
        self._failed_starts += 1

    def _worker_left_queue(self, event: ev.WorkerLeftQueue) -> None:
        self._failed_starts = 0
        worker = self._pool.workers.get(event.worker)
        if worker is not None and worker.queue is not None:  # else it died meanwhile
            queue, gpus = self._pool.left(worker, self._now_s)
            # One that had devices sees those for life.
            if (gpus or event.worn_out) and worker.state is WorkerState.IDLE:
                self._stop(worker, force=False)
            self._detached(queue, gpus)

    def _worker_gone(self, event: ev.WorkerGone) -> None:
        worker = self._pool.workers.get(event.worker)
        if worker is None:
            return
        if event.unborn:
            self._start_failed()
        actor = worker.actor
        queue, gpus = self._pool.gone(worker)
        if actor is not None:
            self._placing.process_gone(actor)
        else:
            self._detached(queue, gpus)

    def _detached(self, queue_id: ev.QueueId | None, gpus: GpuShare) -> None:
        """A worker no longer has the queue: a seat is free, and a unit that is to come back may have."""
        queue = self._book.queues.get(queue_id) if queue_id is not None else None
        if queue is None:
            return
        if queue.seated:
            self._book.return_seat(queue, gpus)
        queue.asked_down_to = None
        self._book.settle(queue)
        self._staffing.look_now(queue, self._now_s, self._effects)
        self._forget_if_done(queue)

    def _stop(self, worker: Worker, force: bool) -> None:
        self._pool.stop(worker, self._now_s)
        self._effects.append(ev.StopWorker(worker.id, force))

    # -- actors ------------------------------------------------------------------------------------
    def _actor_requested(self, event: ev.ActorRequested) -> None:
        why = self._placing.request(event)
        if why is not None:
            self._effects.append(ev.ReportActorInfeasible(event.actor, why))
        self._book.stirred = True

    def _actor_started(self, event: ev.ActorStarted) -> None:
        self._failed_starts = 0
        self._placing.started(event.actor)

    def _actor_gone(self, event: ev.ActorGone) -> None:
        worker_id = self._placing.gone(event.actor)
        self._book.stirred = True
        if worker_id is not None:
            worker = self._pool.workers[worker_id]
            if worker.state is WorkerState.HOSTING:
                self._stop(worker, force=False)

    def _group_requested(self, event: ev.GroupRequested) -> None:
        self._placing.request_group(event)
        self._book.stirred = True

    def _group_released(self, event: ev.GroupReleased) -> None:
        self._placing.release_group(event.group)
        self._book.stirred = True

    def _tick(self, event: ev.Tick) -> None:
        self._book.stirred = True
        self._book.changed.update(self._book.with_mail)
        self._staffing.retire(self._now_s, self._effects)

    # -- decisions ---------------------------------------------------------------------------------
    def _divide(self) -> None:
        """Divides what is free anew, if that could change anything."""
        book = self._book
        if not (book.hungry or self._placing.waiting):
            self._unserved = None
            return
        if book.stirred or self._now_s >= self._divide_again_s:
            self._divide_again_s = self._now_s + self._policy.patience_s
            division = Division(book, self._now_s)
            if self._placing.waiting:
                self._placing.place(division)
            division.serve()
            self._unserved = division.unserved[0] if division.unserved else None
            if self._unserved is None and not self._placing.waiting:
                self._lend_ahead()
            book.stirred = False
        if self._unserved is not None:
            self._look_at_holders(self._unserved)

    def _lend_ahead(self) -> None:
        """Nobody wants more: a queue with mail gets the rest, so that it need not ask again when more mail comes."""
        for queue in list(self._book.changed.values()):
            if queue.depth and queue.part and not (queue.seated or queue.closing):
                self._book.lend(queue, queue.limit, self._now_s)

    def _look_at_holders(self, unserved: Queue) -> None:
        """A queue waits for what others have: that may be idle by now, or be slow to come back."""
        if self._now_s < self._look_again_s:
            return
        self._look_again_s = self._now_s + self._policy.look_s
        others = [
            queue
            for queue in self._book.queues.values()
            if queue is not unserved and (queue.units or queue.active)
        ]
        for queue in heapq.nsmallest(_LOOKS_AT_ONCE, others, key=lambda queue: queue.observed_s):
            self._staffing.look_now(queue, self._now_s, self._effects)
        if others:
            self._effects.append(ev.LookAt(unserved.id, self._policy.look_after_s))

    def _write_changes(self) -> None:
        changed, self._book.changed = self._book.changed, {}
        for queue in changed.values():
            self._write_allowed(queue)
            self._staffing.review(queue, self._now_s, self._effects)

    def _write_allowed(self, queue: Queue) -> None:
        if queue.allowed != queue.written:
            queue.written, queue.asked_down_to = queue.allowed, None
            self._effects.append(ev.SetAllowed(queue.id, queue.allowed))
        elif queue.allowed <= queue.goal:
            queue.asked_down_to = None
        elif queue.asked_down_to != queue.goal or queue.active < queue.allowed:
            queue.asked_down_to, queue.confirmed = queue.goal, False
            self._effects.append(ev.SetAllowed(queue.id, queue.goal))

    def _hand_out_workers(self) -> None:
        for actor in list(self._placing.unhosted.values()):
            worker = next(iter(self._pool.fresh.values()), None)
            if worker is None:
                break
            self._pool.host(worker, actor.job.id, actor.id, actor.gpus, self._now_s)
            self._placing.hosted(actor, worker.id)
            self._effects.append(ev.HostActor(worker.id, actor.id, actor.gpus))
        needed = self._staffing.serve(self._now_s, self._effects) + len(self._placing.unhosted)
        # Ahead of need only while no call waits: a fork takes CPU from what is waited for.
        ahead = self._policy.fresh_workers if self._placing.waiting or not self._book.with_mail else 0
        self._start(needed + ahead - len(self._pool.fresh) - self._pool.starting)

    def _start(self, count: int) -> None:
        """Starts workers; one at a time once that has failed."""
        count = min(count, self._policy.worker_limit - self._pool.task_workers - self._pool.starting)
        if self._failed_starts:
            count = min(count, 1)
        if count > 0 and self._now_s >= self._start_after_s:
            self._pool.starting += count
            self._effects.append(ev.StartWorkers(count))

    # -- checking ----------------------------------------------------------------------------------
    def validate(self) -> None:
        """Checks every invariant; InternalError where one does not hold."""
        self._book.validate((actor.job.id, holds) for actor, holds in self._placing.held())
        self._pool.validate()
        self._placing.validate()
        for queue in self._book.queues.values():
            attached = self._pool.attached(queue.id)
            if queue.seated and queue.seats != len(queue.open_seats) + attached:
                raise InternalError(reason=f"{attached} workers have it: {queue}")
            if queue.closing and not attached:
                raise InternalError(reason=f"closed, without a worker, and not forgotten: {queue}")
        self._validate_devices()
        for worker in self._pool.workers.values():
            if worker.state is not WorkerState.HOSTING or worker.actor is None:
                continue
            if self._placing.actors[worker.actor].worker != worker.id:
                raise InternalError(reason=f"{worker} hosts an actor that has another")

    def _validate_devices(self) -> None:
        """Each device carries what was given of it, to groups and beside them; each group's what was given of it."""
        count = len(self._book.devices.loads)
        expected = {0: GpuDevices(count)}
        for actor, _ in self._placing.held():
            if actor.bundles:
                expected[-actor.id] = GpuDevices.of_share(count, actor.gpus)
        for group, share in self._gpus_given():
            for device, units in share:
                expected[group].loads[device] += units
        for group, devices in expected.items():
            has = self._book.pools[group].devices.loads if group else self._book.devices.loads
            if devices.loads != has or max(has, default=0) > ONE:
                raise InternalError(
                    reason=f"GPU loads are {devices.loads}, the book says {has} (group {group})"
                )

    def _gpus_given(self) -> Iterator[tuple[int, GpuShare]]:
        for queue in self._book.queues.values():
            for share in queue.open_seats:
                yield queue.shape.group, share
        for worker in self._pool.workers.values():
            if worker.queue is not None:
                yield self._book.queues[worker.queue].shape.group, worker.gpus
        for actor, _ in self._placing.held():
            yield actor.to_run.group, actor.gpus
