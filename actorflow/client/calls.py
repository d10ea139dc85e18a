"""What a call that could not be made, or a control call that failed, means to the user.

The hot path makes its call inside `try` and comes here only with an exception.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from actorflow import _hot, config, errors
from actorflow.client import blocking
from actorflow.options import ActorOptions, Returns, TaskOptions
from actorflow.runtime_env import environment
from actorflow.wire import pickling

Parts = Iterable[tuple[str, Any]]

ROOM_TIMEOUT_S = 30.0  # without any call being finished: the memory is held by results, not by calls
ROOM_LOOK_S = 0.002


_TOO_LARGE = (
    "this call does not fit into a message: it has over 16,000 refs among its arguments, or too long a name; "
    "put the refs into one object with af.put, and pass the ref of that"
)


_NAMED = "_is_named"  # an error has it that names what was being pickled already: a part of something else


def translated(error: Exception, parts: Callable[[], Parts]) -> Exception:
    """The public error for what `_hot` or the pickler raised; `parts()`: what was being pickled, by name."""
    if isinstance(error, _hot.NodeGoneError):
        return _as_exception(blocking.node_error())
    if isinstance(error, _hot.StoreFullError):
        return store_full(error) if len(error.args) > 1 else ValueError(_TOO_LARGE)
    if type(error) is TypeError and isinstance(error.__cause__, Exception) and not hasattr(error, _NAMED):
        named = pickling.explained(error.__cause__, parts())
        setattr(named, _NAMED, True)
        return named
    return error


def raise_translated(error: Exception, parts: Callable[[], Parts]) -> NoReturn:
    """Raises that error, with what the value's own code raised, if it did, as its cause."""
    found = translated(error, parts)
    raise found from found.__cause__


def store_full(error: _hot.StoreFullError) -> errors.ObjectStoreFullError:
    """The public error for a full object store."""
    size_bytes, used_bytes, capacity_bytes = error.args[:3]
    return errors.ObjectStoreFullError(
        size_bytes=size_bytes, used_bytes=used_bytes, capacity_bytes=capacity_bytes
    )


def argument_parts(
    function: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[str, Any]]:
    """The arguments of a call with their names, for an error that has to name one."""
    names: list[str] = []
    if function is not None:
        try:
            kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            parameters = inspect.signature(function).parameters.values()
            names = [parameter.name for parameter in parameters if parameter.kind in kinds]
        except (TypeError, ValueError):  # a builtin: its arguments go by number
            names = []
    parts = []
    for index, value in enumerate(args):
        parts.append((f"argument {names[index]!r}" if index < len(names) else f"argument {index}", value))
    return parts + [(f"argument {name!r}", value) for name, value in kwargs.items()]


def again_with_room(call: Callable[[], Any]) -> Any:
    """Makes a call again until the message memory has room for it.

    Raises MemoryError when there was none for ROOM_TIMEOUT_S: then results that refs keep fill it.
    """
    deadline = time.monotonic() + ROOM_TIMEOUT_S
    while _hot.node_alive():
        try:
            return call()
        except _hot.FullError as error:
            if is_out_of_credit(error):
                raise
            if time.monotonic() > deadline:
                raise MemoryError(
                    f"calls and small results fill the node's {config.current().message_memory_bytes:,} bytes "
                    "for messages: drop refs that are not needed, or set "
                    f"{config.variable('message_memory_bytes')}"
                ) from None
        time.sleep(ROOM_LOOK_S)
    raise blocking.node_error()


def is_out_of_credit(error: _hot.FullError) -> bool:
    """Whether too many calls wait in the lane, rather than too much in the memory."""
    return error.args[:1] == ("credit",)


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(str(error))


def returns_of(function: Any, num_returns: Returns | None, most_unread: int = -1) -> int:
    """What a call of `function` gives, as the core is told: a number of refs, DYNAMIC, or a stream.

    `most_unread`: items of a stream that may be unread; -1: any number. Without num_returns, generators are streams.
    ValueError: it is no stream, and `most_unread` was given.
    """
    if num_returns is None:
        is_generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        num_returns = "streaming" if is_generator else 1
    if most_unread > 0 and num_returns != "streaming":
        raise ValueError(
            f"option generator_backpressure_num_objects is for num_returns='streaming', not {num_returns!r}"
        )
    if num_returns == "streaming":
        return _hot.STREAM - max(0, most_unread)
    return _hot.DYNAMIC if num_returns == "dynamic" else num_returns


def is_async(function: Any) -> bool:
    """Whether calling it gives a coroutine or an async generator."""
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def environment_of(options: TaskOptions | ActorOptions) -> str:
    """The runtime_env option in its normal form. TypeError, ValueError, NotImplementedError: it cannot be had."""
    return environment.normal(options.runtime_env)


def short_name(subject: Any) -> str:
    """What errors call a function or class: its qualified name, without where it was defined."""
    name = getattr(subject, "__qualname__", None) or repr(subject)
    return str(name).rpartition("<locals>.")[2]
