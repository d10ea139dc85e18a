"""What each worker runs, by slot, in memory that node and workers share: for lines that do not say whose they are.

Written by the slot's process alone, without a lock. The node may read half of an old title and half of a new one:
that is one wrong word before a line, and nothing is decided by it.
"""

from __future__ import annotations

import mmap

ROW_BYTES = 64  # the length, then the title


class Titles:
    """The table. Made before the workers are forked, which inherit it; only the rows in use take memory."""

    def __init__(self, slots: int) -> None:
        self._table = mmap.mmap(-1, slots * ROW_BYTES)

    def write(self, slot: int, title: bytes) -> None:
        """Says what the process of that slot runs now; at most 63 bytes."""
        at = slot * ROW_BYTES
        self._table[at : at + 1 + len(title)] = bytes((len(title),)) + title

    def read(self, slot: int) -> bytes:
        """What the process of that slot ran last."""
        at = slot * ROW_BYTES
        size = min(self._table[at], ROW_BYTES - 1)
        return self._table[at + 1 : at + 1 + size]
