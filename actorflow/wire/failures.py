"""Exceptions <-> bytes, for the way from the process that raised to those that wait.

Both ways must work whatever the exception is: a call has to be settled, and whoever waits for it
has to be told. So each step that runs the user's code may fail, and then less arrives: the
exception, else its text and traceback, else its type's name.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import msgpack

from actorflow import _hot
from actorflow.errors import (
    ActorflowError,
    DeserializationError,
    InternalError,
    ObjectStoreFullError,
    OutOfDiskError,
    RemoteFailure,
    TaskError,
)
from actorflow.exception_parts import own_state, raised_by_signal_handler, rebuild, safe_text, type_name
from actorflow.runtime_env import environment
from actorflow.wire import outside, pickling

TEXT_LIMIT = 64 * 1024  # characters: a log's worth; the middle of longer texts is left out
BRIEF_LIMIT = 1024  # characters of each text where there is no room for more
CHAIN_BYTES = 256 * 1024  # of an exception with its chain: enough for some large ones
CHAIN_LIMIT = 8  # exceptions carried as such along __cause__ and __context__, or nested in groups

_SYSTEM, _USER = 0, 1

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_OWN_PICKLING = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")

T = TypeVar("T")


def encode_error(exc: BaseException, *, name: str, node_id: str, pid: int, attempt: int) -> bytes:
    """What `exc`, raised by the task or method `name`, is sent as. Never raises.

    Errors of the runtime go as themselves; all others arrive as a TaskError. One that arrived from another call and
    is passed on keeps its cause, and its remote_traceback gets the way that it took. Refs in it are named there: what
    is to own them is found by `outside.capture`.
    """
    if issubclass(type(exc), TaskError):
        passed_on = _guarded(lambda: _passed_on(exc, name, node_id, pid, attempt), None)
        if passed_on is not None:
            return passed_on
    failure = RemoteFailure(
        _guarded(lambda: _cut(type_name(type(exc))), "an exception"),
        _guarded(lambda: _cut(safe_text(exc)), ""),
        _guarded(lambda: _cut(remote_traceback(exc)), ""),
        _cut(name),
        node_id,
        pid,
        attempt,
    )
    is_system = issubclass(type(exc), ActorflowError) and not issubclass(type(exc), TaskError)
    fields = list(vars(failure).values())
    return _pack([_SYSTEM if is_system else _USER, _guarded(lambda: _frozen_whole(exc), None), fields])


def encode_briefly(error: bytes) -> bytes:
    """What encode_error made without all that can be long: where there is no room for it."""
    kind, _, fields = _unpack(error)
    fields = [field[:BRIEF_LIMIT] if isinstance(field, str) else field for field in fields]
    return _pack([kind, None, fields])


def _passed_on(exc: BaseException, name: str, node_id: str, pid: int, attempt: int) -> bytes | None:
    """An error that came from another call: as it is where no user code has seen it, as for an argument's."""
    wire_form = getattr(exc, "wire_form", None)
    if wire_form is None:
        return None
    data: bytes
    data, *named = wire_form[1]
    for holds in named:
        outside.note(holds)
    stack = [frame for frame in traceback.extract_tb(exc.__traceback__) if not _is_own(frame)]
    if not stack:
        return data
    kind, frozen, fields = _unpack(data)
    failure = RemoteFailure(*fields)
    way = "".join(traceback.format_list(stack)).rstrip()
    whole = f"{failure.remote_traceback}\n\nThis error went on through {name!r}:\n\n{way}"
    passed_on = RemoteFailure(
        failure.cause_type, failure.cause_text, _cut(whole), _cut(name), node_id, pid, attempt
    )
    return _pack([kind, frozen, list(vars(passed_on).values())])


def decode_error(data: bytes, holds: Sequence[_hot.Hold] = ()) -> BaseException:
    """The exception to raise for what encode_error made: InternalError if it is something else.

    `holds`: what is named in it. Raises nothing but what a signal handler raises meanwhile.
    """
    try:
        return _decoded(bytes(data), holds)
    except BaseException as problem:
        if _is_of_signal(problem):
            raise
        what = f"{type(problem).__name__}: {safe_text(problem)}"
        return InternalError(reason=f"an error arrived damaged, {len(data)} bytes ({what})")


def unloadable(error: BaseException) -> BaseException:
    """What is raised where loading a value raised `error`; the runtime's own errors stay what they are."""
    if not isinstance(error, Exception) or isinstance(error, ActorflowError | MemoryError):
        return error
    if raised_by_signal_handler(error):
        return error
    reason = f"{type_name(type(error))}: {safe_text(error)}"
    if isinstance(error, ModuleNotFoundError):
        reason += f" ({environment.description()})"
    explained = DeserializationError(pid=os.getpid(), reason=reason)
    explained.__cause__ = error
    return explained


def storage_error(
    kind: str,
    size_bytes: int,
    used_bytes: int,
    capacity_bytes: int,
    path: str,
    free_bytes: int,
) -> BaseException:
    """What is raised where there is no room for an object, in the store (`kind` "full") or on disk ("disk")."""
    if kind == "full":
        return ObjectStoreFullError(
            size_bytes=size_bytes, used_bytes=used_bytes, capacity_bytes=capacity_bytes
        )
    return OutOfDiskError(path=path, free_bytes=free_bytes)


def remote_traceback(error: BaseException) -> str:
    """The traceback of an exception and its chain as text, without the frames of this package."""
    summary = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
    for part in _summaries(summary):
        part.stack[:] = [frame for frame in part.stack if not _is_own(frame)]
    return "".join(summary.format()).rstrip()


