"""Ends every process below this one, also those that user code forked, daemonized or moved to other sessions.

Works for a child subreaper: whoever is orphaned below it becomes its child, so killing children until none is left ends
all. A child that was not yet reaped keeps its process id, so no other process can be hit.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

_PARENT_FIELD = 1  # of /proc/<pid>/stat, counted behind the command's closing parenthesis


def children() -> list[int]:
    """Process ids of this process' children, those that ended and were not yet reaped included."""
    own, found = os.getpid(), []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and _parent(entry) == own:
            found.append(int(entry))
    return found


def _parent(entry: str) -> int | None:
    try:
        text = Path("/proc", entry, "stat").read_bytes()
    except OSError:
        return None  # it has ended meanwhile
    return int(text[text.rindex(b")") + 1 :].split()[_PARENT_FIELD])


def end_descendants() -> None:
    """Kills and reaps children until there are none; what was below them comes here and goes the same way."""
    while True:
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
        while _reap_one():
            pass


def _reap_one() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False
