"""Channels against a model: a list of values, and how far each end has come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from .core_model import BAD, CLOSED, EMPTY, OK, Segment

BUSY, TIMEOUT = -12, -6
OPEN, SHUT, BROKEN = 0, 1, 2  # states of a channel
SLOT_BYTES = 100
REFERENCES = 3
CLIENTS = st.integers(1, 3)
DEAD = -1  # who had an end
KEEPER = 0  # the node keeps a hold on every block and every channel, so that the model can look at them


class Value:
    """One value: what the slot owns, and the bytes in it."""

    def __init__(self, block: int, references: list[int], size_bytes: int, fill: int) -> None:
        self.block, self.references, self.size_bytes, self.fill = block, references, size_bytes, fill

    @property
    def owned(self) -> list[int]:
        return [*self.references, *([self.block] if self.block else [])]


class Channel:
    """What the model knows of a channel. `done[0]`: values written; `done[i]`: read by reader i - 1."""

    def __init__(self, offset: int, hold: int, slots: int, readers: int) -> None:
        self.offset, self.hold, self.slots, self.readers = offset, hold, slots, readers
        self.values: list[Value] = []
        self.done = [0] * (readers + 1)
        self.owners: list[int | None] = [None] * (readers + 1)  # client numbers
        self.holds: dict[int, int] = {}  # client -> index in its hold table
        self.state = OPEN

    def expected(self, end: int) -> int:
        if end:
            return OK if self.done[end] < self.done[0] else EMPTY if self.state == OPEN else CLOSED
        if self.state != OPEN:
            return CLOSED
        return OK if self.done[0] - min(self.done[1:]) < self.slots else EMPTY

    def owned(self) -> list[int]:
        """What its slots own now: of values that not every reader is done with."""
        return [held for value in self.values[min(self.done[1:]) :] for held in value.owned]


class ChannelMachine(RuleBasedStateMachine):
    """Up to three processes, which die now and then, with the ends of several channels."""

    def __init__(self, segment: Segment) -> None:
        super().__init__()
        self.segment, self.lib, self.ffi = segment, segment.lib, segment.ffi
        self.channels: list[Channel] = []
        self.blocks: dict[int, int] = {}  # offset -> the node's hold

    def client(self, number: int) -> Any:
        return self.segment.clients[number]

    @rule(slots=st.integers(1, 4), readers=st.integers(1, 3))
    def make_channel(self, slots: int, readers: int) -> None:
        if len(self.channels) == 4:
            return
        channel, hold = self.ffi.new("af_off *"), self.ffi.new("uint32_t *")
        node = self.client(KEEPER)
        assert self.lib.model_channel(node, 0, SLOT_BYTES, readers, channel, hold) == BAD
        assert self.lib.model_channel(node, slots, SLOT_BYTES, readers, channel, hold) == OK
        self.channels.append(Channel(channel[0], hold[0], slots, readers))

    @rule(size_bytes=st.sampled_from([200, 4000, 200_000]))
    def make_block(self, size_bytes: int) -> None:
        if len(self.blocks) == 6:
            return
        block, hold = self.ffi.new("af_off *"), self.ffi.new("uint32_t *")
        is_object = size_bytes > 100_000
        assert self.lib.model_bytes(self.client(KEEPER), size_bytes, is_object, block, hold) == OK
        self.blocks[block[0]] = hold[0]

    def any_end(self, data: Any) -> tuple[Channel, int]:
        channel = data.draw(st.sampled_from(self.channels))
        return channel, data.draw(st.integers(0, channel.readers))

    @precondition(lambda self: self.channels)
    @rule(data=st.data(), number=CLIENTS)
    def claim(self, data: Any, number: int) -> None:
        channel, end = self.any_end(data)
        client = self.client(number)
        if number not in channel.holds:
            hold = self.ffi.new("uint32_t *")
            assert self.lib.af_hold_take(client, channel.offset, hold) == OK
            channel.holds[number] = hold[0]
        taken = channel.owners[end] is not None
        assert self.lib.af_channel_claim(client, channel.offset, end) == (BUSY if taken else OK)
        assert self.lib.af_channel_claim(client, channel.offset, channel.readers + 1) == BAD
        if not taken:
            channel.owners[end] = number

    def own_end(self, data: Any, writes: bool) -> tuple[Channel, int, Any] | None:
        """An end that somebody has and that can go on."""
        ends = [
            (channel, end)
            for channel in self.channels
            for end, owner in enumerate(channel.owners)
            if owner not in (None, DEAD) and (end == 0) == writes and channel.expected(end) == OK
        ]
        if not ends:
            return None
        channel, end = data.draw(st.sampled_from(ends))
        return channel, end, self.client(channel.owners[end])

    @precondition(lambda self: self.channels)
    @rule(data=st.data(), size_bytes=st.integers(0, SLOT_BYTES - 8 * REFERENCES), fill=st.integers(0, 255))
    def write(self, data: Any, size_bytes: int, fill: int) -> None:
        found = self.own_end(data, True)
        if found is None:
            return
        channel, _, client = found
        blocks = sorted(self.blocks)
        references = data.draw(st.lists(st.sampled_from(blocks), max_size=REFERENCES)) if blocks else []
        block = data.draw(st.sampled_from(blocks)) if blocks and data.draw(st.booleans()) else 0
        value = Value(block, [], 0, fill) if block else Value(0, references, size_bytes, fill)
        self.lib.model_channel_write(
            client, channel.offset, block, value.references, len(value.references), value.size_bytes, fill
        )
        channel.values.append(value)
        channel.done[0] += 1

    @precondition(lambda self: self.channels)
    @rule(data=st.data())
    def read(self, data: Any) -> None:
        found = self.own_end(data, False)
        if found is None:
            return
        channel, end, client = found
        value = channel.values[channel.done[end]]
        assert self.lib.model_channel_value(
            client,
            channel.offset,
            end,
            value.block,
            value.references,
            len(value.references),
            value.size_bytes,
            value.fill,
        )
        self.lib.af_channel_next(client, channel.offset, end)
        channel.done[end] += 1

    @precondition(lambda self: self.channels)
    @rule(data=st.data())
    def sleep(self, data: Any) -> None:
        channel, end = self.any_end(data)
        expected = channel.expected(end)
        status = self.lib.af_channel_sleep(self.client(KEEPER), channel.offset, end, 1000)
        assert status == (TIMEOUT if expected == EMPTY else expected)

    @precondition(lambda self: self.channels)
    @rule(data=st.data())
    def close(self, data: Any) -> None:
        channel = data.draw(st.sampled_from(self.channels))
        self.lib.af_channel_close(self.client(KEEPER), channel.offset)
        channel.state = channel.state or SHUT

    @rule(number=CLIENTS)
    def die(self, number: int) -> None:
        """A process ends without a word; another one takes its place."""
        slot, epoch = self.ffi.new("uint32_t *"), self.ffi.new("uint32_t *")
        settlement = self.ffi.new("struct af_settlement *")
        client = self.client(number)
        self.lib.model_identity(client, slot, epoch)
        assert (
            self.lib.af_coroner_settle(self.client(KEEPER), slot[0], epoch[0], False, 0, 0, settlement) == OK
        )
        self.lib.af_segment_unmap(client)
        self.segment.clients[number] = self.segment.attach()
        self.segment.clients.pop()
        for channel in self.channels:
            channel.holds.pop(number, None)
            if number in channel.owners:
                channel.state = channel.state or BROKEN
            channel.owners = [DEAD if owner == number else owner for owner in channel.owners]

    @precondition(lambda self: self.channels)
    @rule(data=st.data())
    def let_go(self, data: Any) -> None:
        """Nobody holds the channel any more: what is in its slots goes with it."""
        channel = self.channels.pop(data.draw(st.integers(0, len(self.channels) - 1)))
        for number, hold in channel.holds.items():
            self.lib.af_hold_drop(self.client(number), hold)
        self.lib.af_hold_drop(self.client(KEEPER), channel.hold)

    @invariant()
    def ends_agree(self) -> None:
        for channel in self.channels:
            assert self.lib.model_channel_state(self.client(KEEPER), channel.offset) == channel.state
            for end in range(channel.readers + 1):
                found = self.lib.af_channel_look(self.client(KEEPER), channel.offset, end)
                assert found == channel.expected(end), (end, channel.done)

    @invariant()
    def slots_own_what_is_unread(self) -> None:
        owned = [held for channel in self.channels for held in channel.owned()]
        for block in self.blocks:
            assert self.lib.model_count(self.client(KEEPER), block) == 1 + owned.count(block)

    @invariant()
    def books_are_right(self) -> None:
        self.segment.audit()

    def teardown(self) -> None:
        for hold in self.blocks.values():
            self.lib.af_hold_drop(self.client(KEEPER), hold)
        self.segment.audit()
        self.segment.close()


ChannelMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def test_channels_keep_to_their_model(run_machine: Callable[[Any], None]) -> None:
    run_machine(ChannelMachine)
