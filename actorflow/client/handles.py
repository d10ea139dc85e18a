"""ActorHandle and ActorMethod: what calls to actors are made with.

A handle holds the actor's block in shared memory: the actor ends when no handle is left anywhere and its mailbox is
empty. A handle that is packed into a value is a counted reference like a ref; with it travels a description of the
class, so that whoever gets it needs no class. A method object is made once per handle and name, and calls the
actor's mailbox directly: one dictionary look-up and one C call.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from actorflow import _hot, errors
from actorflow.advice import nearest
from actorflow.client import blocking, calls, generators, runtime
from actorflow.client.pending import PendingCalls
from actorflow.client.refs import ObjectRef
from actorflow.options import MethodOptions
from actorflow.wire import outside

READY_NAME = "__ready__"
READY = 0  # the number of __ready__; methods are numbered from 1, in the order of their names
CALL_NAME = "__ray_call__"  # numbered after the last method
_GROUP_SHIFT = (
    10  # above the method's number a call carries the group that was asked for; 0: the method's own
)
LARGEST_METHOD = (1 << _GROUP_SHIFT) - 1
MOST_GROUPS = 63  # a call has 16 bits for both
KEPT_DOORS = 64
NOTED_CALLS = 100_000  # more own calls than one waits for


class Description(NamedTuple):
    """What a handle knows of its actor's class. `returns`: num_returns of each method; `groups`: names of its
    concurrency groups but for the default one."""

    name: str
    methods: tuple[str, ...]
    returns: tuple[int, ...]
    max_pending_calls: int = 0  # of one process; 0: as many as the lane takes, and then a driver waits
    groups: tuple[str, ...] = ()
    retries: tuple[int, ...] = ()  # max_task_retries of each method; of __ready__ there is no limit

    @classmethod
    def of(cls, plain: Sequence[Any]) -> Description:
        """From what the node keeps: its fields as lists."""
        name, methods, returns, max_pending_calls, groups, retries = plain
        return cls(
            str(name), tuple(methods), tuple(returns), int(max_pending_calls), tuple(groups), tuple(retries)
        )

    def plain(self) -> list[Any]:
        """As msgpack can write it, for the node."""
        return [list(field) if isinstance(field, tuple) else field for field in self]

    def number(self, method: str) -> int:
        """The number that calls to a method carry. AttributeError names the nearest."""
        try:
            return self.methods.index(method) + 1
        except ValueError:
            raise AttributeError(self._advice(method)) from None

    def _advice(self, method: str) -> str:
        near = nearest(method, self.methods)
        rest = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(self.methods) or 'none'}"
        return f"actor class {self.name} has no method {method!r}: {rest}"


def number_of_group(name: str, groups: Sequence[str], method: str) -> int:
    """The number of a concurrency group of that method's actor, from 1. ValueError names the nearest."""
    if name in groups:
        return groups.index(name) + 1
    near = nearest(name, groups)
    rest = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, groups)) or 'none'}"
    raise ValueError(
        f"method option concurrency_group of {method!r}: its actor has no group {name!r}: {rest}"
    )


def method_and_group(number: int) -> tuple[int, int]:
    """What the number of a call says: the method, and the group that was asked for (0: the method's own)."""
    return number & LARGEST_METHOD, number >> _GROUP_SHIFT


class Door:
    """This process' one Target for an actor: one lane, so that the order of calls is kept over all handles."""

    __slots__ = ("__weakref__", "_pending", "call", "description", "target")

    def __init__(self, mailbox: _hot.Hold) -> None:
        self.description: Description | None = None  # of whatever handle came last
        self.target = _hot.Target(mailbox)
        self.call = self.target.call
        self._pending: PendingCalls | None = None

    def call_within(self, limit: int) -> Callable[..., Any]:
        """What calls are made with where so many may be pending; 0: any number."""
        if not limit:
            return self.call
        if self._pending is None:
            self._pending = PendingCalls(self.call, limit)
        return self._pending.call


_doors: weakref.WeakValueDictionary[_hot.Hold, Door] = weakref.WeakValueDictionary()
# A handle may live for one call only, again and again: its lane must not end with it, or the order would.
_kept_doors: deque[Door] = deque(maxlen=KEPT_DOORS)


def door_to(mailbox: _hot.Hold) -> Door:
    """The door to a mailbox, made at first use."""
    door = _doors.get(mailbox)
    if door is None:
        door = _doors[mailbox] = Door(mailbox)
        _kept_doors.append(door)
    return door


