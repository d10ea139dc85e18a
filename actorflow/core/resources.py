"""Amounts of resources, counted in ten-thousandths, and which GPU devices are whose.

Whole numbers throughout, so that what is taken and given back any number of times adds up exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from actorflow.options import POOL_MARK

ONE = 10_000  # ten-thousandths in one
CPU = "CPU"
GPU = "GPU"

Units = dict[str, int]  # name -> ten-thousandths; may be negative where something is overdrawn
GpuShare = tuple[tuple[int, int], ...]  # (device, ten-thousandths of it); () without GPUs


def pooled(name: str, group: int, bundle: int | None = None) -> str:
    """The name of a resource of a placement group, or of one of its bundles: "CPU@group 3", "CPU@group 3.0"."""
    return f"{name}{POOL_MARK}{group}" if bundle is None else f"{name}{POOL_MARK}{group}.{bundle}"


def plain(units: Mapping[str, int]) -> Units:
    """Only what is of no placement group."""
    return {name: amount for name, amount in units.items() if POOL_MARK not in name}


class ResourceSet:
    """What one call, actor or node has of each resource; immutable. Zero amounts are left out.

    `cpus` are the pairs (name, ten-thousandths) of CPUs; `others` those of the rest: what a task gives back while it
    is blocked, and what it keeps. `cpu`: the node's own CPUs. `gpus`: GPUs, the node's or a placement group's.
    `group`: the placement group from which it all is, 0: none.
    """

    __slots__ = ("cpu", "cpus", "gpus", "group", "others", "units")

    cpu: int
    cpus: tuple[tuple[str, int], ...]
    gpus: int
    group: int
    others: tuple[tuple[str, int], ...]
    units: Mapping[str, int]

    def __init__(self, units: Mapping[str, int] | None = None) -> None:
        """From ten-thousandths. ValueError: an amount is negative, or GPUs are over one and not whole."""
        kept = {name: amount for name, amount in sorted((units or {}).items()) if amount}
        for name, amount in kept.items():
            if amount < 0:
                raise ValueError(f"{name}={_decimal(amount)}: an amount of a resource is not negative")
        gpus = kept.get(GPU, 0)
        if gpus > ONE and gpus % ONE:
            raise ValueError(f"{GPU}={_decimal(gpus)}: over 1 only whole devices can be had")
        self._fill(kept)

    def _fill(self, kept: Units) -> None:
        bases = [(name.partition(POOL_MARK), amount) for name, amount in kept.items()]
        self.units = kept
        self.cpu = kept.get(CPU, 0)
        self.cpus = tuple((a + b + c, amount) for (a, b, c), amount in bases if a == CPU)
        self.others = tuple((a + b + c, amount) for (a, b, c), amount in bases if a != CPU)
        self.gpus = max((amount for (base, _, _), amount in bases if base == GPU), default=0)
        self.group = max((int(owner.partition(".")[0]) for (_, _, owner), _ in bases if owner), default=0)

    @classmethod
    def sum_of(cls, sets: Iterable[ResourceSet]) -> ResourceSet:
        """All of them together; parts of GPUs may add up to more than one that is not whole."""
        units: Units = {}
        for one in sets:
            for name, amount in one.units.items():
                units[name] = units.get(name, 0) + amount
        together = cls()
        together._fill(dict(sorted(units.items())))
        return together

    @classmethod
    def of(cls, **amounts: float) -> ResourceSet:
        """From amounts in ones, as users write them: `ResourceSet.of(CPU=0.5, GPU=1)`."""
        return cls.from_amounts(amounts)

    @classmethod
    def from_amounts(cls, amounts: Mapping[str, float]) -> ResourceSet:
        """From amounts in ones. ValueError: negative, not finite, or above zero and less than 0.0001."""
        units = {}
        for name, amount in amounts.items():
            if not 0 <= amount < float("inf"):
                raise ValueError(f"{name}={amount}: an amount of a resource is a number from 0")
            units[name] = round(amount * ONE)
            if amount and not units[name]:
                raise ValueError(f"{name}={amount}: the least amount of a resource is 0.0001")
        return cls(units)

    @property
    def own_units(self) -> Units:
        """The amounts under their own names, also where they are a placement group's."""
        return {name.partition(POOL_MARK)[0]: amount for name, amount in self.units.items()}

    def most(self, other: ResourceSet) -> ResourceSet:
        """The larger of both amounts of each resource."""
        names = self.units.keys() | other.units.keys()
        return ResourceSet({n: max(self.units.get(n, 0), other.units.get(n, 0)) for n in names})

    def lacking(self, room: Mapping[str, int]) -> Units:
        """What of these amounts `room` does not have; {} when it has all."""
        return {
            name: units - max(room.get(name, 0), 0)
            for name, units in self.units.items()
            if units > room.get(name, 0)
        }

    def fits(self, room: Mapping[str, int]) -> bool:
        """True if `room` has all these amounts."""
        for name, units in self.units.items():  # noqa: SIM110 - all() takes three times as long, on the hottest path
            if units > room.get(name, 0):
                return False
        return True

    def times_in(self, room: Mapping[str, int], most: int) -> int:
        """How often these amounts fit into `room`, at most `most` times."""
        for name, units in self.units.items():
            most = min(most, max(room.get(name, 0), 0) // units)
        return most

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResourceSet) and self.units == other.units

    def __hash__(self) -> int:
        return hash(tuple(self.units.items()))

    def __bool__(self) -> bool:
        return bool(self.units)

    def __str__(self) -> str:
        return describe(self.units)

    def __repr__(self) -> str:
        return f"ResourceSet({dict(self.units)})"


