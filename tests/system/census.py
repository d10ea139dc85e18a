"""What a process really has: its live references, views and calls, compared with what its hold table says.

The references are found as the garbage collector finds objects, so one that the runtime has forgotten to count, or to
discount, is found however it came about. The comparison is of one instant: this thread has the GIL from one end to the
other, and nobody else changes the table.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from actorflow import _hot
from actorflow.shm.store import Name, Store

CONTAINERS = (tuple, dict)  # which the collector leaves out while they have nothing in them that it knows
CHUNK = 10_000  # objects that are looked at together
# The type of what keeps an object while there are views into it has no public name.
VIEW: type = next(kind for kind in _hot.Hold.__subclasses__() if kind.__name__ == "Pin")
INTERESTING = (_hot.Hold, _hot.Call, _hot.Target, _hot.Stream, np.ndarray, *CONTAINERS)


class Census(NamedTuple):
    """Counts of live objects, and where they and the table differ, as texts."""

    references: int
    views: int
    differences: list[str]


def take_census() -> Census:
    """Counts this process."""
    gc.unfreeze()
    held = list(_holders())
    names = Counter(name for name, _ in held)
    holds = Store(_hot.client_address()).holds(_hot.identity()[1])
    table, kind_of = Counter(hold.name for hold in holds), dict(holds)
    differences = [
        f"{_text(name)} of kind {kind_of[name]} is in the table and nobody has it"
        for name in (table - names).elements()
    ]
    differences += [f"{_text(name)} is not in the table" for name in (names - table).elements()]
    kinds = Counter(kind for _, kind in held)
    return Census(kinds["reference"], kinds["view"], differences)


def _text(name: Name) -> str:
    return f"{name[0]:#x}.{name[1]}"


def _holders() -> Iterator[tuple[Name, str]]:
    """The block that each live object of the runtime counts."""
    found: dict[int, Any] = {}
    for held in _everything():
        if isinstance(held, (_hot.Hold, _hot.Call)):
            found[id(held)] = held
        elif isinstance(held, _hot.Target):
            found[id(held.mailbox)] = held.mailbox
        elif isinstance(held, _hot.Stream):
            found[id(held.call)] = held.call
            found[id(held.item)] = held.item
    for held in filter(_is_live, found.values()):
        is_reference = isinstance(held, _hot.Reference)
        yield held.name, "view" if isinstance(held, VIEW) else "reference" if is_reference else "other"
        if is_reference and held.watcher is not None:
            yield held.watcher, "other"


def _is_live(held: Any) -> bool:
    """Not of a runtime that was shut down."""
    try:
        return isinstance(held, _hot.Call) or bool(held.kind)
    except RuntimeError:
        return False


def _everything() -> list[Any]:
    """What of these kinds is referred to by what the collector knows, and by the frames that run."""
    tracked = gc.get_objects()
    found: list[Any] = []
    for start in range(0, len(tracked), CHUNK):
        referents = gc.get_referents(*tracked[start : start + CHUNK])
        # Not isinstance: torch has an object that warns when it is asked for its class.
        found += [item for item in referents if issubclass(type(item), INTERESTING)]
    for frame in sys._current_frames().values():
        outer: Any = frame
        while outer is not None:
            found.extend(outer.f_locals.values())
            outer = outer.f_back
    seen: set[int] = set()
    for item in found:  # grows meanwhile
        if type(item) in CONTAINERS and not gc.is_tracked(item) and id(item) not in seen:
            seen.add(id(item))
            found.extend(gc.get_referents(item))
        elif isinstance(item, np.ndarray):
            found.append(item.base)
    return found
