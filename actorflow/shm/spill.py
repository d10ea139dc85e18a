"""The node's hands on values that go to disk and come back; see ext/core/spill.h.

As for `actorflow.shm.store`, all but `Pins.write`, `Pins.read` and `Pins.memory` is for the node's loop alone.
"""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

from actorflow.shm._store import ffi, lib

Name = tuple[int, int]

_FULL = -2
_MOST = 64


class Failure(enum.IntEnum):
    """Why a value could not be brought back now; one that is lost: see `actorflow.shm.lineage`."""

    NO_ROOM = 1


class Candidate(NamedTuple):
    """An object that nobody uses now."""

    block: int
    generation: int
    bytes: int


class Pins:
    """An object that stays where it is while it is written or read, and the cell that it is the value of."""

    __slots__ = ("_data", "bytes", "is_written", "raw")

    def __init__(self, client: Any, raw: Any) -> None:
        self.raw = raw
        self.bytes = int(raw.bytes)
        self.is_written = raw.copy != 0  # lies on disk already
        self._data = lib.af_store_pinned(client, raw)

    def write(self, descriptor: int, offset: int) -> int:
        """Writes it to a file, whole pages from `offset` on; returns its sum. In any thread. OSError."""
        total = ffi.new("uint64_t *")
        _raise(lib.af_store_disk_write(descriptor, self._data, self.bytes, offset, total))
        return int(total[0])

    def read(self, descriptor: int, offset: int) -> int:
        """Reads it back; returns the sum of what was read. In any thread. OSError."""
        total = ffi.new("uint64_t *")
        _raise(lib.af_store_disk_read(descriptor, self._data, self.bytes, offset, total))
        return int(total[0])

    def memory(self) -> memoryview:
        """The bytes behind the object's header."""
        header = lib.af_store_object_header_bytes()
        return memoryview(ffi.buffer(self._data + header, self.bytes - header)).cast("B")

    def sum(self) -> int:
        """The sum of what lies in memory now. In any thread."""
        return int(lib.af_store_disk_sum(self._data, self.bytes))


class SpillStore:
    """The segment of the node's client at `address`."""

    def __init__(self, address: int) -> None:
        self._client = ffi.cast("struct af_client *", address)
        self._blocks = ffi.new("af_off[]", _MOST)
        self._candidates = ffi.new("struct af_spill_candidate[]", _MOST)

    def open(self, mailbox: Name, wait_s: float) -> None:
        """Has whoever lacks room, or a spilled value, ring the listener of a mailbox and wait that long at most."""
        lib.af_store_spill_open(self._client, mailbox[0], int(wait_s * 1000))

    # -- what was asked for

    def room_wanted(self) -> int:
        """Takes the largest room that was asked for since the last look; 0: none."""
        return int(lib.af_store_room_wanted(self._client))

    def room_ring(self) -> None:
        """Tells those who wait for room that there may be some."""
        lib.af_room_ring(self._client)

    def room_quiet(self) -> None:
        """Nobody waits any more."""
        lib.af_store_room_quiet(self._client)

    def failed(self, path: str, free_bytes: int) -> None:
        """Tells those who wait for room that nothing can be written."""
        lib.af_store_spill_failed(self._client, path.encode(errors="replace")[:200], free_bytes)

    def asked(self) -> list[int]:
        """Takes the blocks of spilled values that are wanted back; may name what is none (any more)."""
        return self._taken(lib.af_spill_asked)

    def returned(self) -> list[int]:
        """Takes the blocks of spilled values that nobody refers to; each is to be given to `free`."""
        return self._taken(lib.af_spill_returned)

    def _taken(self, take: Any) -> list[int]:
        count = take(self._client, self._blocks, _MOST)
        return [int(self._blocks[i]) for i in range(count)]

    def free(self, spilled: int) -> None:
        """Gives the block of a returned value back."""
        lib.af_spill_free(self._client, spilled)

    # -- writing

    def pick(self, least_bytes: int, *, written: bool = False) -> list[Candidate]:
        """Idle objects of at least that size, those first that were not used for longest.

        `written`: only those that lie on disk already.
        """
        count = lib.af_spill_pick(self._client, self._candidates, _MOST, least_bytes, written)
        return [Candidate(c.block, c.generation, c.bytes) for c in self._candidates[0:count]]

    def begin(self, candidate: Candidate) -> Pins | None:
        """Holds an object to write it. None: it is used now, or gone."""
        raw = ffi.new("struct af_spill_pins *")
        status = lib.af_spill_begin(self._client, candidate.block, candidate.generation, raw)
        return Pins(self._client, raw) if status == 0 else None

    def commit(self, pins: Pins) -> int | None:
        """The object was written: frees its memory. The offset of the block that stands for it.

        None: there is no room for that, or nobody wants the value any more; nothing has changed.
        """
        spilled = ffi.new("af_off *")
        return int(spilled[0]) if lib.af_spill_commit(self._client, pins.raw, spilled) == 0 else None

    def abort(self, pins: Pins) -> None:
        """Lets go of what `begin` or `restore` holds."""
        lib.af_spill_abort(self._client, pins.raw)

    # -- reading

    def restore(self, spilled: int) -> Pins | None:
        """Holds a spilled value and a new object for it. None: no room. LookupError: nobody wants it any more."""
        raw = ffi.new("struct af_spill_pins *")
        status = lib.af_restore_begin(self._client, spilled, raw)
        if status not in (0, _FULL):
            raise LookupError(spilled)
        return Pins(self._client, raw) if status == 0 else None

    def size_bytes(self, spilled: int) -> int:
        """What a spilled value takes in memory."""
        return int(lib.af_store_spilled_bytes(self._client, spilled))

    def restored(self, spilled: int, pins: Pins) -> None:
        """The bytes are there: wakes those who wait for the value."""
        lib.af_restore_commit(self._client, spilled, pins.raw)

    def not_restored(self, spilled: int, failure: Failure) -> None:
        """Tells those who wait for the value why it cannot be had now."""
        lib.af_restore_fail(self._client, spilled, failure)


def _raise(error: int) -> None:
    if error:
        raise OSError(error, "spilling an object")
