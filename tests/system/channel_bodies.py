"""What the channel tests share: actors that have an end of a channel, and waiting in threads."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import actorflow as af
from actorflow import _hot
from tests.conftest import wait_until

SLOT_BYTES = 4096
DEADLINE_S = 30.0


@af.remote(num_cpus=0)
class Relay:
    """Sends what it reads on, until the channel ends."""

    def process_id(self) -> int:
        return os.getpid()

    def relay(self, source: _hot.Hold, index: int, target: _hot.Hold) -> tuple[int, int]:
        """How many values it sent on, and the state of the channel that it read."""
        reader, writer = _hot.Reader(source, index), _hot.Writer(target)
        count = 0
        try:
            while True:
                writer.write(reader.read())
                count += 1
        except _hot.ChannelClosed:
            state = reader.state
            reader.close()
            writer.close()
            return count, state


@af.remote(num_cpus=0)
class Taker:
    """Reads as many values as it is told to."""

    def __init__(self, channel: _hot.Hold, index: int) -> None:
        self.reader = _hot.Reader(channel, index)

    def process_id(self) -> int:
        return os.getpid()

    def take(self, count: int, timeout: float | None = 30.0) -> list[Any]:
        return [self.reader.read(timeout=timeout) for _ in range(count)]

    def state(self) -> int:
        return self.reader.state

    def close(self) -> None:
        self.reader.close()


@af.remote(num_cpus=0)
class Giver:
    """Writes what it is told to."""

    def __init__(self, channel: _hot.Hold) -> None:
        self.writer = _hot.Writer(channel)

    def process_id(self) -> int:
        return os.getpid()

    def give(self, *values: Any) -> None:
        for value in values:
            self.writer.write(value, timeout=30.0)

    def give_until_closed(self, value: Any) -> int:
        """How many it could write; returns the state of the channel after that."""
        try:
            while True:
                self.writer.write(value)
        except _hot.ChannelClosed:
            return self.writer.state

    def close(self) -> None:
        self.writer.close()


class Unloadable:
    """A value that can be packed, and raises when it is loaded."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise LookupError("cannot be loaded here")


@contextlib.contextmanager
def closing(*ends: _hot.End) -> Iterator[None]:
    try:
        yield
    finally:
        for end in ends:
            end.close()


def in_thread(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Runs it in a thread; the list gets what it returned or raised."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def wait_asleep(end: _hot.End) -> None:
    """Until somebody who waits at that end of this process has slept once."""
    slept = end.sleeps
    wait_until(lambda: end.sleeps > slept, DEADLINE_S, "somebody sleeps")
