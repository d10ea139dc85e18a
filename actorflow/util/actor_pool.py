"""ActorPool: hands values to whichever of a fixed set of actors is free, and gives the results back.

Nothing runs in the background: values that wait for an actor are sent on when a result is taken. Each method that
waits has a twin with `_async`, which waits in the running loop; any number of tasks may use those at once, and each
result goes to one of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from time import monotonic
from typing import Any

from actorflow import errors
from actorflow.client import aio, objects
from actorflow.client.handles import ActorHandle

Function = Callable[[ActorHandle, Any], Any]  # sends one call for a value, and returns what that returned


def _check_handle(actor: Any) -> None:
    if not isinstance(actor, ActorHandle):
        raise TypeError(f"actors must be actor handles, and {actor!r} is none")


class ActorPool:
    """A pool of actors of which each has one call at a time.

    `fn` in the methods takes (actor, value), sends a call and returns its ref (or list of refs). Results come in the
    order of `submit` (get_next, map) or as they are done (the `unordered` ones). An actor that died leaves the pool.
    TypeError for actors that are no handles.
    """

    def __init__(self, actors: Iterable[ActorHandle]) -> None:
        self._idle = list(actors)
        for actor in self._idle:
            _check_handle(actor)
        self._running: dict[int, tuple[Any, ActorHandle]] = {}  # number of the submit -> (refs, who runs it)
        self._pending: deque[tuple[Function, Any]] = deque()  # empty while an actor is idle
        self._submitted = 0

    # -- values in, results out

    def submit(self, fn: Function, value: Any) -> None:
        """Has a free actor run `fn`, or the next that becomes free. The result comes with get_next."""
        if not callable(fn):
            raise TypeError(f"submit() takes a function of an actor and a value, not {fn!r}")
        if not self._idle:
            self._pending.append((fn, value))
            return
        actor = self._idle.pop()
        try:
            refs = fn(actor, value)
        except BaseException:
            self._idle.append(actor)
            raise
        self._running[self._submitted] = refs, actor
        self._submitted += 1

    def has_next(self) -> bool:
        """Whether results are still to come."""
        return bool(self._running or self._pending)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The next result in the order of submit, of those that were not taken yet.

        Raises the call's error; StopIteration where none is left; TimeoutError after `timeout` seconds, and then
        the result stays to be taken, or is given up with `ignore_if_timedout`; RuntimeError where values wait and
        the pool has no actor left.
        """
        number = self._first(StopIteration)
        ready, _ = objects.wait([self._mark(number)], timeout=timeout)
        return objects.get(self._taken(number, bool(ready), ignore_if_timedout))

    async def get_next_async(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """As get_next, in the running loop. StopAsyncIteration where none is left."""
        return await self._next_async(lambda: [self._first(StopAsyncIteration)], timeout, ignore_if_timedout)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The result that is done first. Raises what get_next does."""
        first = self._first(StopIteration)
        by_ref = self._marks()
        ready, _ = objects.wait(list(by_ref), timeout=timeout)
        number = by_ref[ready[0]] if ready else first
        return objects.get(self._taken(number, bool(ready), ignore_if_timedout))

    async def get_next_unordered_async(
        self, timeout: float | None = None, ignore_if_timedout: bool = False
    ) -> Any:
        """As get_next_unordered, in the running loop. StopAsyncIteration where none is left."""

        def numbers() -> list[int]:
            first = self._first(StopAsyncIteration)
            return [first, *(number for number in self._running if number != first)]

        return await self._next_async(numbers, timeout, ignore_if_timedout)

    def map(self, fn: Function, values: Iterable[Any]) -> Iterator[Any]:
        """The results for all values, in their order. Results of earlier submits are given up."""
        self._submit_all(fn, values)
        return self._results(self.get_next)

    def map_unordered(self, fn: Function, values: Iterable[Any]) -> Iterator[Any]:
        """The results for all values, as they are done. Results of earlier submits are given up."""
        self._submit_all(fn, values)
        return self._results(self.get_next_unordered)

    async def map_async(self, fn: Function, values: Iterable[Any]) -> AsyncIterator[Any]:
        """As map, for `async for`."""
        self._submit_all(fn, values)
        while self.has_next():
            yield await self.get_next_async()

    async def map_unordered_async(self, fn: Function, values: Iterable[Any]) -> AsyncIterator[Any]:
        """As map_unordered, for `async for`."""
        self._submit_all(fn, values)
        while self.has_next():
            yield await self.get_next_unordered_async()

    # -- actors in and out

    def has_free(self) -> bool:
        """Whether an actor is idle."""
        return bool(self._idle)

    def pop_idle(self) -> ActorHandle | None:
        """Takes an idle actor out of the pool; None where all are busy."""
        return self._idle.pop() if self._idle else None

    def push(self, actor: ActorHandle) -> None:
        """Adds an actor. ValueError where the pool has it already; TypeError."""
        _check_handle(actor)
        if actor in self._idle or any(actor == busy for _, busy in self._running.values()):
            raise ValueError("the actor is in the pool already")
        self._return(actor)

    # -- inside

    async def _next_async(
        self, numbers: Callable[[], list[int]], timeout: float | None, ignore_if_timedout: bool
    ) -> Any:
        """The result of one of the `numbers()` on their way: the first that is done, if no other task takes it."""
        begin, left_s = monotonic(), timeout
        while True:
            wanted = numbers()
            by_ref = {self._mark(number): number for number in wanted}
            ready, _ = await aio.wait(list(by_ref), timeout=left_s)
            number = by_ref[ready[0]] if ready else wanted[0]
            if number in self._running:
                return await aio.get(self._taken(number, bool(ready), ignore_if_timedout))
            left_s = None if timeout is None else max(0.0, begin + timeout - monotonic())

    def _first(self, nothing_left: type[Exception]) -> int:
        """The number of the oldest result that is on its way."""
        if self._running:
            return min(self._running)
        if self._pending:
            raise RuntimeError(f"{len(self._pending)} values wait and no actor of the pool lives: push one")
        raise nothing_left("there are no more results: submit values first")

    def _mark(self, number: int) -> Any:
        """A ref that is done when the call is: all refs of one call are done together."""
        refs, _ = self._running[number]
        return refs[0] if isinstance(refs, list) else refs

    def _marks(self) -> dict[Any, int]:
        return {self._mark(number): number for number in self._running}

    def _taken(self, number: int, is_done: bool, ignore_if_timedout: bool) -> Any:
        """The refs of a result, whose actor goes on to the next value. TimeoutError where it is not there."""
        if not is_done and not ignore_if_timedout:
            raise TimeoutError("the result did not come in time: it can still be taken")
        refs, actor = self._running.pop(number)
        if not isinstance(self._error_of(refs), errors.ActorDiedError):
            self._return(actor)
        if not is_done:
            raise TimeoutError("the result did not come in time: it is given up, its call goes on")
        return refs

    @staticmethod
    def _error_of(refs: Any) -> BaseException | None:
        ref = refs[0] if isinstance(refs, list) else refs
        return ref.exception() if ref.done() else None

    def _return(self, actor: ActorHandle) -> None:
        self._idle.append(actor)
        if self._pending:
            self.submit(*self._pending.popleft())

    def _submit_all(self, fn: Function, values: Iterable[Any]) -> None:
        self._pending.clear()
        self._idle += [actor for _, actor in self._running.values()]
        self._running.clear()
        for value in values:
            self.submit(fn, value)

    def _results(self, take: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            yield take()
