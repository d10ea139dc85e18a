"""Who gets what is free, and who is asked to give something back: the fair division between jobs and queues.

Hungry queues are served in the order of their job's share, then of their level in the job; among equals the one that
was served longest ago comes first. Each is served from what is free. What is not free is asked back:

 1. from queues that are to have more than they have mail for; then
 2. from the job with the largest share, as long as it stays at least at the share that the asking job comes to;
 3. or from the queue of the same job with the highest level, by the same rule.

A job that uses nothing, or a queue that has nothing, may ask even where that leaves the other one nothing: then they
take turns. What a queue was lent and has not yet been seen to use is not asked back, so that each turn counts.

What was asked back is set aside for the one it was asked for: nobody after it in the order may take it. It counts as
coming soon for `patience_s`; what has not come back by then (a long call) stays asked for, and another queue is asked
as well. When something comes back, whoever is first in the order at that time gets it.

What calls keep that wait inside (all but their CPUs) is not counted as coming: they may wait for the very one that
would be held back for it. And what is free already is kept for somebody only while the rest is coming soon.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from typing import Protocol

from actorflow.core.book import Book
from actorflow.core.queues import Job, Queue
from actorflow.core.resources import GPU, ResourceSet, Units, add

Taken = dict[Queue, int]

_ROUNDING = 1e-9  # shares are sums of fractions


class Asker(Protocol):
    """A queue, or an actor to be placed. `asked_s`: when something was last asked back for it, in vain so far."""

    job: Job
    asked_s: float


class Division:
    """One pass over all that is hungry. It changes the book; what it changed is in `Book.changed`."""

    def __init__(self, book: Book, now_s: float) -> None:
        self._book = book
        self._now_s = now_s
        self._room: Units = dict(book.free)  # free or asked back, and not set aside
        self._soon: Units = dict(book.free)  # of that, what is free or was asked back lately
        self._claims: Taken = {}  # units set aside for a queue until they come back
        self._claimed_share: dict[Job, float] = {}
        self._served: set[Queue] = set()
        self._asked: set[Asker] = set()
        self._refused: dict[tuple[Job, bool, tuple[str, ...]], float] = {}  # the least part that was refused
        self._top_share = max((job.share for job in book.jobs.values()), default=0.0)
        self.unserved: list[Queue] = []
        for queue in book.pending.values():
            _give(self._room, queue)
            if self._is_recent(queue):
                _give(self._soon, queue)

    def fits(self, demand: ResourceSet) -> bool:
        """True if the demand is free now, and not set aside for another."""
        return demand.fits(self._soon) and demand.fits(self._book.free)

    def set_aside(self, demand: ResourceSet, actor: Asker) -> None:
        """Keeps room for an actor that does not fit now, before any queue is served; asks back what is missing."""
        if self._waits_for_devices(demand, actor):
            return
        self._ask_for(demand.lacking(self._soon), actor)
        if demand.fits(self._room):
            self._reserve(demand, 1)

    def use(self, demand: ResourceSet) -> None:
        """An actor was given this from what is free."""
        _subtract(self._room, demand, 1)
        _subtract(self._soon, demand, 1)

    def serve(self) -> None:
        """Serves the hungry queues. Those that still could use more are `unserved` after it, in their order."""
        heap = [
            (self._share(queue.job), queue.job.turn, self._level(queue), queue.turn, queue.id, queue)
            for queue in self._book.hungry.values()
        ]
        heapq.heapify(heap)
        while heap:
            share, turn, level, own_turn, number, queue = heapq.heappop(heap)
            if self._share(queue.job) == share and self._level(queue) == level:
                if not self._serve_one(queue, alone=not heap):
                    self.unserved.append(queue)
                    continue
                if not self._wants(queue):
                    continue
            entry = (self._share(queue.job), turn, self._level(queue), own_turn, number, queue)
            heapq.heappush(heap, entry)
        self.unserved.extend(self._claims)

    # -- one queue ---------------------------------------------------------------------------------
    def _share(self, job: Job) -> float:
        return job.share + self._claimed_share.get(job, 0.0)

    def _level(self, queue: Queue) -> float:
        return queue.level + self._claims.get(queue, 0) * queue.part

    def _wants(self, queue: Queue) -> int:
        return queue.wants_cpu + max(0, queue.wants - queue.target) - self._claims.get(queue, 0)

    def _demand(self, queue: Queue) -> ResourceSet:
        """What its next unit takes: only CPUs where it has a seat without them."""
        return queue.cpu_shape if queue.wants_cpu > self._claims.get(queue, 0) else queue.shape

    def _serve_one(self, queue: Queue, alone: bool) -> bool:
        """Gives the queue a unit or sets one aside for it; more at once when nobody else is hungry."""
        demand = self._demand(queue)
        if self._waits_for_devices(demand, queue):
            return False
        count = demand.times_in(self._room, self._wants(queue) if alone or not demand else 1)
        if not count:
            if not self._ask_for(demand.lacking(self._room), queue):
                return False
            count = 1
        if queue in self._claims or not self._lend(queue, demand, count):
            self._claim(queue, demand, count)
        return True

    def _lend(self, queue: Queue, demand: ResourceSet, count: int) -> int:
        kept = 0 if self._is_recent(queue) or demand is not queue.shape else queue.units - queue.target
        count = min(count, kept + demand.times_in(self._soon, count))
        if demand is queue.shape:
            lent = self._book.lend(queue, count, self._now_s)
        else:
            lent = self._book.lend_cpu(queue, count, self._now_s)
        if lent:
            self._served.add(queue)
        _subtract(self._room, demand, lent)
        _subtract(self._soon, demand, lent - min(kept, lent))
        return lent

    def _claim(self, queue: Queue, demand: ResourceSet, count: int) -> None:
        self._ask_for(demand.lacking(self._soon), queue)
        self._reserve(demand, count)
        self._claims[queue] = self._claims.get(queue, 0) + count
        self._claimed_share[queue.job] = self._claimed_share.get(queue.job, 0.0) + queue.part * count

    def _reserve(self, demand: ResourceSet, count: int) -> None:
        """Keeps what comes back for the demand; what is free already only if the rest comes soon."""
        is_soon = demand.fits(self._soon)
        for name, units in demand.units.items():
            if is_soon or units > self._book.free.get(name, 0):
                self._room[name] -= units * count
                self._soon[name] -= units * count

    def _waits_for_devices(self, demand: ResourceSet, asker: Asker) -> bool:
        """True if GPUs must come first: what is free of them, in sum enough or not, lies in pieces on several.

        They are asked back if all the rest could be had too, and kept if whole ones come; the rest is not yet.
        """
        units = demand.units.get(GPU, 0)
        if self._book.devices.has(units):
            return False
        asked = False
        if not self._devices_come(units, only_soon=True):
            lacking = {**demand.lacking(self._soon), GPU: self._book.devices.lacking(units)}
            asked = self._ask_for(lacking, asker, only=GPU)
        if asked or self._devices_come(units, only_soon=False):
            self._room[GPU] -= units
            self._soon[GPU] -= units
        return True

    def _devices_come(self, units: int, only_soon: bool) -> bool:
        """True if the devices of workers that were asked to leave make up this amount."""
        coming = [
            share
            for queue in self._book.pending.values()
            if not queue.blocked and (self._is_recent(queue) or not only_soon)
            for share in queue.leaving
        ]
        return self._book.devices.has(units, coming)

    # -- asking back -------------------------------------------------------------------------------
    def _ask_for(self, lacking: Units, asker: Asker, only: str | None = None) -> bool:
        """Asks back what is lacking, or only one resource of it. False: nobody can or must give it, or not yet again.

        Who asked, got nothing and asked again at once would go round in circles with those that gave in vain.
        """
        if not lacking or (
            asker not in self._asked and self._now_s - asker.asked_s < self._book.policy.patience_s
        ):
            return False
        queue = asker if isinstance(asker, Queue) else None
        question = (asker.job, queue is None or self._is_starved(queue), tuple(lacking))
        part = 0.0 if queue is None else queue.part
        if part >= self._refused.get(question, math.inf):
            return False
        taken = self._sources(lacking, asker.job, queue)
        if taken is None:
            self._refused[question] = part
            return False
        asker.asked_s = self._now_s
        self._asked.add(asker)
        for other, count in taken.items():
            if only is None or only in other.shape.units:
                self._take_from(other, count)
        return True

    def _take_from(self, queue: Queue, count: int) -> None:
        cpu, other = queue.held_at_target()
        self._book.lower(queue, count, self._now_s)
        lower_cpu, lower_other = queue.held_at_target()
        for room in (self._room, self._soon):
            add(room, queue.shape, cpu - lower_cpu, other - lower_other)

    def _sources(self, lacking: Units, job: Job, queue: Queue | None) -> Taken | None:
        """Whom to ask for what is lacking, how many units each; None if it cannot be had. An actor has no queue."""
        lacking = dict(lacking)
        taken: Taken = {}
        for other in self._book.spare.values():
            count = min(other.spare, _times_needed(other, lacking))
            if count and other is not queue:
                taken[other] = count
                _cross_off(lacking, other, count)
        while lacking:
            victim = self._victim(lacking, job, queue, taken)
            if victim is None:
                return None
            taken[victim] = taken.get(victim, 0) + 1
            _cross_off(lacking, victim, 1)
        return taken

    def _victim(self, lacking: Units, job: Job, queue: Queue | None, taken: Taken) -> Queue | None:
        """The queue that must give up its next unit, or None."""
        if queue is not None and not self._could_get_any(queue):
            return None
        jobs = sorted(
            self._book.jobs.values(), key=lambda other: self._share_left(other, taken), reverse=True
        )
        if queue is None:
            return next(self._heaviest(jobs, queue, lacking, taken, spare_new=True), None)
        share, level = self._share(job), self._level(queue)
        for victim in self._heaviest(jobs, queue, lacking, taken, spare_new=False):
            if victim.job is job:
                left, comes_to = victim.level - (taken.get(victim, 0) + 1) * victim.part, level
            else:
                left, comes_to = self._share_left(victim.job, taken) - victim.part, share
            if left + _ROUNDING >= comes_to + queue.part:
                return victim
        if not self._is_starved(queue):
            return None
        victims = list(self._heaviest(jobs, queue, lacking, taken, spare_new=True))
        own = [victim for victim in victims if victim.job is job]
        return next(iter(own if own and share else victims), None)

    def _could_get_any(self, queue: Queue) -> bool:
        """A quick no, without looking at each queue: where shares are even, most may ask for nothing."""
        if self._is_starved(queue) or self._top_share + _ROUNDING >= self._share(queue.job) + queue.part:
            return True
        top_level = max(other.level for other in queue.job.queues.values())
        return top_level + _ROUNDING >= self._level(queue) + queue.part

    def _heaviest(
        self, jobs: Iterable[Job], asking: Queue | None, lacking: Units, taken: Taken, spare_new: bool
    ) -> Iterator[Queue]:
        """Of each job the queue with the highest level that can give up a unit of what is lacking."""
        for job in jobs:
            best, best_level = None, -1.0
            for queue in job.queues.values():
                level = queue.level - taken.get(queue, 0) * queue.part
                if (
                    level > best_level
                    and queue is not asking
                    and self._can_give(queue, lacking, taken, spare_new)
                ):
                    best, best_level = queue, level
            if best is not None:
                yield best

    def _can_give(self, queue: Queue, lacking: Units, taken: Taken, spare_new: bool) -> bool:
        if queue in self._served or (queue.pending > 0 and not self._is_recent(queue)):
            return False  # it came before the one that asks; or was asked already, and is slow to answer
        if spare_new and queue.unproven and self._now_s - queue.lent_s < self._book.policy.grace_s:
            return False  # what it has just got would go first, unused
        kept = queue.blocked if queue.seated else 0
        units = min(queue.target, queue.wants) - kept - taken.get(queue, 0)
        return units > 0 and not lacking.keys().isdisjoint(queue.shape.units)

    def _share_left(self, job: Job, taken: Taken) -> float:
        return job.share - sum(count * queue.part for queue, count in taken.items() if queue.job is job)

    def _is_starved(self, queue: Queue) -> bool:
        has_none = queue.target == 0 or queue.allowed == 0
        return has_none and queue.active == 0 and queue not in self._claims

    def _is_recent(self, queue: Queue) -> bool:
        return self._now_s - queue.lowered_s < self._book.policy.patience_s


def _give(room: Units, queue: Queue) -> None:
    """Adds what the queue is to give back, but for seats whose calls wait: for what they wait for nobody knows."""
    cpu, other = queue.held_at_target()
    add(room, queue.shape, queue.held_cpu - cpu, max(0, queue.held_other - other - queue.blocked))


def _subtract(room: Units, demand: ResourceSet, times: int) -> None:
    add(room, demand, -times, -times)


def _times_needed(queue: Queue, lacking: Units) -> int:
    return max(
        (-(-lacking[name] // units) for name, units in queue.shape.units.items() if name in lacking),
        default=0,
    )


def _cross_off(lacking: Units, queue: Queue, count: int) -> None:
    for name, units in queue.shape.units.items():
        if name in lacking:
            lacking[name] -= units * count
            if lacking[name] <= 0:
                del lacking[name]
