"""Where calls with certain options may run, as it is told to the node. See core/where.py."""

from __future__ import annotations

from typing import Any

from actorflow.client import assignment
from actorflow.options import ActorOptions, SchedulingStrategy, TaskOptions

Where = tuple[tuple[str, Any], ...]


def where_of(options: TaskOptions | ActorOptions) -> Where:
    """The requirement of these options, here: in a placement group that captures what is started in it, that one."""
    strategy = options.scheduling_strategy
    found: Where = ()
    if isinstance(strategy, SchedulingStrategy):
        found = strategy.where()
    elif strategy == "DEFAULT":
        group = assignment.current().group
        if group is not None and group[2]:
            found = (("group", (group[0], -1, True)),)
    if options.label_selector:
        found += (("selector", options.label_selector),)
    return found
