"""Concurrency groups of one actor: how many calls of each run, and which wait for a place in theirs.

Decisions alone: whoever takes calls asks `admit`, whoever ends one asks `ended` for the next. Guarantees: at most a
group's limit of its calls run; those that wait keep their order; a full group holds no other back. Group 0 is the
default one. Not locked: threads do that around it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Groups(Generic[Item]):
    """`limits`: of each group, by its number. Waiting calls are as many as were sent: they are bounded by the memory
    for messages, as unread ones are."""

    def __init__(self, limits: Sequence[int]) -> None:
        self._limits = tuple(limits)
        self._running = [0] * len(limits)
        self._waiting: list[deque[Item]] = [deque() for _ in limits]

    @property
    def limit(self) -> int:
        """Calls at once over all groups."""
        return sum(self._limits)

    @property
    def is_idle(self) -> bool:
        """Whether no call of any group runs or waits."""
        return not any(self._running)

    def admit(self, group: int, item: Item) -> bool:
        """True: the call is to run now, and `ended` follows. False: it waits, and comes from an `ended`."""
        if self._running[group] < self._limits[group]:
            self._running[group] += 1
            return True
        self._waiting[group].append(item)
        return False

    def ended(self, group: int) -> Item | None:
        """A call of the group has ended: the one that is to run in its place, if any waits."""
        if self._waiting[group]:
            return self._waiting[group].popleft()
        self._running[group] -= 1
        return None

    def withdraw(self, is_unwanted: Callable[[Item], bool]) -> list[Item]:
        """Takes out those that wait and are not to run."""
        unwanted = []
        for waiting in self._waiting:
            found = [item for item in waiting if is_unwanted(item)]
            for item in found:
                waiting.remove(item)
            unwanted += found
        return unwanted

    def drain(self) -> list[Item]:
        """Takes out all that wait: they will not run."""
        items = [item for waiting in self._waiting for item in waiting]
        for waiting in self._waiting:
            waiting.clear()
        return items
