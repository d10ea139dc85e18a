"""Results whose tensors stay with the actor that made them: @af.method(tensor_transport=...).

The result in shared memory has all but the tensors: of these it says shape, dtype, and where they are. Who loads it, an
actor that gets it as an argument or somebody's af.get, takes the tensors from there: in the same process they are the
very same objects; over a group that both are in they go from process to process; else through the object store.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

from actorflow import _hot, errors, ids
from actorflow.client import blocking, calls, handles
from actorflow.collective import groups, shelf
from actorflow.collective.errors import CollectiveError
from actorflow.wire import pickling

LOOK_S = 0.1  # how often who waits for an answer sees whether the process that is to give it has died

_order: dict[
    tuple[int, int], threading.Lock
] = {}  # what comes from one rank comes in the order it was asked for


def _forget() -> None:
    """In a forked child: threads that are no more may have had the locks."""
    _order.clear()


os.register_at_fork(after_in_child=_forget)


class Home(NamedTuple):
    """Where tensors are kept. `mailbox`: index of the reference to that of the shelf; `owner`: (slot, epoch)."""

    mailbox: int
    owner: tuple[int, int]
    actor: str


class Spec(NamedTuple):
    """What is known of a tensor that is elsewhere."""

    shape: tuple[int, ...]
    dtype: Any
    requires_grad: bool


class Kept:
    """A result that is to leave its tensors here. Pickling it, which happens when the call is settled, does that."""

    def __init__(self, value: Any, transport: str, actor: str) -> None:
        self._value = value
        self._transport = transport
        self._actor = actor
        self._token: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        tensors: list[Any] = []
        with _aside(tensors):
            data, buffers = pickling.dumps(self._value)
        if not tensors:
            return _plain, (data, *buffers)
        own = shelf.own()
        if self._token is None:  # it may be pickled again, where the first attempt did not do
            self._token = own.keep(tensors, self._transport)
        _, slot, epoch = _hot.identity()
        home = Home(_hot.collect(own.mailbox), (slot, epoch), self._actor)
        specs = tuple(Spec(tuple(one.shape), one.dtype, one.requires_grad) for one in tensors)
        return _load, (self._token, home, specs, data, *buffers)


def keeping(function: Callable[..., Any], transport: str, actor: str) -> Callable[..., Any]:
    """A method whose results leave their tensors here."""

    def kept(value: Any) -> Any:
        return Kept(value, transport, actor) if "torch" in sys.modules else value

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            return kept(await function(*args, **kwargs))

        return run_async

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return kept(function(*args, **kwargs))

    return run


def wait_until_free() -> None:
    """In an actor that nobody can call any more: returns when nobody can ask for its tensors either."""
    own = shelf.current()
    if own is not None:
        own.wait_empty()


def count() -> int:
    """For how many results this process keeps tensors."""
    own = shelf.current()
    return 0 if own is None else own.count()


# -- loading


def _plain(data: bytes, *buffers: Any) -> Any:
    return pickling.loads(data, buffers)


def _load(token: Any, home: Home, specs: tuple[Spec, ...], data: bytes, *buffers: Any) -> Any:
    """The value with its tensors. ObjectLostError: who kept them has ended; CollectiveError: they cannot come."""
    own = shelf.current()
    entry = own.find(token.name) if own is not None else None
    tensors = entry.tensors if entry is not None else _fetched(token, home, specs)
    with _aside(tensors):
        return pickling.loads(data, buffers)


def _fetched(token: Any, home: Home, specs: tuple[Spec, ...]) -> list[Any]:
    target = _hot.Target(_hot.load_hold(home.mailbox))
    members = {member.identity: member for member in groups.members()}
    ranks = tuple((identity, member.communicator.rank) for identity, member in members.items())
    request = shelf.Request(token.name, ranks, shelf.request_tag(), handles.is_actor())
    with _in_order(home.owner):
        reference = calls.again_with_room(lambda: target.call(0, (request,), None))
        answer: shelf.Answer = _awaited(reference, token, home)
        direct = members.get(answer.identity)
        found = answer.tensors if direct is None else _received(direct, answer, specs)
    return [
        tensor.requires_grad_() if spec.requires_grad else tensor
        for tensor, spec in zip(found, specs, strict=True)
    ]


@contextmanager
def _in_order(owner: tuple[int, int]) -> Iterator[None]:
    """What threads of this process ask of one process they receive in that order too: NCCL knows no other."""
    with _order.setdefault(owner, threading.Lock()):
        yield


def _awaited(reference: Any, token: Any, home: Home) -> Any:
    """The answer, unless the process that is to give it dies before."""
    while True:
        try:
            return _hot.get(reference, LOOK_S)
        except TimeoutError as error:
            if type(error) is not TimeoutError:
                raise
            if not _hot.is_live(*home.owner):
                raise _lost(token, home) from None
        except errors.ActorflowError as error:
            if not _hot.is_live(*home.owner):
                raise _lost(token, home) from error
            raise
        except _hot.NodeGoneError:
            raise blocking.node_error() from None


def _lost(token: Any, home: Home) -> errors.ObjectLostError:
    return errors.ObjectLostError(
        object_id=ids.hex_of(token.name),
        reason=f"the process of actor {home.actor}, which kept its tensors (tensor_transport), has ended",
    )


def _received(member: groups.Member, answer: shelf.Answer, specs: tuple[Spec, ...]) -> Sequence[Any]:
    torch: Any = import_module("torch")
    communicator = member.communicator
    tensors = [torch.empty(spec.shape, dtype=spec.dtype, device=communicator.device) for spec in specs]
    try:
        for pending in [communicator.irecv(tensor, answer.rank, answer.tag) for tensor in tensors]:
            pending.wait()
    except CollectiveError:
        raise
    except BaseException:  # the sender waits for somebody who will not take them any more
        communicator.abort("a transfer between two of its members was interrupted")
        raise
    return tensors


def _aside(tensors: list[Any]) -> Any:
    return import_module("actorflow.wire.tensors").aside(tensors)
