"""The ends of channels: taken once, closed at any time, and what a death at one of them means for the others."""

from __future__ import annotations

import gc
import os
import signal

import numpy as np
import pytest

import actorflow as af
from actorflow import _hot
from tests.system.channel_bodies import DEADLINE_S, SLOT_BYTES, Giver, Taker, closing, in_thread, wait_asleep

pytestmark = pytest.mark.usefixtures("runtime")


def test_an_end_is_taken_once() -> None:
    channel = _hot.channel_create(1, SLOT_BYTES, 2)
    writer, reader = _hot.Writer(channel), _hot.Reader(channel, 1)
    with closing(writer, reader):
        with pytest.raises(RuntimeError, match="writer is taken"):
            _hot.Writer(channel)
        with pytest.raises(RuntimeError, match="reader is taken"):
            _hot.Reader(channel, 1)
        with pytest.raises(ValueError, match="2 readers"):
            _hot.Reader(channel, 2)
        with pytest.raises(TypeError, match="channel"):
            _hot.Writer(af.put(1))
        assert writer.state == _hot.CHANNEL_OPEN, "what could not be taken closed nothing"
        taken = Taker.remote(channel, 1)
        with pytest.raises(af.errors.ActorDiedError, match="reader is taken"):
            af.get(taken.state.remote())


@pytest.mark.parametrize("geometry", [(0, 1, 1), (1, 1, 0), (1, 1, 65), (1, 200_000, 1), (2000, 100, 1)])
def test_impossible_channels_are_refused(geometry: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="slot"):
        _hot.channel_create(*geometry)


def test_an_end_that_is_dropped_closes_its_channel() -> None:
    channel = _hot.channel_create(2, SLOT_BYTES, 1)
    writer, reader = _hot.Writer(channel), _hot.Reader(channel, 0)
    writer.write("last")
    del writer
    with closing(reader):
        assert reader.state == _hot.CHANNEL_CLOSED
        assert reader.read() == "last"
        with pytest.raises(_hot.ChannelClosed, match="closed"):
            reader.read()


def test_close_ends_every_wait() -> None:
    channel = _hot.channel_create(1, SLOT_BYTES, 2)
    writer, reader = _hot.Writer(channel), _hot.Reader(channel, 0)
    taken = Taker.remote(channel, 1).take.remote(2, None)
    writer.write("one")
    assert reader.read() == "one"
    thread, outcome = in_thread(reader.read)
    wait_asleep(reader)
    writer.close()
    thread.join(DEADLINE_S)
    assert isinstance(outcome[0], _hot.ChannelClosed)
    with pytest.raises(_hot.ChannelClosed):
        af.get(taken, timeout=DEADLINE_S)
    for _ in range(2):
        reader.close()
        writer.close()
    for use in (lambda: writer.write(1), lambda: reader.read(timeout=0), lambda: writer.write_error(b"", ())):
        with pytest.raises(_hot.ChannelClosed):
            use()
    assert writer.state == reader.state == _hot.CHANNEL_CLOSED
    assert writer.ready()
    assert reader.ready()


def test_an_end_can_be_closed_by_another_thread_while_it_waits() -> None:
    channel = _hot.channel_create(1, SLOT_BYTES, 1)
    writer, reader = _hot.Writer(channel), _hot.Reader(channel, 0)
    writer.write(np.ones(100_000))
    thread, outcome = in_thread(lambda: writer.write("no room"))
    wait_asleep(writer)
    with pytest.raises(RuntimeError, match="another thread"):
        writer.write("too")
    writer.close()
    thread.join(DEADLINE_S)
    assert isinstance(outcome[0], _hot.ChannelClosed)
    assert reader.read().sum() == 100_000, "what was written before is read"
    reader.close()


def test_a_forked_child_neither_uses_nor_closes_an_end() -> None:
    channel = _hot.channel_create(1, SLOT_BYTES, 1)
    writer, reader = _hot.Writer(channel), _hot.Reader(channel, 0)
    with closing(writer, reader):
        child = os.fork()
        if not child:
            code = 1
            try:
                writer.write("from the child", timeout=0)
            except RuntimeError as error:
                code = 0 if "forked" in str(error) else 2
            writer.close()
            writer = reader = None  # type: ignore[assignment]
            gc.collect()
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        writer.write("still open", timeout=0)
        assert reader.read(timeout=0) == "still open"


# -- deaths


def test_a_killed_writer_breaks_the_channel_after_what_it_wrote() -> None:
    channel = _hot.channel_create(4, SLOT_BYTES, 1)
    reader = _hot.Reader(channel, 0)
    giver = Giver.remote(channel)
    with closing(reader):
        af.get(giver.give.remote("small", np.ones(100_000)))
        pid = af.get(giver.process_id.remote())
        assert reader.read() == "small"
        os.kill(pid, signal.SIGKILL)
        assert reader.read(timeout=DEADLINE_S).sum() == 100_000
        with pytest.raises(_hot.ChannelClosed, match="died"):
            reader.read(timeout=DEADLINE_S)
        assert reader.state == _hot.CHANNEL_BROKEN
        reader.close()
        assert reader.state == _hot.CHANNEL_BROKEN


def test_a_killed_reader_ends_the_wait_of_its_writer_and_of_other_readers() -> None:
    channel = _hot.channel_create(2, SLOT_BYTES, 2)
    giver, taker = Giver.remote(channel), Taker.remote(channel, 1)
    reader = _hot.Reader(channel, 0)
    with closing(reader):
        pid = af.get(taker.process_id.remote())
        given = giver.give_until_closed.remote(np.ones(20_000))
        assert [reader.read(timeout=DEADLINE_S).sum() for _ in range(2)] == [20_000, 20_000]
        thread, outcome = in_thread(reader.read)
        wait_asleep(reader)
        os.kill(pid, signal.SIGKILL)
        thread.join(DEADLINE_S)
        assert isinstance(outcome[0], _hot.ChannelClosed)
        assert af.get(given, timeout=DEADLINE_S) == _hot.CHANNEL_BROKEN


def test_a_stopped_reader_holds_back_its_writer_alone() -> None:
    channel = _hot.channel_create(2, SLOT_BYTES, 2)
    writer, reader = _hot.Writer(channel), _hot.Reader(channel, 0)
    taker = Taker.remote(channel, 1)
    with closing(writer, reader):
        pid = af.get(taker.process_id.remote())
        os.kill(pid, signal.SIGSTOP)
        try:
            writer.write("one")
            writer.write("two")
            assert [reader.read(), reader.read()] == ["one", "two"]
            with pytest.raises(TimeoutError):
                writer.write("three", timeout=0.2)
        finally:
            os.kill(pid, signal.SIGCONT)
        taken = taker.take.remote(3)
        writer.write("three", timeout=DEADLINE_S)
        assert af.get(taken, timeout=DEADLINE_S) == ["one", "two", "three"]
        assert reader.read() == "three"
