"""The node's end of its zygote: orders to fork go out, births and deaths of workers come in, its own death is seen."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from actorflow.node.pidfds import Watch
from actorflow.node.zygote import FORKED_DESCRIPTORS, ORDER, REPORT, Report


class Listener(Protocol):
    """Who is told what becomes of the workers."""

    def forked(self, slot: int, epoch: int, pid: int, descriptors: list[int]) -> None: ...
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
        self._connection = connection
        self._unsent: deque[bytes] = deque()  # as many as there are slots at most
        connection.setblocking(False)
        loop.add_reader(connection, self._on_readable)

    def listen(self, listener: Listener) -> None:
        """Has `listener` told of every birth and death from now on."""
        self._listener = listener

    def fork(self, slot: int, epoch: int, commands: tuple[int, int]) -> None:
        """Orders a worker for a reserved slot, that waits at the mailbox `commands`."""
        self._unsent.append(ORDER.pack(slot, epoch, *commands, 0))
        if len(self._unsent) == 1:
            self._send()

    @property
    def is_alive(self) -> bool:
        """Whether it can still tell of deaths."""
        return not self._ended.done()

    def can_report(self) -> bool:
        """Whether it runs: it is neither dead nor stopped."""
        try:
            state = Path("/proc", str(self._pid), "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state not in "TtZX"

    async def end(self, limit_s: float) -> None:
        """Has the zygote end every worker and itself; kills it if that takes longer than `limit_s`."""
        self._listener = None
        self._close()
        timer = self._loop.call_later(limit_s, self._watch.kill)
        try:
            await self._ended
        finally:
            timer.cancel()

    # -- what it says

    def _on_readable(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._connection, REPORT.size, FORKED_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if len(data) == REPORT.size:
            self._on_report(REPORT.unpack(data), descriptors)
        else:  # it cannot be spoken to any more: it is as good as dead, and its pidfd will say so
            self._close()
            self._watch.kill()

    def _on_report(self, report: tuple[int, int, int, int, int], descriptors: list[int]) -> None:
        kind, slot, epoch, pid, value = report
        if self._listener is None:
            for descriptor in descriptors:
                os.close(descriptor)
        elif kind == Report.FORKED and len(descriptors) == FORKED_DESCRIPTORS:
            self._listener.forked(slot, epoch, pid, descriptors)
        elif kind == Report.EXITED:
            self._listener.exited(slot, epoch, value)
        elif kind == Report.NOT_FORKED:
            self._listener.not_forked(slot, epoch, os.strerror(value))

    # -- what it is told

    def _send(self) -> None:
        """Sends orders until there are none, or the socket is full."""
        if self._connection.fileno() < 0:
            self._unsent.clear()
            return
        while self._unsent:
            try:
                self._connection.send(self._unsent[0])
            except BlockingIOError:
                self._loop.add_writer(self._connection, self._send)
                return
            except OSError:  # it has ended: its pidfd says so
                self._unsent.clear()
            else:
                self._unsent.popleft()
        self._loop.remove_writer(self._connection)

    def _close(self) -> None:
        self._unsent.clear()
        if self._connection.fileno() >= 0:
            self._loop.remove_reader(self._connection)
            self._loop.remove_writer(self._connection)
            self._connection.close()

    # -- its end

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
