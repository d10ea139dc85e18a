"""Synchronous waits for refs: what a thread does before it blocks, and the errors that it then sees.

A wait that finds its answer ready, or within microseconds, costs nothing here. Before a thread really blocks,
two mistakes are looked for: blocking an event loop that has other work (one warning for each process), and
waiting for an answer that only this very thread could give (DeadlockError, see `forbid`).
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

from actorflow import _hot, errors

_running_loop = asyncio._get_running_loop
_raise_if_deadlock: Callable[[Sequence[_hot.Reference], int], None] | None = None
_refuse_own: Callable[[str], None] | None = None
_noted: Collection[object] = ()
_node_error: Callable[[], BaseException] | None = None
_name_of: Callable[[_hot.Reference], str] | None = None
_has_warned = False


def forbid(
    check: Callable[[Sequence[_hot.Reference], int], None] | None,
    refuse: Callable[[str], None] | None = None,
    noted: Collection[object] = (),
) -> None:
    """Has `check(references, count)` called before this process blocks, without limit, for `count` of them.

    It looks for what is in `noted`, and is not called while that is empty. `refuse(what)`: called before it blocks for
    something else that this process takes part in making. They raise DeadlockError where that would never end. A
    worker that hosts an actor sets them.
    """
    global _raise_if_deadlock, _refuse_own, _noted
    _raise_if_deadlock, _refuse_own, _noted = check, refuse, noted


def refuse_own(what: str) -> None:
    """Before a thread blocks, without limit, for what this process takes part in making. DeadlockError."""
    if _refuse_own is not None:
        _refuse_own(what)


def name_death(error: Callable[[], BaseException]) -> None:
    """Has `error()` made when a wait ends with the node: it says what died."""
    global _node_error
    _node_error = error


def name_calls(name_of: Callable[[_hot.Reference], str]) -> None:
    """Has `name_of(reference)` name the call of a reference in errors."""
    global _name_of
    _name_of = name_of


def circular(found: _hot.CircularWaitError) -> errors.DeadlockError:
    """The error for a wait in a circle of waits."""
    (reference,) = found.args
    return errors.DeadlockError(
        waiting_for=_name_of(reference) if _name_of is not None else repr(reference),
        reason="what has to run it waits, by itself or over others, for the call that waits here",
    )


def node_error() -> BaseException:
    """The error for whoever waited when the node died."""
    return _node_error() if _node_error is not None else _hot.NodeGoneError("the node has died")


def get_one(reference: _hot.Reference, timeout: float | None = None) -> Any:
    """The value of a reference. Raises its error, GetTimeoutError, DeadlockError, NodeDiedError."""
    try:
        return _hot.get(reference, timeout, _before_one)
    except TimeoutError as error:
        if type(error) is not TimeoutError:  # the call's own
            raise
        raise _timed_out((reference,), timeout) from None
    except _hot.CircularWaitError as found:
        raise circular(found) from None
    except _hot.NodeGoneError:
        raise node_error() from None


def _before_one(reference: _hot.Reference, timeout: float | None) -> None:
    before_blocking((reference,), 1, timeout)


def get_many(references: list[Any], timeout: float | None = None) -> list[Any]:
    """The values of references, in order. Raises the first error in that order, and as `get_one`."""
    if _needs_look():
        before_blocking(references, len(references), timeout)
    try:
        return _hot.get_many(references, timeout)
    except TimeoutError as error:
        if type(error) is not TimeoutError:
            raise
        raise _timed_out(references, timeout) from None
    except _hot.CircularWaitError as found:
        raise circular(found) from None
    except _hot.NodeGoneError:
        raise node_error() from None


def get_briefly(references: list[Any], timeout: float | None = None) -> list[Any]:
    """As get_many, for answers that take a moment: a running loop may wait for them. TimeoutError."""
    unfinished = [reference for reference in references if not reference.is_done()]
    if unfinished:
        _look_for_deadlock(unfinished, len(unfinished))
    try:
        return _hot.get_many(references, timeout)
    except _hot.CircularWaitError as found:
        raise circular(found) from None
    except _hot.NodeGoneError:
        raise node_error() from None


def wait_briefly(references: list[Any]) -> tuple[list[Any], list[Any]]:
    """As wait_some, for the first of answers that take a moment: a running loop may wait for them."""
    if not any(reference.is_done() for reference in references):
        _look_for_deadlock(references, 1)
    try:
        return _hot.wait(references, 1)
    except _hot.NodeGoneError:
        raise node_error() from None


def wait_one(reference: _hot.Reference, timeout: float | None = None) -> None:
    """Waits until a reference is done, whatever its result. GetTimeoutError, DeadlockError, NodeDiedError."""
    if not wait_some([reference], 1, timeout)[0]:
        raise _timed_out((reference,), timeout)


def wait_item(stream: _hot.Stream) -> None:
    """Waits until a stream has its next item, or its end. DeadlockError, NodeDiedError."""
    if _needs_look():
        before_blocking((stream.item,), 1, None)
    try:
        stream.await_item(None)
    except _hot.NodeGoneError:
        raise node_error() from None


def wait_some(references: list[Any], count: int, timeout: float | None) -> tuple[list[Any], list[Any]]:
    """(done, rest) in their order, at most `count` of them in done; fewer after `timeout` seconds."""
    if _needs_look():
        before_blocking(references, count, timeout)
    try:
        return _hot.wait(references, count, timeout)
    except _hot.CircularWaitError as found:
        raise circular(found) from None
    except _hot.NodeGoneError:
        raise node_error() from None


def _look_for_deadlock(unfinished: Sequence[_hot.Reference], missing: int) -> None:
    if _noted and _raise_if_deadlock is not None:
        _raise_if_deadlock(unfinished, missing)


def _needs_look() -> bool:
    return bool(_noted) or _running_loop() is not None


def before_blocking(references: Sequence[_hot.Reference], count: int, timeout: float | None) -> None:
    """The two mistakes, looked for where `count` of the references are needed."""
    try:
        unfinished = [reference for reference in references if not reference.is_done()]
    except AttributeError:
        return  # the core refuses what is no reference
    missing = count - (len(references) - len(unfinished))
    if missing <= 0 or (timeout is not None and timeout <= 0):
        return
    if timeout is None:
        _look_for_deadlock(unfinished, missing)
    if _running_loop() is not None:
        _warn_once()


def _warn_once() -> None:
    """Notebooks run each cell inside a loop, and nothing else is to run there meanwhile."""
    global _has_warned
    if _has_warned or "ipykernel" in sys.modules:
        return
    _has_warned = True
    warnings.warn(
        "af.get or af.wait blocks the running event loop: use `await ref` or `await af.aio.get(...)` there",
        RuntimeWarning,
        stacklevel=_depth_of_caller(),
    )


def _depth_of_caller() -> int:
    """The stack level of the first frame outside this package, seen from `_warn_once`."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith("actorflow."):
        frame, level = frame.f_back, level + 1
    return level


def _timed_out(references: Sequence[_hot.Reference], timeout: float | None) -> errors.GetTimeoutError:
    # Where all are done one lies on disk, and was not back in time.
    pending = sum(not reference.is_done() for reference in references) or 1
    return errors.GetTimeoutError(timeout_s=timeout or 0.0, pending=pending, total=len(references))
