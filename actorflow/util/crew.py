"""Crew: a fixed number of worker processes that run functions; pools and executors are made of it.

One daemon thread has an event loop in which each member has a coroutine: it takes a job, sends it to its actor and
fills in the job's future. So a job that no member has taken can be cancelled, members are replaced when they died or
have run `max_calls` jobs, and a long job holds back no other. A member's process starts with its first job.

States: open -> closed (takes no more jobs) -> ended (the thread is gone), with the runtime at the latest.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import uvloop

from actorflow import errors
from actorflow.client import cluster, runtime
from actorflow.client.decorator import remote
from actorflow.client.handles import ActorHandle

END_TIMEOUT_S = 5.0


class Job(NamedTuple):
    """A call to be made, and where its outcome goes. A function that is a ref is read where it runs."""

    future: concurrent.futures.Future[Any]
    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Crew:
    """Runs jobs in `size` processes. `close` lets all jobs finish, `stop` none; `join` waits for the end.

    `max_calls`: jobs after which a process is replaced; 0: never. `options`: of the actors; by default they take no
    CPU. A job whose process dies gets ActorDiedError; one that was waiting when the crew was stopped is cancelled.
    """

    def __init__(
        self,
        size: int,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        max_calls: int = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be callable, not {type(initializer).__name__}")
        self._session = runtime.require()
        self._start = (initializer, initargs)
        self._max_calls = max_calls
        made: Any = _Member
        self._member_class = made.options(**(options or {}))
        self._jobs: deque[Job] = deque()
        self._idle: list[asyncio.Future[None]] = []  # the last one is warmest
        self._lock = threading.RLock()  # guards _is_open and the loop's end: after either nothing is added
        self._is_open = True
        self._loop: asyncio.AbstractEventLoop | None = uvloop.new_event_loop()  # None: the thread has ended
        self._members: list[asyncio.Task[None]] = []
        self._thread = threading.Thread(
            target=self._run, args=(size, self._loop), name="actorflow-crew", daemon=True
        )
        _crews[id(self)] = self
        self._thread.start()

    def submit(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> concurrent.futures.Future[Any]:
        """Adds a job. RuntimeError once the crew was closed."""
        job = Job(concurrent.futures.Future(), function, args, kwargs)
        with self._lock:
            self.check_open()
            self._jobs.append(job)
            self._call_soon(self._wake_for_job)
        return job.future

    def check_open(self) -> None:
        """RuntimeError once the crew was closed."""
        if not self._is_open:
            raise RuntimeError(
                "the executor or pool was shut down, or its runtime has ended: it takes no more calls"
            )

    def close(self) -> None:
        """Takes no more jobs; the members end when all are done."""
        with self._lock:
            self._is_open = False
            self._call_soon(self._wake_all)

    def stop(self) -> None:
        """Ends the members at once, whatever they run."""
        self.close()
        self.cancel_waiting()
        self._call_soon(self._cancel_members)

    def cancel_waiting(self) -> None:
        """Cancels the jobs that no member has taken."""
        while True:
            try:
                job = self._jobs.popleft()
            except IndexError:
                return
            job.future.cancel()
            job.future.set_running_or_notify_cancel()  # wakes who waits for several futures

    def join(self, timeout: float | None = None) -> None:
        """Waits until the members have ended; after close or stop, and not in a callback of a job."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    # -- in the thread

    def _run(self, size: int, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_until_complete(self._serve_all(size))
        finally:
            with self._lock:
                self._is_open = False
                self._loop = None
                self._members = []  # what they held, handles and the loop, goes with them
                self._idle = []
            loop.close()
            self.cancel_waiting()

    async def _serve_all(self, size: int) -> None:
        self._members = [asyncio.ensure_future(self._serve()) for _ in range(size)]
        for outcome in await asyncio.gather(*self._members, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome  # a mistake of ours: shown by threading.excepthook

    async def _serve(self) -> None:
        """One member: a process at a time, and the jobs that it takes."""
        member, calls = None, 0
        while (job := await self._next(member is not None)) is not None:
            if job.future.set_running_or_notify_cancel():
                if member is None:
                    member, calls = self._new_member(job.future), 0
                calls += 1
                if member is not None and (
                    not await self._carry_out(job, member) or calls == self._max_calls
                ):
                    member = None  # its process ends with its last handle
            del job  # while it waits it keeps none, nor an error whose traceback keeps the pool

    async def _next(self, is_warm: bool) -> Job | None:
        """The job to do next; None when none will come. Who has a process already is asked first."""
        while not self._jobs:
            if not self._is_open:
                return None
            place = asyncio.get_running_loop().create_future()
            self._idle.insert(len(self._idle) if is_warm else 0, place)
            await place
        return self._jobs.popleft()

    def _new_member(self, future: concurrent.futures.Future[Any]) -> ActorHandle | None:
        """A new process; None where there can be none, and why is in the future."""
        try:
            if runtime.current() is not self._session:
                raise RuntimeError("its runtime has ended")
            member: ActorHandle = self._member_class.remote(*self._start)
        except Exception as error:
            future.set_exception(error)
            return None
        return member

    async def _carry_out(self, job: Job, member: ActorHandle) -> bool:
        """Runs a job and fills in its future. Whether the member can go on."""
        try:
            value = await member.run.remote(job.function, job.args, job.kwargs)
        except asyncio.CancelledError:
            job.future.set_exception(concurrent.futures.CancelledError("stopped while it ran"))
            if runtime.current() is self._session:
                cluster.kill(member)
            raise
        except BaseException as error:
            job.future.set_exception(error)
            return not isinstance(error, errors.ActorDiedError) or isinstance(error, errors.TaskError)
        job.future.set_result(value)
        return True

    def _wake_for_job(self) -> None:
        if self._jobs:  # or a busy member has become free and taken it
            self._wake_one()

    def _wake_one(self) -> None:
        while self._idle:
            place = self._idle.pop()
            if not place.done():
                place.set_result(None)
                return

    def _wake_all(self) -> None:
        while self._idle:
            self._wake_one()

    def _cancel_members(self) -> None:
        for task in self._members:
            task.cancel()

    def _call_soon(self, do: Callable[[], None]) -> None:
        """Has the thread call `do`; nothing where it has ended."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(do)


@remote(num_cpus=0)
class _Member:
    """A process of a crew."""

    def __init__(self, initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]) -> None:
        if initializer is not None:
            initializer(*initargs)

    def run(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return function(*args, **kwargs)


_crews: weakref.WeakValueDictionary[int, Crew] = weakref.WeakValueDictionary()  # by id


def _end_all() -> None:
    """The runtime ends: so do its crews, before memory is let go of."""
    for reference in _crews.valuerefs():  # a list at once: other threads may make crews meanwhile
        crew = reference()
        if crew is not None:
            crew.stop()
            crew.join(END_TIMEOUT_S)


runtime.at_end(_end_all)


def positive(name: str, value: Any) -> int:
    """`value`, if it is a whole number from 1. TypeError, ValueError."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}={value} must be at least 1")
    return value


def cpus() -> int:
    """How many processes the node has CPUs for."""
    return max(1, int(cluster.cluster_resources().get("CPU", 1)))


def run_items(func: Callable[..., Any], items: list[Any]) -> list[Any]:
    """In a member: one chunk of a map."""
    return [func(item) for item in items]


def run_tuples(func: Callable[..., Any], items: list[Iterable[Any]]) -> list[Any]:
    """In a member: one chunk of a map whose items are tuples of arguments."""
    return [func(*item) for item in items]
