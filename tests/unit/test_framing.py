"""Messages and frames: whole and byte by byte, what may be sent, and garbage."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorflow import config, errors
from actorflow.wire import messages
from actorflow.wire.framing import Decoder, LocalProtocolError, RemoteProtocolError, encode
from actorflow.wire.messages import (
    WIRE_VERSION,
    ForeignHello,
    Hello,
    JobStart,
    Message,
    Output,
    OutputLost,
    Refuse,
    Role,
    Shutdown,
    Welcome,
)

LIMIT = config.current().control_frame_bytes

number = st.integers(0, 2**63 - 1)
text = st.text(st.characters(), max_size=20)  # lone surrogates too: names of files have them
a_message: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, st.just(WIRE_VERSION), number, number, st.sampled_from(Role)),
    st.builds(JobStart, text, st.lists(text, max_size=5).map(tuple), text, text, st.booleans()),
    st.builds(Welcome, text, number, number, number, number, number),
    st.builds(Refuse, text, text),
    st.builds(Shutdown, text),
    st.builds(Output, number, text, st.booleans(), st.binary(max_size=20)),
    st.builds(OutputLost, number),
)


def frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def outcome(pieces: list[bytes]) -> tuple[list[Message], str | None]:
    """What a decoder gives for a stream cut like this: messages, then the error if there is one."""
    decoder: Decoder[Message] = Decoder()
    got: list[Message] = []
    try:
        for piece in pieces:
            for message in decoder.feed(piece):
                got.append(message)  # noqa: PERF402, RUF100 - one by one, so that none is lost before an error
        decoder.finish()
    except RemoteProtocolError as error:
        return got, error.reason
    return got, None


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(a_message, max_size=6), st.lists(st.integers(0, 10**6), max_size=8))
def test_messages_arrive_whole_however_the_stream_is_cut(sent: list[Message], places: list[int]) -> None:
    stream = b"".join(encode(message) for message in sent)
    assert outcome([stream]) == (sent, None)
    assert outcome(cut(stream, places)) == (sent, None)
    assert outcome([bytes([byte]) for byte in stream]) == (sent, None)


@given(st.lists(a_message, max_size=3), st.binary(max_size=60), st.lists(st.integers(0, 10**6), max_size=5))
def test_garbage_raises_nothing_else_and_the_same_however_cut(
    sent: list[Message], garbage: bytes, places: list[int]
) -> None:
    stream = b"".join(encode(message) for message in sent) + garbage
    whole = outcome([stream])
    assert whole[0][: len(sent)] == sent
    assert outcome([bytes([byte]) for byte in stream])[0] == whole[0]
    assert (outcome(cut(stream, places))[1] is None) == (whole[1] is None)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 12)
    | st.text(max_size=3)
    | st.binary(max_size=3)
    | st.floats(),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(plain, max_size=8) | plain)
def test_well_formed_frames_of_nonsense_are_refused(nonsense: Any) -> None:
    got, error = outcome([frame(msgpack.packb(nonsense))])
    assert (error is None) == (len(got) == 1)


@given(a_message, st.data())
def test_a_damaged_message_is_another_message_or_an_error(message: Message, data: st.DataObject) -> None:
    damaged = bytearray(encode(message))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    outcome([bytes(damaged)])


def test_each_kind_is_sent_and_has_checks_for_all_its_fields() -> None:
    sent = set(Message.__subclasses__()) - {ForeignHello}
    assert sent == set(messages._KINDS)


# -- what they may not do ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "a frame of 0 bytes, where 1 to"),
        (b"\xc1", "no message"),
        (msgpack.packb({}), "not a message"),
        (msgpack.packb([]), "not a message"),
        (msgpack.packb([True]), "not a message"),
        (msgpack.packb([99]), "no kind of message has number 99"),
        (msgpack.packb([5]), "Shutdown has 1 fields, not 0"),
        (msgpack.packb([5, 1]), "Shutdown.reason is not text"),
        (msgpack.packb([3, "n", 1, -2, 3, 4, 5]), "Welcome.slot is not a whole number"),
        (msgpack.packb([3, "n", 1, 2**63, 3, 4, 5]), "Welcome.slot is not a whole number"),
        (msgpack.packb([2, "n", ["a", 1], "c", "d", True]), "JobStart.sys_path is not text"),
        (msgpack.packb([2, "n", "abc", "c", "d", True]), "JobStart.sys_path is not a list of texts"),
        (msgpack.packb([2, "n", ["a"], "c", "d", 1]), "JobStart.log_to_driver is not true or false"),
        (msgpack.packb([6, 1, "t", False, "text"]), "Output.text is not bytes"),
        (msgpack.packb([1, WIRE_VERSION, 0, 0, "king"]), "Hello.role is not one of driver, worker, tool"),
        (msgpack.packb([1, WIRE_VERSION, 0, 0, []]), "Hello.role is not one of"),
        (msgpack.packb([1, "one"]), "is not a whole number"),
        (msgpack.packb([5, "x"]) + b"\x00", "no message"),
    ],
)
def test_what_is_wrong_with_a_frame_is_named(body: bytes, reason: str) -> None:
    got, error = outcome([frame(body)])
    assert got == []
    assert error is not None
    assert reason in error


def test_a_frame_that_is_too_long_is_refused_before_it_has_come() -> None:
    _, error = outcome([struct.pack(">I", LIMIT + 1)])
    assert error is not None
    assert f"a frame of {LIMIT + 1:,} bytes, where 1 to {LIMIT:,} are allowed" in error


def test_an_end_within_a_frame_is_an_error_and_between_frames_is_none() -> None:
    stream = encode(Shutdown("bye"))
    assert outcome([stream, stream[:-1]]) == (
        [Shutdown("bye")],
        f"the peer sent what it must not: the stream ended {len(stream) - 1} bytes into a frame",
    )
    assert outcome([stream])[1] is None


def test_after_an_error_nothing_is_understood_any_more() -> None:
    decoder: Decoder[Message] = Decoder()
    with pytest.raises(RemoteProtocolError):
        list(decoder.feed(frame(b"\xc1")))
    with pytest.raises(RemoteProtocolError, match="no message"):
        list(decoder.feed(encode(Shutdown("x"))))
    decoder.finish()


def test_a_kind_that_may_not_come_here_is_refused() -> None:
    decoder = Decoder(Welcome, Shutdown)
    assert list(decoder.feed(encode(Shutdown("x")))) == [Shutdown("x")]
    with pytest.raises(RemoteProtocolError, match="Refuse may not be sent here"):
        list(decoder.feed(encode(Refuse("a", "b"))))


def test_a_hello_of_another_version_shows_its_version_whatever_else_it_has() -> None:
    body = msgpack.packb([1, WIRE_VERSION + 1, {"new": "layout"}])
    assert outcome([frame(body)]) == ([ForeignHello(WIRE_VERSION + 1)], None)


# -- what we may not do -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (ForeignHello(2), "ForeignHello is not a message that is sent"),
        (Welcome("n", 1, -1, 0, 0, 0), "Welcome.slot is not a whole number"),
        (Welcome("n", 1, 1, True, 0, 0), "Welcome.epoch is not a whole number"),
        (Shutdown(None), "Shutdown.reason is not text"),  # type: ignore[arg-type]
        (Shutdown("x" * LIMIT), f"over the limit of {LIMIT:,}"),
    ],
)
def test_we_do_not_send_what_breaks_the_rules(message: Message, reason: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        encode(message)
    assert reason in str(caught.value)
    assert isinstance(caught.value, errors.ProtocolError)
    assert not isinstance(caught.value, RemoteProtocolError)
