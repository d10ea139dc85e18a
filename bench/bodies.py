"""The code that every system runs remotely: the same plain functions and classes for each of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALL = b"ok"


class Server:
    """An actor that answers at once."""

    def small_value(self) -> bytes:
        return SMALL

    def process_id(self) -> int:
        return os.getpid()

    def work(self, payload: bytes, seconds: float) -> int:
        """Take `seconds` for each call, as an actor slower than its callers does."""
        time.sleep(seconds)
        return len(payload)


class Stage:
    """A member of a compiled graph: hands on what it gets, without touching it."""

    def forward(self, value: object) -> object:
        return value

    def gather(self, *values: object) -> int:
        return len(values)


class AsyncServer:
    """The same with a coroutine method."""

    async def small_value(self) -> bytes:
        return SMALL


def small_value() -> bytes:
    """Return two bytes."""
    return SMALL


def small_values(items: int) -> Iterator[bytes]:
    """Yield two bytes so many times."""
    for _ in range(items):
        yield SMALL


def process_id(*_arguments: object) -> int:
    """Return the pid of the process that runs this."""
    return os.getpid()


def sleep(seconds: float) -> None:
    """Occupy a worker without occupying a CPU."""
    time.sleep(seconds)


def array_length(array: NDArray[np.float64]) -> int:
    """Return the number of elements of an argument that has to be there, but need not be read."""
    return len(array)


def make_array(size_bytes: int) -> NDArray[np.float64]:
    """Return an array whose pages are all touched: one of zeros would be read from a single page."""
    return np.ones(size_bytes // 8, dtype=np.float64)
