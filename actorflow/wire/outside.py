"""Refs and handles in plain pickles, which own nothing: they travel as names and are looked up again.

A value that is packed for a call or for the store owns the refs in it. A plain pickle cannot: the name in it works
for as long as somebody holds what it names. An error's bytes are plain pickles with the holds beside them, which
whoever stores the error takes over.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import Any

from actorflow import _hot, errors, ids

_capturing = threading.local()


def hex_name(held: _hot.Hold) -> str:
    """The id of a block on its node, as hexadecimal text."""
    return ids.hex_of(held.name)


class Holds(tuple[_hot.Hold, ...]):
    """What is named in some bytes. Pickled beside them, it keeps the names good wherever the value is owned."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        holds = [held for held in self if _is_of_this_runtime(held)]
        indices = tuple(_hot.collect(held) for held in holds)
        if -1 not in indices:
            return _load_all, (indices,)
        return _revive_all, (tuple(reduce(held)[1] for held in holds),)


def _is_of_this_runtime(held: _hot.Hold) -> bool:
    try:
        return bool(held.kind)
    except RuntimeError:
        return False


def _load_all(indices: Iterable[int]) -> Holds:
    return Holds(map(_hot.load_hold, indices))


def _revive_all(names: Iterable[tuple[Any, ...]]) -> Holds:
    """Those that are left."""
    found = []
    for name in names:
        with contextlib.suppress(errors.ObjectLostError):
            found.append(revive(*name))
    return Holds(found)


def reduce(held: _hot.Hold) -> tuple[Any, ...]:
    """What __reduce__ returns for a hold in a plain pickle."""
    note([held])
    return revive, (_hot.identity()[0], held.name, held.kind)


def revive(node_id: bytes, name: tuple[int, int], kind: str) -> _hot.Hold:
    """The hold of that name. ObjectLostError: gone, or of another node; RuntimeError when not attached."""
    if node_id == _hot.identity()[0]:
        try:
            return _hot.hold(name, kind)
        except (_hot.StaleError, ValueError):
            reason = "nobody held it any more when its plain pickle was loaded"
    else:
        reason = f"it belongs to node {node_id.hex()}, this process to node {_hot.identity()[0].hex()}"
    raise errors.ObjectLostError(object_id=ids.hex_of(name), reason=reason)


def note(holds: Iterable[_hot.Hold]) -> None:
    """Says that bytes made now name these."""
    captured: dict[Any, _hot.Hold] | None = getattr(_capturing, "holds", None)
    if captured is not None:
        captured.update({held.name: held for held in holds})


def capture(dump: Callable[[], bytes]) -> tuple[bytes, Holds]:
    """Runs `dump`; returns its bytes and the holds named in them, to be kept while the bytes are in use."""
    previous = getattr(_capturing, "holds", None)
    holds: dict[Any, _hot.Hold] = {}
    _capturing.holds = holds
    try:
        return dump(), Holds(holds.values())
    finally:
        _capturing.holds = previous
