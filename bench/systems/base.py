"""What a system is to the benchmark: something with operations that can be called and timed."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Unsupported(Exception):
    """The system has no such thing."""


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Operation:
    """What a system does for a workload.

    `call` is measured; with `is_async` it makes an awaitable, and so does `after`. `after` gets what it
    returned, unmeasured; without it the result is dropped within the measured time, since giving a result
    back is part of its cost. `sleeps` gives how often processes at work for it have gone to sleep so far, where the
    system tells that. `close` frees what the operation holds.
    """

    call: Callable[[], Any]
    is_async: bool = False
    after: Callable[[Any], Any] | None = None
    sleeps: Callable[[], int] | None = None
    close: Callable[[], None] = _nothing


class System:
    """A system in use by one driver process.

    A subclass has a method for each operation that it can do, named as in WORKLOADS, which takes the
    workload's arguments and returns an Operation.
    """

    def __init__(self, name: str, cpus: int, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.cpus = cpus
        self.loop = loop

    def start(self) -> None:
        """Start a runtime of `cpus` workers and wait for the first result from it."""
        raise NotImplementedError

    def start_shared(self) -> None:
        """The same, in a way that further drivers can attach to."""
        self.start()

    def attach(self, address: str) -> None:
        """Become a further driver of the runtime at `address`. Raises Unsupported."""
        raise Unsupported

    def address(self) -> str:
        """Return what `attach` takes, after `start_shared`. Raises Unsupported."""
        raise Unsupported

    def stop(self) -> None:
        """End the runtime."""
        raise NotImplementedError

    def operation(self, name: str, arguments: dict[str, int]) -> Operation:
        """Prepare an operation; a nameless one does nothing. Raises Unsupported where the system has none."""
        if not name:
            return Operation(_nothing)
        make: Callable[..., Operation] | None = getattr(self, name, None)
        if make is None:
            raise Unsupported
        return make(**arguments)
