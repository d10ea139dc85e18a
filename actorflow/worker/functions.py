"""What a call names, ready to run: tasks' functions, loaded once and kept."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from actorflow import _hot
from actorflow.client import calls
from actorflow.client.remote_function import OnTerms, RemoteFunction, Terms
from actorflow.worker import printing, timeline

KEPT_FUNCTIONS = 512  # more than a job has; one that makes functions in a loop must not fill the memory


Types = tuple[type[BaseException], ...]


class Body:
    """A function or method that calls can run.

    `name`: what errors call it; `title`: what stands before its lines; `group`: its concurrency group; `retry_on`:
    types of exceptions on which it is run again; `calls_left`: after so many this worker has run enough, None: no
    limit; `is_async`: it needs a loop.
    """

    __slots__ = ("calls_left", "function", "group", "is_async", "is_coroutine", "name", "retry_on", "title")

    def __init__(self, function: Callable[..., Any], name: str, group: int = 0, retry_on: Types = ()) -> None:
        self.function = timeline.recorded(function, name)
        self.name = name
        self.group = group
        self.retry_on = retry_on
        self.calls_left: int | None = None
        self.title = printing.title_of(name)
        self.is_coroutine = inspect.iscoroutinefunction(function)
        self.is_async = calls.is_async(function)


class Functions:
    """The functions that this worker has run, the least lately used ones forgotten.

    A function holds what it captured: refs, and handles that keep actors alive. So one that its callers have dropped
    is dropped here too, when another one is loaded and when the worker is idle.
    `on_worn_out`: runs before the last call of a function of which this worker is to run no more.
    """

    def __init__(self, on_worn_out: Callable[[], None]) -> None:
        self._on_worn_out = on_worn_out
        self._bodies: OrderedDict[tuple[int, int], Body] = OrderedDict()
        self._title = b""

    def of(self, call: _hot.Call) -> Body:
        """What the call runs. Raises what loading it raises."""
        name = call.function
        body = self._bodies.get(name)
        if body is None:
            function: Any = call.load_function()
            terms = Terms()
            if isinstance(function, OnTerms):
                function, terms = function
            if isinstance(function, RemoteFunction):  # it travelled as the name of what the decorator made
                function = function.function
            shown = terms.name or calls.short_name(function)
            body = self._bodies[name] = Body(function, shown, retry_on=terms.retry_on)
            body.calls_left = terms.max_calls or None
            self.forget_stale()
            if len(self._bodies) > KEPT_FUNCTIONS:
                self._bodies.popitem(last=False)
        else:
            self._bodies.move_to_end(name)
        if body.calls_left is not None:
            body.calls_left -= 1
            if body.calls_left == 0:
                self._on_worn_out()
        if body.title is not self._title:
            self._title = body.title
            printing.switch(body.title)
        return body

    def name_of(self, function: tuple[int, int], _: int) -> str:
        """What errors call a function that runs now."""
        body = self._bodies.get(function)
        return body.name if body is not None else "task"

    def forget_stale(self) -> None:
        """Drops the functions that nobody can call any more."""
        for name in [name for name in self._bodies if not _is_held(name)]:
            del self._bodies[name]


def _is_held(name: tuple[int, int]) -> bool:
    try:
        _hot.hold(name, "cell")
    except (_hot.StaleError, ValueError):
        return False
    return True
