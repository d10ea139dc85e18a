"""Channels between processes: values of all sizes and kinds, views, paces, timeouts."""

from __future__ import annotations

import contextlib
import gc
import pickle
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import actorflow as af
from actorflow import _hot
from actorflow.wire import failures
from tests.system.channel_bodies import DEADLINE_S, SLOT_BYTES, Relay, Taker, Unloadable, closing
from tests.system.conftest import STORE_BYTES, stored_bytes

PAGE_BYTES = 4096

pytestmark = pytest.mark.usefixtures("runtime")


@contextlib.contextmanager
def relayed(slots: int = 2) -> Iterator[tuple[_hot.Writer, _hot.Reader, Any]]:
    """A writer and a reader with an actor between them that sends everything on."""
    there, back = _hot.channel_create(slots, SLOT_BYTES, 1), _hot.channel_create(slots, SLOT_BYTES, 1)
    relay = Relay.remote()
    writer, reader = _hot.Writer(there), _hot.Reader(back, 0)
    ended = relay.relay.remote(there, 0, back)
    with closing(writer, reader):
        yield writer, reader, ended
    af.get(ended, timeout=DEADLINE_S)


def encoded(error: Exception) -> bytes:
    return failures.encode_error(error, name="step", node_id="", pid=1, attempt=1)


# -- values


@pytest.mark.parametrize(
    "size_bytes", [0, 1, 8, 4000, 4096, 4097, 65_536, 102_400, 102_401, 1_000_000, 5_000_000]
)
def test_every_size_arrives(size_bytes: int) -> None:
    with relayed() as (writer, reader, _):
        for value in (b"b" * size_bytes, "s" * size_bytes, np.full(size_bytes, 7, dtype=np.uint8)):
            writer.write(value, timeout=DEADLINE_S)
            found = reader.read(timeout=DEADLINE_S)
            assert type(found) is type(value)
            assert np.array_equal(found, value) if isinstance(value, np.ndarray) else found == value


def test_values_of_all_kinds_arrive_in_order() -> None:
    values = [None, True, 1, 2.5, "text", b"raw", (1, [2, {"three": 3}]), {"a": None}, ValueError("a value")]
    with relayed(slots=3) as (writer, reader, ended):
        for turn in range(50):
            writer.write((turn, values))
            number, found = reader.read()
            assert number == turn
            assert found[:-1] == values[:-1]
            assert repr(found[-1]) == repr(values[-1])
        writer.close()
        assert af.get(ended, timeout=DEADLINE_S) == (50, _hot.CHANNEL_CLOSED)
        with pytest.raises(_hot.ChannelClosed):
            reader.read()


def test_references_and_handles_travel_inside() -> None:
    with relayed() as (writer, reader, _):
        relay = Relay.remote()
        large = af.put(np.arange(100_000))
        writer.write({"ref": af.put("held"), "large": large, "handle": relay})
        del large
        found = reader.read(timeout=DEADLINE_S)
        assert af.get(found["ref"]) == "held"
        assert af.get(found["large"])[-1] == 99_999
        assert af.get(found["handle"].process_id.remote()) == af.get(relay.process_id.remote())


def test_a_channel_travels_inside_of_values_only() -> None:
    channel = _hot.channel_create(1, 100, 1)
    assert channel.kind == "channel"
    assert af.get(af.put([channel])) == [channel]
    with pytest.raises(TypeError, match="inside of calls"):
        pickle.dumps(channel)


def test_an_error_is_raised_where_it_is_read_and_is_used_up() -> None:
    channel = _hot.channel_create(3, SLOT_BYTES, 1)
    writer, reader = _hot.Writer(channel), _hot.Reader(channel, 0)
    with closing(writer, reader):
        writer.write_error(encoded(ValueError("of the user")), ())
        writer.write_error(encoded(KeyError("k" * 10_000)), ())
        writer.write("after")
        with pytest.raises(ValueError, match="of the user"):
            reader.read()
        with pytest.raises(KeyError, match="kkk"):
            reader.read()
        assert reader.read() == "after"
        with pytest.raises(TypeError, match="bytes"):
            writer.write_error("text", ())  # type: ignore[arg-type]


def test_what_cannot_be_pickled_is_not_written() -> None:
    channel = _hot.channel_create(1, SLOT_BYTES, 1)
    writer, reader = _hot.Writer(channel), _hot.Reader(channel, 0)
    with closing(writer, reader):
        with pytest.raises(TypeError, match=r"value\[1\]"):
            writer.write([1, threading.Lock()])
        assert not reader.ready()
        writer.write("next", timeout=0)
        assert reader.read(timeout=0) == "next"


def test_what_cannot_be_loaded_is_used_up() -> None:
    channel = _hot.channel_create(2, SLOT_BYTES, 1)
    writer, reader = _hot.Writer(channel), _hot.Reader(channel, 0)
    with closing(writer, reader):
        writer.write(Unloadable())
        writer.write("next")
        with pytest.raises(Exception, match="cannot be loaded here"):
            reader.read()
        assert reader.read() == "next"


