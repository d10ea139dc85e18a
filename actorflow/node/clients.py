"""Drivers: the handshake by which one attaches, and the watch over it until it is gone.

A connection must say Hello within a few seconds. Who is of another user, speaks another wire version or sends garbage
is refused by name, and nothing changes. The connection stays open for the driver's life: the job ends when it closes,
and also when the driver's process ends, because a child that user code forked may keep the connection open.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Protocol

from actorflow import config
from actorflow.node.channel import Channel
from actorflow.node.log import warn
from actorflow.node.pidfds import Watch, open_pidfd
from actorflow.shm.store import Role, Store, StoreError
from actorflow.wire import auth, messages

_BACKLOG = 128
_ACCEPTED = (messages.Hello, messages.ForeignHello, messages.JobStart, messages.Shutdown)


class Listener(Protocol):
    """Who is told what becomes of the drivers."""

    def attached(self, driver: Driver, start: messages.JobStart) -> int:
        """Returns the number of its job."""

    def left(self, driver: Driver, how: str) -> None:
        """Its job is over. It may still be there, and use the memory."""

    def gone(self, driver: Driver) -> None:
        """It uses the memory no more, or its process has ended."""

    def deserted(self) -> None:
        """No driver is left, also none that has not attached yet, and none can come."""


class Driver:
    """One connection, and the driver at its other end once that has attached (`job` is its number, else 0)."""

    def __init__(self, clients: Clients, connection: socket.socket) -> None:
        self.job = 0
        self.pid = 0
        self.slot = 0
        self.epoch = 0
        self._clients = clients
        self._left = False
        self._hello: messages.Hello | None = None
        self._watch: Watch | None = None
        self._peer = auth.Credentials.from_bytes(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, auth.Credentials.SIZE_BYTES)
        )
        self._channel = Channel(clients.loop, connection, self._on_message, self._on_lost, *_ACCEPTED)
        self._timer = clients.loop.call_later(config.current().attach_timeout_s, self._on_timeout)

    @property
    def process(self) -> tuple[int, int]:
        """Its slot and epoch."""
        return self.slot, self.epoch

    def say_goodbye(self, reason: str) -> None:
        """Tells the driver why the node ends."""
        self._channel.send(messages.Shutdown(reason))

    def print(self, message: messages.Output | messages.OutputLost) -> bool:
        """Sends what a worker printed; False: the driver has too much of that before it."""
        if self._channel.unwritten_bytes > config.current().output_buffer_bytes:
            return False
        self._channel.send(message)
        return True

    def end_output(self) -> None:
        """Tells the driver, which is leaving, that it has got all that was printed."""
        self._channel.end()

    async def wait_written(self) -> None:
        """Returns when the driver has taken all that it was sent, or is gone."""
        await self._channel.wait_written()

    def close(self) -> None:
        """Forgets the driver, without telling anyone."""
        self._timer.cancel()
        self._channel.close()
        if self._watch is not None:
            self._watch.close()

    # -- the handshake

    def _on_message(self, message: messages.Message) -> None:
        if self._hello is None:
            self._greet(message)
        elif isinstance(message, messages.JobStart) and not self.job:
            self._attach(message)
        elif isinstance(message, messages.Shutdown) and self.job:
            self._leave(message.reason)
        else:
            self._refuse("order", f"{type(message).__name__} may not be said at this point")

    def _greet(self, message: messages.Message) -> None:
        refusal = auth.refusal(message, self._peer, os.getuid())
        if refusal is not None:
            self._refuse(refusal.reason, refusal.text)
        elif isinstance(message, messages.Hello) and message.role is messages.Role.DRIVER:
            self._hello = message
        else:
            self._refuse("role", "only a driver attaches by a socket")

    def _attach(self, start: messages.JobStart) -> None:
        pidfd = open_pidfd(self._peer.pid)
        if pidfd is None:
            self._on_ended()
            return
        self._watch = Watch(self._clients.loop, pidfd, self._on_ended)
        self.pid = self._peer.pid
        self.job = self._clients.listener.attached(self, start)
        try:
            self.slot, self.epoch = self._clients.store.reserve(Role.DRIVER, self.job)
        except StoreError as error:
            self._refuse("slots", str(error))
            return
        self._timer.cancel()
        segment = self._clients.store.segment()
        welcome = messages.Welcome(
            segment.node_id.hex(), os.getpid(), self.slot, self.epoch, self.job, segment.size_bytes
        )
        self._channel.send(welcome, [self._clients.memfd])

    def _refuse(self, reason: str, text: str) -> None:
        self._channel.send(messages.Refuse(reason, text))
        self._on_lost(text)

    def _on_timeout(self) -> None:
        self._refuse("timeout", "no Hello and JobStart came in time")

    # -- the end

    def _leave(self, how: str) -> None:
        if self.job and not self._left:
            self._left = True
            self._clients.listener.left(self, how)

    def _on_lost(self, why: str) -> None:
        """The connection is over. The slot is settled when the process has left it, or has ended."""
        self._timer.cancel()
        self._channel.close()
        self._leave(why)
        if not self.slot or not self._clients.store.is_live(self.slot, self.epoch):
            self.close()
            self._clients.forget(self)

    def _on_ended(self) -> None:
        """Its process has ended."""
        self._leave("its process has ended")
        self.close()
        self._clients.forget(self)


class Clients:
    """All drivers, and the socket at which further ones arrive."""

    def __init__(self, loop: asyncio.AbstractEventLoop, store: Store, memfd: int, listener: Listener) -> None:
        self.loop = loop
        self.store = store
        self.memfd = memfd
        self.listener = listener
        self._drivers: set[Driver] = set()
        self._socket: socket.socket | None = None

    def take(self, connection: socket.socket) -> None:
        """Serves a connection that a driver may attach by."""
        self._drivers.add(Driver(self, connection))

    def listen(self, address: str) -> None:
        """Takes connections at an abstract address from now on."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._socket.bind("\0" + address)
        self._socket.listen(_BACKLOG)
        self.loop.add_reader(self._socket.fileno(), self._on_connection, self._socket)

    def _on_connection(self, listening: socket.socket) -> None:
        try:
            connection, _ = listening.accept()
        except BlockingIOError:
            return
        except OSError as error:
            warn(f"a driver could not attach: {error}")
            return
        self.take(connection)

    def forget(self, driver: Driver) -> None:
        """The driver is gone."""
        self._drivers.discard(driver)
        if driver.slot:
            self.listener.gone(driver)
        if not self._drivers and self._socket is None:
            self.listener.deserted()

    def say_goodbye(self, reason: str) -> None:
        """Tells every driver why the node ends."""
        for driver in self._drivers:
            if driver.job:
                driver.say_goodbye(reason)

    async def wait_written(self, limit_s: float) -> None:
        """Returns when every driver has taken all that it was sent; waits `limit_s` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                for driver in list(self._drivers):
                    await driver.wait_written()

    def close(self) -> None:
        """Takes nobody any more and forgets all drivers."""
        if self._socket is not None:
            self.loop.remove_reader(self._socket.fileno())
            self._socket.close()
        for driver in self._drivers:
            driver.close()
        self._drivers.clear()
