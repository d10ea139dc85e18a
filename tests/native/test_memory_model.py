"""Heap, extents and holds against a model: a dictionary of blocks and the multiset of who holds each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from .core_model import FULL, OK, STALE, Segment

CLIENTS = st.integers(1, 3)


class Block:
    """What the model knows of a block: its name, how much was written to it, and who holds it."""

    def __init__(self, offset: int, generation: int, size_bytes: int, fill: int) -> None:
        self.offset, self.generation, self.size_bytes, self.fill = offset, generation, size_bytes, fill
        self.holds: list[tuple[int, int]] = []  # (client, index in its table)


class MemoryMachine(RuleBasedStateMachine):
    def __init__(self, segment: Segment) -> None:
        super().__init__()
        self.segment, self.lib, self.ffi = segment, segment.lib, segment.ffi
        self.live: list[Block] = []
        self.gone: list[tuple[int, int]] = []
        self.fill = 0

    def allocate(self, client: int, size_bytes: int, is_object: bool) -> None:
        block, index = self.ffi.new("af_off *"), self.ffi.new("uint32_t *")
        status = self.lib.model_bytes(self.segment.clients[client], size_bytes, is_object, block, index)
        if status == FULL:
            return
        assert status == OK
        self.fill = (self.fill + 1) % 251
        made = Block(
            block[0], self.lib.model_generation(self.segment.clients[0], block[0]), size_bytes, self.fill
        )
        assert self.lib.model_capacity(self.segment.clients[0], made.offset) >= size_bytes
        for other in self.live:
            assert made.offset + size_bytes <= other.offset or other.offset + other.size_bytes <= made.offset
        assert (made.offset, made.generation) not in self.gone, "a name is never used twice"
        self.lib.model_fill(self.segment.clients[client], made.offset, size_bytes, made.fill)
        made.holds.append((client, index[0]))
        self.live.append(made)

    @rule(client=CLIENTS, size_bytes=st.one_of(st.integers(128, 4096), st.integers(4097, 131072)))
    def allocate_message(self, client: int, size_bytes: int) -> None:
        self.allocate(client, size_bytes, False)

    @rule(client=CLIENTS, size_bytes=st.integers(128, 3 << 20))
    def allocate_object(self, client: int, size_bytes: int) -> None:
        self.allocate(client, size_bytes, True)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), client=CLIENTS)
    def hold_once_more(self, data: Any, client: int) -> None:
        block = data.draw(st.sampled_from(self.live))
        index = self.ffi.new("uint32_t *")
        assert self.lib.af_hold_take(self.segment.clients[client], block.offset, index) == OK
        block.holds.append((client, index[0]))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def drop_one_hold(self, data: Any) -> None:
        block = data.draw(st.sampled_from(self.live))
        client, index = block.holds.pop(data.draw(st.integers(0, len(block.holds) - 1)))
        self.lib.af_hold_drop(self.segment.clients[client], index)
        if not block.holds:
            self.live.remove(block)
            self.gone.append((block.offset, block.generation))

    @rule(client=CLIENTS)
    def trim(self, client: int) -> None:
        self.lib.af_heap_trim(self.segment.clients[client])

    @rule(client=CLIENTS)
    def die(self, client: int) -> None:
        """The process is gone without a word: the coroner drops what it held; others' holds stay."""
        dead = self.segment.clients[client]
        settlement = self.ffi.new("struct af_settlement *")
        slot, epoch = self.ffi.new("uint32_t *"), self.ffi.new("uint32_t *")
        self.lib.model_identity(dead, slot, epoch)
        node = self.segment.clients[0]
        assert self.lib.af_coroner_settle(node, slot[0], epoch[0], True, 0, 3, settlement) == OK
        self.lib.af_segment_unmap(dead)
        self.segment.attach()
        self.segment.clients[client] = self.segment.clients.pop()
        for block in list(self.live):
            block.holds = [hold for hold in block.holds if hold[0] != client]
            if not block.holds:
                self.live.remove(block)
                self.gone.append((block.offset, block.generation))

    @invariant()
    def names_say_what_lives(self) -> None:
        for block in self.live:
            assert self.lib.af_block_find(self.segment.clients[0], block.offset, block.generation, 0) == OK
        for offset, generation in self.gone[-5:]:
            assert self.lib.af_block_find(self.segment.clients[0], offset, generation, 0) in (STALE, -5)

    @invariant()
    def books_are_right(self) -> None:
        self.segment.audit()
        assert self.lib.af_extent_check(self.segment.clients[0])

    def teardown(self) -> None:
        for block in self.live:
            assert self.lib.model_filled(self.segment.clients[0], block.offset, block.size_bytes, block.fill)
            for client, index in block.holds:
                self.lib.af_hold_drop(self.segment.clients[client], index)
        audit = self.segment.audit()
        assert audit.object_bytes == 0
        self.segment.close()


MemoryMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_memory_keeps_to_its_model(run_machine: Callable[[Any], None]) -> None:
    run_machine(MemoryMachine)
