"""af.remote: makes a remote function of a function and an actor class of a class."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, overload

from actorflow.advice import unknown_option
from actorflow.client.actor_class import ActorClass
from actorflow.client.remote_function import RemoteFunction
from actorflow.options import ActorOptions, TaskOptions


@overload
def remote(subject: type, /) -> ActorClass: ...
@overload
def remote(subject: FunctionType, /) -> RemoteFunction: ...
@overload
def remote(subject: Callable[..., Any], /) -> Any: ...
@overload
def remote(**options: Any) -> Callable[[Any], Any]: ...


def remote(*subjects: Any, **options: Any) -> Any:
    """Decorates a function (sync or async) or a class: `@af.remote`, or `@af.remote(num_cpus=2)`.

    The options are those of TaskOptions and ActorOptions. TypeError for an unknown option or one of the wrong type,
    ValueError for an impossible value; both at once, but for options that what is decorated then does not have.
    """
    if len(subjects) == 1 and not options:
        return _decorated(subjects[0], {})
    if subjects or not options:
        raise TypeError("use @remote, or @remote(option=value, ...) with at least one option")
    _check(options)
    return lambda subject: _decorated(subject, options)


def _check(options: dict[str, Any]) -> None:
    """Refuses what neither a function nor a class can have."""
    records = (TaskOptions, ActorOptions)
    for name in options:
        if not any(record.has(name) for record in records):
            allowed = dict.fromkeys([*TaskOptions.__dataclass_fields__, *ActorOptions.__dataclass_fields__])
            raise unknown_option("option of tasks or actors", name, allowed)
    next((record for record in records if all(map(record.has, options))), ActorOptions)(**options)


def _decorated(subject: Any, options: dict[str, Any]) -> ActorClass | RemoteFunction:
    if isinstance(subject, ActorClass | RemoteFunction):
        raise TypeError(f"{subject!r} is remote already: use its .options(...)")
    if isinstance(subject, type):
        return ActorClass(subject, ActorOptions(**options))
    if not callable(subject):
        raise TypeError(f"@remote decorates a function or a class, not {subject!r}")
    return RemoteFunction(subject, TaskOptions(**options))
