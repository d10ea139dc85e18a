"""Waiting for several at once: take_or_ready for an actor's main thread, a notice board for an event loop."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from actorflow import _hot
from tests.conftest import wait_until
from tests.system.channel_bodies import DEADLINE_S, SLOT_BYTES, Giver, Taker, closing, in_thread

pytestmark = pytest.mark.usefixtures("runtime")


def mailbox_and_target() -> tuple[_hot.Hold, _hot.Target]:
    mailbox = _hot.make_mailbox(_hot.ORDERED, 0, 100)
    return mailbox, _hot.Target(mailbox)


def finish(call: object) -> None:
    assert isinstance(call, _hot.Call)
    call.complete(None)


def test_take_or_ready_gives_calls_and_ends_in_turns() -> None:
    mailbox, target = mailbox_and_target()
    channels = [_hot.channel_create(4, SLOT_BYTES, 1) for _ in range(2)]
    writers, readers = (
        [_hot.Writer(channel) for channel in channels],
        [_hot.Reader(channel, 0) for channel in channels],
    )
    with closing(*writers, *readers):
        assert _hot.take_or_ready(mailbox, 0, readers) is None
        assert _hot.take_or_ready(mailbox, 0.01, readers) is None
        assert _hot.take_or_ready(mailbox, 0, [writers[1]]) == 0
        for writer in writers:
            writer.write("value")
        references = [target.call(0, (), None) for _ in range(3)]
        found = [_hot.take_or_ready(mailbox, 0, readers) for _ in range(6)]
        calls = [item for item in found if isinstance(item, _hot.Call)]
        assert len(calls) == 2, "neither the mailbox nor an end comes first twice"
        assert {item for item in found if not isinstance(item, _hot.Call)} == {0, 1}
        for call in [*calls, _hot.take_or_ready(mailbox, 0, [])]:
            finish(call)
        assert _hot.get_many(references) == [None] * 3
        writers[0].close()
        readers[0].read()
        readers[1].read()
        assert _hot.take_or_ready(mailbox, None, readers) == 0, "closed counts as ready"


def test_take_or_ready_is_woken_by_a_call_by_a_value_by_room_and_by_a_close() -> None:
    mailbox, target = mailbox_and_target()
    there, back = _hot.channel_create(1, SLOT_BYTES, 1), _hot.channel_create(1, SLOT_BYTES, 1)
    reader, writer = _hot.Reader(there, 0), _hot.Writer(back)
    giver, taker = Giver.remote(there), Taker.remote(back, 0)
    wakes: list[Callable[[], Any]] = [
        lambda: target.call(0, (), None),
        lambda: giver.give.remote("value"),
        lambda: taker.take.remote(1),
        lambda: giver.close.remote(),
    ]
    found: list[Any] = []
    with closing(reader, writer):
        writer.write("fills the slot")
        for wake in wakes:
            slept = reader.sleeps
            thread, outcome = in_thread(lambda: _hot.take_or_ready(mailbox, DEADLINE_S, (reader, writer)))
            wait_until(lambda: reader.sleeps > slept, DEADLINE_S, "it sleeps")  # noqa: B023
            assert writer.sleeps == reader.sleeps, "it waits for both"
            kept = wake()
            thread.join(DEADLINE_S)
            found += outcome
            if isinstance(outcome[0], _hot.Call):
                finish(outcome[0])
            elif outcome[0] == 0 and reader.state == _hot.CHANNEL_OPEN:
                assert reader.read() == "value"
            elif outcome[0] == 1:
                writer.write("fills it again")
            del kept
    assert isinstance(found[0], _hot.Call)
    assert found[1:] == [0, 1, 0]


def test_take_or_ready_refuses_what_is_no_end() -> None:
    mailbox, _ = mailbox_and_target()
    with pytest.raises(TypeError, match="Writer or a Reader"):
        _hot.take_or_ready(mailbox, 0, [mailbox])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="take_or_ready"):
        _hot.take_or_ready(mailbox)  # type: ignore[call-arg]


def test_a_board_is_rung_for_an_end() -> None:
    channel = _hot.channel_create(1, SLOT_BYTES, 1)
    writer, reader, board = _hot.Writer(channel), _hot.Reader(channel, 0), _hot.Board()
    with closing(writer, reader), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(board.address)
        datagrams.settimeout(DEADLINE_S)
        reading = board.watch_end(reader, "readable")
        writing = board.watch_end(writer, "writable")
        assert board.poll() == ["writable"], "it was so before it was watched"
        assert board.arm()
        writer.write(1)
        datagrams.recv(64)
        assert board.poll() == ["readable"]
        assert board.poll() == []
        assert board.poll(True) == ["readable"], "a thorough look finds what was not rung for"
        assert reader.read() == 1
        assert board.poll() == ["writable"]
        board.forget(writing)
        writer.write(2)
        reader.read()
        assert board.poll() == [], "rung, but there is nothing to read any more"
        assert board.arm()
        writer.close()
        datagrams.recv(64)
        assert board.poll() == ["readable"], "closed counts as ready"
        board.forget(reading)
        assert board.poll(True) == []
    board.close()
