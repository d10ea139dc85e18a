"""Interrupts user code whose call was cancelled, or has run for too long: the handler of the signal that says "look".

What is due lies in the core (ext/hot_cancel.c), and is so only while the user's code runs. Here is the choice of the
moment: not in the runtime's own Python, where an exception could leave something half done, unless that waits; and not
in a __del__, where it would be lost. A moment that was not good is followed by another signal.
SIGINT, which is somebody's from outside, is told from that here as well.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from actorflow import _hot
from actorflow.client import cancelling, runtime
from actorflow.client.cancelling import BEFORE, RUNNING
from actorflow.errors import TaskCancelledError, TaskTimeoutError

SIGNAL = signal.SIGURG
MOST_DEFERRALS = 40  # in a row, 10 ms apart: longer than anything of the runtime's own that does not wait
DEPTH = 100  # frames that are looked at for a __del__

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

_listeners: list[Callable[[], None]] = []
_pid = 0
_deferrals = 0
_has_leftovers = False


def prepare() -> None:
    """Workers that are forked from this process will hear the signals, once they have begun."""
    signal.signal(SIGNAL, _on_signal)
    signal.signal(signal.SIGINT, _on_interrupt)


def begin() -> None:
    """From now on this worker hears the signals."""
    global _pid
    _pid = os.getpid()


@contextlib.contextmanager
def listening(hear: Callable[[], None]) -> Iterator[None]:
    """Meanwhile `hear()` is called with each signal, in the handler: for calls that run on a loop."""
    _listeners.append(hear)
    try:
        yield
    finally:
        _listeners.remove(hear)


def _on_signal(_: int, frame: FrameType | None) -> None:
    if os.getpid() != _pid:  # user code forked this process
        return
    for hear in _listeners:
        hear()
    if _hot.interrupt_due() and _is_good_moment(frame):
        call = _hot.take_interrupt()
        if call is not None:
            cancel_children(call)
            raise KeyboardInterrupt


def _on_interrupt(number: int, _: FrameType | None) -> None:
    """SIGINT ends a plain call's code like that of any program. Anywhere else it ends the process, as SIGTERM does."""
    if os.getpid() == _pid and (_listeners or not _hot.attached() or _hot.current_call() is None):
        signal.signal(number, signal.SIG_DFL)
        os.kill(_pid, number)
    raise KeyboardInterrupt


def _is_good_moment(frame: FrameType | None) -> bool:
    global _deferrals
    if _is_inside_del(frame):
        return False
    is_good = frame is None or _hot.in_wait() or not frame.f_code.co_filename.startswith(_PACKAGE)
    _deferrals = 0 if is_good else _deferrals + 1
    return is_good or _deferrals > MOST_DEFERRALS


def _is_inside_del(frame: FrameType | None) -> bool:
    for _ in range(DEPTH):
        if frame is None:
            return False
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def refuse_cancelled(call: _hot.Call) -> None:
    """KeyboardInterrupt where the call was cancelled between its start and its code."""
    if call.wish:
        call.tell(_hot.TOLD_BEFORE)
        raise KeyboardInterrupt


def outcome(call: _hot.Call, name: str) -> TaskCancelledError:
    """What the callers of a call get whose code was interrupted and did not return a value."""
    global _has_leftovers
    _has_leftovers = True
    cancel_children(call)
    if call.told == _hot.TOLD_LIMIT:
        return TaskTimeoutError(task_name=name, when=RUNNING, limit_s=call.limit_s)
    return TaskCancelledError(task_name=name, when=BEFORE if call.told == _hot.TOLD_BEFORE else RUNNING)


def collect_leftovers() -> None:
    """Frees what interrupted code left in cycles (a loop, say, with frames that hold refs and handles)."""
    global _has_leftovers
    if _has_leftovers:
        _has_leftovers = False
        gc.collect()


def cancel_children(call: _hot.Call) -> None:
    """Cancels the unfinished calls made within it so far, if that is wished."""
    if call.told == _hot.TOLD_BEFORE or not runtime.in_worker():
        return
    if call.told == _hot.TOLD_LIMIT or call.wish & _hot.CANCEL_CHILDREN:
        for child in call.children():
            cancelling.cancel(child)
