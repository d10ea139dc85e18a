"""PendingCalls: how many calls this process may have with one actor that have not ended, for max_pending_calls.

A call counts from when it is made until it has its result: while it waits for its arguments, in the mailbox, for room
in its concurrency group, and while it runs. As in Ray each process counts its own calls.

Ended ones are looked for only when the limit is reached, the oldest first, and by name: no result is kept alive for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actorflow import _hot

FORGOTTEN_AT_ONCE = 64  # so that who sends at the limit pays for its own call, not for all that have ended

Name = tuple[int, int]


class PendingCalls:
    """The calls of this process to one actor. Threads need no lock: an entry is there before it is counted."""

    __slots__ = ("_call", "_entries", "_limit")

    def __init__(self, call: Callable[..., Any], limit: int) -> None:
        self._call = call  # of the Target
        self._limit = limit
        self._entries: dict[object, Name | None] = {}  # None: is being made

    def call(
        self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any], returns: int, *rest: Any
    ) -> Any:
        """As Target.call. FullError("credit"): too many calls have not ended."""
        entry = object()
        self._entries[entry] = None
        try:
            if len(self._entries) > self._limit:
                self._forget_ended()
                if len(self._entries) > self._limit:
                    raise _hot.FullError("credit")
            given = self._call(number, args, kwargs, max(1, returns) if returns >= 0 else returns, *rest)
            self._entries[entry] = _name_of(given)
        except BaseException:
            del self._entries[entry]
            raise
        return given if returns else None

    def _forget_ended(self) -> None:
        found = 0
        for entry, name in list(self._entries.items()):
            if name is not None and _has_ended(name):
                self._entries.pop(entry, None)
                found += 1
                if found == FORGOTTEN_AT_ONCE:
                    return


def _name_of(given: Any) -> Name:
    if isinstance(given, _hot.Stream):
        given = given.call
    elif isinstance(given, list):
        given = given[0]
    name: Name = given.name
    return name


def _has_ended(name: Name) -> bool:
    """Whether the call is done; one that nobody refers to any more is."""
    try:
        reference = _hot.hold(name, "cell")
    except _hot.StaleError:
        return True
    return isinstance(reference, _hot.Reference) and reference.is_done()
