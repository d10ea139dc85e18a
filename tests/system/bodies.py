"""Functions and classes that system tests run in workers: importable there, at the price of nothing."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import numpy as np

import actorflow as af


@af.remote
def echo(value: Any) -> Any:
    return value


@af.remote
def add(left: int, right: int) -> int:
    return left + right


@af.remote
def process_id() -> int:
    return os.getpid()


@af.remote
def fail(text: str) -> None:
    raise ValueError(text)


@af.remote
def total(*numbers: int) -> int:
    return sum(numbers)


@af.remote
def recurse() -> None:
    recurse.local()


@af.remote
def zeros(size_bytes: int) -> Any:
    return np.zeros(size_bytes, dtype=np.uint8)


@af.remote
async def async_echo(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


@af.remote(num_cpus=0)
class Gate:
    """Holds tasks back until it is opened: what tests use instead of sleeping."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._arrived = 0
        self._changed = asyncio.Condition()

    async def pass_through(self) -> int:
        """Arrives, and returns once the gate is open: how many had arrived before."""
        async with self._changed:
            self._arrived += 1
            number = self._arrived
            self._changed.notify_all()
        await self._open.wait()
        return number

    async def arrived(self, count: int) -> int:
        """Returns once `count` have arrived."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._arrived >= count)
            return self._arrived

    async def open(self) -> None:
        self._open.set()


@af.remote
class Counter:
    """A sync actor."""

    def __init__(self, start: int = 0) -> None:
        self.total = start
        self.seen: list[Any] = []

    def add(self, number: int = 1) -> int:
        self.total += number
        return self.total

    def note(self, value: Any) -> None:
        self.seen.append(value)

    def notes(self) -> list[Any]:
        return self.seen

    def pid(self) -> int:
        return os.getpid()

    def fail(self, text: str) -> None:
        raise LookupError(text)

    def thread(self) -> str:
        return threading.current_thread().name


@af.remote(num_cpus=0)
class Starter:
    """An actor that starts tasks and actors."""

    def run_task(self, value: int) -> int:
        result: int = af.get(echo.remote(value))
        return result

    def keep_child(self) -> None:
        self.child = Counter.options(num_cpus=0).remote()

    def child_total(self) -> int:
        total: int = af.get(self.child.add.remote())
        return total


def start_futures() -> None:
    """From now on the thread is there that completes `ref.future()`, with what it keeps open."""
    gate: Any = Gate.remote()
    future = gate.pass_through.remote().future()
    gate.open.remote()
    future.result()
