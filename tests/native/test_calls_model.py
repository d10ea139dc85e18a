"""Lanes, mailboxes and cells against a model: queues of calls, each with the calls that it waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from .core_model import DONE, EMPTY, FULL, OK, ORDERED, SHARED, Segment

CREDIT = 6
CALLERS = st.integers(1, 2)
READER = 3


class ModelCall:
    """A call: who made it, what it waits for, and whether it was taken and answered."""

    def __init__(self, cell: int, hold: int, caller: int, depth: int, arguments: list[ModelCall]) -> None:
        self.cell, self.hold, self.caller, self.depth, self.arguments = cell, hold, caller, depth, arguments
        self.done = self.taken = False
        self.result = (0, 0)
        self.reader_hold = 0

    @property
    def ready(self) -> bool:
        return all(argument.done for argument in self.arguments)


class CallsMachine(RuleBasedStateMachine):
    """One mailbox, two callers with up to three depths, one reader that may have several calls started."""

    flags = 0

    def __init__(self, segment: Segment) -> None:
        super().__init__()
        self.segment, self.lib, self.ffi = segment, segment.lib, segment.ffi
        self.calls: list[ModelCall] = []
        self.started: list[ModelCall] = []
        self.lanes: dict[tuple[int, int], int] = {}
        self.in_lane: dict[tuple[int, int], list[ModelCall]] = {}

    @initialize()
    def make_mailbox(self) -> None:
        mailbox, self.mailbox_hold = self.ffi.new("af_off *"), self.ffi.new("uint32_t *")
        assert (
            self.lib.model_mailbox(self.segment.clients[0], self.flags, CREDIT, mailbox, self.mailbox_hold)
            == OK
        )
        self.mailbox = mailbox[0]
        if self.flags & SHARED:
            self.lib.af_mailbox_join(self.segment.clients[READER], self.mailbox)
            self.lib.af_mailbox_allow(self.segment.clients[0], self.mailbox, 1)

    @rule(caller=CALLERS, depth=st.integers(0, 2), data=st.data())
    def call(self, caller: int, depth: int, data: Any) -> None:
        depth = depth if self.flags & SHARED else 0
        arguments = data.draw(st.lists(st.sampled_from(self.calls), max_size=3)) if self.calls else []
        client, key = self.segment.clients[caller], (caller, depth)
        if key not in self.lanes:
            lane = self.ffi.new("af_off *")
            assert self.lib.af_lane_open(client, self.mailbox, depth, lane) == OK
            self.lanes[key], self.in_lane[key] = lane[0], []
        cell, hold = self.ffi.new("af_off *"), self.ffi.new("uint32_t *")
        offsets = [argument.cell for argument in arguments]
        through = self.mailbox if arguments and not self.flags & ORDERED else 0
        assert self.lib.model_call(client, offsets, len(offsets), through, cell, hold) == OK
        made = ModelCall(cell[0], hold[0], caller, depth, arguments)
        status = self.lib.af_cell_submit(client, self.lanes[key], made.cell)
        goes_into_lane = made.ready or bool(self.flags & ORDERED)
        if goes_into_lane and len(self.in_lane[key]) == CREDIT:
            assert status == FULL
            self.lib.af_hold_drop(client, made.hold)
            return
        assert status == OK
        self.calls.append(made)
        if goes_into_lane:
            self.in_lane[key].append(made)

    def startable(self) -> list[ModelCall]:
        if self.flags & ORDERED:
            return [lane[0] for lane in self.in_lane.values() if lane and lane[0].ready]
        return [call for call in self.calls if call.ready and not call.taken]

    @rule()
    def take(self) -> None:
        cell, hold = self.ffi.new("af_off *"), self.ffi.new("uint32_t *")
        status = self.lib.af_mailbox_take(self.segment.clients[READER], self.mailbox, cell, hold)
        expected = self.startable()
        if self.flags & SHARED and self.started:
            assert status == EMPTY or expected
        if not expected:
            assert status == EMPTY
            return
        assert status == OK
        taken = next(call for call in expected if call.cell == cell[0])
        lane = self.in_lane[(taken.caller, taken.depth)]
        if taken in lane:
            assert taken.depth == max(calls[0].depth for calls in self.in_lane.values() if calls), (
                "deepest lane first"
            )
            assert lane.pop(0) is taken, "first in, first out for each lane"
        taken.taken, taken.reader_hold = True, hold[0]
        self.started.append(taken)

    @precondition(lambda self: self.started)
    @rule(data=st.data(), size_bytes=st.sampled_from([0, 8, 64, 200, 5000]), fill=st.integers(0, 255))
    def complete(self, data: Any, size_bytes: int, fill: int) -> None:
        call = data.draw(st.sampled_from(self.started))
        reader = self.segment.clients[READER]
        assert self.lib.model_complete(reader, call.cell, size_bytes, fill) == OK
        assert self.lib.model_complete(reader, call.cell, 1, 0) != OK, "a result is written once"
        self.lib.af_hold_drop(reader, call.reader_hold)
        self.started.remove(call)
        call.done, call.result = True, (size_bytes, fill)
        if self.flags & SHARED and not self.started:
            self.lib.af_mailbox_task_done(reader)

    @invariant()
    def states_agree(self) -> None:
        for call in self.calls:
            assert (self.lib.model_phase(self.segment.clients[0], call.cell) == DONE) == call.done
            if call.done:
                assert self.lib.model_result_is(self.segment.clients[0], call.cell, *call.result)

    @invariant()
    def books_are_right(self) -> None:
        self.segment.audit()

    def teardown(self) -> None:
        """Nobody is stuck: taking and completing in turn ends every call."""
        while any(not call.done for call in self.calls):
            for call in list(self.started):
                self.lib.model_complete(self.segment.clients[READER], call.cell, 0, 0)
                self.lib.af_hold_drop(self.segment.clients[READER], call.reader_hold)
                self.started.remove(call)
                call.done, call.result = True, (0, 0)
                if self.flags & SHARED and not self.started:
                    self.lib.af_mailbox_task_done(self.segment.clients[READER])
            if any(not call.done for call in self.calls):
                self.take()
                assert self.started, "calls are left and none can start"
        for call in self.calls:
            self.lib.af_hold_drop(self.segment.clients[call.caller], call.hold)
        self.segment.audit()
        self.segment.close()


class OrderedMachine(CallsMachine):
    flags = ORDERED


class SharedMachine(CallsMachine):
    flags = SHARED


for machine in (CallsMachine, OrderedMachine, SharedMachine):
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_unordered_mailbox_keeps_to_its_model(run_machine: Callable[[Any], None]) -> None:
    run_machine(CallsMachine)


def test_ordered_mailbox_keeps_to_its_model(run_machine: Callable[[Any], None]) -> None:
    run_machine(OrderedMachine)


def test_task_queue_keeps_to_its_model(run_machine: Callable[[Any], None]) -> None:
    run_machine(SharedMachine)
