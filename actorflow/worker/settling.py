"""How a call ends: its value, or the user's exception, or why its value cannot be had, goes into its cell.

A call that was started is always settled: where its result cannot be packed, the error that says so is its result.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from actorflow import _hot, errors
from actorflow.client import calls, handles
from actorflow.runtime_env import environment
from actorflow.wire import failures, outside
from actorflow.worker import interrupts

ROOM_LOOK_S = 0.01

_worker_pid = 0
_node_id = ""


class ExitActor(BaseException):
    """Raised by af.exit_actor: unwinds the method, and then ends the actor. `calls` are those that asked for it."""

    def __init__(self, calls: Sequence[_hot.Call] = ()) -> None:
        super().__init__("the actor is to end")
        self.calls = calls


class BrokenOff(Exception):
    """A generator has raised `error` after it had given the first values of a call with several returns."""

    def __init__(self, given: Sequence[Any], error: Exception) -> None:
        super().__init__("a generator has raised")
        self.given = given
        self.error = error


def begin() -> None:
    """Tells who this worker is: its errors name it."""
    global _worker_pid, _node_id
    _worker_pid = os.getpid()
    _node_id = _hot.identity()[0].hex()
    interrupts.begin()


def is_forked() -> bool:
    """Whether user code forked this process out of a running call, which is its parent's to settle."""
    return os.getpid() != _worker_pid


def settle(call: _hot.Call, value: Any, name: str) -> None:
    """Makes `value` the call's result; with several returns, its items."""
    try:
        if call.returns <= 1:  # a stream's items have been given already
            try:
                call.complete(value)
            except _hot.FullError:
                _with_room(lambda: call.complete(value))
        else:
            values = _items(value, call.returns, name)
            _with_room(lambda: call.complete_many(values))
    except _hot.FencedError:
        end_fenced()
    except BaseException as error:
        fail(call, unsettled(error, value, name), name)


def fail(
    call: _hot.Call, error: BaseException, name: str, retry_on: tuple[type[BaseException], ...] | None = None
) -> None:
    """Makes an exception the call's result; or puts the call back, if it may be run again on that exception.

    `retry_on`: what its body says of that, None: the body was not reached. What the caller said for this call goes
    before it.
    """
    given: Sequence[Any] = ()
    if isinstance(error, BrokenOff):
        given, error = error.given, error.error
    if is_forked():
        raise error
    if call.told:
        error = interrupts.outcome(call, name)
    elif isinstance(error, SystemExit):
        if handles.is_actor():
            exit_process(error.code)
        error = exited(error, name)
    try:
        if retry_on is not None and _is_to_retry(call, error, retry_on) and put_back(call):
            return
        data, holds = encode(error, name, call.attempt)
        if not (given and _complete_partly(call, given, data, holds)):
            _fail_with(call, data, holds)
    except _hot.FencedError:
        end_fenced()


def put(value: Any, what: str) -> Any:
    """A ref to an item of a result; `what` it is. As `af.put`."""
    ref = None

    def step() -> None:
        nonlocal ref
        ref = _hot.put(value)

    try:
        _with_room(step)
    except Exception as error:
        calls.raise_translated(error, lambda: [(what, value)])
    return ref


def put_error(error: BaseException, name: str) -> Any:
    """A ref whose value is an exception."""
    data, holds = encode(error, name)
    ref = None

    def step() -> None:
        nonlocal ref
        ref = _hot.put_error(data, holds)

    _with_room(step)
    return ref


def _complete_partly(call: _hot.Call, given: Sequence[Any], data: bytes, holds: outside.Holds) -> bool:
    """Settles the first returns with what there is for them, the others with ERROR bytes. False: it cannot be done."""
    try:
        _with_room(lambda: call.complete_many(given, data, holds))
    except _hot.FencedError:
        raise
    except Exception:  # a value that cannot be packed, or has no room, or is one too many
        return False
    return True