def name_of_method(mailbox: int, number: int) -> str:
    """What errors call a method, by its number and the offset of its actor's mailbox, as far as it is known here."""
    method, _ = method_and_group(number)
    for hold, door in list(_doors.items()):
        if hold.name[0] == mailbox and door.description is not None:
            return f"{door.description.name}.{(READY_NAME, *door.description.methods, CALL_NAME)[method]}"
    return "actor method"


def _forget_doors() -> None:
    _kept_doors.clear()
    _doors.clear()


runtime.at_end(_forget_doors)


class ActorMethod:
    """A method of one actor. Calling it (or its `.remote`) sends a call and returns a ref at once."""

    __slots__ = (
        "_block",
        "_call",
        "_door",
        "_groups",
        "_handle_hold",
        "_label",
        "_limit",
        "_number",
        "_retries",
        "_retry",
        "_returns",
        "_types",
    )

    def __init__(
        self,
        hold: _hot.Hold,
        door: Door,
        label: str,
        number: int,
        returns: int,
        limit: int,
        groups: tuple[str, ...] = (),
        retries: int = 0,
        retry: bool | None = None,
        types: _hot.Reference | None = None,
    ) -> None:
        self._handle_hold = hold  # the actor lives on while a method of it is kept
        self._door = door
        call = door.call_within(limit)
        self._call = generators.streaming(call) if returns <= _hot.STREAM else call
        self._label = label
        self._number = number
        self._returns = returns
        self._limit = limit
        self._groups = groups
        self._retries = retries
        self._retry = retry  # retry_exceptions of this call; None: those of `types`, or the method's own
        self._types = types  # to a tuple of exceptions
        # Who waits inside a call keeps others from reading its own mailbox: two such could wait for each other.
        self._block = not (limit or runtime.in_worker())

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Sends the call. Returns a ref; a list of refs where num_returns > 1; None where it is 0; an
        ObjectRefGenerator where it is "streaming", which is the default for generator functions.

        Refs among the arguments become their values in the actor. Raises TypeError for an argument that cannot be
        pickled, PendingCallsLimitExceeded, ObjectStoreFullError. A dead actor's error comes with the ref.
        """
        try:
            return self._call(
                self._number,
                args,
                kwargs,
                self._returns,
                self._types,
                self._block,
                self._retries,
                self._retry,
            )
        except Exception as error:
            return self._call_again(error, args, kwargs)

    __call__ = remote

    def options(self, **options: Any) -> ActorMethod:
        """The same method with other options (of MethodOptions); those that are not given stay.

        TypeError; ValueError, also for a concurrency group that the actor does not have.
        """
        checked = MethodOptions(**options)
        if checked.tensor_transport is not None:
            raise NotImplementedError(
                "tensor_transport is for @af.method: a method keeps tensors, not a call"
            )
        returns = self._returns
        if "num_returns" in options or "generator_backpressure_num_objects" in options:
            num_returns = checked.num_returns
            if num_returns is None:
                num_returns = "streaming" if returns <= _hot.STREAM else returns
            returns = calls.returns_of(None, num_returns, checked.generator_backpressure_num_objects)
        number = self._number
        if checked.concurrency_group is not None:
            group = number_of_group(checked.concurrency_group, self._groups, self._label)
            number = method_and_group(number)[0] | group << _GROUP_SHIFT
        retries = self._retries if checked.max_task_retries is None else checked.max_task_retries
        retry, types = self._retry, self._types
        if "retry_exceptions" in options:
            asked = checked.retry_exceptions
            retry, types = (asked, None) if isinstance(asked, bool) else (None, _exported_types(asked))
        return type(self)(
            self._handle_hold,
            self._door,
            self._label,
            number,
            returns,
            self._limit,
            self._groups,
            retries,
            retry,
            types,
        )

    def _call_again(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The way of a call that was refused at first."""
        if isinstance(error, _hot.ClosedError):
            mailbox = self._door.target.mailbox
            with contextlib.suppress(
                ValueError
            ):  # what the actor's last error names is the mailbox': to be let go of
                _kept_doors.remove(self._door)
            refs = [
                calls.again_with_room(lambda: _hot.refused(mailbox)) for _ in range(max(1, self._returns))
            ]
            if self._returns <= _hot.STREAM:
                return generators.failed(refs[0])
            return refs if self._returns > 1 else refs[0] if self._returns else None
        if isinstance(error, _hot.FullError):
            if calls.is_out_of_credit(error):
                raise errors.PendingCallsLimitExceeded(
                    target=self._label, limit=self._limit or runtime.require().lane_credit
                ) from None
            return calls.again_with_room(
                lambda: self._call(
                    self._number,
                    args,
                    kwargs,
                    self._returns,
                    self._types,
                    self._block,
                    self._retries,
                    self._retry,
                )
            )
        calls.raise_translated(error, lambda: calls.argument_parts(None, args, kwargs))

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """A node of a graph: this method with these arguments, among which may be other nodes. See `af.dag`."""
        if _make_node is None:
            importlib.import_module(GRAPHS_MODULE)
        assert _make_node is not None
        return _make_node(self, args, kwargs)

    @property
    def label(self) -> str:
        """What errors call it: its class and its name."""
        return self._label

    @property
    def name(self) -> str:
        """Its name."""
        return self._label.rpartition(".")[2]

    @property
    def returns(self) -> int:
        """What a call gives, as the core is told."""
        return self._returns

    @property
    def mailbox(self) -> _hot.Hold:
        """Its actor's mailbox: the same for all methods and handles of one actor."""
        return self._door.target.mailbox

    @property
    def handle(self) -> ActorHandle:
        """A handle of its actor."""
        assert self._door.description is not None
        return ActorHandle(self._handle_hold, self.mailbox, self._door.description)

    def __repr__(self) -> str:
        return f"ActorMethod({self._label})"


