"""Results of a compiled graph as the driver reads them: in the order of executions, each of them once.

A channel gives its values in order only. Who wants a later one reads those before it, and they are kept for whoever
has their refs; of refs that were dropped nothing is kept. Threads read one after another. In event loops one of those
who await watches the channel and wakes the others; when it leaves, however it does, another one watches. A loop never
waits for the lock, and does not watch while a thread has it and reads, which may take as long as the loading of a
value: who waits is noted first, and then looks at the lock; a thread lets go of the lock first, and then looks who
waits.

An exception of a signal handler can come between any two steps here and loses its own result at most: what is noted
can be noted again, and is noted before what it was noted from is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator
from time import monotonic
from typing import Any, NoReturn

from actorflow import _hot
from actorflow.client import blocking
from actorflow.client.once import ReadOnce
from actorflow.client.waiting import current_port
from actorflow.errors import ActorflowError, ChannelError, ChannelTimeoutError, GraphCapacityError

Outcome = tuple[bool, Any]  # a value, or an error


class ResultStream:
    """The results of one output of a graph.

    `label`: what errors call it; `copies`: refs of each execution to it; `most_kept`: results kept for later;
    `is_own`: whether this process is an actor of the graph; `ended`: the error for whoever finds the channel closed.
    """

    def __init__(
        self,
        reader: _hot.Reader,
        label: str,
        copies: int,
        most_kept: int,
        is_own: bool,
        ended: Callable[[], BaseException],
    ) -> None:
        self._reader = reader
        self._label = label
        self._copies = copies
        self._most_kept = most_kept
        self._is_own = is_own
        self._ended = ended
        self._lock = threading.RLock()
        self.position = 0  # executions whose result has been read from the channel
        self._kept: dict[int, Outcome] = {}  # read, and still wanted
        self._numbers = itertools.count()
        self._marks: dict[int, _Mark] = {}  # by number: of the refs that are not read yet
        self._gone: dict[
            int, set[int]
        ] = {}  # by execution: refs that were read or dropped, if others were not
        self._nobodys: set[int] = set()  # executions without refs, whose results are still to be read
        self._dropped: deque[_Mark | int] = (
            deque()
        )  # dropped refs, and nobody's executions: to be noted there
        self._waiting: dict[asyncio.Future[None], int] = {}  # who awaits -> which execution
        self._watching: dict[
            None, asyncio.Future[None]
        ] = {}  # who watches, if anybody: a dict decides at once
        self._is_closed = False
        self._is_reading = False  # under the lock: so who finds it set interrupts the same thread

    def get(self, mark: _Mark, timeout: float | None) -> Outcome:
        """The result that a ref is to: its value or its error, which is handed out with that.

        Raises ChannelTimeoutError, GraphCapacityError, DeadlockError, what a signal handler raises, and why the graph
        has ended: then it can be asked for again.
        """
        index = mark.index
        if self.position > index:
            return self.hand_out(mark)
        deadline = None if timeout is None else monotonic() + timeout
        wait_s = -1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)
        try:  # first: an exception of a signal handler may come as soon as the lock is had
            if not self._lock.acquire(timeout=wait_s):
                raise self.late(timeout)
            self._refuse_reentry()
            self._is_reading = (
                True  # set so, and not by a context manager: no signal handler can come between
            )
            try:
                if (
                    self._reader.position == index
                    and self._copies == 1
                    and not (self._waiting or self._dropped)
                ):
                    # As below, quicker.
                    outcome = self._next(timeout, timeout)
                    self.position = index + 1
                    if self._waiting:  # since then
                        self._wake(lambda waited_for: waited_for <= index)
                    return outcome
                while self.position <= index:
                    self._read(index, None if deadline is None else max(0.0, deadline - monotonic()), timeout)
            except BaseException:
                self._catch_up()
                raise
            finally:
                self._is_reading = False
        finally:
            try:
                self._lock.release()
            except RuntimeError:  # it was not had
                pass
            if self._waiting:
                self._wake_one()
        return self.hand_out(mark)

    def hand_out(self, mark: _Mark) -> Outcome:
        """The result of an execution that is before `position`, without waiting for any thread that reads.

        Raises ValueError where the ref was read before; ChannelError where the result is not there.
        """
        outcome = self._kept.get(mark.index)
        if outcome is None:
            if mark.number not in self._marks:
                raise read_before(self._label, mark.index)
            reason = "this result was lost: an exception of a signal handler broke off its reading"
            advice = (
                "the graph goes on: execute it again; or another thread is being handed out this very result"
            )
            raise ChannelError(channel=self._label, reason=reason, advice=advice)
        self._note_gone(mark)
        return outcome

    async def until_read(self, index: int) -> None:
        """Returns once the result of that execution has been read from the channel."""
        await _Waiting(self, index)

    def wait(self, index: int) -> Generator[Any, None, None]:
        """As `until_read`, for `yield from`: `get` of that execution would not wait then."""
        loop = asyncio.get_running_loop()
        try:
            self._take_what_is_there(index)
            while self.position <= index:
                yield from self._wait_once(loop.create_future(), index)
                self._take_what_is_there(index)
        finally:
            # Whoever was woken in order to watch may find that it need not wait any more.
            self._wake_one()

    def _wait_once(self, future: asyncio.Future[None], index: int) -> Generator[Any, None, None]:
        """Watches the channel if nobody does, else waits to be woken."""
        self._waiting[future] = index
        try:
            is_free = self._take_what_is_there(index)  # a thread may not have seen who waits
            if self.position > index:
                return
            is_being_read = not is_free and self._reader.ready()
            if is_being_read or self._watching.setdefault(None, future) is not future:
                yield from future
            else:
                yield from current_port().wait_end(self._reader, future)
        finally:
            if self._watching.get(None) is future:
                del self._watching[None]
            del self._waiting[future]

    def mark(self, ref: CompiledRef, index: int) -> _Mark:
        """Has `drop` done when the ref is gone; in C, where no signal handler's exception can come between."""
        mark = _Mark(ref, self._dropped.append)
        mark.index = index
        mark.number = next(self._numbers)
        self._marks[mark.number] = mark
        return mark

    def unmark(self, mark: _Mark) -> None:
        """The ref has been read."""
        self._marks.pop(mark.number, None)

    def drop(self, index: int) -> None:
        """There is no ref to the result of that execution, where there should be one."""
        self._dropped.append(index)

    def is_dropped(self, index: int) -> bool:
        """Whether that execution has no ref to its result here any more, or has been read."""
        try:
            with self._lock:
                self._refuse_reentry()
                return self._is_unwanted(index)
        finally:
            self._wake_one()

    def is_leaving(self, oldest: int) -> bool:
        """As `is_dropped` of the oldest execution, without waiting: a thread that reads just now reads that first."""
        try:
            if not self._lock.acquire(blocking=False):
                return True
            self._refuse_reentry()
            return self._is_unwanted(oldest)
        finally:
            try:
                self._lock.release()
            except RuntimeError:  # it was not had
                pass
            self._wake_one()

    def take_dropped(self, wait_for: int, timeout_s: float) -> None:
        """Takes from the channel what nobody has a ref to; waits for that of the execution `wait_for`. TimeoutError."""

        def take() -> None:
            while self._is_unwanted(self.position) and (self.position <= wait_for or self._reader.ready()):
                self._read(self.position, timeout_s, timeout_s)

        try:
            self._with_lock(take, waits=True)
        finally:
            self._wake_one()

    def close(self) -> None:
        """Reads no more; who waits is told. In a signal handler too, which may have interrupted a loop that sleeps."""
        self._is_closed = True
        self._reader.close()
        for future in list(self._waiting):
            _resolve_soon(future)

    def leave_to_parent(self) -> None:
        """In a forked child: threads that are no more may have had the locks, and the loops are the parent's."""
        self._lock = threading.RLock()
        self._is_reading, self._is_closed = False, True
        self._watching.clear()
        self._waiting.clear()

    # -- reading

    def _with_lock(self, read: Callable[[], None], waits: bool) -> bool:
        """Has `read` done under the lock. False: another thread has it, and `waits` is not set. `get` does the same."""
        try:
            if not self._lock.acquire(blocking=waits):
                return False
            self._refuse_reentry()
            self._is_reading = True
            try:
                read()
            except BaseException:
                self._catch_up()
                raise
            finally:
                self._is_reading = False
            return True
        finally:
            try:
                self._lock.release()
            except RuntimeError:  # it was not had
                pass

    def _read(self, wanted: int, left_s: float | None, timeout: float | None) -> None:
        """Takes the next result from the channel."""
        self._catch_up()
        if self.position > wanted:
            return
        if self._dropped:
            self._forget_dropped()
        if self.position < wanted and len(self._kept) >= self._most_kept:
            raise GraphCapacityError(
                limit=self._most_kept, what="results are kept unread", option="max_buffered_results"
            )
        index = self.position
        outcome = self._next(left_s, timeout)
        if self._is_nobodys(index):
            self._forget(index)
        else:
            self._kept[index] = outcome
        self.position = index + 1  # only now: from here on it is handed out
        if self._waiting:
            self._wake(lambda waited_for: waited_for <= index)

    def _catch_up(self) -> None:
        """An exception of a signal handler may have come after a value was used up and before it was counted."""
        read = self._reader.position
        if self.position < read:
            for index in range(self.position, read):
                if self._is_nobodys(index):
                    self._forget(index)
            self.position = read
            self._wake(lambda waited_for: waited_for < read)

    def _refuse_reentry(self) -> None:
        if self._is_reading:  # and this thread has the lock
            raise RuntimeError(
                f"{self._label}: a result is being read by this very thread: a signal handler, or the loading of a "
                "value, that interrupts it cannot use the same graph"
            )

    def _is_unwanted(self, index: int) -> bool:
        self._catch_up()
        self._forget_dropped()
        return index < self.position or self._is_nobodys(index)

    def _is_nobodys(self, index: int) -> bool:
        return index in self._nobodys or len(self._gone.get(index, ())) >= self._copies

    def _forget(self, index: int) -> None:
        """Nothing of the result of that execution is wanted any more, and it has been read."""
        self._kept.pop(index, None)
        self._gone.pop(index, None)
        self._nobodys.discard(index)

    def _note_gone(self, mark: _Mark) -> None:
        index = mark.index
        if index < self.position and index not in self._kept:
            return
        gone = self._gone.setdefault(index, set())
        gone.add(mark.number)
        if index in self._kept and len(gone) >= self._copies:
            self._forget(index)

    def _forget_dropped(self) -> None:
        while self._dropped:
            dropped = self._dropped[0]
            if not isinstance(dropped, int):
                # Else it was read, or is of a ref that was not made to the end.
                if getattr(dropped, "number", None) in self._marks:
                    self._note_gone(dropped)
                    self.unmark(dropped)
            elif dropped >= self.position:
                self._nobodys.add(dropped)
            self._dropped.popleft()

    def _next(self, left_s: float | None, timeout: float | None) -> Outcome:
        if self._is_closed:
            raise self._ended()
        if self._is_own and left_s is None and not self._reader.ready():
            blocking.refuse_own(self._label)
        try:
            return True, self._reader.read(left_s)
        except _hot.ChannelClosed:
            raise self._ended() from None
        except _hot.NodeGoneError:
            raise blocking.node_error() from None
        except (ActorflowError, MemoryError) as error:  # what was written, or loading it, raised
            return False, error.with_traceback(None)  # whose frames will keep it, and what waits for it
        except TimeoutError:
            raise self.late(timeout) from None

    def late(self, timeout: float | None) -> ChannelTimeoutError:
        """The error for who has waited for so long."""
        return ChannelTimeoutError(channel=self._label, reason=f"no result within {timeout or 0.0:.3g} s")

    # -- in event loops

    def _take_what_is_there(self, index: int) -> bool:
        """Reads up to `index` without waiting. False: another thread has the lock, and wakes who awaits after that."""

        def take() -> None:
            while self.position <= index and self._reader.ready():
                self._read(index, 0.0, 0.0)

        return self._with_lock(take, waits=False)

    def _wake_one(self) -> None:
        """One of those who wait is to watch, if nobody does; so are those before it whose loop does not run now."""
        if self._watching:
            return
        for future in list(self._waiting):
            if not future.done():
                _resolve(future)
                if future.get_loop().is_running():
                    return

    def _wake(self, concerns: Callable[[int], bool]) -> None:
        waiting = self._waiting.copy()  # at once: others come and go in threads of their own
        for future, index in waiting.items():
            if concerns(index):
                _resolve(future)