def test_a_value_larger_than_the_store_is_refused() -> None:
    channel = _hot.channel_create(1, SLOT_BYTES, 1)
    writer, reader = _hot.Writer(channel), _hot.Reader(channel, 0)
    with closing(writer, reader):
        with pytest.raises(_hot.StoreFullError) as caught:
            writer.write(np.zeros(STORE_BYTES + PAGE_BYTES, dtype=np.uint8))
        assert caught.value.args[3] is True
        writer.write("fits", timeout=0)
        assert reader.read(timeout=0) == "fits"


def test_a_full_store_refuses_values_until_something_is_read() -> None:
    channel = _hot.channel_create(8, SLOT_BYTES, 1)
    writer, reader = _hot.Writer(channel), _hot.Reader(channel, 0)
    third = np.zeros(STORE_BYTES // 3, dtype=np.uint8)
    with closing(writer, reader):
        writer.write(third)
        writer.write(third)
        with pytest.raises(_hot.StoreFullError):
            writer.write(third)
        assert reader.read().nbytes == third.nbytes
        writer.write(third, timeout=0)
        assert [reader.read().nbytes for _ in range(2)] == [third.nbytes] * 2


# -- large values


def test_arrays_are_not_copied_and_stay_valid() -> None:
    arrays = []
    with relayed(slots=1) as (writer, reader, _):
        for turn in range(10):
            writer.write(np.full(200_000, turn, dtype=np.int64))
            arrays.append(reader.read(timeout=DEADLINE_S))
    for turn, array in enumerate(arrays):  # the slots were used again, the channel is closed
        assert not array.flags.writeable
        assert not array.flags.owndata
        assert (array == turn).all()
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_an_array_is_in_the_store_once_for_all_its_readers() -> None:
    channel = _hot.channel_create(2, SLOT_BYTES, 3)
    writer = _hot.Writer(channel)
    readers = [_hot.Reader(channel, index) for index in range(3)]
    array, before = np.ones(1_000_000, dtype=np.uint8), stored_bytes()
    with closing(writer, *readers):
        writer.write(array)
        views = [reader.read() for reader in readers]
        assert array.nbytes <= stored_bytes() - before < array.nbytes + 2 * PAGE_BYTES
        assert {view.ctypes.data for view in views} == {views[0].ctypes.data}
        del views
        gc.collect()
        assert stored_bytes() == before, (
            "the last reader is done: it does not wait for its slot to be used again"
        )


def test_unread_values_go_with_the_channel() -> None:
    before = stored_bytes()
    channel = _hot.channel_create(4, SLOT_BYTES, 2)
    writer, reader = _hot.Writer(channel), _hot.Reader(channel, 0)
    for _ in range(3):
        writer.write(np.ones(500_000))
    reader.read()
    assert stored_bytes() > before
    writer.close()
    reader.close()
    del channel
    assert stored_bytes() == before


# -- paces and timeouts


def test_readers_have_paces_of_their_own() -> None:
    channel = _hot.channel_create(4, SLOT_BYTES, 3)
    writer = _hot.Writer(channel)
    takers = [Taker.remote(channel, index) for index in range(3)]
    with closing(writer):
        for number in range(4):
            writer.write(number)
        quick = takers[0].take.remote(40)
        with pytest.raises(TimeoutError):
            writer.write(4, timeout=0.05)  # the others have read nothing
        middle = takers[1].take.remote(40)
        slow = [takers[2].take.remote(1) for _ in range(40)]
        for number in range(4, 40):
            writer.write(number, timeout=DEADLINE_S)
        assert af.get(quick, timeout=DEADLINE_S) == list(range(40))
        assert af.get(middle, timeout=DEADLINE_S) == list(range(40))
        assert af.get(slow, timeout=DEADLINE_S) == [[number] for number in range(40)]


def test_timeouts_leave_both_ends_usable() -> None:
    channel = _hot.channel_create(1, SLOT_BYTES, 1)
    writer, reader = _hot.Writer(channel), _hot.Reader(channel, 0)
    with closing(writer, reader):
        for timeout in (0, 0.0, 0.01):
            with pytest.raises(TimeoutError, match="not ready in time"):
                reader.read(timeout)
        assert writer.ready()
        writer.write(1, timeout=0)
        assert not writer.ready()
        for timeout in (0, 0.01):
            with pytest.raises(TimeoutError):
                writer.write(2, timeout=timeout)
        assert reader.ready()
        assert reader.read(timeout=0) == 1
        writer.write(2)
        assert reader.read() == 2
        for wrong in (-1, float("nan")):
            with pytest.raises(ValueError, match="timeout"):
                reader.read(timeout=wrong)
        for call in (lambda: reader.read(later=1), lambda: writer.write(), lambda: reader.read(1, 2)):  # type: ignore[call-arg]
            with pytest.raises(TypeError):
                call()


def test_a_wait_sleeps_and_runs_signal_handlers() -> None:
    channel = _hot.channel_create(1, SLOT_BYTES, 1)
    reader = _hot.Reader(channel, 0)

    def interrupt(*_: object) -> None:
        if reader.sleeps:
            raise InterruptedError("by a signal")
        signal.setitimer(signal.ITIMER_REAL, 0.02)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with closing(reader):
            interrupt()
            with pytest.raises(InterruptedError, match="by a signal"):
                reader.read()
            assert reader.sleeps > 0
    finally:
        signal.signal(signal.SIGALRM, before)
