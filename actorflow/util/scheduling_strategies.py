"""Where tasks and actors run: the objects that the option scheduling_strategy takes, with Ray's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actorflow.options import SchedulingStrategy
from actorflow.util.placement_group import PlacementGroup

_OPERATORS = "In, NotIn, Exists or DoesNotExist"


class PlacementGroupSchedulingStrategy(SchedulingStrategy):
    """Runs in a placement group, on what that has reserved.

    `placement_group`: None: in none, also where the caller's children are captured. `placement_group_bundle_index`:
    which of its bundles; -1: any of them. `placement_group_capture_child_tasks`: what runs there starts its own tasks
    and actors there too, unless these say where. TypeError, ValueError.
    """

    def __init__(
        self,
        placement_group: PlacementGroup | None,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        if not isinstance(placement_group, PlacementGroup | None):
            raise TypeError(f"placement_group must be a PlacementGroup or None, not {placement_group!r}")
        index: Any = placement_group_bundle_index
        if type(index) is bool or not isinstance(index, int):
            raise TypeError(f"placement_group_bundle_index must be a whole number, not {index!r}")
        most = placement_group.bundle_count - 1 if placement_group is not None else -1
        if not -1 <= index <= most:
            raise ValueError(f"placement_group_bundle_index must be from -1 (any) to {most}, not {index}")
        if not isinstance(placement_group_capture_child_tasks, bool | None):
            raise TypeError(
                "placement_group_capture_child_tasks must be True or False, not "
                f"{placement_group_capture_child_tasks!r}"
            )
        self.placement_group = placement_group
        self.placement_group_bundle_index = index
        self.placement_group_capture_child_tasks = bool(placement_group_capture_child_tasks)

    def where(self) -> tuple[tuple[str, Any], ...]:
        """The requirement as it travels; without a group an empty one."""
        group = self.placement_group
        if group is None:
            return ()
        captures = self.placement_group_capture_child_tasks
        return (("group", (group.number, self.placement_group_bundle_index, captures)),)


class NodeAffinitySchedulingStrategy(SchedulingStrategy):
    """Runs on the node of that id (`af.get_runtime_context().get_node_id()`). `soft`: elsewhere if that is not there;
    else tasks get TaskUnschedulableError and actors ActorUnschedulableError. TypeError."""

    def __init__(self, node_id: str, soft: bool = False) -> None:
        for name, value, kind in (("node_id", node_id, str), ("soft", soft, bool)):
            if not isinstance(value, kind):
                raise TypeError(f"{name} must be of type {kind.__name__}, not {value!r}")
        self.node_id = node_id
        self.soft = soft

    def where(self) -> tuple[tuple[str, Any], ...]:
        """The requirement as it travels."""
        return (("node", (self.node_id, self.soft)),)


class LabelMatch:
    """Base of In, NotIn, Exists and DoesNotExist: what the value of a label is to be."""

    operator = ""

    def __init__(self, *values: str) -> None:
        for value in values:
            if not isinstance(value, str):
                raise TypeError(f"{type(self).__name__} takes texts, not {value!r}")
        if not values and self.operator in (In.operator, NotIn.operator):
            raise ValueError(f"{type(self).__name__} takes at least one text")
        self.values = values

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.values))})"


class In(LabelMatch):
    """The label has one of these values."""

    operator = "in"


class NotIn(LabelMatch):
    """The label has none of these values, or there is no such label."""

    operator = "!in"


class Exists(LabelMatch):
    """The node has the label."""

    operator = "exists"

    def __init__(self) -> None:
        super().__init__()


class DoesNotExist(LabelMatch):
    """The node does not have the label."""

    operator = "!exists"

    def __init__(self) -> None:
        super().__init__()


class NodeLabelSchedulingStrategy(SchedulingStrategy):
    """Runs on nodes with such labels: `hard` must match (else TaskUnschedulableError, ActorUnschedulableError), `soft`
    is preferred. Both: {name of a label: In(...), NotIn(...), Exists() or DoesNotExist()}. TypeError."""

    def __init__(
        self, hard: Mapping[str, LabelMatch] | None = None, *, soft: Mapping[str, LabelMatch] | None = None
    ) -> None:
        for what, given in (("hard", hard), ("soft", soft)):
            if not isinstance(given, Mapping | None):
                raise TypeError(f"{what} must be a dict of matches by the names of labels, not {given!r}")
            pairs: list[tuple[Any, Any]] = list((given or {}).items())
            for name, match in pairs:
                if not isinstance(name, str) or not isinstance(match, LabelMatch):
                    raise TypeError(f"labels are matched by {_OPERATORS}, not by {name!r}: {match!r}")
        self.hard = dict(hard or {})
        self.soft = dict(soft or {})

    def where(self) -> tuple[tuple[str, Any], ...]:
        """The requirement as it travels."""
        expressions = tuple((name, match.operator, match.values) for name, match in self.hard.items())
        return (("labels", expressions),) if expressions else ()


__all__ = [
    "DoesNotExist",
    "Exists",
    "In",
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
    "NotIn",
    "PlacementGroupSchedulingStrategy",
]
