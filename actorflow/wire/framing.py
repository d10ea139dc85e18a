"""Records <-> a stream of bytes: length-prefixed msgpack frames, as a protocol that does no I/O.

A frame is the length of its body in four bytes, the most significant first, then the body. Feed a
`Decoder` whatever arrives, in pieces of any size, and it gives the messages that are complete.

Guarantees: how the stream is cut into pieces makes no difference; garbage raises RemoteProtocolError
and nothing else; no more than one frame and one piece is held. After an error the stream has lost
its beat, and the decoder raises for whatever else it is fed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgpack

from actorflow import config
from actorflow.errors import ProtocolError
from actorflow.wire import messages
from actorflow.wire.messages import Message

_LENGTH = struct.Struct(">I")

M = TypeVar("M", bound=Message)


class LocalProtocolError(ProtocolError):
    """We were about to break the rules; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """They broke the rules; nothing that they send from now on can be understood."""


def encode(message: Message) -> bytes:
    """The frame of a message. LocalProtocolError for a wrong field, or a frame over control_frame_bytes."""
    try:
        body: bytes = msgpack.packb(messages.to_plain(message), unicode_errors="surrogatepass")
    except ValueError as problem:
        raise LocalProtocolError(reason=f"cannot send this: {problem}") from None
    limit = config.current().control_frame_bytes
    if len(body) > limit:
        name = type(message).__name__
        raise LocalProtocolError(reason=f"a {name} of {len(body):,} bytes is over the limit of {limit:,}")
    return _LENGTH.pack(len(body)) + body


class Decoder(Generic[M]):
    """One direction of a connection: bytes in, messages out.

    `accepts`: the kinds of message that may come, and their subclasses; by default all.
    """

    def __init__(self, *accepts: type[M]) -> None:
        self._accepts: tuple[type[Any], ...] = accepts or (Message,)
        self._limit = config.current().control_frame_bytes
        self._buffer = bytearray()
        self._broken: RemoteProtocolError | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[M]:
        """Takes what arrived; gives the messages that are complete with it, then raises if there is a bad one."""
        self._buffer += data
        return self._messages()

    def finish(self) -> None:
        """Says that the stream has ended. RemoteProtocolError if it ended within a frame."""
        if self._broken is None and self._buffer:
            raise self._break(f"the stream ended {len(self._buffer):,} bytes into a frame")

    def _messages(self) -> Iterator[M]:
        if self._broken is not None:
            self._buffer.clear()
            raise self._broken
        while (body := self._next_body()) is not None:
            yield self._message(body)

    def _next_body(self) -> bytes | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if not 0 < length <= self._limit:
            raise self._break(f"a frame of {length:,} bytes, where 1 to {self._limit:,} are allowed")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return body

    def _message(self, body: bytes) -> M:
        try:
            message = messages.from_plain(msgpack.unpackb(body, unicode_errors="surrogatepass"))
        except (ValueError, TypeError, OverflowError, RecursionError) as problem:
            raise self._break(
                f"a frame that is no message: {str(problem) or type(problem).__name__}"
            ) from None
        if isinstance(message, self._accepts):
            return message  # type: ignore[no-any-return] # a tuple of classes narrows to Any
        raise self._break(f"{type(message).__name__} may not be sent here")

    def _break(self, reason: str) -> RemoteProtocolError:
        self._buffer.clear()
        self._broken = RemoteProtocolError(reason=f"the peer sent what it must not: {reason}")
        return self._broken
