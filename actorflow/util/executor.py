"""ActorflowExecutor: the standard library's interface to run functions in processes of the node."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar

from actorflow.util.crew import Crew, cpus, positive, run_tuples

P = ParamSpec("P")
T = TypeVar("T")


class ActorflowExecutor(concurrent.futures.Executor):
    """A concurrent.futures.Executor whose calls run in actors; `loop.run_in_executor` takes it as well.

    `max_workers`: processes, by default one per CPU of the node; each starts when it is first needed.
    `initializer(*initargs)` runs first in each. `max_tasks_per_child`: calls after which a process is replaced.
    `actor_options`: options of the actors, such as num_cpus or resources; by default they take no CPU.

    A call whose process dies gets ActorDiedError and the executor goes on. It ends with the runtime, also when that
    ends with the program: shut it down to have queued calls finish.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        actor_options: dict[str, Any] | None = None,
    ) -> None:
        calls = 0 if max_tasks_per_child is None else positive("max_tasks_per_child", max_tasks_per_child)
        size = cpus() if max_workers is None else positive("max_workers", max_workers)
        self._crew = Crew(size, initializer, initargs, calls, actor_options)

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        """Queues a call. Its future can be cancelled until a process has taken it. RuntimeError after shutdown."""
        return self._crew.submit(fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]:
        """The results of fn for the items of the iterables, in order. With a `chunksize`, so many items a call.

        TimeoutError where they are not all there `timeout` seconds after this call.
        """
        if positive("chunksize", chunksize) == 1:
            return super().map(fn, *iterables, timeout=timeout)
        items = zip(*iterables, strict=False)
        chunks = iter(lambda: list(itertools.islice(items, chunksize)), [])
        parts = super().map(functools.partial(run_tuples, fn), chunks, timeout=timeout)
        return itertools.chain.from_iterable(parts)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls. `wait`: returns when all have ended; `cancel_futures`: those not begun are cancelled."""
        self._crew.close()
        if cancel_futures:
            self._crew.cancel_waiting()
        if wait:
            self._crew.join()

    def kill_workers(self) -> None:
        """Ends the processes at once: queued calls are cancelled, running ones get CancelledError."""
        self._crew.stop()
        self._crew.join()

    def __del__(self) -> None:
        if hasattr(self, "_crew"):
            self._crew.close()