# By name, at first use: it lies above this, and most programs have no graphs.
GRAPHS_MODULE = "actorflow.dag"
_make_node: Callable[[ActorMethod, tuple[Any, ...], dict[str, Any]], Any] | None = None


def bind_with(make: Callable[[ActorMethod, tuple[Any, ...], dict[str, Any]], Any]) -> None:
    """Has `bind` make its nodes with `make(method, args, kwargs)`: what graphs are lies above this."""
    global _make_node
    _make_node = make


class OwnActorMethod(ActorMethod):
    """A method of the actor that this process hosts: its calls are noted, as no one else can answer them."""

    __slots__ = ()

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """As for every actor; waiting for the answer in the thread that has to give it is a DeadlockError."""
        given = super().remote(*args, **kwargs)
        for ref in _references(given):
            if len(_own_calls) >= NOTED_CALLS:
                del _own_calls[next(iter(_own_calls))]
            _own_calls[ref.name] = self._label
        return given

    __call__ = remote


@functools.lru_cache(maxsize=64)
def _exported_types(types: tuple[type[BaseException], ...]) -> _hot.Reference:
    """A ref to types of exceptions. TypeError: one of them cannot be pickled."""
    runtime.require()
    try:
        exported: _hot.Reference = _hot.put(types)
    except Exception as error:
        calls.raise_translated(error, lambda: [("method option retry_exceptions", types)])
    return exported


runtime.at_end(_exported_types.cache_clear)


def _references(given: Any) -> list[_hot.Reference]:
    """What one may wait for of what a call gave. Of a stream the first item: it is waited for before the others."""
    if isinstance(given, generators.ObjectRefGenerator):
        return [generators.next_item(given)]
    if given is None:
        return []
    return given if isinstance(given, list) else [given]


_own_mailbox: _hot.Hold | None = None
_own_calls: dict[tuple[int, int], str] = {}  # references to own calls, the latest ones -> the method


def become_actor(mailbox: _hot.Hold) -> None:
    """In a worker: from now on it hosts the actor of that mailbox."""
    global _own_mailbox
    _own_mailbox = mailbox


def is_actor() -> bool:
    """Whether this process hosts an actor."""
    return _own_mailbox is not None


def forbid_own_calls(serving_thread: Callable[[], bool], reason: str) -> None:
    """DeadlockError for waits that only this actor could end, in the thread that would have to: `serving_thread()`."""

    def refuse(what: str) -> None:
        if serving_thread():
            raise errors.DeadlockError(waiting_for=what, reason=reason)

    def check(unfinished: Sequence[_hot.Reference], missing: int) -> None:
        own = [reference for reference in unfinished if reference.name in _own_calls]
        if len(unfinished) - len(own) < missing:
            refuse(_own_calls[own[0].name])

    blocking.forbid(check, refuse, _own_calls)


