"""Actors that tests of compiled graphs wire: sync, async and threaded ones with the same methods."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import actorflow as af

PAUSE_S = 0.05


class Steps:
    """Methods that graphs and calls use alike."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.seen: list[Any] = []
        self.local = threading.local()

    def echo(self, value: Any) -> Any:
        return value

    def add(self, value: int, more: int = 0) -> int:
        return value + more + self.number

    def scale(self, value: Any, factor: int) -> Any:
        return value * factor

    def join(self, *values: Any, **named: Any) -> tuple[Any, ...]:
        return (*values, *sorted(named.items()))

    def note(self, value: Any) -> Any:
        self.seen.append(value)
        return value

    def notes(self) -> list[Any]:
        return self.seen

    def refuse(self, value: Any) -> Any:
        raise LookupError(f"not {value}")

    def refuse_odd(self, value: int) -> int:
        if value % 2:
            raise ValueError(f"{value} is odd")
        return value

    def unpicklable(self, _: Any) -> Any:
        return threading.Lock()

    def pid(self, _: Any = None) -> int:
        return os.getpid()

    def thread(self, _: Any = None) -> int:
        return threading.get_ident()

    def mark(self, value: Any = None) -> Any:
        """What an earlier call or step in the same thread has left; leaves `value`."""
        before = getattr(self.local, "value", None)
        self.local.value = value
        return before

    def pause(self, value: Any) -> Any:
        threading.Event().wait(PAUSE_S)
        return value

    def exit_at(self, value: int) -> int:
        if value < 0:
            af.exit_actor()
        return value

    def die_at(self, value: int) -> int:
        if value < 0:
            os._exit(3)
        return value


Stepper = af.remote(num_cpus=0)(Steps)
Restarting = af.remote(num_cpus=0, max_restarts=1)(Steps)
Threaded = af.remote(num_cpus=0, max_concurrency=2)(Steps)


@af.remote(num_cpus=0)
class AsyncStepper(Steps):
    """Its steps run on its loop, coroutines among them."""

    def __init__(self, number: int = 0) -> None:
        super().__init__(number)
        self.open = asyncio.Event()

    async def later(self, value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    async def loop_id(self, _: Any = None) -> int:
        return id(asyncio.get_running_loop())

    async def wait_open(self, value: Any) -> Any:
        await self.open.wait()
        return value

    async def let_go(self) -> None:
        self.open.set()

    async def refuse_later(self, value: Any) -> Any:
        await asyncio.sleep(0)
        raise LookupError(f"not {value}")


@af.remote
class Adder:
    def add(self, left: Any, right: Any = 1) -> Any:
        return left + right


@af.remote(max_concurrency=2)
class Gate:
    """Passes a number on once it was opened for it."""

    def __init__(self) -> None:
        self._opened = threading.Semaphore(0)

    def open(self) -> None:
        self._opened.release()

    def pass_on(self, number: int) -> int:
        self._opened.acquire()
        return number
