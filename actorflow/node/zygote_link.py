"""The node's end of its zygote: orders to fork go out, births and deaths of workers come in, its own death is seen."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from typing import Protocol

from actorflow.node.channel import Channel
from actorflow.node.pidfds import Watch
from actorflow.wire import messages


class Listener(Protocol):
    """Who is told what becomes of the workers."""

    def forked(self, slot: int, epoch: int, pid: int, pidfd: int) -> None: ...
    def not_forked(self, slot: int, epoch: int, why: str) -> None: ...
    def exited(self, slot: int, epoch: int, status: int) -> None: ...


class ZygoteLink:
    """The zygote as the node has it. `on_lost(how)` runs in the loop when the zygote has ended unasked."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pid: int,
        pidfd: int,
        connection: socket.socket,
        on_lost: Callable[[str], object],
    ) -> None:
        self._loop = loop
        self._pid = pid
        self._on_lost = on_lost
        self._listener: Listener | None = None
        self._ended = loop.create_future()
        self._watch = Watch(loop, pidfd, self._on_ended)
        said = (messages.Forked, messages.ForkFailed, messages.Exited)
        self._channel = Channel(
            loop, connection, self._on_message, self._on_hangup, *said, takes_descriptors=True
        )

    def listen(self, listener: Listener) -> None:
        """Has `listener` told of every birth and death from now on."""
        self._listener = listener

    def fork(self, slot: int, epoch: int, commands: tuple[int, int]) -> None:
        """Orders a worker for a reserved slot, that waits at the mailbox `commands`."""
        self._channel.send(messages.Fork(slot, epoch, commands))

    @property
    def is_alive(self) -> bool:
        """Whether it can still tell of deaths."""
        return not self._ended.done()

    async def end(self, limit_s: float) -> None:
        """Has the zygote end every worker and itself; kills it if that takes longer than `limit_s`."""
        self._listener = None
        self._channel.close()
        timer = self._loop.call_later(limit_s, self._watch.kill)
        try:
            await self._ended
        finally:
            timer.cancel()

    # -- what it says

    def _on_message(self, message: messages.Message) -> None:
        if isinstance(message, messages.Forked):
            pidfd = self._channel.take_descriptor()
            if self._listener is None:
                os.close(pidfd)
            else:
                self._listener.forked(message.slot, message.epoch, message.pid, pidfd)
        elif self._listener is None:
            return
        elif isinstance(message, messages.Exited):
            self._listener.exited(message.slot, message.epoch, message.status)
        elif isinstance(message, messages.ForkFailed):
            self._listener.not_forked(message.slot, message.epoch, message.reason)

    def _on_hangup(self, why: str) -> None:
        """It cannot be spoken to any more: it is as good as dead, and its pidfd will say so."""
        self._watch.kill()

    def _on_ended(self) -> None:
        """Reaps the zygote: it is this process' child."""
        _, status = os.waitpid(self._pid, 0)
        self._ended.set_result(None)
        if self._listener is not None:
            self._on_lost(f"the zygote (pid {self._pid}) {how_it_ended(status)}")


def how_it_ended(status: int) -> str:
    """A wait status in words."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with code {code}"
    return f"was killed by signal {-code} ({signal.Signals(-code).name})"
