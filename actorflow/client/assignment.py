"""What the node has given this process to run: kept from one order to the next, for whoever asks inside of a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Assignment(NamedTuple):
    """A worker's part: the queue that it serves or the actor that it is. A driver has none.

    `resources`: what each call, or the actor, takes, in ones. `gpus`: the devices that are shown to it, as
    CUDA_VISIBLE_DEVICES names them. `name_of`: what a call runs, by (function, method).
    """

    resources: Mapping[str, float] = {}
    gpus: Sequence[str] = ()
    actor_id: str | None = None
    actor_name: str | None = None
    restarts: int = 0
    handle: Any = None  # of the actor itself; it does not keep it alive
    group: tuple[int, int, bool] | None = (
        None  # its placement group, the bundle, and whether it captures children
    )
    name_of: Callable[[tuple[int, int], int], str] | None = None


NOTHING = Assignment()
_current = NOTHING


def current() -> Assignment:
    """What this process has been given."""
    return _current


def take(assignment: Assignment) -> None:
    """From now on this process does that."""
    global _current
    _current = assignment
