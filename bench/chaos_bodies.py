"""What runs while workers are killed (bench.chaos): tasks and actors that note each time that they are executed."""

from __future__ import annotations

import functools
import os
import time

import actorflow as af


@functools.cache
def _notebook(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(path: str, number: int) -> None:
    """Writes down that a call is executed: one line, whole, whatever becomes of this process."""
    os.write(_notebook(path), b"%d\n" % number)


@af.remote
def work(path: str, number: int, work_s: float) -> int:
    """A task."""
    note(path, number)
    time.sleep(work_s)
    return number


@af.remote(num_cpus=0, max_restarts=-1)
class Laborer:
    """An actor that comes back whenever it is killed."""

    def work(self, path: str, number: int, work_s: float) -> int:
        """A call."""
        note(path, number)
        time.sleep(work_s)
        return number

    def pid(self) -> int:
        """Its process."""
        return os.getpid()
