"""The timeline: the trace that is made of what was recorded, and functions that are left as they are when it is off."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from actorflow import config
from actorflow.observe.timeline import trace
from actorflow.worker import timeline


def work(value: int) -> int:
    return value + 1


async def work_async(value: int) -> int:
    return value + 1


def items(value: int) -> Iterator[int]:
    yield value
    yield value + 1


async def items_async(value: int) -> AsyncIterator[int]:
    yield value
    yield value + 1


def refuse(value: int) -> int:
    raise ValueError("on purpose")


FUNCTIONS = (work, work_async, items, items_async)


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The timeline is on, and this is what it notes."""
    on = replace(config.current(), timeline_events=10)
    monkeypatch.setattr(config, "current", lambda: on)
    names: list[str] = []
    monkeypatch.setattr(timeline, "_note", lambda name, start_ns: names.append(name))
    return names


async def collected(function: Any) -> list[int]:
    return [item async for item in function(1)]


def test_off_leaves_functions_alone() -> None:
    assert all(timeline.recorded(function, "name") is function for function in FUNCTIONS)


def test_on_keeps_kind_and_result(noted: list[str]) -> None:
    plain, coroutine, generator, async_generator = (timeline.recorded(f, f.__name__) for f in FUNCTIONS)
    assert plain(1) == 2
    assert inspect.iscoroutinefunction(coroutine)
    assert asyncio.run(coroutine(1)) == 2
    assert inspect.isgeneratorfunction(generator)
    assert list(generator(1)) == [1, 2]
    assert inspect.isasyncgenfunction(async_generator)
    assert asyncio.run(collected(async_generator)) == [1, 2]
    with pytest.raises(ValueError, match="on purpose"):
        timeline.recorded(refuse, "refuse")(1)
    assert noted == ["work", "work_async", "items", "items_async", "refuse"]


def test_the_trace_names_processes_and_orders_calls() -> None:
    recorded = [[7, True, "Counter.say", 71, 5_000, 7_000], [8, False, "work", 81, 1_000, 2_500]]
    assert trace(recorded) == [
        {"ph": "M", "name": "process_name", "pid": 8, "args": {"name": "worker"}},
        {"ph": "M", "name": "process_name", "pid": 7, "args": {"name": "Counter"}},
        {"ph": "X", "cat": "task", "name": "work", "pid": 8, "tid": 81, "ts": 1.0, "dur": 1.5},
        {"ph": "X", "cat": "actor", "name": "Counter.say", "pid": 7, "tid": 71, "ts": 5.0, "dur": 2.0},
    ]
    assert trace([]) == []


def test_calls_that_end_first_at_once_have_one_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    monkeypatch.setattr(timeline, "_sender", None)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread))
    timeline._begin()  # of two threads that both saw none
    timeline._begin()
    assert started == [timeline._sender]
