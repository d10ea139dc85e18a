"""What the scheduler knows of each task queue and each job: facts observed, numbers decided, numbers derived."""

from __future__ import annotations

from dataclasses import dataclass, field

from actorflow.core.events import JobId, QueueId, QueueObserved
from actorflow.core.resources import GPU, GpuDevices, GpuShare, ResourceSet, Units
from actorflow.errors import InternalError
from actorflow.options import POOL_MARK

NEVER_S = float("-inf")


@dataclass(slots=True, eq=False)
class Job:
    """A driver's claim to a fair share. `share`: the largest part that it uses of any one resource."""

    id: JobId
    used: Units = field(default_factory=dict)
    share: float = 0.0
    turn: int = 0  # number of the grant that it got last: among equals the one served longest ago is next
    queues: dict[QueueId, Queue] = field(default_factory=dict, repr=False)
    hungry: int = 0  # of its queues
    actors: int = 0  # that wait or hold resources
    ended: bool = False


@dataclass(slots=True, eq=False)
class Queue:
    """One task queue: calls of one job that each take `shape`.

    A queue is lent units, one for each call that may execute; `allowed` in shared memory says how many, and a call
    that is blocked leaves its unit to the queue's next call. Where the shape has more than CPUs (`seated`), a unit is
    a seat with a CPU part. The seat is one worker that reads the queue, with all that a blocked call keeps, devices
    included, for as long as it reads; the CPU part is in `allowed` as above, but only for seats that are not blocked.

    Decided: `target` is what its units are to come down to; the difference comes back when calls end.
    Derived: by `Book.settle` alone, from the rest.
    """

    id: QueueId
    job: Job = field(repr=False)
    shape: ResourceSet
    limit: int  # the most units it could ever have; 0: infeasible
    part: float  # the largest part of any resource of the node that one unit is
    seated: bool
    cpu_shape: ResourceSet
    environment: str = ""
    # decided
    target: int = 0
    allowed: int = 0  # in shared memory, or about to be raised to
    written: int = 0  # in shared memory, as far as known
    asked_down_to: int | None = None  # the SetAllowed below `allowed` that was last given out
    confirmed: bool = False  # the queue was observed after that
    seats: int = 0
    open_seats: list[GpuShare] = field(default_factory=list)  # those that no worker has yet
    leaving: list[GpuShare] = field(default_factory=list)  # those whose workers were asked to leave
    lowered_s: float = NEVER_S  # when `target` was last lowered
    unproven: int = 0  # units lent and not yet seen in use: for `grace_s` not asked back
    lent_s: float = NEVER_S
    asked_s: float = NEVER_S  # when something was last asked back for it, in vain so far
    turn: int = 0
    closing: bool = False
    # facts
    depth: int = 0
    active: int = 0
    readers: int = 0
    blocked: int = 0
    observed_s: float = NEVER_S
    # derived
    wants: int = 0  # units it could use now
    wants_cpu: int = 0  # CPU parts that its seats lack
    hungry: bool = False
    held_cpu: int = 0  # times the shape's CPUs that are out of the node's free resources
    held_other: int = 0  # the same for the shape's other resources
    used_cpu: int = 0  # what counts as its job's use
    used_other: int = 0
    level: float = (
        0.0  # its share among its job's queues: blocked calls count, so that children go before parents
    )
    # watching its workers
    look_due_s: float = NEVER_S  # no further look is asked for before then
    stuck_since_s: float = NEVER_S
    stuck_facts: tuple[int, int, int] | None = None
    least_idle: int = 0  # fewest idle readers seen since `idle_since_s`
    idle_since_s: float = NEVER_S

    @property
    def units(self) -> int:
        """What it has been lent and has not given back."""
        return self.seats if self.seated else self.allowed

    @property
    def goal(self) -> int:
        """What `allowed` is to come down to."""
        return max(0, self.target - self.blocked) if self.seated else self.target

    @property
    def pending(self) -> int:
        """Units, or their CPU parts, that are to come back and have not yet."""
        cpu, other = self.held_at_target()
        return max(self.held_cpu - cpu, self.held_other - other)

    @property
    def spare(self) -> int:
        """Units that it has no mail for."""
        return self.target - self.wants

    @property
    def idle(self) -> int:
        """Readers that had no call."""
        return max(0, self.readers - self.active - self.blocked)

    def observe(self, facts: QueueObserved, now_s: float) -> None:
        """Takes over what shared memory said. `Book.settle` must follow."""
        self._prove(facts)
        self.depth, self.active, self.blocked = facts.depth, facts.active, facts.blocked
        self.readers, self.observed_s = facts.readers, now_s
        self.least_idle = min(self.least_idle, self.idle)
        self._observe_allowed(facts.allowed)
        self.unproven = min(self.unproven, self.units)

    def _observe_allowed(self, allowed: int) -> None:
        """Only a lowering that was asked for makes it lower, and not below that: facts may be older than a raise."""
        self.written = allowed
        self.confirmed = self.asked_down_to is not None
        if allowed > self.allowed:
            self.allowed = allowed
        elif self.asked_down_to is not None:
            self.allowed = min(self.allowed, max(allowed, self.asked_down_to))

    def _prove(self, facts: QueueObserved) -> None:
        """Counts calls that were seen to start since the last look as use of what was lent."""
        started = facts.active + facts.blocked - self.active - self.blocked
        self.unproven -= min(self.unproven, max(0, started, self.depth - facts.depth))
        if not facts.depth or facts.active >= facts.allowed:
            self.unproven = 0

    def derive(self) -> None:
        """What it wants. Without mail nothing, as what executes ends by itself."""
        self.wants = self.wants_cpu = 0
        if self.depth and not self.closing:
            kept = self.blocked if self.seated else 0
            self.wants = min(self.limit, self.depth + self.active + kept)
            if self.seated:
                self.wants_cpu = max(0, min(self.target, self.wants) - self.blocked - self.allowed)

    def held(self) -> tuple[int, int]:
        """Times its CPUs, and times its other resources, that it holds now."""
        return max(self.allowed, self.active), self.seats

    def held_at_target(self) -> tuple[int, int]:
        """The same once all that is to come back has come back."""
        if self.seated:
            return min(self.allowed, self.goal), self.target
        return self.target, 0

    def used(self) -> tuple[int, int]:
        """The same, counting only what its calls use or would use at once."""
        if self.seated:
            seats = min(self.target, self.wants) if self.depth else self.active + self.blocked
            return max(0, seats - self.blocked), seats
        return (min(self.target, self.wants) if self.depth else self.active), 0

    def validate(self) -> None:
        """Raises InternalError unless the numbers fit together."""
        checks = {
            "0 <= target <= units": 0 <= self.target <= self.units,
            "units <= limit": self.units <= self.limit,
            "0 <= unproven <= units": 0 <= self.unproven <= self.units,
            "seats where seated": (self.seats == 0 or self.seated) and len(self.open_seats) <= self.seats,
            "held as facts say": (self.held_cpu, self.held_other) == self.held(),
            "used as facts say": (self.used_cpu, self.used_other) == self.used(),
            "hungry as facts say": self.hungry == (self.wants > self.target or self.wants_cpu > 0),
            "what is closing gets nothing": not self.closing or self.target == 0,
        }
        wrong = [check for check, right in checks.items() if not right]
        if wrong:
            raise InternalError(reason=f"queue {self.id} breaks {wrong}: {self}")


def most_units(shape: ResourceSet, total: ResourceSet, devices: GpuDevices, limit: int) -> int:
    """How many units of a shape a whole node could lend at once, at most `limit`."""
    most = shape.times_in(total.units, limit)
    gpus = shape.units.get(GPU, 0)  # those of a placement group are known when it is reserved
    return min(most, devices.most(gpus)) if gpus else most


def largest_part(units: Units, total: ResourceSet) -> float:
    """The largest part of any resource of the node that these amounts are; placement groups' count with the group."""
    parts = (amount / total.units[name] for name, amount in units.items() if amount and POOL_MARK not in name)
    return max(parts, default=0.0)


def part_of_shape(shape: ResourceSet, total: ResourceSet) -> float:
    """The same of one unit of a shape, also of one of a placement group: by what it has of the node's."""
    bases = ((name.partition(POOL_MARK)[0], amount) for name, amount in shape.units.items())
    return max((amount / total.units[name] for name, amount in bases if name in total.units), default=0.0)
