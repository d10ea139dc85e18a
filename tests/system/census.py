"""What a process really has: its live references, views and calls, compared with what its hold table says.

The references are found as the garbage collector finds objects, so one that the runtime has forgotten to count, or to
discount, is found however it came about. The comparison is of one instant: this thread has the GIL from one end to the
other, and nobody else changes the table.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from actorflow import _hot
from actorflow.shm.store import Name, Store

CONTAINERS = (tuple, dict)  # which the collector leaves out while they have nothing in them that it knows
VIEW_WORD = 1  # of struct af_client: where its second mapping begins (ext/core/af.h)


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
        if isinstance(held, _hot.Hold | _hot.Call) or _is_view(held):
            found[id(held)] = held
        elif isinstance(held, _hot.Target):
            found[id(held.mailbox)] = held.mailbox
        elif isinstance(held, _hot.Stream):
            found[id(held.call)] = held.call
            if not held.finished:
                found[id(held.item)] = held.item
    for held in found.values():
        if _is_view(held):
            yield _name_of_view(held), "view"
        else:
            yield held.name, "reference" if isinstance(held, _hot.Reference) else "other"


def _is_view(held: object) -> bool:
    return type(held).__name__ == "Pin" and type(held).__module__ == "actorflow._hot"


def _name_of_view(view: Any) -> Name:
    """A view does not tell its block; its address does."""
    address = int(np.frombuffer(view, np.uint8).__array_interface__["data"][0])
    words = ctypes.cast(_hot.client_address(), ctypes.POINTER(ctypes.c_uint64))
    offset = address - words[VIEW_WORD]
    generation = np.frombuffer(view, np.uint32, 2)[1]
    return offset, int(generation)


def _everything() -> Iterator[Any]:
    """All that is referred to by what the collector knows, and by the frames that run."""
    seen: set[int] = set()
    stack: list[Any] = []
    for tracked in gc.get_objects():
        stack.extend(gc.get_referents(tracked))
    for frame in sys._current_frames().values():
        outer: Any = frame
        while outer is not None:
            stack.extend(outer.f_locals.values())
            outer = outer.f_back
    while stack:
        found = stack.pop()
        if type(found) in CONTAINERS and not gc.is_tracked(found) and id(found) not in seen:
            seen.add(id(found))
            stack.extend(gc.get_referents(found))
        elif isinstance(found, np.ndarray):
            stack.append(found.base)
        yield found
