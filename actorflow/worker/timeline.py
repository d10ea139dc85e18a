"""When this worker ran which call: noted where calls run, sent to the node twice a second.

Off unless the tunable `timeline_events` is set; then functions are wrapped once, where they are loaded, so that calls
pay nothing when it is off. A crash loses what was not sent yet; a worker that is faster than it can send forgets the
oldest.
"""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from actorflow import config
from actorflow.client import assignment, runtime

SEND_S = 0.5
UNSENT = 20_000  # events of one worker: more than it can run in that time is not worth its memory

Event = tuple[str, int, int, int]  # name, native id of the thread, start and end of CLOCK_MONOTONIC in ns

_unsent: deque[Event] = deque(maxlen=UNSENT)
_sender: threading.Thread | None = None
_beginning = threading.Lock()
_ending = threading.Event()


def recorded(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function, noting when it runs; itself where that is off."""
    if not config.current().timeline_events:
        return function
    if inspect.iscoroutinefunction(function):
        return _recorded_coroutine(function, name)
    if inspect.isasyncgenfunction(function):
        return _recorded_async_generator(function, name)
    if inspect.isgeneratorfunction(function):
        return _recorded_generator(function, name)

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        start_ns = time.monotonic_ns()
        try:
            return function(*args, **kwargs)
        finally:
            _note(name, start_ns)

    return run


def _recorded_coroutine(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    async def run(*args: Any, **kwargs: Any) -> Any:
        start_ns = time.monotonic_ns()
        try:
            return await function(*args, **kwargs)
        finally:
            _note(name, start_ns)

    return run


def _recorded_generator(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        start_ns = time.monotonic_ns()
        try:
            return (yield from function(*args, **kwargs))
        finally:
            _note(name, start_ns)

    return run


def _recorded_async_generator(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    async def run(*args: Any, **kwargs: Any) -> Any:
        start_ns = time.monotonic_ns()
        try:
            async for item in function(*args, **kwargs):
                yield item
        finally:
            _note(name, start_ns)

    return run


def _note(name: str, start_ns: int) -> None:
    _unsent.append((name, threading.get_native_id(), start_ns, time.monotonic_ns()))
    if _sender is None:
        _begin()


def _begin() -> None:
    """One sender, however many threads have ended their first calls just now."""
    global _sender
    with _beginning:
        if _sender is None:
            sender = threading.Thread(target=_send_until_end, name="actorflow-timeline", daemon=True)
            sender.start()
            _sender = sender  # only now: `finish` joins it


def _send_until_end() -> None:
    while not _ending.wait(SEND_S):
        send()


def send() -> None:
    """Sends the node what was noted."""
    session = runtime.current()
    events = [_unsent.popleft() for _ in range(len(_unsent))]
    if events and session is not None:
        is_actor = assignment.current().actor_id is not None
        session.tell("ran", is_actor=is_actor, events=events)


def finish() -> None:
    """The worker ends: sends the rest."""
    if _sender is not None:
        _ending.set()
        _sender.join()
        send()
