"""How much of the object store is to be freed, by what was asked for, and what is to be read ahead; time is passed in.

Whoever finds no room says how much it wants, and says so again until it has it. While it does, and for a moment after,
that much and a share of the store beyond it is kept free: so the disk writes on while the asker fills what it got.
Free bytes may lie in pieces: who asks again although there are enough is one that they are too small for, and then more
is freed.
"""

from __future__ import annotations

HOLD_S = 1.0  # one who waits asks ten times in that
AHEAD = 1  # values: the disk is busy while one is used, and no more room is taken from others


class Pressure:
    """What is wanted of a store of `capacity_bytes`. Invariant: 0 <= target_bytes <= capacity_bytes."""

    def __init__(self, capacity_bytes: int, ahead_fraction: float) -> None:
        self._capacity_bytes = capacity_bytes
        self._ahead_bytes = int(capacity_bytes * ahead_fraction)
        self._wanted_bytes = 0
        self._extra_bytes = 0  # for free bytes that lie in pieces
        self._until_s = 0.0

    def ask(self, now_s: float, wanted_bytes: int, used_bytes: int, leaving_bytes: int) -> None:
        """Somebody found no room for `wanted_bytes`, while so much is used and so much of it being written."""
        if not self.is_on(now_s):
            self._wanted_bytes = self._extra_bytes = 0
        elif self.excess_bytes(now_s, used_bytes, leaving_bytes) <= 0 and leaving_bytes == 0:
            self._extra_bytes += wanted_bytes
        self._wanted_bytes = max(self._wanted_bytes, wanted_bytes)
        self._until_s = now_s + HOLD_S
        self.validate()

    def is_on(self, now_s: float) -> bool:
        """Whether somebody has asked lately."""
        return now_s < self._until_s

    @property
    def target_bytes(self) -> int:
        """How much is to be free."""
        return min(self._capacity_bytes, self._wanted_bytes + self._extra_bytes + self._ahead_bytes)

    def excess_bytes(self, now_s: float, used_bytes: int, leaving_bytes: int) -> int:
        """How much is still to be spilled; 0 or less: nothing."""
        if not self.is_on(now_s):
            return 0
        return used_bytes - leaving_bytes - (self._capacity_bytes - self.target_bytes)

    def validate(self) -> None:
        """Checks the invariant."""
        assert 0 <= self.target_bytes <= self._capacity_bytes
        assert self._extra_bytes >= 0
        assert self._wanted_bytes >= 0


class ReadAhead:
    """The order in which values were written: who reads one after another in that order soon wants the next.

    Only what is not back yet is asked for, so what was read ahead may be missing between two that are. Invariant:
    `_numbers` and `_values` are inverse to each other.
    """

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._values: dict[int, int] = {}
        self._next = 0
        self._last = -1  # that was asked for

    def written(self, value: int) -> None:
        """It lies on disk, and is the last one by now."""
        self._numbers[value] = self._next
        self._values[self._next] = value
        self._next += 1

    def forget(self, value: int) -> None:
        """It is no more."""
        if value in self._numbers:
            del self._values[self._numbers.pop(value)]

    def asked(self, value: int) -> list[int]:
        """Somebody wants it; returns what is likely to be wanted next."""
        number = self._numbers.get(value, self._last)
        is_next = self._last < number <= self._last + 1 + AHEAD
        self._last = number
        following = range(number + 1, number + 1 + AHEAD) if is_next else ()
        return [self._values[each] for each in following if each in self._values]
