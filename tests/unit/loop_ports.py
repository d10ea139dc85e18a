"""What tests of loops' ports share: memory, loops, calls that this process answers itself, turns of a loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import uvloop

from actorflow import _hot
from actorflow.client import runtime, waiting
from actorflow.client.waiting import LoopPort

MIB = 1 << 20
DEADLINE_S = 30.0


@pytest.fixture(autouse=True)
def segment() -> Iterator[None]:
    runtime.configure()
    _hot.create(os.urandom(16), 16, 64 * MIB, MIB, MIB, 50)
    waiting.open_ports()
    yield
    waiting.close_ports(lambda: RuntimeError("over"))
    _hot.detach()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as made:
        yield made


class Place:
    """Calls to a mailbox that this process answers itself."""

    def __init__(self) -> None:
        self.mailbox = _hot.make_mailbox(0, 0, 100_000)
        self._call = _hot.Target(self.mailbox).call

    def ask(self) -> Any:
        return self._call(0, (), None)

    def answer(self, value: Any = None) -> None:
        call = _hot.take_nowait(self.mailbox)
        assert call is not None
        call.complete(value)

    def answer_all(self, values: Iterable[Any]) -> None:
        for value in values:
            self.answer(value)


async def result_of(ref: Any) -> Any:
    return await ref


async def waiters(port: LoopPort, count: int) -> None:
    """Gives the loop turns until so many wait."""
    await turns_until(lambda: len(port._waiting) == count)


async def turns_until(condition: Callable[[], bool]) -> None:
    """Gives the loop turns until the condition holds."""
    while not condition():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0)
