"""Lines that several processes print alike are shown once, with how often: decisions only, time is passed in.

The first line of its kind is shown at once. What other processes say in the same words within `window_s` is counted,
and shown as one line at the end of that time. A process that repeats itself, alone, is shown in full: that is its
doing. Only lines that are equal count as alike, so nothing that says something else is hidden.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

KINDS = 1_000  # lines remembered at once; a longer memory finds few more that repeat


class Line(NamedTuple):
    """One line of a worker's. `repeats`: how often it was said, by `processes` processes, since it was last shown."""

    title: str
    pid: int
    is_error: bool
    text: str
    repeats: int = 1
    processes: int = 1


@dataclass(slots=True)
class _Kind:
    until_s: float
    last: Line
    pids: set[int]
    unshown: int = 0
    unshown_pids: set[int] = field(default_factory=set)


class Repeats:
    """What was shown lately, oldest first."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._kinds: OrderedDict[tuple[bool, str, str], _Kind] = OrderedDict()

    @property
    def due_s(self) -> float | None:
        """When `expire` is to be called next."""
        return next((kind.until_s for kind in self._kinds.values()), None)

    def take(self, line: Line, now_s: float) -> list[Line]:
        """A line has come: returns what is to be shown now."""
        shown = self.expire(now_s)
        if not self._window_s or not line.text.strip():
            return [*shown, line]
        key = (line.is_error, line.title, line.text)
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= KINDS:
                shown += _rest(self._kinds.popitem(last=False)[1])
            self._kinds[key] = _Kind(now_s + self._window_s, line, {line.pid})
            return [*shown, line]
        kind.pids.add(line.pid)
        if len(kind.pids) == 1:
            return [*shown, line]
        kind.unshown += 1
        kind.unshown_pids.add(line.pid)
        kind.last = line
        return shown

    def expire(self, now_s: float) -> list[Line]:
        """Time has passed: returns what is to be shown of kinds whose time is over."""
        shown: list[Line] = []
        while self._kinds and next(iter(self._kinds.values())).until_s <= now_s:
            shown += _rest(self._kinds.popitem(last=False)[1])
        return shown

    def finish(self) -> list[Line]:
        """Nothing more comes: returns what was counted and not shown."""
        shown = [line for kind in self._kinds.values() for line in _rest(kind)]
        self._kinds.clear()
        return shown


def _rest(kind: _Kind) -> list[Line]:
    if not kind.unshown:
        return []
    return [kind.last._replace(repeats=kind.unshown, processes=len(kind.unshown_pids))]
