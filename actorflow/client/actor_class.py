"""ActorClass: what `@af.remote` makes of a class, and the making of actors.

A new actor is a mailbox, the block that handles hold, and the constructor's call, all made here in shared memory. The
handle exists at once and can be called; the node is asked, without waiting, for a process that serves the mailbox.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from actorflow import _hot
from actorflow.client import calls, runtime
from actorflow.client.exports import export_of, is_named
from actorflow.client.handles import (
    LARGEST_METHOD,
    MOST_GROUPS,
    ActorHandle,
    Description,
    number_of_group,
)
from actorflow.client.where import where_of
from actorflow.options import ActorOptions, MethodOptions

METHOD_OPTIONS = "__actorflow_method__"  # attribute of a function that af.method has decorated
ASYNC_CONCURRENCY = 1000


class ActorPlan(NamedTuple):
    """What an actor's process has to know before it runs the constructor: its first argument."""

    cls: _hot.Reference
    description: Description
    is_async: bool
    limits: tuple[
        int, ...
    ]  # calls at once of the default concurrency group, and of each of the description's groups
    method_groups: tuple[int, ...]  # of each method; 0: the default group


def method(**options: Any) -> Callable[[Any], Any]:
    """Decorates a method of an actor class with options: num_returns, concurrency_group (the name of one that the
    class's option concurrency_groups has), and others of MethodOptions. TypeError, ValueError."""
    checked = MethodOptions(**options)

    def decorate(function: Any) -> Any:
        if checked.tensor_transport is not None and calls.returns_of(function, checked.num_returns) != 1:
            raise ValueError(
                "method option tensor_transport is for methods with one result, not for generators"
            )
        setattr(function, METHOD_OPTIONS, checked)
        return function

    return decorate