def _is_own(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(_PACKAGE)


def _summaries(summary: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    """A traceback, and those of its chain and of its groups."""
    rest = [summary]
    while rest:
        part = rest.pop()
        yield part
        rest += [link for link in (part.__cause__, part.__context__) if link is not None]
        rest += part.exceptions or ()


def _decoded(data: bytes, holds: Sequence[_hot.Hold]) -> BaseException:
    kind, frozen, fields = _unpack(data)
    failure = RemoteFailure(*fields)
    texts = (failure.cause_type, failure.cause_text, failure.remote_traceback, failure.task_name)
    if kind not in (_SYSTEM, _USER) or not all(isinstance(text, str) for text in texts):
        raise ValueError("not an encoded error")
    cause = _thawed(frozen)
    if kind == _SYSTEM and isinstance(cause, ActorflowError):
        where = f"node {failure.node_id}, pid {failure.pid}, attempt {failure.attempt}"
        cause.add_note(f"raised in {failure.task_name!r} ({where})")
        return cause
    error = TaskError.of(failure, cause)
    named = (outside.Holds(holds),) if holds else ()
    object.__setattr__(error, "wire_form", (decode_error, (data, *named)))
    return error


def _frozen_whole(error: BaseException) -> list[Any] | None:
    """An exception with its chain, or without where that is too much: causes that are calls' carry their own."""
    frozen = _frozen(error, CHAIN_LIMIT)
    if error.__cause__ is None and error.__context__ is None:
        return frozen
    return frozen if len(_pack(frozen)) <= CHAIN_BYTES else _frozen(error, 1)


def _frozen(error: BaseException | None, depth: int) -> list[Any] | None:
    """An exception and its chain as plain data; None where it cannot be pickled, or is too deep."""
    if error is None or depth == 0:
        return None
    return _guarded(lambda: [*_pickled(error, depth), *_frozen_chain(error, depth - 1)], None)


def _frozen_chain(error: BaseException, depth: int) -> tuple[list[Any] | None, list[Any] | None, bool]:
    context = None if error.__suppress_context__ else error.__context__
    return _frozen(error.__cause__, depth), _frozen(context, depth), error.__suppress_context__


def _thawed(frozen: list[Any] | None) -> BaseException | None:
    """What _frozen was given; None where that cannot be made here."""
    if frozen is None:
        return None
    stream, buffers, members, cause, context, suppress_context = frozen
    error = _guarded(lambda: _unpickled(stream, buffers, members), None, but_signals=True)
    if error is not None:
        error.__cause__, error.__context__ = _thawed(cause), _thawed(context)
        error.__suppress_context__ = suppress_context
    return error


def _pickled(error: BaseException, depth: int) -> tuple[bytes, list[bytes], list[Any]]:
    """An exception as a stream, its buffers, and the members of a group, each as plain data."""
    members: list[Any] = []
    if _pickles_itself(type(error)):
        parts: tuple[Any, ...] = (error,)
    elif isinstance(error, BaseExceptionGroup):
        state = own_state(error)
        del state["exceptions"]
        parts = (type(error), (error.message,), state)
        members = [_member(member, depth - 1) for member in error.exceptions]
    else:
        parts = (type(error), error.args, own_state(error))
    packed = pickling.dumps(parts, explain=False)
    return packed.data, [bytes(buffer.raw()) for buffer in packed.buffers], members


def _unpickled(stream: bytes, buffers: list[bytes], members: list[Any]) -> BaseException:
    parts = pickling.loads(stream, buffers)
    if len(parts) == 1:
        (error,) = parts
    else:
        kind, args, state = parts
        if members:
            args = (*args, [_thawed_member(member) for member in members])
        error = rebuild(kind, args, state)
    if not isinstance(error, BaseException):
        raise TypeError("not an exception")
    return error


def _member(error: BaseException, depth: int) -> list[Any]:
    name, text = type_name(type(error)), _cut(safe_text(error))
    return [_frozen(error, depth), name, text, _guarded(lambda: _cut(remote_traceback(error)), "")]


def _thawed_member(member: list[Any]) -> BaseException:
    """A member of a group, or a plain TaskError where it could not be carried over."""
    frozen, name, text, trace = member
    failure = RemoteFailure(name, text, trace, "a member of an exception group", "", 0, 1)
    return _thawed(frozen) or TaskError.of(failure, None)


def _pickles_itself(kind: type[BaseException]) -> bool:
    """Whether the class has a pickling of its own, which is then to be used."""
    if pickling.has_reducer(kind):
        return True
    users = (base for base in kind.__mro__ if base.__module__ != "builtins")
    return any(name in vars(base) for base in users for name in _OWN_PICKLING)


def _cut(text: str) -> str:
    """At most TEXT_LIMIT characters: the beginning and the end."""
    text = "".join((text,))  # an exact str, whatever __str__ returned
    if len(text) <= TEXT_LIMIT:
        return text
    half = TEXT_LIMIT // 2
    return f"{text[:half]}\n... {len(text) - TEXT_LIMIT:,} characters left out ...\n{text[-half:]}"


def _guarded(step: Callable[[], T], otherwise: T, *, but_signals: bool = False) -> T:
    """What a step that runs the user's code gives, or `otherwise` if it raises anything at all."""
    try:
        return step()
    except BaseException as error:  # the user's __reduce__ or __str__ may raise SystemExit, say
        if but_signals and _is_of_signal(error):
            raise
        return otherwise


def _is_of_signal(error: BaseException) -> bool:
    return isinstance(error, KeyboardInterrupt) or raised_by_signal_handler(error)


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    return packed


def _unpack(data: bytes) -> Any:
    return msgpack.unpackb(data, unicode_errors="surrogatepass")
