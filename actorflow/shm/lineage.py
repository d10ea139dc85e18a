"""The node's hands on what is kept to make lost values again; see ext/core/lineage.h. For the node's loop alone."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from actorflow.shm._store import ffi, lib

Name = tuple[int, int]

_OK = 0
_STALE = -4
_MEANWHILE = 1024  # lineages that may be made between two walks


class Origin(enum.IntEnum):
    """What made a value (enum af_lineage_origin)."""

    CALL = 0
    PUT = 1
    ITEM = 2
    NO_RETRIES = 3
    USED_UP = 4
    ACTOR = 5
    NOT_KEPT = 6


class Can(enum.IntEnum):
    """Whether a call can be run again (af_lineage_look)."""

    RUN = 0
    EMPTIED = -1
    USED_UP = -2
    CLOSED = -3


class Kept(NamedTuple):
    """What is kept of one call; `age` goes up with each."""

    name: Name
    age: int
    size_bytes: int


class Held(NamedTuple):
    """A block that the node holds, and where it noted that."""

    block: int
    hold: int


class Input(NamedTuple):
    """What became of an input. `disk`: it lies there; `call`, `which`: it is gone, and was that result of the call."""

    disk: Held | None = None
    call: Held | None = None
    which: int = 0
    is_gone: bool = False


class LineageStore:
    """The segment of the node's client at `address`."""

    def __init__(self, address: int) -> None:
        self._client = ffi.cast("struct af_client *", address)
        self._block = ffi.new("af_off *")
        self._hold = ffi.new("uint32_t *")
        self._number = ffi.new("uint32_t *")

    def open(self, budget_bytes: int) -> None:
        """From now on calls keep what their results are made from, and ring where that is more."""
        lib.af_store_lineage_open(self._client, budget_bytes)

    def drop(self, held: Held) -> None:
        """Holds it no longer."""
        lib.af_hold_drop(self._client, held.hold)

    def hold(self, block: int) -> Held:
        """Holds a block that is there for certain. MemoryError: no room to note it."""
        if lib.af_hold_take(self._client, block, self._hold) != _OK:
            raise MemoryError("no room in the hold table")
        return Held(block, int(self._hold[0]))

    # -- the budget

    def used_bytes(self) -> int:
        """What is kept by all, about."""
        return int(lib.af_store_lineage_bytes(self._client))

    def kept(self) -> list[Kept]:
        """All that is kept. Walks the whole message memory."""
        most = lib.af_lineage_list(self._client, ffi.NULL, 0) + _MEANWHILE
        facts = ffi.new("struct af_lineage_fact[]", most)
        count = min(most, lib.af_lineage_list(self._client, facts, most))
        return [
            Kept((int(fact.lineage), int(fact.generation)), int(fact.sequence), int(fact.charged))
            for fact in facts[0:count]
        ]

    def empty(self, names: Iterable[Name]) -> None:
        """Keeps nothing of those calls any more."""
        for name in names:
            lib.af_lineage_empty(self._client, *name)
        lib.af_lineage_prune(self._client)

    # -- looking

    def origin(self, spilled: int) -> tuple[Origin, Held | None, int]:
        """What made a value: a call, held, of which it is that result; else no call that could run again."""
        found = lib.af_lineage_of(self._client, spilled, self._block, self._hold, self._number)
        if found != Origin.CALL:
            return Origin(found), None, 0
        return Origin.CALL, Held(int(self._block[0]), int(self._hold[0])), int(self._number[0])

    def can(self, lineage: int) -> Can:
        """Whether it can be run, its inputs aside."""
        return Can(lib.af_lineage_look(self._client, lineage))

    def inputs(self, lineage: int) -> list[Input]:
        """What became of its inputs; what they hold is to be dropped."""
        return [self._input(lineage, i) for i in range(self._counts(lineage)[0])]

    def _counts(self, lineage: int) -> tuple[int, int]:
        lib.af_store_lineage_counts(self._client, lineage, self._hold, self._number)
        return int(self._hold[0]), int(self._number[0])

    def _input(self, lineage: int, i: int) -> Input:
        status = lib.af_lineage_input(self._client, lineage, i, self._block, self._hold, self._number)
        held = Held(int(self._block[0]), int(self._hold[0])) if self._block[0] else None
        if status == _OK:
            return Input(disk=held)
        if status == _STALE:
            return Input(call=held, which=int(self._number[0]), is_gone=True)
        return Input(is_gone=True)

    # -- running

    def run(self, lineage: int, instead: Sequence[int]) -> list[Held] | None:
        """Runs it again, with cells instead of inputs that are gone (0: it is there); its results.

        None: an input has gone since it was looked at. MemoryError: no room for the call.
        """
        inputs, returns = self._counts(lineage)
        given = ffi.new("af_off[]", max(1, inputs))
        given[0:inputs] = list(instead)
        holds = ffi.new("uint32_t[]", returns + 1)
        status = lib.af_lineage_run(self._client, lineage, given, holds)
        if status not in (_OK, _STALE):
            raise MemoryError(f"a call cannot be made again: {status}")
        if status == _STALE:
            return None
        return [Held(int(lib.af_hold_block(self._client, hold)), int(hold)) for hold in holds]

    def ran(self, lineage: int, call: int) -> None:
        """Notes what is left of its retries."""
        lib.af_lineage_ran(self._client, lineage, call)

    # -- values

    def name(self, held: Held) -> Name:
        """Of a block that is held."""
        return held.block, int(lib.af_store_generation(self._client, held.block))

    def spilled_name(self, spilled: int) -> Name:
        """Whose value it is, by name."""
        lib.af_store_spilled_cell(self._client, spilled, self._block, self._number)
        return int(self._block[0]), int(self._number[0])

    def is_lost(self, spilled: int) -> bool:
        """Whether the last try to bring it back found that it cannot be had."""
        return bool(lib.af_store_spilled_lost(self._client, spilled))

    def rebuilding(self, spilled: int, on: bool) -> None:
        """Tells who waits for it that its call runs again, or no more."""
        lib.af_spill_rebuilding(self._client, spilled, on)

    def deliver(self, spilled: int, cell: int) -> bool:
        """Gives it the value of a cell, and wakes who waits. False: there is no room for it."""
        return int(lib.af_lineage_deliver(self._client, spilled, cell)) in (_OK, _STALE)

    def lose(self, spilled: int, error: bytes) -> bool:
        """Tells who waits with an encoded error. False: there is no room for that."""
        data: Any = ffi.from_buffer("uint8_t[]", error)
        if (
            lib.af_store_error_create(self._client, data, len(error), ffi.NULL, 0, self._block, self._hold)
            != _OK
        ):
            return False
        held = Held(int(self._block[0]), int(self._hold[0]))
        lib.af_spill_lose(self._client, spilled, held.block)
        self.drop(held)
        return True
