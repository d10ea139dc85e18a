"""Deaths of other processes, seen by their pidfds in the node's loop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable


class Watch:
    """Tells once, in the loop, that the process behind a pidfd has ended. Owns the pidfd."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pidfd: int, ended: Callable[[], object]) -> None:
        self._loop = loop
        self._pidfd = pidfd
        self._ended = ended
        loop.add_reader(pidfd, self._on_readable)

    def _on_readable(self) -> None:
        self.close()
        self._ended()

    def kill(self) -> None:
        """Sends SIGKILL to that very process, whatever became of its process id."""
        self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                pass  # it has ended, and the loop will hear of it

    def close(self) -> None:
        """Watches no more."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


def open_pidfd(pid: int) -> int | None:
    """A pidfd of a process, or None when there is none of that id any more."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
