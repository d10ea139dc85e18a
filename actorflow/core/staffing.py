"""How many workers read each queue: where they come from, when more are started, and when idle ones end.

A queue with mail needs an idle reader for each call that may start. A worker that waits and belongs to the queue's
job comes first, then a fresh one, then one is started; a job that has two workers for each CPU first moves readers
over from its queues that have nothing to do.

Readers blocked in a call are replaced at once as long as a queue has no more than two for each unit it was lent: one
that runs a call and one that waits for it. Beyond that, and also where another queue of the job could use the unit,
more come only after no call was taken and none went on for `patience_s`: a reader that was just woken still counts as
blocked, so a queue whose calls come and go would otherwise gather readers without end.

The readers of a queue that is lent nothing leave it: then mail finds nobody to wake, and rings the node.
"""

from __future__ import annotations

from actorflow.core.book import Book
from actorflow.core.events import Effect, LeaveQueue, LookAt, ServeQueue, StopWorker
from actorflow.core.policy import cpus_of
from actorflow.core.queues import Job, Queue
from actorflow.core.workers import Worker, WorkerPool


class Staffing:
    """Gives workers to queues and takes them away again."""

    def __init__(self, book: Book, pool: WorkerPool) -> None:
        self._book = book
        self._pool = pool
        self._policy = book.policy
        self._many = 2 * cpus_of(book.total)  # workers of a job from which on they move between its queues
        self._needy: dict[Queue, int] = {}  # how many readers each needs

    # -- enough readers ----------------------------------------------------------------------------
    def review(self, queue: Queue, now_s: float, effects: list[Effect]) -> None:
        """The queue has changed: notes whether it needs readers, and asks some to leave where units must come back."""
        if queue.closing:
            self._needy.pop(queue, None)
            self._dismiss(queue, len(self._pool.reading(queue.id)), now_s, effects)
            return
        self._need(queue, self.shortage(queue, now_s, effects))
        self._call_back(queue, now_s, effects)
        if not (queue.seated or queue.allowed or queue.active or queue.blocked):
            self._dismiss(queue, len(self._pool.reading(queue.id)), now_s, effects)

    def _need(self, queue: Queue, count: int) -> None:
        if count:
            self._needy[queue] = count
        else:
            self._needy.pop(queue, None)

    def forget(self, queue: Queue) -> None:
        """The queue is no more."""
        self._needy.pop(queue, None)

    def shortage(self, queue: Queue, now_s: float, effects: list[Effect]) -> int:
        """How many more readers the queue should be given now."""
        if queue.seated:
            return len(queue.open_seats)
        can_start = min(queue.allowed - queue.active, queue.depth)
        if can_start <= 0:
            return 0
        reading, leaving = len(self._pool.reading(queue.id)), len(self._pool.leaving(queue.id))
        busy = max(0, queue.active + queue.blocked - leaving)
        need = can_start - max(0, reading - busy)
        if need <= 0:
            queue.stuck_facts = None
            return 0
        others_hungry = queue.job.hungry > queue.hungry
        at_once = 0 if queue.blocked and others_hungry else 2 * queue.allowed - reading
        if at_once > 0:
            return min(need, at_once)
        return need if self._is_stuck(queue, now_s, effects) else 0

    def _is_stuck(self, queue: Queue, now_s: float, effects: list[Effect]) -> bool:
        before, queue.stuck_facts = queue.stuck_facts, (queue.depth, queue.active, queue.blocked)
        if before is None or _has_moved(before, queue.stuck_facts):
            queue.stuck_since_s = now_s
        if now_s - queue.stuck_since_s >= self._policy.patience_s:
            return True
        self._look_later(queue, now_s, effects)
        return False

    def serve(self, now_s: float, effects: list[Effect]) -> int:
        """Gives workers that wait to queues in need. Returns how many more workers are needed."""
        missing: dict[tuple[Job, str], int] = {}
        fresh_needed = 0
        for queue, need in list(self._needy.items()):
            while need and (worker := self._available(queue)) is not None:
                self._give(worker, queue, now_s, effects)
                need -= 1
                self._need(queue, need)
            if need and _needs_fresh(queue):
                fresh_needed += need
            elif need:
                home = (queue.job, queue.environment)
                missing[home] = missing.get(home, 0) + need
        still = (max(0, need - self._coming(*home, need, now_s, effects)) for home, need in missing.items())
        return fresh_needed + sum(still)

    def _available(self, queue: Queue) -> Worker | None:
        idle = self._pool.idle(queue.job.id, queue.environment)
        if idle and not _needs_fresh(queue):
            return next(reversed(idle.values()))
        return next(iter(self._pool.fresh.values()), None)

    def _give(self, worker: Worker, queue: Queue, now_s: float, effects: list[Effect]) -> None:
        gpus = queue.open_seats.pop(0) if queue.seated else ()
        self._pool.serve(worker, (queue.job.id, queue.environment), queue.id, gpus, now_s)
        effects.append(ServeQueue(worker.id, queue.id, gpus))

    # -- moving ------------------------------------------------------------------------------------
    def _coming(self, job: Job, environment: str, need: int, now_s: float, effects: list[Effect]) -> int:
        """How many of the workers that a job needs in an environment come from its own other queues."""
        queues = [queue for queue in job.queues.values() if queue.environment == environment]
        coming = sum(
            min(self._recently_asked(queue, now_s), max(0, queue.readers - queue.blocked))
            for queue in queues
            if not _needs_fresh(queue)
        )
        if len(self._pool.of_job(job.id)) < self._many:
            return coming
        for queue in queues:
            if coming >= need:
                break
            reading = len(self._pool.reading(queue.id))
            if reading and not (queue.seated or queue.depth or queue.active or queue.blocked):
                coming += self._dismiss(queue, min(reading, need - coming), now_s, effects)
        return coming

    def _recently_asked(self, queue: Queue, now_s: float) -> int:
        leaving = self._pool.leaving(queue.id)
        return sum(now_s - worker.since_s < self._policy.patience_s for worker in leaving.values())

    def _call_back(self, queue: Queue, now_s: float, effects: list[Effect]) -> None:
        """Asks readers to leave until what the queue is to give back has come: twice as many each time it takes long.

        Which of them will end its call first is not known. Those that leave in vain are soon given back.
        """
        surplus = queue.units - queue.target
        if surplus <= 0 or not (queue.seated or queue.confirmed):
            return
        recently = self._recently_asked(queue, now_s)
        if recently < surplus:
            slow = len(self._pool.leaving(queue.id)) - recently
            self._dismiss(queue, surplus - recently + slow, now_s, effects)
        self._look_later(queue, now_s, effects)

    def _dismiss(self, queue: Queue, count: int, now_s: float, effects: list[Effect]) -> int:
        """Asks up to `count` readers to leave, those that came last first; returns how many were asked."""
        workers = list(self._pool.reading(queue.id).values())[::-1][:count]
        for worker in workers:
            self._pool.ask_to_leave(worker, now_s)
            if queue.seated:
                queue.leaving.append(worker.gpus)
            effects.append(LeaveQueue(worker.id))
        return len(workers)

    # -- looking
    def look_now(self, queue: Queue, now_s: float, effects: list[Effect]) -> None:
        """Asks for a look at once, unless one was asked for not long ago."""
        self._look(queue, 0.0, now_s, effects)

    def _look_later(self, queue: Queue, now_s: float, effects: list[Effect]) -> None:
        self._look(queue, self._policy.look_after_s, now_s, effects)

    def _look(self, queue: Queue, after_s: float, now_s: float, effects: list[Effect]) -> None:
        if now_s >= queue.look_due_s:
            queue.look_due_s = now_s + max(after_s, self._policy.look_s)
            effects.append(LookAt(queue.id, after_s))

    # -- enough of them ----------------------------------------------------------------------------
    def retire(self, now_s: float, effects: list[Effect]) -> None:
        """Ends workers that have been idle for `idle_worker_s`, above the numbers that are kept."""
        for queue in self._book.queues.values():
            self._retire_readers(queue, now_s, effects)
        for idle in self._pool.all_idle():
            for worker in list(idle.values()):
                if self._pool.task_workers <= self._policy.idle_workers or not self._is_old(worker, now_s):
                    break
                self._stop(worker, now_s, effects)
        for worker in list(self._pool.fresh.values()):
            if len(self._pool.fresh) <= self._policy.fresh_workers or not self._is_old(worker, now_s):
                break
            self._stop(worker, now_s, effects)

    def _retire_readers(self, queue: Queue, now_s: float, effects: list[Effect]) -> None:
        reading = self._pool.reading(queue.id)
        if not reading or now_s - queue.idle_since_s < self._policy.idle_worker_s:
            return
        if now_s - queue.observed_s >= self._policy.idle_worker_s:
            self.look_now(queue, now_s, effects)
            return
        count = min(queue.least_idle, self._pool.task_workers - self._policy.idle_workers, len(reading))
        for worker in list(reading.values())[::-1][: max(0, count)]:
            self._stop(worker, now_s, effects)
        queue.idle_since_s, queue.least_idle = now_s, queue.idle

    def _is_old(self, worker: Worker, now_s: float) -> bool:
        return now_s - worker.since_s >= self._policy.idle_worker_s

    def _stop(self, worker: Worker, now_s: float, effects: list[Effect]) -> None:
        self._pool.stop(worker, now_s)
        effects.append(StopWorker(worker.id, force=False))


def _has_moved(before: tuple[int, int, int], after: tuple[int, int, int]) -> bool:
    """True if a call was taken or goes on. More mail, and one more that waits, are no sign of that."""
    return after[0] < before[0] or after[1] > before[1] or after[2] < before[2]


def _needs_fresh(queue: Queue) -> bool:
    """True for a queue with GPUs: a process sees those that it first used for life, so it serves no other queue."""
    return queue.shape.gpus > 0
