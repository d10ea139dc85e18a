"""concurrent.futures for refs: one daemon thread with a loop of its own completes them.

Only `ObjectRef.future` needs it: everything else waits in the thread or loop that asks.
Guarantees: each future is done at the latest with the runtime; who waits for several hears of one that is cancelled.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import threading
from typing import Any

from actorflow import _hot
from actorflow.client.on_disk import Kept
from actorflow.client.waiting import current_port

STOP_TIMEOUT_S = 5.0

_lock = threading.Lock()
_completer: _Completer | None = None


def future_of(reference: _hot.Reference) -> concurrent.futures.Future[Any]:
    """A future that gets the reference's result."""
    global _completer
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    future.add_done_callback(_notify_of_cancel)
    if reference.is_done() and _settle(reference, future):
        return future
    with _lock:
        if _completer is None:
            _completer = _Completer()
        _completer.complete(reference, future)
    return future


def stop() -> None:
    """Ends the thread; futures that are not done get an error. Does nothing when there is none."""
    global _completer
    with _lock:
        completer, _completer = _completer, None
    if completer is not None:
        completer.stop()


def forget() -> None:
    """In a forked child: the thread is the parent's."""
    global _completer, _lock
    _completer, _lock = None, threading.Lock()


def _notify_of_cancel(future: concurrent.futures.Future[Any]) -> None:
    """cancel() alone wakes only who waits for this very future."""
    if future.cancelled():
        future.set_running_or_notify_cancel()


def _settle(reference: _hot.Reference, future: concurrent.futures.Future[Any]) -> bool:
    """False: the value lies on disk."""
    with contextlib.suppress(concurrent.futures.InvalidStateError):  # cancelled meanwhile
        try:
            value = reference.result_nowait()
        except BaseException as error:
            if type(error) is TimeoutError:
                return False
            future.set_exception(error)
        else:
            future.set_result(value)
    return True


class _Completer:
    """The thread, its loop, and the tasks in it, each of which awaits one reference."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="actorflow-futures", daemon=True)
        self._thread.start()

    def complete(self, reference: _hot.Reference, future: concurrent.futures.Future[Any]) -> None:
        self._loop.call_soon_threadsafe(self._start, reference, future)

    def _start(self, reference: _hot.Reference, future: concurrent.futures.Future[Any]) -> None:
        task = self._loop.create_task(self._complete(reference, future))
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._ended, future))

    def _ended(self, future: concurrent.futures.Future[Any], task: asyncio.Task[None]) -> None:
        """Of a task that was cancelled before its first step, no line has run."""
        self._tasks.discard(task)
        if task.cancelled():
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                future.set_exception(RuntimeError("the runtime was shut down"))

    @staticmethod
    async def _complete(reference: _hot.Reference, future: concurrent.futures.Future[Any]) -> None:
        try:
            port = current_port()
            if not reference.is_done():
                await port.wait_some([reference], 1)
            if not _settle(reference, future):
                kept = Kept(reference)
                await asyncio.to_thread(kept.bring_back)
                _settle(reference, future)
                kept.release()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                future.set_exception(error)

    def _run(self) -> None:
        self._loop.run_forever()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            self._loop.run_until_complete(asyncio.wait(self._tasks))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def _end(self) -> None:
        """Once: another stop would break off the waits for the end."""
        if not self._is_ending:
            self._is_ending = True
            self._loop.stop()

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended
            self._loop.call_soon_threadsafe(self._end)
        if threading.current_thread() is not self._thread:  # a future's callback runs in it
            self._thread.join(STOP_TIMEOUT_S)