class ActorClass:
    """A class whose instances live in processes of their own. `.remote(...)` makes one and returns its handle."""

    def __init__(self, cls: type, options: ActorOptions) -> None:
        self._environment = calls.environment_of(options)
        self.cls = cls
        self.__name__ = cls.__name__
        self.__qualname__ = cls.__qualname__
        self.__module__ = cls.__module__
        self.__doc__ = cls.__doc__
        self._options = options
        self._export = export_of(cls)
        self._named_by: Any = self

    # Not before they are needed: a class that travels by value is filled only after what refers to it was made.
    @functools.cached_property
    def _methods(self) -> dict[str, Callable[..., Any]]:
        return actor_methods(self.cls)

    @functools.cached_property
    def _is_async(self) -> bool:
        return any(calls.is_async(function) for function in self._methods.values())

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Makes an actor with these constructor arguments, and returns its handle at once.

        Refs among the arguments become their values. Raises TypeError for arguments that cannot be pickled,
        ValueError for a method in a concurrency group that the class does not have,
        ActorAlreadyExistsError where the name is taken; what the constructor raises comes with the first call.
        """
        session = runtime.require()
        environment = session.environment_for(self._environment)
        travels_as = self._named_by if is_named(self._named_by, self.cls) else self.cls
        plan = ActorPlan(
            self._export.reference(travels_as),
            self._description(),
            self._is_async,
            (self._max_concurrency(), *(limit for _, limit in self._options.concurrency_groups)),
            self._method_groups(),
        )
        mailbox = _hot.make_mailbox(self._mailbox_flags(), session.job_id, self._credit(session))
        actor = _hot.make_actor(mailbox)
        target = _hot.Target(mailbox)
        try:
            target.submit_first(0, (plan, *args), kwargs, -1 if self._options.max_restarts else 0)
        except Exception as error:
            calls.raise_translated(error, lambda: calls.argument_parts(self.cls, args, kwargs))
        return self._registered(session, actor, mailbox, plan.description, environment)

    __call__ = remote

    def options(self, **options: Any) -> ActorClass:
        """The same class with other options; those that are not given stay. TypeError, ValueError."""
        other = ActorClass(self.cls, self._options.merged(**options))
        other._named_by = self._named_by
        return other

    def _registered(
        self,
        session: runtime.Runtime,
        actor: _hot.Hold,
        mailbox: _hot.Hold,
        description: Description,
        environment: str,
    ) -> ActorHandle:
        """Tells the node. A named actor may exist already: only then the answer is waited for."""
        options = self._options
        fields = {
            "class": description.plain(),
            "options": {
                "name": options.name,
                "namespace": options.namespace or session.namespace,
                "lifetime": options.lifetime,
                "max_restarts": options.max_restarts,
                "get_if_exists": options.get_if_exists,
                "environment": environment,
            },
            "where": dict(where_of(options)),
            "to_run": options.shape(),
            "to_place": options.placing_shape(),
        }
        if options.name is None:
            session.tell("create_actor", [actor, mailbox], **fields)
            return ActorHandle(actor, mailbox, description)
        _, holds = session.ask("create_actor", [actor, mailbox], **fields)
        if holds and holds[0] != mailbox:  # the one that was there
            return ActorHandle(holds[0], holds[0], description)
        return ActorHandle(actor, mailbox, description)

    def _description(self) -> Description:
        returns = tuple(_num_returns(function) for function in self._methods.values())
        limit = max(0, self._options.max_pending_calls)
        groups = tuple(name for name, _ in self._options.concurrency_groups)
        retries = tuple(self._retries_of(function) for function in self._methods.values())
        return Description(calls.short_name(self.cls), tuple(self._methods), returns, limit, groups, retries)

    def _retries_of(self, function: Any) -> int:
        options = getattr(function, METHOD_OPTIONS, None)
        own = None if options is None else options.max_task_retries
        return self._options.max_task_retries if own is None else own

    def _method_groups(self) -> tuple[int, ...]:
        names = [name for name, _ in self._options.concurrency_groups]
        if len(names) > MOST_GROUPS or len(self._methods) >= LARGEST_METHOD:
            raise ValueError(
                f"{self.__qualname__} has {len(names)} concurrency groups and {len(self._methods)} methods: "
                f"at most {MOST_GROUPS} groups and {LARGEST_METHOD - 1:,} methods are possible"
            )
        return tuple(_group_of(function, names, name) for name, function in self._methods.items())

    def _max_concurrency(self) -> int:
        return self._options.max_concurrency or (ASYNC_CONCURRENCY if self._is_async else 1)

    def _mailbox_flags(self) -> int:
        """Only what runs one call at a time keeps the order of calls that are not ready yet."""
        at_once = self._is_async or self._max_concurrency() > 1 or self._options.concurrency_groups
        return 0 if at_once else _hot.ORDERED

    def _credit(self, session: runtime.Runtime) -> int:
        return max(self._options.max_pending_calls, session.lane_credit)

    def __getattr__(self, name: str) -> Any:
        """Only for what is not there. AttributeError says how a method is called."""
        cls = self.__dict__.get("cls")
        if cls is None or _is_special(name) or not callable(getattr(cls, name, None)):
            raise AttributeError(
                f"an actor class has no attribute {name!r}: what its actors have, methods alone reach"
            )
        raise AttributeError(
            f"{name!r} is a method of the actors of {cls.__name__}: make one with {cls.__name__}.remote(...), and "
            f"call its {name}.remote(...)"
        )

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type]:
        return (self.cls,)

    def __reduce__(self) -> str | tuple[Any, ...]:
        if self._named_by is self and is_named(self, self.cls):
            return str(self.cls.__qualname__)
        return ActorClass, (self.cls, self._options)

    def __repr__(self) -> str:
        return f"ActorClass({self.__qualname__})"


def actor_methods(cls: type) -> dict[str, Callable[..., Any]]:
    """The methods that a handle offers, in the order of their names: all functions of the class.

    Names of the language's own (`__eq__`) are left to the handle, but for `__call__`.
    """
    return {
        name: member
        for name, member in inspect.getmembers(cls, callable)
        if not isinstance(member, type) and (name == "__call__" or not _is_special(name))
    }


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def retry_on(cls: type, name: str) -> tuple[type[BaseException], ...]:
    """The exceptions on which calls of a method are run again, as its decorator says."""
    options = getattr(getattr(cls, name, None), METHOD_OPTIONS, None)
    retry = False if options is None else options.retry_exceptions
    return ((Exception,) if retry else ()) if isinstance(retry, bool) else retry


def transport_of(cls: type, name: str) -> str | None:
    """How tensors in the results of a method travel, as its decorator says; None: with the results."""
    options = getattr(getattr(cls, name, None), METHOD_OPTIONS, None)
    return None if options is None else options.tensor_transport


def _num_returns(function: Any) -> int:
    options = getattr(function, METHOD_OPTIONS, None)
    if options is None:
        return calls.returns_of(function, None)
    return calls.returns_of(function, options.num_returns, options.generator_backpressure_num_objects)


def _group_of(function: Any, groups: list[str], method: str) -> int:
    options = getattr(function, METHOD_OPTIONS, None)
    if options is None or options.concurrency_group is None:
        return 0
    return number_of_group(options.concurrency_group, groups, method)