class _Mark(weakref.ref["CompiledRef"]):
    """Tells of a ref's end, and which execution's result it was to. `number`: one for each ref."""

    __slots__ = ("index", "number")
    index: int
    number: int


class _Waiting:
    """What `until_read` awaits."""

    def __init__(self, stream: ResultStream, index: int) -> None:
        self._stream = stream
        self._index = index

    def __await__(self) -> Generator[Any, None, None]:
        return self._stream.wait(self._index)


def _resolve(future: asyncio.Future[None]) -> None:
    """Ends a wait, of whatever loop."""
    if future.get_loop() is asyncio._get_running_loop():
        _end_wait(future)
    else:
        _resolve_soon(future)


def _resolve_soon(future: asyncio.Future[None]) -> None:
    """Ends a wait, of whatever loop, which is woken for it."""
    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
        future.get_loop().call_soon_threadsafe(_end_wait, future)


def _end_wait(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def read_before(label: str, index: int) -> ValueError:
    """The error for who reads a ref again."""
    return ValueError(
        f"CompiledRef({label}, execution {index}) was read before: a result of a compiled graph is handed out once; "
        "keep the value"
    )


class CompiledRef(ReadOnce):
    """A result of an execution of a compiled graph: for `af.get`, or to be awaited; once."""

    __slots__ = ("__weakref__", "_graph", "_index", "_mark", "_stream")

    def __init__(self, graph: object, stream: ResultStream, index: int) -> None:
        self._graph = graph  # it lives while its results are wanted
        self._stream = stream
        self._index = index
        self._mark: _Mark | None = stream.mark(self, index)  # None: it was read

    def get(self, timeout: float | None = None) -> Any:
        """The result, waited for `timeout` seconds at most; with 0 it looks once.

        Raises the execution's error; ChannelTimeoutError, after which it can be asked again; DeadlockError, where this
        thread has to run a step of the graph; ValueError where it was read before; ActorDiedError or ChannelError where
        the graph has ended.
        """
        mark = self._mark
        if mark is None:
            self._refuse_again()
        return self._given(mark, self._stream.get(mark, timeout))

    def late(self, timeout: float | None) -> ChannelTimeoutError:
        return self._stream.late(timeout)

    def _given(self, mark: _Mark, result: Outcome) -> Any:
        if self._mark is None:  # by another thread or task, meanwhile
            self._refuse_again()
        self._mark = None
        self._stream.unmark(mark)
        is_value, outcome = result
        if is_value:
            return outcome
        try:
            raise outcome
        finally:
            del result, outcome  # this frame is in its traceback: a circle, with this ref and the graph in it

    def __await__(self) -> Generator[Any, None, Any]:
        mark = self._mark
        if mark is None:
            self._refuse_again()
        if self._stream.position <= self._index:
            yield from self._stream.wait(self._index)
        return self._given(mark, self._stream.hand_out(mark))

    def _refuse_again(self) -> NoReturn:
        raise read_before(self._stream._label, self._index)

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{self!r} can only be read where its graph was compiled: pass its value on, not the ref"
        )

    def __repr__(self) -> str:
        return f"CompiledRef({self._stream._label}, execution {self._index})"
