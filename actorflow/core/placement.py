"""Placement groups: resources that are reserved together, in bundles, for tasks and actors that name the group.

    PENDING -- reserved --> CREATED -- removed --> REMOVED
       |                                              |
       +------------------- removed ------------------+
    INFEASIBLE: it can never be reserved here, and says why.

A group's reservation is a pool of resources of its own: of each resource of each bundle there is `name@group.bundle`,
and of all bundles together `name@group`. Whoever runs in a certain bundle takes from both, whoever runs in any of
them from the second: so nothing is lent twice, and nothing of it to those that do not name the group. A pool also has
1,000 of "bundle", for what needs nothing else.
This is one node's part: PACK and SPREAD are the same here, and STRICT_SPREAD has room for a single bundle.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from actorflow import ids
from actorflow.core.events import GroupId, JobId
from actorflow.core.names import nearest_named
from actorflow.core.resources import GPU, ONE, GpuDevices, ResourceSet, Units, pooled, why_never
from actorflow.errors import InternalError, PlacementGroupError
from actorflow.options import ANY_BUNDLE
from actorflow.records import frozen

BUNDLE = "bundle"
BUNDLE_UNITS = 1000 * ONE
REMEMBERED_GROUPS = 1000  # that are removed and can still be named in errors and in the table


class GroupState(enum.Enum):
    """Where a group is in its life."""

    PENDING = "waits for its resources"
    CREATED = "its resources are reserved"
    REMOVED = "its resources are given back"
    INFEASIBLE = "can never be reserved"


@dataclass(slots=True, eq=False)
class Group:
    """One placement group. `why`: why it is infeasible, or was removed."""

    id: GroupId
    job: JobId
    strategy: str
    bundles: tuple[ResourceSet, ...]
    name: str = ""
    namespace: str = ""
    detached: bool = False
    state: GroupState = GroupState.PENDING
    why: str = ""


@frozen
class Reserve:
    """Ask the scheduler for the group's resources."""

    group: Group


@frozen
class Release:
    """End what runs in the group; then have the scheduler give its resources back."""

    group: Group


GroupEffect = Reserve | Release