def _fail_with(call: _hot.Call, data: bytes, holds: outside.Holds) -> None:
    """Settles the call with ERROR bytes; briefly, where the object store has no room for long ones."""
    try:
        _with_room(lambda: call.fail(data, holds))
    except _hot.StoreFullError:
        _with_room(lambda: call.fail(failures.encode_briefly(data)))


def encode(error: BaseException, name: str, attempt: int = 1) -> tuple[bytes, outside.Holds]:
    """An exception as ERROR bytes, and what is to be held for them.

    One about a module that is not there says where it was looked for.
    """
    if isinstance(error, ModuleNotFoundError):
        error.add_note(environment.description())

    def dump() -> bytes:
        return failures.encode_error(error, name=name, node_id=_node_id, pid=_worker_pid, attempt=attempt)

    return outside.capture(dump)


def _is_to_retry(call: _hot.Call, error: BaseException, retry_on: tuple[type[BaseException], ...]) -> bool:
    """Whether the error is one of those on which the call is run again, as long as it has retries left.

    A call that was cancelled is not.
    """
    if call.wish:
        return False
    said = call.retry_exceptions
    if said is None:
        return isinstance(error, _types_of(call, error, retry_on))
    return said and isinstance(error, Exception)


def _types_of(
    call: _hot.Call, error: BaseException, retry_on: tuple[type[BaseException], ...]
) -> tuple[type[BaseException], ...]:
    """The exceptions on which the call is run again: a call of a method may bear its own, else `retry_on`."""
    if not (call.method and call.function[0]):
        return retry_on
    try:
        types: tuple[type[BaseException], ...] = call.load_function()
    except Exception as problem:
        error.add_note(f"retry_exceptions of this call could not be loaded in the actor: {problem!r}")
        return ()
    return types


def put_back(call: _hot.Call) -> bool:
    """Puts the call back, to be run again; False: it is to be settled after all."""
    done = False

    def step() -> None:
        nonlocal done
        done = call.retry()

    _with_room(step)
    return done


def unsettled(error: BaseException, value: Any, name: str) -> BaseException:
    """What the caller is told where the value could not be made the result."""
    if not isinstance(error, Exception):
        return error
    error = calls.translated(error, lambda: [(f"the result of {name!r}", value)])
    error.__traceback__ = None  # the runtime's own frames
    return error


def _items(value: Any, count: int, name: str) -> list[Any]:
    """The values of a call that gives `count` refs. TypeError, ValueError: it returned something else."""
    if not isinstance(value, Iterable):
        raise TypeError(f"{name!r} has num_returns={count} and returned one {type(value).__name__}")
    values = list(value)
    if len(values) != count:
        raise ValueError(f"{name!r} has num_returns={count} and returned {len(values)} values")
    return values


def exit_process(code: object) -> NoReturn:
    """sys.exit in an actor ends its process, which is its own: a death like others, after which it may restart."""
    atexit._run_exitfuncs()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # user code may have closed it, or put anything there
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def exited(request: SystemExit, name: str) -> BaseException:
    """sys.exit in a task ends the task, not the worker, which others use after it."""
    error = RuntimeError(
        f"{name!r} called sys.exit({request.code!r}): that ends this call, and not the worker"
    )
    error.__cause__ = request
    return error.with_traceback(request.__traceback__)


def _with_room(step: Any) -> None:
    """Does a step once the message memory has room for it; callers that read their results make some."""
    while True:
        try:
            step()
        except _hot.FullError:
            wait_for_room()
        else:
            return


def wait_for_room() -> None:
    """A moment in which others may free message memory. NodeDiedError."""
    if not _hot.node_alive():
        raise errors.NodeDiedError(node_id=_node_id, reason="its process has ended") from None
    time.sleep(ROOM_LOOK_S)


def end_fenced() -> NoReturn:
    """This process was declared dead, and its calls were given away: nothing that it does counts any more."""
    os._exit(1)
