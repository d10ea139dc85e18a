"""The account of the node's resources: what is free, lent to queues, and held by actors.

`settle` is the one place where a queue's numbers are turned into sums; whatever changes a queue calls it. The node
lends only what is free, so that no more executes than the node has. The one exception is CPUs of calls that go on
after they were blocked: `free` may be below zero for that long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from actorflow.core.events import GroupId, JobId, QueueId
from actorflow.core.policy import Policy
from actorflow.core.pools import Pool
from actorflow.core.queues import NEVER_S, Job, Queue, largest_part, most_units, part_of_shape
from actorflow.core.resources import CPU, GPU, ONE, GpuDevices, GpuShare, ResourceSet, Units, add
from actorflow.errors import InternalError
from actorflow.options import POOL_MARK

Queues = dict[QueueId, Queue]


class Book:
    """All queues and jobs, and the sums over them."""

    def __init__(self, total: ResourceSet, policy: Policy) -> None:
        self.total = total
        self.policy = policy
        self.free: Units = dict(total.units)
        self.devices = GpuDevices(total.units.get(GPU, 0) // ONE)
        self.jobs: dict[JobId, Job] = {}
        self.queues: Queues = {}
        self.hungry: Queues = {}  # could use more than they are to have
        self.spare: Queues = {}  # are to have more than they could use
        self.pending: Queues = {}  # have more than they are to have
        self.with_mail: Queues = {}
        self.changed: Queues = {}  # since the scheduler last dealt with them
        self.stirred = False  # something changed that could let a hungry queue have more
        self.pools: dict[int, Pool] = {}  # by placement group
        self._turns = 0

    # -- jobs and queues ---------------------------------------------------------------------------
    def open_queue(self, queue: QueueId, job: JobId, shape: ResourceSet, environment: str = "") -> Queue:
        """A queue without facts. `limit` 0: infeasible."""
        if queue in self.queues:
            raise InternalError(reason=f"queue {queue} was opened twice")
        limit = most_units(shape, self.total, self.devices, self.policy.parallel_limit)
        part = part_of_shape(shape, self.total) if limit else 0.0
        cpus = ResourceSet(dict(shape.cpus))
        opened = Queue(queue, self.job(job), shape, limit, part, bool(shape.others), cpus, environment)
        self.queues[queue] = opened.job.queues[queue] = opened
        self.use_pool(shape, 1)
        return opened

    def start_job(self, job: JobId) -> None:
        """A job that uses nothing yet."""
        if job in self.jobs:
            raise InternalError(reason=f"job {job} was started twice")
        self.jobs[job] = Job(job)

    def job(self, job: JobId) -> Job:
        """The job of that id. InternalError: it never started, or has ended."""
        found = self.jobs.get(job)
        if found is None or found.ended:
            raise InternalError(reason=f"job {job} is not running")
        return found

    def close_queue(self, queue: Queue) -> None:
        """The queue gets nothing any more. What it holds is kept until no worker has it: then `forget_queue`."""
        queue.closing = True
        self.lower(queue, queue.target, queue.lowered_s)

    def forget_queue(self, queue: Queue) -> None:
        """No worker has it: what it held is free."""
        queue.allowed = queue.active = queue.depth = queue.blocked = 0
        self.settle(queue)
        del self.queues[queue.id], queue.job.queues[queue.id]
        self.use_pool(queue.shape, -1)
        self.changed.pop(queue.id, None)
        self.forget_job_if_done(queue.job)

    def forget_job_if_done(self, job: Job) -> None:
        """A job that ended is forgotten with the last that held anything for it."""
        if job.ended and not job.queues and not job.actors:
            self.jobs.pop(job.id, None)

    # -- lending -----------------------------------------------------------------------------------
    def lend(self, queue: Queue, most: int, now_s: float) -> int:
        """Lends up to `most` units, as far as resources are free now; returns how many.

        What it still has and was to give back costs nothing.
        """
        kept = min(most, queue.units - queue.target)
        queue.target += kept
        extra = queue.shape.times_in(self.free, min(most - kept, queue.limit - queue.target))
        if queue.seated:
            extra = self._take_seats(queue, extra)
        queue.target += extra
        queue.allowed += extra
        self._lent(queue, kept + extra, now_s)
        return kept + extra

    def lend_cpu(self, queue: Queue, most: int, now_s: float) -> int:
        """Lends the CPU parts of up to `most` seats that lack it, as far as CPUs are free; returns how many."""
        extra = queue.cpu_shape.times_in(self.free, min(most, queue.wants_cpu))
        queue.allowed += extra
        self._lent(queue, extra, now_s)
        return extra

    def _lent(self, queue: Queue, count: int, now_s: float) -> None:
        if count:
            queue.unproven, queue.lent_s = min(queue.units, queue.unproven + count), now_s
            queue.asked_s = NEVER_S
            self._turns += 1
            queue.turn = queue.job.turn = self._turns
            self.settle(queue)

    def _take_seats(self, queue: Queue, most: int) -> int:
        for taken in range(most):
            share = self.devices_of(queue.shape).take(queue.shape.gpus)
            if share is None:
                most = taken
                break
            queue.open_seats.append(share)
        queue.seats += most
        return most

    def lower(self, queue: Queue, by: int, now_s: float) -> None:
        """Lowers the queue's target. Seats that wait for a worker come back at once, but for those it has just got."""
        queue.target -= by
        queue.lowered_s = now_s
        queue.unproven = min(queue.unproven, queue.target)
        while queue.seats > queue.target and len(queue.open_seats) > queue.unproven:
            self._return_seat(queue, queue.open_seats.pop())
            queue.allowed = max(queue.allowed - 1, min(queue.allowed, queue.written))
        self.settle(queue)

    def return_seat(self, queue: Queue, gpus: GpuShare) -> None:
        """A worker with a seat has left the queue or is gone."""
        self._return_seat(queue, gpus)
        if gpus in queue.leaving:
            queue.leaving.remove(gpus)
        queue.target = min(queue.target, queue.seats)
        queue.unproven = min(queue.unproven, queue.seats)
        self.settle(queue)

    def _return_seat(self, queue: Queue, gpus: GpuShare) -> None:
        self.devices_of(queue.shape).give_back(gpus)
        queue.seats -= 1

    def hold(self, job: Job, demand: ResourceSet, times: int) -> None:
        """Holds (1) or gives back (-1) what an actor of the job has."""
        add(self.free, demand, -times, -times)
        add(job.used, demand, times, times)
        job.share = largest_part(job.used, self.total)
        self.stirred = True

    # -- pools of placement groups -----------------------------------------------------------------
    def devices_of(self, demand: ResourceSet) -> GpuDevices:
        """The devices from which the demand has its GPUs."""
        return self.pools[demand.group].devices if demand.group else self.devices

    def add_pool(self, group: GroupId, units: ResourceSet) -> None:
        """A placement group's resources get names; there is nothing of them before they are reserved."""
        self.pools[group] = Pool(units)
        self.total = ResourceSet.sum_of([self.total, units])
        self.free.update(dict.fromkeys(units.units, 0))

    def fill_pool(self, group: GroupId, gpus: GpuShare) -> None:
        """The group's resources are reserved."""
        pool = self.pools[group]
        pool.filled = True
        pool.devices = GpuDevices.of_share(len(self.devices.loads), gpus)
        add(self.free, pool.units, 1, 1)
        self.stirred = True

    def drop_pool(self, group: GroupId) -> None:
        """Nobody uses the group's resources any more, and nobody will."""
        pool = self.pools.pop(group)
        self.total = ResourceSet(_without(self.total.units, pool.units))
        self.free = _without(self.free, pool.units)
        for job in self.jobs.values():
            job.used = _without(job.used, pool.units)

    def use_pool(self, demand: ResourceSet, times: int) -> None:
        """A queue or an actor of that demand is there (1), or is gone (-1)."""
        if demand.group:
            self.pools[demand.group].users += times
            self.stirred = True

    # -- sums --------------------------------------------------------------------------------------
    def settle(self, queue: Queue) -> None:
        """Brings every sum and index up to date with the queue's numbers."""
        spare = queue.spare
        queue.derive()
        self.stirred |= queue.spare > spare  # somebody who wants more may get it now
        cpu, other = queue.held()
        if cpu != queue.held_cpu or other != queue.held_other:
            add(self.free, queue.shape, queue.held_cpu - cpu, queue.held_other - other)
            queue.held_cpu, queue.held_other = cpu, other
            self.stirred = True
        self._settle_use(queue)
        self._settle_hunger(queue)
        _keep(self.spare, queue, queue.spare > 0)
        _keep(self.pending, queue, queue.pending > 0)
        _keep(self.with_mail, queue, queue.depth > 0 and not queue.closing)
        self.changed[queue.id] = queue

    def _settle_use(self, queue: Queue) -> None:
        cpu, other = queue.used()
        if cpu != queue.used_cpu or other != queue.used_other:
            add(queue.job.used, queue.shape, cpu - queue.used_cpu, other - queue.used_other)
            queue.job.share = largest_part(queue.job.used, self.total)
            queue.used_cpu, queue.used_other = cpu, other
        units = other if queue.seated else cpu + queue.blocked
        queue.level = queue.part * units

    def _settle_hunger(self, queue: Queue) -> None:
        hungry = queue.wants > queue.target or queue.wants_cpu > 0
        if hungry != queue.hungry:
            queue.hungry = hungry
            queue.job.hungry += 1 if hungry else -1
            _keep(self.hungry, queue, hungry)
            self.stirred = True

    def unused(self) -> Units:
        """What neither an actor nor an executing call takes, as last observed; units lent without a call count."""
        unused = dict(self.free)
        for queue in self.queues.values():
            calls = queue.active + queue.blocked
            add(unused, queue.shape, queue.held_cpu - queue.active, queue.held_other - calls)
        return {name: max(0, units) for name, units in unused.items()}

    # -- checking ----------------------------------------------------------------------------------
    def validate(self, held_by_actors: Iterable[tuple[JobId, ResourceSet]]) -> None:
        """Recomputes every sum and index; InternalError where one is wrong."""
        free, lent = dict(self.total.units), dict(self.total.units)
        used: dict[JobId, Units] = {job: {} for job in self.jobs}
        for pool in self.pools.values():
            if not pool.filled:
                add(free, pool.units, -1, -1)
                add(lent, pool.units, -1, -1)
        for queue in self.queues.values():
            queue.validate()
            add(free, queue.shape, -queue.held_cpu, -queue.held_other)
            add(lent, queue.shape, -queue.allowed, -queue.seats)
            add(used[queue.job.id], queue.shape, queue.used_cpu, queue.used_other)
        for job, demand in held_by_actors:
            add(free, demand, -1, -1)
            add(lent, demand, -1, -1)
            add(used[job], demand, 1, 1)
        if free != self.free:
            raise InternalError(reason=f"free is {self.free}, should be {free}")
        if min(lent.values(), default=0) < 0 or any(
            free[name] < 0 for name in free if name.partition(POOL_MARK)[0] != CPU
        ):
            raise InternalError(reason=f"more is lent than there is: {lent}, free {free}")
        self._validate_jobs(used)
        self._validate_index("hungry", self.hungry, lambda queue: queue.hungry)
        self._validate_index("spare", self.spare, lambda queue: queue.spare > 0)
        self._validate_index("pending", self.pending, lambda queue: queue.pending > 0)
        self._validate_index("mail", self.with_mail, lambda queue: queue.depth > 0 and not queue.closing)

    def _validate_index(self, name: str, index: Queues, belongs: Callable[[Queue], bool]) -> None:
        expected = {id for id, queue in self.queues.items() if belongs(queue)}
        if index.keys() != expected:
            raise InternalError(
                reason=f"the index {name} has {sorted(index)}, should have {sorted(expected)}"
            )

    def _validate_jobs(self, used: dict[JobId, Units]) -> None:
        for job in self.jobs.values():
            has = {name: units for name, units in job.used.items() if units}
            should = {name: units for name, units in used[job.id].items() if units}
            hungry = sum(queue.hungry for queue in job.queues.values())
            if has != should or job.hungry != hungry:
                raise InternalError(reason=f"{job} uses {should} and has {hungry} hungry queues")


def _keep(index: Queues, queue: Queue, belongs: bool) -> None:
    if belongs:
        index[queue.id] = queue
    else:
        index.pop(queue.id, None)


def _without(units: Mapping[str, int], pool: ResourceSet) -> Units:
    return {name: amount for name, amount in units.items() if name not in pool.units}
