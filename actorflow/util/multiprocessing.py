"""Pool: the interface of multiprocessing.Pool over processes of the node.

A call of `map` puts its function into shared memory once and sends the items in chunks. Processes take chunks as they
become free. Results are put together by the thread that reports
them; callbacks run in that thread, as in the standard library.
"""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any

from actorflow.client import objects, runtime
from actorflow.util.crew import Crew, cpus, positive, run_items, run_tuples
from actorflow.util.results import AsyncResult, Callback, Future, IMapIterator, TimeoutError

CHUNKS_PER_PROCESS = 4  # of a map: few enough to be cheap, enough that no process idles for long
AHEAD_PER_PROCESS = 2  # chunks of an imap that are on their way before they are asked for


__all__ = ["AsyncResult", "IMapIterator", "Pool", "TimeoutError"]


class Pool:
    """A pool of processes with the methods of multiprocessing.Pool.

    `processes`: by default one per CPU of the node. `initializer(*initargs)` runs first in each. `maxtasksperchild`:
    calls (chunks, for a map) after which a process is replaced. `context` is taken for compatibility and makes no
    difference. `ray_address`: the address for af.init, where there is no runtime yet. `ray_remote_args` (or
    `actor_options`): options of the actors; by default they take no CPU.

    Errors of the functions arrive as their own types. A call whose process dies gets ActorDiedError. Leaving a
    `with` block terminates the pool, as in the standard library.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        ray_address: str | None = None,
        *,
        actor_options: dict[str, Any] | None = None,
        ray_remote_args: dict[str, Any] | None = None,
    ) -> None:
        if ray_address is not None and not runtime.is_initialized():
            _ = runtime.init(ray_address)
        calls = 0 if maxtasksperchild is None else positive("maxtasksperchild", maxtasksperchild)
        self._processes = cpus() if processes is None else positive("processes", processes)
        options = {**(ray_remote_args or {}), **(actor_options or {})}
        self._crew = Crew(self._processes, initializer, tuple(initargs), calls, options)
        self._state = "running"

    # -- one call

    def apply(
        self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: dict[str, Any] | None = None
    ) -> Any:
        """func(*args, **kwds) in one of the processes; waits for it."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult:
        """As apply, without waiting. `callback` is called with the result, `error_callback` with the error."""
        future = self._submit(func, tuple(args), kwds or {})
        return AsyncResult([future], lambda results: results[0], callback, error_callback)

    # -- many calls

    def map(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """[func(item) for item in iterable], in the processes."""
        return list(self.map_async(func, iterable, chunksize).get())

    def map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult:
        """As map, without waiting."""
        return self._map(run_items, func, iterable, chunksize, callback, error_callback)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """[func(*item) for item in iterable], in the processes."""
        return list(self.starmap_async(func, iterable, chunksize).get())

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult:
        """As starmap, without waiting."""
        return self._map(run_tuples, func, iterable, chunksize, callback, error_callback)

    def imap(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator:
        """As map, one result after the other; the iterable is read little by little."""
        return self._imap(func, iterable, chunksize, ordered=True)

    def imap_unordered(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> IMapIterator:
        """As imap, those results first that are done first."""
        return self._imap(func, iterable, chunksize, ordered=False)

    # -- the end

    def close(self) -> None:
        """Takes no more calls; the processes end when all are done."""
        self._state = "closed"
        self._crew.close()

    def terminate(self) -> None:
        """Ends the processes at once; results that are not there will be CancelledErrors."""
        self._state = "closed"
        self._crew.stop()
        self._crew.join()

    def join(self) -> None:
        """Waits until the processes have ended. ValueError where the pool still runs."""
        if self._state == "running":
            raise ValueError("Pool is still running")
        self._crew.join()

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()

    def __del__(self) -> None:
        if getattr(self, "_state", "closed") == "running":
            warnings.warn(
                f"unclosed running {type(self).__name__}", ResourceWarning, source=self, stacklevel=2
            )
            self._crew.stop()

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    # -- inside

    def _check_running(self) -> None:
        if self._state != "running":
            raise ValueError("Pool not running")
        self._crew.check_open()

    def _submit(self, func: Any, args: tuple[Any, ...], kwds: dict[str, Any]) -> Future:
        self._check_running()
        return self._crew.submit(func, args, kwds)

    def _map(
        self,
        run: Any,
        func: Any,
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callback | None,
        error_callback: Callback | None,
    ) -> AsyncResult:
        self._check_running()
        items = list(iterable)
        if chunksize is None:
            chunksize = max(1, math.ceil(len(items) / (self._processes * CHUNKS_PER_PROCESS)))
        task = objects.put(functools.partial(run, func))
        futures = [self._submit(task, (chunk,), {}) for chunk in _chunks(items, chunksize)]
        return AsyncResult(
            futures, lambda parts: list(itertools.chain.from_iterable(parts)), callback, error_callback
        )

    def _imap(self, func: Any, iterable: Iterable[Any], chunksize: int, ordered: bool) -> IMapIterator:
        self._check_running()
        task = objects.put(functools.partial(run_items, func))
        chunks = _chunks(iterable, chunksize)
        ahead = self._processes * AHEAD_PER_PROCESS
        return IMapIterator(lambda chunk: self._submit(task, (chunk,), {}), chunks, ahead, ordered)


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    positive("chunksize", size)
    rest = iter(items)
    return iter(lambda: list(itertools.islice(rest, size)), [])
