"""Placement groups: resources that are reserved together, all or nothing, for tasks and actors that name the group.

What can never be reserved says so: `ready()` and `wait()` raise PlacementGroupError, and so do calls in the group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actorflow import ids
from actorflow.client import assignment, runtime
from actorflow.client.decorator import remote
from actorflow.client.objects import get
from actorflow.client.objects import wait as wait_for
from actorflow.client.refs import ObjectRef
from actorflow.core.resources import ResourceSet
from actorflow.options import ANY_BUNDLE, PLACEMENT_STRATEGIES, SchedulingStrategy, quantity


class PlacementGroup:
    """A placement group, as it is passed around: it neither keeps the group nor ends it."""

    def __init__(self, number: int, bundles: Sequence[Mapping[str, float]]) -> None:
        self.number = number
        self._bundles = [dict(bundle) for bundle in bundles]
        self._ready: ObjectRef[PlacementGroup] | None = None

    @property
    def id(self) -> bytes:
        """The group's id; `id.hex()` is the key in `placement_group_table()`."""
        return ids.bytes_of_group(self.number)

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """What each bundle has, by name."""
        return [dict(bundle) for bundle in self._bundles]

    @property
    def bundle_count(self) -> int:
        """How many bundles it has."""
        return len(self._bundles)

    def ready(self) -> ObjectRef[PlacementGroup]:
        """A ref that is done, with this group, once its resources are reserved. Its error is PlacementGroupError where
        they never can be, or where the group was removed."""
        ref: ObjectRef[PlacementGroup] = _itself.options(scheduling_strategy=_Inside(self.number)).remote(
            self
        )
        return ref

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Waits until its resources are reserved; False when they were not in time (seconds). PlacementGroupError as
        for `ready`."""
        if self._ready is None:
            self._ready = self.ready()
        done, _ = wait_for([self._ready], timeout=timeout_seconds)
        if done:
            self._ready = None
            get(done[0])
        return bool(done)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and self.number == other.number

    def __hash__(self) -> int:
        return hash(self.number)

    def __reduce__(self) -> tuple[Any, ...]:
        return PlacementGroup, (self.number, self._bundles)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id.hex()}, {self._bundles})"


class _Inside(SchedulingStrategy):
    """In any bundle of a group. (PlacementGroupSchedulingStrategy is built upon this module.)"""

    def __init__(self, number: int) -> None:
        self._number = number

    def where(self) -> tuple[tuple[str, Any], ...]:
        return (("group", (self._number, ANY_BUNDLE, False)),)


@remote(num_cpus=0, resources={"bundle": 0.001})
def _itself(group: PlacementGroup) -> PlacementGroup:
    """Runs in a group, hence once that is there."""
    return group


def placement_group(
    bundles: list[dict[str, float]],
    strategy: str = "PACK",
    name: str = "",
    lifetime: str | None = None,
) -> PlacementGroup:
    """Reserves `bundles` (amounts of resources by name, each above 0), all of them or none; returns at once.

    `strategy`: how bundles are spread over nodes: "PACK", "SPREAD", "STRICT_PACK" (all on one), "STRICT_SPREAD" (each
    on another). `name`: for get_placement_group, in the job's namespace. `lifetime`: "detached": outlives the job.
    Raises TypeError and ValueError for wrong arguments, PlacementGroupError where the name is taken.
    """
    checked = _checked_bundles(bundles)
    for what, given in (("strategy", strategy), ("lifetime", lifetime or "")):
        if not isinstance(given, str):
            raise TypeError(f"{what} must be a text, not {given!r}")
    if strategy not in PLACEMENT_STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(PLACEMENT_STRATEGIES)}, not {strategy!r}")
    if not isinstance(name, str):
        raise TypeError(f"name must be a text, not {name!r}")
    if lifetime not in (None, "detached"):
        raise ValueError(f"lifetime must be None or 'detached', not {lifetime!r}")
    units = [list(bundle.units.items()) for bundle in checked]
    number, _ = runtime.require().ask(
        "create_group", bundles=units, strategy=strategy, name=name, detached=lifetime == "detached"
    )
    return PlacementGroup(number, bundles)


def _checked_bundles(bundles: Any) -> list[ResourceSet]:
    if not isinstance(bundles, list | tuple):
        raise TypeError(f"bundles must be a list of dicts, not {bundles!r}")
    if not bundles:
        raise ValueError("bundles must not be empty: a placement group reserves at least one")
    checked = []
    for index, bundle in enumerate(bundles):
        if not isinstance(bundle, Mapping) or not all(isinstance(name, str) and name for name in bundle):
            raise TypeError(f"bundle {index} must be a dict of amounts by name, not {bundle!r}")
        try:
            amounts = ResourceSet.from_amounts({name: _amount(name, bundle[name]) for name in bundle})
        except (TypeError, ValueError) as problem:
            raise type(problem)(f"bundle {index}: {problem}") from None
        if not amounts:
            raise ValueError(f"bundle {index} is empty: {bundle!r}")
        checked.append(amounts)
    return checked


def _amount(name: str, value: Any) -> float:
    try:
        return quantity(value)
    except (TypeError, ValueError) as problem:
        raise type(problem)(f"{name} {problem}") from None


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Ends a group: its tasks and actors are killed, and its resources come back. Doing it again does nothing."""
    if not isinstance(placement_group, PlacementGroup):
        raise TypeError(f"remove_placement_group() takes a PlacementGroup, not {placement_group!r}")
    runtime.require().ask("remove_group", group=placement_group.number)


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """The living group of that name in the job's namespace. ValueError: there is none. TypeError: no text."""
    if not isinstance(placement_group_name, str):
        raise TypeError(f"the name of a placement group is a text, not {placement_group_name!r}")
    (found, near), _ = runtime.require().ask("get_group", name=placement_group_name)
    if found is None:
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"there is no placement group named {placement_group_name!r}{hint}")
    return PlacementGroup(*found)


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """What is known of a group: placement_group_id, name, bundles, bundles_to_node_id, strategy, state, and `why` for
    one that is infeasible or removed; without an argument that of every group, by hexadecimal id. TypeError."""
    if not isinstance(placement_group, PlacementGroup | None):
        raise TypeError(f"placement_group_table() takes a PlacementGroup or None, not {placement_group!r}")
    table = _table()
    return table if placement_group is None else table.get(placement_group.id.hex(), {})


def _table() -> dict[str, Any]:
    """What the node says, with bundles by index, as Ray has them."""
    table, _ = runtime.require().ask("list_groups")
    for facts in table.values():
        for name in ("bundles", "bundles_to_node_id"):
            facts[name] = dict(enumerate(facts[name]))
    return dict(table)


def get_current_placement_group() -> PlacementGroup | None:
    """The group in which this task or actor runs; None in none."""
    group = assignment.current().group
    if group is None:
        return None
    facts = _table().get(ids.bytes_of_group(group[0]).hex(), {"bundles": {}})
    return PlacementGroup(group[0], list(facts["bundles"].values()))
