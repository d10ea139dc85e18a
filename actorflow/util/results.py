"""AsyncResult and IMapIterator: what a multiprocessing.Pool gives for calls that it does not wait for."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import multiprocessing
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

TimeoutError = multiprocessing.TimeoutError

Callback = Callable[[Any], object]
Future = concurrent.futures.Future[Any]


class AsyncResult:
    """The result of apply_async, map_async or starmap_async."""

    def __init__(
        self,
        futures: list[Future],
        finish: Callable[[list[Any]], Any],
        callback: Callback | None,
        error_callback: Callback | None,
    ) -> None:
        self._result: Future = concurrent.futures.Future()
        self._futures = futures
        self._finish = finish
        self._missing = len(futures)
        self._is_settled = False
        self._lock = threading.Lock()
        if callback or error_callback:
            self._result.add_done_callback(functools.partial(_call_back, callback, error_callback))
        for future in futures:
            future.add_done_callback(self._one_done)
        if not futures:
            self._result.set_result(finish([]))

    def get(self, timeout: float | None = None) -> Any:
        """The result; raises the first error. multiprocessing.TimeoutError after `timeout` seconds."""
        if not self._wait(timeout):
            raise TimeoutError
        return self._result.result()

    def wait(self, timeout: float | None = None) -> None:
        """Waits until the result is there, or for `timeout` seconds."""
        self._wait(timeout)

    def _wait(self, timeout: float | None) -> bool:
        return _is_done_within(self._result, timeout)

    def ready(self) -> bool:
        """Whether the result, or an error, is there."""
        return self._result.done()

    def successful(self) -> bool:
        """Whether there was no error. ValueError where that is not known yet."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._result.exception() is None

    def _one_done(self, future: Future) -> None:
        error = concurrent.futures.CancelledError() if future.cancelled() else future.exception()
        with self._lock:
            self._missing -= 1
            if self._is_settled or (error is None and self._missing):
                return
            self._is_settled = True
        if error is not None:
            self._result.set_exception(error)
        else:
            self._result.set_result(self._finish([done.result() for done in self._futures]))


class IMapIterator:
    """The results of imap or imap_unordered, made as they are asked for."""

    def __init__(
        self, send: Callable[[Any], Future], chunks: Iterator[Any], ahead: int, ordered: bool
    ) -> None:
        self._send = send
        self._chunks = chunks
        self._ordered = ordered
        self._sent: deque[Future] = deque()
        self._done: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._items: deque[Any] = deque()  # of chunks that are back
        self._lock = threading.Lock()
        for _ in range(ahead):
            self._send_next()

    def __iter__(self) -> IMapIterator:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next result. Raises its error, StopIteration; multiprocessing.TimeoutError after `timeout` seconds."""
        with self._lock:
            while not self._items:
                if not self._sent:
                    raise StopIteration
                self._take(timeout)
            return self._items.popleft()

    def _take(self, timeout: float | None) -> None:
        """Takes in the chunk that is next."""
        if self._ordered:
            if not _is_done_within(self._sent[0], timeout):
                raise TimeoutError
            future = self._sent.popleft()
        else:
            try:
                future = self._done.get(timeout=timeout)
            except queue.Empty:
                raise TimeoutError from None
            self._sent.remove(future)
        self._send_next()
        self._items += future.result()

    def _send_next(self) -> None:
        for chunk in itertools.islice(self._chunks, 1):
            future = self._send(chunk)
            self._sent.append(future)
            if not self._ordered:
                future.add_done_callback(self._done.put)


def _is_done_within(future: Future, timeout: float | None) -> bool:
    """Whether the future is done in `timeout` seconds: what concurrent.futures.wait says, in a tenth of its time."""
    try:
        future.exception(timeout)
    except concurrent.futures.CancelledError:
        return True
    except concurrent.futures.TimeoutError:
        return future.done()
    return True


def _call_back(callback: Callback | None, error_callback: Callback | None, result: Future) -> None:
    error = result.exception()
    if error is not None and error_callback is not None:
        error_callback(error)
    if error is None and callback is not None:
        callback(result.result())
