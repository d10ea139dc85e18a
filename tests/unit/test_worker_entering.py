"""A coroutine that is awaited as entered: each step runs inside its call, and all else is as without it."""

from __future__ import annotations

import asyncio
import gc
import os
import types
import weakref
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from actorflow import _hot

MIB = 1 << 20


@pytest.fixture(autouse=True)
def segment() -> Iterator[None]:
    _hot.create(os.urandom(16), 16, 64 * MIB, MIB, MIB, 50)
    yield
    _hot.enter(None)
    _hot.detach()


@pytest.fixture
def call() -> Iterator[_hot.Call]:
    mailbox = _hot.make_mailbox(0, 0, 100)
    ref = _hot.Target(mailbox).call(0, (), None)
    taken = _hot.take_nowait(mailbox)
    assert taken is not None
    yield taken
    taken.complete(None)
    del ref


@types.coroutine
def pause(value: object = None) -> Generator[Any, Any, Any]:
    return (yield value)


async def entered(call: _hot.Call | None, coroutine: Any) -> Any:
    return await _hot.entering(call, coroutine)


def stepped(coroutine: Any) -> Any:
    """What it returns, given nothing for whatever it yields."""
    while True:
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value


def name_of_current() -> object:
    current = _hot.current_call()
    return current and current[0]


@pytest.mark.parametrize("value", [None, 7, (1, 2), (), ValueError("a value"), [None]])
def test_what_a_coroutine_returns_comes_back(call: _hot.Call, value: object) -> None:
    async def give(pauses: int) -> object:
        for _ in range(pauses):
            await pause()
        return value

    for pauses in range(3):
        assert stepped(entered(call, give(pauses))) is value
        awaited = _hot.entering(call, give(pauses)).__await__()
        for _ in range(pauses):
            awaited.send(None)
        with pytest.raises(StopIteration) as stopped:
            awaited.send(None)
        assert stopped.value.value is value


def test_each_step_is_entered_whatever_ran_between(call: _hot.Call) -> None:
    seen = []

    async def look() -> None:
        for _ in range(3):
            seen.append(name_of_current())
            await pause()

    coroutine = entered(call, look())
    for _ in range(3):
        coroutine.send(None)
        _hot.enter(None)
    coroutine.close()
    assert seen == [call.name] * 3


def test_of_no_call_it_leaves_the_one_before(call: _hot.Call) -> None:
    async def look() -> object:
        return name_of_current()

    _hot.enter(call)
    assert stepped(entered(None, look())) is None


def test_values_and_exceptions_go_in_and_come_out(call: _hot.Call) -> None:
    async def talk() -> object:
        heard = await pause("first")
        try:
            await pause(heard)
        except LookupError as error:
            seen.append((name_of_current(), error))
        raise KeyError("own")

    seen: list[Any] = []
    coroutine = entered(call, talk())
    assert coroutine.send(None) == "first"
    assert coroutine.send("told") == "told"
    _hot.enter(None)
    thrown = LookupError("thrown")
    with pytest.raises(KeyError, match="own"):
        coroutine.throw(thrown)
    assert seen == [(call.name, thrown)]


def test_closing_closes_the_coroutine(call: _hot.Call) -> None:
    ended = []

    async def wait() -> None:
        try:
            await pause()
        finally:
            ended.append(name_of_current())

    coroutine = entered(call, wait())
    coroutine.send(None)
    coroutine.close()
    assert ended == [call.name]


async def test_a_task_that_is_cancelled_in_it_is_cancelled(call: _hot.Call) -> None:
    task = asyncio.ensure_future(entered(call, asyncio.Event().wait()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_circle_through_it_is_collected(call: _hot.Call) -> None:
    class Own:
        awaited: Any = None

    own = Own()

    async def hold(it: Own) -> None:
        await pause()

    own.awaited = _hot.entering(call, hold(own))
    own.awaited.send(None)
    gone = weakref.ref(own)
    del own
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("arguments", [(), (None,), (1, 2), (object(), pause())])
def test_what_is_no_call_is_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match="entering"):
        _hot.entering(*arguments)


def test_after_the_end_of_the_runtime_no_step_begins() -> None:
    coroutine = asyncio.Event().wait()
    awaited = _hot.entering(None, coroutine).__await__()
    _hot.detach()
    with pytest.raises(RuntimeError):
        awaited.send(None)
    coroutine.close()
    _hot.create(os.urandom(16), 16, 64 * MIB, MIB, MIB, 50)
