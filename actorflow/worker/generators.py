"""Runs the generators that calls are: streams hand their items out one by one, other calls gather them.

A stream that nobody reads any more (see ext/core/stream.h) ends: its generator is closed at the yield where it is, or,
where an async one awaits something, its task is cancelled there. One whose reader is behind waits, and gives its CPU
back meanwhile. When a call is run again, the items that an earlier attempt gave are passed over.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

from actorflow import _hot
from actorflow.client import calls
from actorflow.client.generators import DynamicObjectRefGenerator
from actorflow.client.refs import ObjectRef
from actorflow.worker import settling

ITEMS_A_TURN = 16  # of one stream in a loop, before others get a turn
SHORTEST_PAUSE_S = 0.0005
LONGEST_PAUSE_S = 0.02
LOOK_S = 0.1  # how often a stream that awaits something sees whether anybody still reads it


def collect(call: _hot.Call, value: Any, name: str) -> Any:
    """The result of a call that gives something else than one ref, from what its function returned.

    Hands out a stream's items meanwhile. Raises what the generator raises; TypeError where there is none.
    """
    if call.returns <= _hot.STREAM:
        return _stream(call, _iterator(value, name), name)
    if call.returns == _hot.DYNAMIC:
        return _gathered(_iterator(value, name), name)
    return _listed(value) if inspect.isgenerator(value) else value


async def collect_async(call: _hot.Call, value: Any, name: str) -> Any:
    """As `collect`, for what runs in a loop; the generator may be an async one."""
    items = value if isinstance(value, AsyncIterator) else None
    if call.returns <= _hot.STREAM:
        return await _stream_async(call, items or _stepwise(_iterator(value, name)), name)
    if call.returns == _hot.DYNAMIC:
        return await _gathered_async(items or _stepwise(_iterator(value, name)), name)
    if items is not None:
        return await _listed_async(items)
    return _listed(value) if inspect.isgenerator(value) else value


def _iterator(value: Any, name: str) -> Iterator[Any]:
    if not isinstance(value, Iterator):
        raise TypeError(
            f"{name!r} is to give its items one by one and returned no generator, but {value!r:.60}"
        )
    return value


# -- streams


def _stream(call: _hot.Call, items: Iterator[Any], name: str) -> None:
    given = _hot.stream_index(call)
    try:
        for value in items:
            if given:
                given -= 1
                continue
            state = _give(call, value, name)
            value = None  # nothing keeps an item while the next one is made
            while state == _hot.STREAM_FULL:
                state = _hot.stream_wait(call)
            if state == _hot.STREAM_UNWANTED:
                break
    finally:
        _close(items)
    _hot.stream_end(call)


def _give(call: _hot.Call, value: Any, name: str) -> int:
    """Hands an item out; returns how the stream stands."""
    try:
        return _hot.stream_give(call, value)
    except _hot.FencedError:
        settling.end_fenced()
    except _hot.FullError:
        while _hot.stream_look(call) != _hot.STREAM_UNWANTED:
            settling.wait_for_room()
            try:
                return _hot.stream_give(call, value)
            except _hot.FullError:
                continue
        return _hot.STREAM_UNWANTED
    except Exception as error:
        number = _hot.stream_index(call)
        calls.raise_translated(error, lambda: [(f"item {number} of {name!r}", value)])


def _close(items: Iterator[Any]) -> None:
    close = getattr(items, "close", None)  # iterators of other kinds have none
    if close is not None:
        close()


# -- streams in a loop


async def _stream_async(call: _hot.Call, items: AsyncIterator[Any], name: str) -> None:
    given = _hot.stream_index(call)
    look = _Look(call)
    try:
        async for value in items:
            if given:
                given -= 1
                continue
            state = _give(call, value, name)
            value = None  # as above
            if state != _hot.STREAM_MORE:
                state = await _room(call)
            elif _hot.stream_index(call) % ITEMS_A_TURN == 0:
                await asyncio.sleep(0)
            if state == _hot.STREAM_UNWANTED:
                break
    except asyncio.CancelledError:
        if not look.has_cancelled():
            raise
    finally:
        look.end()
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()
    _hot.stream_end(call)


async def _room(call: _hot.Call) -> int:
    """Waits while the reader is behind."""
    pause_s = 0.0
    while (state := _hot.stream_look(call)) == _hot.STREAM_FULL:
        await asyncio.sleep(pause_s)
        pause_s = min(max(SHORTEST_PAUSE_S, 1.5 * pause_s), LONGEST_PAUSE_S)
    return state


class _Look:
    """Cancels the running task, once, when its stream is not wanted any more: it may await something for ever."""

    def __init__(self, call: _hot.Call) -> None:
        self._call = call
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._cancelled = False
        self._timer = self._loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        if _hot.stream_look(self._call) != _hot.STREAM_UNWANTED:
            self._timer = self._loop.call_later(LOOK_S, self._look)
        elif self._task is not None:
            self._cancelled = self._task.cancel()

    def has_cancelled(self) -> bool:
        """Whether a CancelledError that came is this one's; it is then taken back."""
        return self._cancelled and self._task is not None and self._task.uncancel() == 0

    def end(self) -> None:
        self._timer.cancel()


async def _stepwise(items: Iterator[Any]) -> AsyncIterator[Any]:
    """The items of a plain generator; between them the loop goes on."""
    try:
        for item in items:
            yield item
            await asyncio.sleep(0)
    finally:
        _close(items)


# -- gathering


def _listed(items: Iterator[Any]) -> list[Any]:
    values = []
    try:
        for item in items:
            values.append(item)
    except Exception as error:
        raise settling.BrokenOff(values, error) from None
    return values


async def _listed_async(items: AsyncIterator[Any]) -> list[Any]:
    values = []
    try:
        async for item in items:
            values.append(item)
    except Exception as error:
        raise settling.BrokenOff(values, error) from None
    return values


def _gathered(items: Iterator[Any], name: str) -> DynamicObjectRefGenerator[Any]:
    refs: list[ObjectRef[Any]] = []
    try:
        for item in items:
            refs.append(settling.put(item, f"item {len(refs)} of {name!r}"))
    except Exception as error:
        refs.append(settling.put_error(error, name))
    return DynamicObjectRefGenerator(refs)


async def _gathered_async(items: AsyncIterator[Any], name: str) -> DynamicObjectRefGenerator[Any]:
    refs: list[ObjectRef[Any]] = []
    try:
        async for item in items:
            refs.append(settling.put(item, f"item {len(refs)} of {name!r}"))
    except Exception as error:
        refs.append(settling.put_error(error, name))
    return DynamicObjectRefGenerator(refs)
