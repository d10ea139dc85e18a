"""A Unix stream socket in the node's loop that carries framed messages: the connection of a driver.

Guarantees: messages arrive in order; a peer that breaks the framing or sends what is no message is refused and cut
off, and `on_lost` says why. No file descriptors are taken. What cannot be written at once is kept, up to a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence

from actorflow import config
from actorflow.errors import ProtocolError
from actorflow.wire import framing, messages

_READ_BYTES = 65536
_UNWRITTEN_LIMIT_BYTES = 1 << 20  # beside what workers print, a driver is told a few hundred bytes in all


class Channel:
    """One connection, over which messages of the kinds `accepts` may come.

    `on_message(message)` and `on_lost(why)` run in the loop; `on_lost` once, and nothing after it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: socket.socket,
        on_message: Callable[[messages.Message], object],
        on_lost: Callable[[str], object],
        *accepts: type[messages.Message],
    ) -> None:
        self._loop = loop
        self._socket = connection
        self._on_message = on_message
        self._on_lost = on_lost
        self._frames: framing.Decoder[messages.Message] = framing.Decoder(*accepts)
        self._unwritten = bytearray()
        self._unwritten_limit = _UNWRITTEN_LIMIT_BYTES + config.current().output_buffer_bytes
        self._ending = False
        self._written = asyncio.Event()
        self._written.set()
        self._closed = False
        connection.setblocking(False)
        loop.add_reader(connection.fileno(), self._on_readable)

    # -- writing

    def send(self, message: messages.Message, descriptors: Sequence[int] = ()) -> None:
        """Sends a message; descriptors only go along while nothing is waiting to be written."""
        if self._closed or self._ending:
            return
        data = framing.encode(message)
        if not self._unwritten:
            data = data[self._write(data, descriptors) :]
            if not data or self._closed:
                return
            self._loop.add_writer(self._socket.fileno(), self._on_writable)
            self._written.clear()
        self._unwritten += data
        if len(self._unwritten) > self._unwritten_limit:
            self._lose("it has stopped reading")

    @property
    def unwritten_bytes(self) -> int:
        """What the peer has not taken yet."""
        return len(self._unwritten)

    async def wait_written(self) -> None:
        """Returns when the peer has taken all that was sent, or the connection is over."""
        await self._written.wait()

    def end(self) -> None:
        """Sends nothing more: the peer sees the end behind what was sent. What it says is still heard."""
        self._ending = True
        if not self._closed and not self._unwritten:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def _write(self, data: bytes | bytearray, descriptors: Sequence[int]) -> int:
        """Writes what fits now; returns how many bytes."""
        try:
            if descriptors:
                return socket.send_fds(self._socket, [data], descriptors)
            return self._socket.send(data)
        except BlockingIOError:
            if descriptors:
                self._lose("it has stopped reading")
            return 0
        except OSError as error:
            self._lose(str(error))
            return 0

    def _on_writable(self) -> None:
        written = self._write(self._unwritten, ())
        if not self._closed:
            del self._unwritten[:written]
            if not self._unwritten:
                self._loop.remove_writer(self._socket.fileno())
                self._written.set()
                if self._ending:
                    self.end()

    # -- reading

    def _on_readable(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)  # the kernel closes descriptors that nobody takes
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(str(error))
            return
        if not data:
            self._lose("it closed its connection")
            return
        try:
            for message in self._frames.feed(data):
                if self._closed:
                    return
                self._on_message(message)
        except ProtocolError as error:
            self.send(messages.Refuse("order", error.reason))
            self._lose(error.reason)

    # -- the end

    def _lose(self, why: str) -> None:
        if not self._closed:
            self.close()
            self._on_lost(why)

    def close(self) -> None:
        """Ends the connection; `on_lost` is not called."""
        if self._closed:
            return
        self._closed = True
        self._written.set()
        self._loop.remove_reader(self._socket.fileno())
        if self._unwritten:
            self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
