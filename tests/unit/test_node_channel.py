"""Framed messages over a socket in a loop: order, descriptors, bounds, and peers that break the rules."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from actorflow.node import channel
from actorflow.node.channel import Channel
from actorflow.wire import framing, messages


class Ends:
    """A channel, what it has reported, and the socket at the peer's end."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        own, self.peer = socket.socketpair()
        self.messages: list[messages.Message] = []
        self.lost: list[str] = []
        self.channel = Channel(
            loop,
            own,
            self.messages.append,
            self.lost.append,
            messages.JobStart,
            messages.Shutdown,
        )

    def turn(self) -> None:
        """Lets the loop do what is to do now."""
        for _ in range(3):
            self.loop.run_until_complete(asyncio.sleep(0))


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def ends(loop: asyncio.AbstractEventLoop) -> Iterator[Ends]:
    ends = Ends(loop)
    yield ends
    ends.channel.close()
    ends.peer.close()


def test_messages_come_in_order_however_they_are_cut(ends: Ends) -> None:
    sent = [messages.Shutdown(f"reason {number}") for number in range(5)]
    data = b"".join(map(framing.encode, sent))
    for start in range(0, len(data), 7):
        ends.peer.sendall(data[start : start + 7])
        ends.turn()
    assert ends.messages == sent
    assert ends.lost == []


def test_what_it_sends_can_be_read(ends: Ends) -> None:
    ends.channel.send(messages.Refuse("uid", "not yours"))
    decoder: framing.Decoder[messages.Message] = framing.Decoder()
    assert list(decoder.feed(ends.peer.recv(1000))) == [messages.Refuse("uid", "not yours")]


def test_descriptors_go_along(ends: Ends) -> None:
    reader, writer = os.pipe()
    ends.channel.send(messages.Shutdown("with a pipe"), [writer])
    os.close(writer)
    _, (received,), _, _ = socket.recv_fds(ends.peer, 1000, 1)
    os.write(received, b"hello")
    os.close(received)
    assert os.read(reader, 10) == b"hello"
    os.close(reader)


def test_descriptors_of_the_peers_are_closed(ends: Ends) -> None:
    reader, writer = os.pipe()
    socket.send_fds(ends.peer, [framing.encode(messages.Shutdown("now"))], [writer])
    os.close(writer)
    ends.turn()
    assert ends.messages == [messages.Shutdown("now")]
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.0\r\n", b"\0\0\0\1\xc1", framing.encode(messages.Refuse("a", "b"))]
)
def test_garbage_is_refused_and_cut_off(ends: Ends, said: bytes) -> None:
    ends.peer.sendall(framing.encode(messages.Shutdown("fine")) + said)
    ends.turn()
    assert ends.messages == [messages.Shutdown("fine")]
    assert len(ends.lost) == 1
    decoder: framing.Decoder[messages.Refuse] = framing.Decoder(messages.Refuse)
    (refusal,) = decoder.feed(ends.peer.recv(1000))
    assert refusal.reason == "order"
    assert ends.peer.recv(1000) == b""


def test_end_of_the_peer_is_told_once(ends: Ends) -> None:
    ends.peer.close()
    ends.turn()
    ends.channel.send(messages.Shutdown("nobody hears"))
    ends.turn()
    assert ends.lost == ["it closed its connection"]


def test_nothing_is_told_after_close(ends: Ends) -> None:
    ends.peer.sendall(framing.encode(messages.Shutdown("unheard")))
    ends.channel.close()
    ends.turn()
    assert ends.messages == []
    assert ends.lost == []


def test_what_does_not_fit_is_written_later(ends: Ends) -> None:
    count = 1500
    for number in range(count):
        ends.channel.send(messages.Shutdown(f"{number:0500}"))
    decoder: framing.Decoder[messages.Shutdown] = framing.Decoder(messages.Shutdown)
    ends.peer.setblocking(False)
    seen: list[int] = []
    while len(seen) < count:
        ends.turn()
        seen += [int(message.reason) for message in decoder.feed(ends.peer.recv(1 << 20))]
    assert seen == list(range(count))


def test_a_peer_that_stops_reading_is_cut_off(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_UNWRITTEN_LIMIT_BYTES", 100_000)
    while not ends.lost:
        ends.channel.send(messages.Shutdown("x" * 10_000))
    assert ends.lost == ["it has stopped reading"]