def in_ones(units: Mapping[str, int]) -> dict[str, float]:
    """Ten-thousandths as users know them."""
    return {name: amount / ONE for name, amount in units.items()}


def describe(units: Mapping[str, int]) -> str:
    """Amounts as text: "2 CPU, 0.5 GPU"; "nothing" when there are none."""
    own = plain(units) or units
    return ", ".join(f"{_decimal(amount)} {name}" for name, amount in own.items()) or "nothing"


def _decimal(units: int) -> str:
    sign, units = ("-", -units) if units < 0 else ("", units)
    whole, rest = divmod(units, ONE)
    return f"{sign}{whole}" + (f".{rest:04d}".rstrip("0") if rest else "")


def why_never(demand: ResourceSet, total: ResourceSet) -> str | None:
    """Why `demand` can never be met by `total`, or None when it can."""
    lacking = demand.lacking(total.units)
    if not lacking:
        return None
    has = {name: total.units.get(name, 0) for name in lacking}
    return f"it asks for {demand}, and the node has only {describe(has)} in all: {describe(lacking)} missing"


def add(room: Units, demand: ResourceSet, cpu_times: int, other_times: int) -> None:
    """Adds the CPUs of `demand` and its other amounts to `room`, so many times each; negative times take away."""
    if cpu_times:
        for name, units in demand.cpus:
            room[name] = room.get(name, 0) + units * cpu_times
    if other_times:
        for name, units in demand.others:
            room[name] = room.get(name, 0) + units * other_times


class GpuDevices:
    """Which devices are taken, and how far. Whole devices are given alone; fractions share one device."""

    def __init__(self, count: int) -> None:
        self.loads = [0] * count  # ten-thousandths taken of each device

    @classmethod
    def of_share(cls, count: int, share: GpuShare) -> GpuDevices:
        """Of so many devices only what is in the share: all else counts as taken."""
        devices = cls(count)
        devices.loads = [ONE] * count
        devices.give_back(share)
        return devices

    def has(self, units: int, coming: Iterable[GpuShare] = ()) -> bool:
        """True if `take` would give devices for this amount, once what is coming has been given back."""
        loads = list(self.loads)
        for share in coming:
            for device, load in share:
                loads[device] -= load
        if units < ONE:
            return not units or any(load + units <= ONE for load in loads)
        return loads.count(0) * ONE >= units

    def lacking(self, units: int) -> int:
        """What must be given back at least before `take` gives devices for this amount."""
        loads = sorted(self.loads)
        return units - (ONE - loads[0]) if units < ONE else sum(loads[: units // ONE])

    def take(self, units: int) -> GpuShare | None:
        """Devices for an amount in ten-thousandths: () for 0, None when there are none free enough.

        A fraction goes to the fullest device that has room for it, so that empty ones stay whole.
        """
        if units < ONE:
            return self._take_fraction(units) if units else ()
        empty = [device for device, load in enumerate(self.loads) if not load][: units // ONE]
        if len(empty) * ONE < units:
            return None
        for device in empty:
            self.loads[device] = ONE
        return tuple((device, ONE) for device in empty)

    def _take_fraction(self, units: int) -> GpuShare | None:
        fitting = [device for device, load in enumerate(self.loads) if load + units <= ONE]
        if not fitting:
            return None
        fullest = max(fitting, key=lambda device: self.loads[device])
        self.loads[fullest] += units
        return ((fullest, units),)

    def give_back(self, share: GpuShare) -> None:
        """Returns what `take` gave."""
        for device, units in share:
            self.loads[device] -= units

    def most(self, units: int) -> int:
        """How often an amount above 0 could be had if no device were taken."""
        if units < ONE:
            return len(self.loads) * (ONE // units)
        return len(self.loads) * ONE // units
