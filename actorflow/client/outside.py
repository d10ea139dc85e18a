"""Refs and handles in plain pickles, which own nothing: they travel as names and are looked up again.

A value that is packed for a call or for the store owns the refs in it. A plain pickle, and the bytes of an
exported function, cannot: the name in them works for as long as somebody holds what it names.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from actorflow import _hot, errors, ids

_capturing = threading.local()


def hex_name(held: _hot.Hold) -> str:
    """The id of a block on its node, as hexadecimal text."""
    return ids.hex_of(held.name)


def reduce(held: _hot.Hold) -> tuple[Any, ...]:
    """What __reduce__ returns for a hold in a plain pickle."""
    captured: list[_hot.Hold] | None = getattr(_capturing, "holds", None)
    if captured is not None:
        captured.append(held)
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


def capture(dump: Callable[[], bytes]) -> tuple[bytes, list[_hot.Hold]]:
    """Runs `dump`; returns its bytes and the holds named in them, to be kept while the bytes are in use."""
    previous = getattr(_capturing, "holds", None)
    holds: list[_hot.Hold] = []
    _capturing.holds = holds
    try:
        return dump(), holds
    finally:
        _capturing.holds = previous