class PlacementGroups:
    """All groups of a node whose resources are `total`. Each event returns what is to be done, in that order."""

    def __init__(self, total: ResourceSet) -> None:
        self._total = total
        self._living: dict[GroupId, Group] = {}
        self._removed: dict[GroupId, Group] = {}
        self._names: dict[tuple[str, str], GroupId] = {}

    def __iter__(self) -> Iterator[Group]:
        return iter([*self._living.values(), *self._removed.values()])

    def get(self, group: GroupId) -> Group | None:
        """The group of that id, if it lives or was removed not too long ago."""
        return self._living.get(group) or self._removed.get(group)

    def named(self, namespace: str, name: str) -> Group | None:
        """The living group of that name."""
        return self._living.get(self._names.get((namespace, name), GroupId(0)))

    def nearest(self, namespace: str, name: str) -> list[str]:
        """Names of living groups that are like a wrong one."""
        return nearest_named(namespace, name, self._names)

    # -- events
    def created(self, group: Group) -> list[GroupEffect]:
        """A new group. PlacementGroupError: its name is taken; nothing has changed then."""
        if self.get(group.id) is not None:
            raise InternalError(reason=f"placement group {group.id} was created twice")
        if group.name:
            if (group.namespace, group.name) in self._names:
                raise PlacementGroupError(group_id=group.name, reason="a living group has that name already")
            self._names[group.namespace, group.name] = group.id
        self._living[group.id] = group
        group.why = why_never_reserved(group.strategy, group.bundles, self._total) or ""
        if group.why:
            group.state = GroupState.INFEASIBLE
            return []
        return [Reserve(group)]

    def reserved(self, group_id: GroupId) -> None:
        """The scheduler has its resources."""
        group = self._living.get(group_id)
        if group is not None and group.state is GroupState.PENDING:
            group.state = GroupState.CREATED

    def removed(self, group_id: GroupId, why: str) -> list[GroupEffect]:
        """Nobody wants it any more. Removing it again does nothing."""
        group = self._living.pop(group_id, None)
        if group is None:
            return []
        was_feasible = group.state is not GroupState.INFEASIBLE
        group.state, group.why = GroupState.REMOVED, why
        if group.name:
            del self._names[group.namespace, group.name]
        while len(self._removed) >= REMEMBERED_GROUPS:
            del self._removed[next(iter(self._removed))]
        self._removed[group_id] = group
        return [Release(group)] if was_feasible else []

    def job_ended(self, job: JobId) -> list[GroupEffect]:
        """Its driver is gone: groups that are not detached end with it."""
        ending = [group.id for group in self._living.values() if group.job == job and not group.detached]
        return [effect for group in ending for effect in self.removed(group, "its job has ended")]

    # -- decisions
    def inside(self, group_id: GroupId, index: int, shape: ResourceSet) -> ResourceSet:
        """What a call of that shape takes from the group's pool. PlacementGroupError: it can never have it there."""
        group = self.get(group_id)
        if group is None or group.state in (GroupState.REMOVED, GroupState.INFEASIBLE):
            reason = "there is none of that id" if group is None else _why_not(group)
            raise PlacementGroupError(group_id=hex_of(group_id), reason=reason)
        if not ANY_BUNDLE <= index < len(group.bundles):
            raise PlacementGroupError(
                group_id=hex_of(group_id),
                reason=f"it has {len(group.bundles)} bundles, and none of index {index}",
            )
        bundles = group.bundles if index == ANY_BUNDLE else group.bundles[index : index + 1]
        if not any(shape.fits({**bundle.units, BUNDLE: BUNDLE_UNITS}) for bundle in bundles):
            where = "no bundle" if index == ANY_BUNDLE else f"bundle {index} does not"
            has = "; ".join(str(bundle) for bundle in bundles)
            raise PlacementGroupError(
                group_id=hex_of(group_id), reason=f"{where} has room for {shape}: there is {has}"
            )
        return in_pool(group_id, index, shape)

    def validate(self) -> None:
        """Raises InternalError unless each group is where its state says and each name belongs to a living one."""
        for group in self:
            is_removed = group.state is GroupState.REMOVED
            if is_removed != (group.id in self._removed) or is_removed == (group.id in self._living):
                raise InternalError(reason=f"a placement group that cannot be: {group}")
        named = {(group.namespace, group.name): group.id for group in self._living.values() if group.name}
        if named != self._names:
            raise InternalError(reason=f"names of placement groups are {self._names}, should be {named}")


def _why_not(group: Group) -> str:
    return f"it was removed: {group.why}" if group.state is GroupState.REMOVED else group.why


def hex_of(group: GroupId) -> str:
    """A group's id for people."""
    return ids.bytes_of_group(group).hex()


def why_never_reserved(strategy: str, bundles: Sequence[ResourceSet], total: ResourceSet) -> str | None:
    """Why the bundles can never be reserved on this one node, or None when they can."""
    if strategy == "STRICT_SPREAD" and len(bundles) > 1:
        return f"it can never fit: STRICT_SPREAD needs {len(bundles)} nodes for its bundles, and there is 1"
    why = why_never(ResourceSet.sum_of(bundles), total)
    if why is not None:
        return f"it can never fit: {why}"
    devices = GpuDevices(total.units.get(GPU, 0) // ONE)
    if any(
        devices.take(units) is None for units in sorted((b.units.get(GPU, 0) for b in bundles), reverse=True)
    ):
        return f"it can never fit: its GPUs do not fit on the {len(devices.loads)} devices of the node"
    return None


def in_pool(group: GroupId, index: int, shape: ResourceSet) -> ResourceSet:
    """The shape in the names of a group's pool; a certain bundle counts for the group as well."""
    units = shape.units or {BUNDLE: 1}
    names = [
        (pooled(name, group, place), amount) for name, amount in units.items() for place in _places(index)
    ]
    return ResourceSet(dict(names))


def _places(index: int) -> tuple[int | None, ...]:
    return (None,) if index == ANY_BUNDLE else (None, index)


def pool_of(group: GroupId, bundles: Sequence[ResourceSet]) -> ResourceSet:
    """All that is in a group's pool once it is reserved."""
    pool: Units = {}
    for index, bundle in enumerate(bundles):
        for name, amount in {**bundle.units, BUNDLE: BUNDLE_UNITS}.items():
            for place in (None, index):
                key = pooled(name, group, place)
                pool[key] = pool.get(key, 0) + amount
    return ResourceSet(pool)