class ActorHandle:
    """An actor that may be in any process. `handle.method(...)` calls it; handles can be passed anywhere."""

    __slots__ = ("__dict__", "__weakref__", "_actor_description", "_actor_door", "_actor_hold")

    def __init__(self, hold: _hot.Hold, mailbox: _hot.Hold, description: Description) -> None:
        self._actor_hold = hold
        self._actor_door = door_to(mailbox)
        self._actor_description = self._actor_door.description = description

    def __getattr__(self, name: str) -> ActorMethod:
        """Makes the method at first use; from then on it is found in the instance's dictionary."""
        description = self._actor_description
        number = description.number(name)
        method = self._method(name, number, description.returns[number - 1])
        self.__dict__[name] = method
        return method

    def __setattr__(self, name: str, value: Any) -> None:
        """AttributeError but for the handle's own parts: the actor would not see it."""
        if name not in ActorHandle.__slots__:
            raise AttributeError(f"{name!r} cannot be set on a handle: call a method that sets it there")
        object.__setattr__(self, name, value)

    def _method(self, name: str, number: int, returns: int) -> ActorMethod:
        kind = OwnActorMethod if self._actor_door.target.mailbox == _own_mailbox else ActorMethod
        label = f"{self._actor_description.name}.{name}"
        limit, groups = self._actor_description.max_pending_calls, self._actor_description.groups
        of_methods = self._actor_description.retries
        retries = -1 if number == READY else 0
        if 0 < number <= len(of_methods):
            retries = of_methods[number - 1]
        return kind(self._actor_hold, self._actor_door, label, number, returns, limit, groups, retries)

    def __ready__(self) -> ObjectRef[None]:
        """A ref that is done once the constructor is; its error is the actor's, if that died."""
        ref: ObjectRef[None] = self._method(READY_NAME, READY, 1).remote()
        return ref

    @property
    def __ray_call__(self) -> ActorMethod:
        """A method that runs any function in the actor: `handle.__ray_call__.remote(function, *args)` calls
        `function(instance, *args)` there, as if it were a method. Of an async actor it may be a coroutine function."""
        return self._method(CALL_NAME, len(self._actor_description.methods) + 1, 1)

    def __service__(self, *request: Any) -> ObjectRef[Any]:
        """Asks the actor's process, and not its instance, for something (worker/actor.py); never asked twice."""
        method = self._method(READY_NAME, READY, 1).options(max_task_retries=0)
        ref: ObjectRef[Any] = method.remote(*request)
        return ref

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._actor_description.methods]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ActorHandle):
            return NotImplemented
        return self._actor_door.target.mailbox == other._actor_door.target.mailbox

    def __hash__(self) -> int:
        return hash(self._actor_door.target.mailbox)

    def __reduce__(self) -> tuple[Any, ...]:
        index = _hot.collect(self._actor_hold)
        if index >= 0:
            return _load_handle, (index, tuple(self._actor_description))
        _, name = outside.reduce(self._actor_hold)
        return _revive_handle, (name, tuple(self._actor_description))

    def __repr__(self) -> str:
        return f"ActorHandle({self._actor_description.name}, {outside.hex_name(self._actor_door.target.mailbox)})"

    def __rich_repr__(self) -> Iterator[Any]:
        yield self._actor_description.name
        yield outside.hex_name(self._actor_door.target.mailbox)
        yield "methods", list(self._actor_description.methods)

    def _repr_html_(self) -> str:
        methods = ", ".join(self._actor_description.methods)
        name, identity = self._actor_description.name, outside.hex_name(self._actor_door.target.mailbox)
        return f"<code>{name}</code> actor {identity}<br><small>{methods}</small>"


def unowned(handle: ActorHandle) -> ActorHandle:
    """The same actor, by a handle that does not keep it alive."""
    mailbox = handle._actor_door.target.mailbox
    return ActorHandle(mailbox, mailbox, handle._actor_description)


def _load_handle(index: int, description: tuple[Any, ...]) -> ActorHandle:
    return _handle_of(_hot.load_hold(index), description)


def _revive_handle(name: tuple[Any, ...], description: tuple[Any, ...]) -> ActorHandle:
    return _handle_of(outside.revive(*name), description)


def _handle_of(held: _hot.Hold, description: tuple[Any, ...]) -> ActorHandle:
    mailbox = _hot.actor_mailbox(held) if held.kind == "actor" else held
    return ActorHandle(held, mailbox, Description(*description))
