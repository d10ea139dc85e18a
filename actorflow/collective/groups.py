"""The collective groups that this process is a member of, by name: joining, finding and leaving them."""

from __future__ import annotations

import datetime
import importlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from actorflow import _hot, errors
from actorflow.client import blocking, runtime
from actorflow.client.handles import ActorHandle
from actorflow.collective import rendezvous
from actorflow.collective.communicator import Communicator, Factory, Setup
from actorflow.collective.errors import CollectiveError, CollectiveTimeoutError, require_torch

AUTO = "auto"
BACKENDS = ("gloo", "nccl")
_OTHER_NAMES = {"torch_gloo": "gloo"}
TIMEOUT_S = 30.0
LOOPBACK = "127.0.0.1"
LOOK_S = 0.01


class Member(NamedTuple):
    """This process in a group. `identity`: of this very group, which another one of its name does not have."""

    name: str
    identity: str
    communicator: Communicator


_members: dict[str, Member] = {}
_lock = threading.Lock()
_of_parent: list[Any] = []  # in a forked child: what it must neither use nor close
_has_fork_hook = False


def checked_name(name: Any) -> str:
    """The name of a group. TypeError, ValueError."""
    if not isinstance(name, str):
        raise TypeError(f"group_name must be a text, not {name!r}")
    if not name:
        raise ValueError("group_name must not be empty")
    return name


def checked_size(size: Any) -> int:
    """The size of a group. TypeError, ValueError."""
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"world_size must be a whole number, not {size!r}")
    if size < 1:
        raise ValueError(f"world_size must be at least 1, not {size}")
    return size


def checked_backend(backend: Any) -> str | Factory:
    """The name of a backend in its normal form, or a function that makes communicators. TypeError, ValueError."""
    if callable(backend):
        return backend  # type: ignore[no-any-return] # what it makes is looked at when it is made
    allowed = "'auto', 'gloo', 'nccl', or a function that makes a Communicator of a Setup"
    if not isinstance(backend, str):
        raise TypeError(f"backend must be {allowed}, not {backend!r}")
    name = backend.lower()
    name = _OTHER_NAMES.get(name, name)
    if name not in (AUTO, *BACKENDS):
        raise ValueError(f"backend must be {allowed}, not {backend!r}")
    return name


def join(
    name: str,
    rank: Any,
    size: int,
    backend: str | Factory,
    meeting: Callable[[str], ActorHandle],
    timeout_s: float = TIMEOUT_S,
) -> Communicator:
    """Becomes a member; returns when all have. `meeting(identity)`: where they meet. CollectiveError, ImportError."""
    if not isinstance(rank, int) or isinstance(rank, bool):
        raise TypeError(f"rank must be a whole number, not {rank!r}")
    if not 0 <= rank < size:
        raise ValueError(f"rank must be from 0 to world_size - 1 = {size - 1}, not {rank}")
    if name in _members:
        raise CollectiveError(
            group=name,
            rank=rank,
            reason="this process is a member already: call destroy_collective_group first",
        )
    require_torch()
    backend = _chosen(backend)
    if backend == "nccl":  # before others meet this process, and look for a store that is gone again
        _nccl().require_gpu(name, rank)
    limit = datetime.timedelta(seconds=timeout_s)
    label = (
        backend if isinstance(backend, str) else getattr(backend, "__qualname__", type(backend).__qualname__)
    )
    _, slot, epoch = _hot.identity()
    try:
        store = _store(0, limit) if rank == 0 else None
        port = 0 if store is None else store.port
        met = _met(name, meeting, rendezvous.Arrival(rank, size, label, (slot, epoch), port), timeout_s)
        members = tuple(other.member for other in met.arrivals)
        store = store or _store(met.arrivals[0].port, limit)
        communicator = _make(backend, Setup(name, rank, size, members, store, timeout_s))
    except RuntimeError as error:  # torch's, of its store
        raise CollectiveError(group=name, rank=rank, reason=f"it was not formed: {error}") from None
    _remember(Member(name, met.identity, communicator))
    return communicator


def _met(
    name: str, meeting: Callable[[str], ActorHandle], arrival: rendezvous.Arrival, timeout_s: float
) -> rendezvous.Meeting:
    """The meeting with all members. One that is over was that of an earlier group of the same name."""
    deadline = time.monotonic() + timeout_s
    while True:
        place = meeting(os.urandom(8).hex())
        left_s = max(LOOK_S, deadline - time.monotonic())
        try:
            met: rendezvous.Meeting = blocking.get_one(place.join.remote(arrival, left_s))
        except errors.ActorError as error:
            met = rendezvous.Meeting(
                "", (), f"the process in which its members meet has ended ({error})", True
            )
        if not met.is_over and not met.problem:
            return met
        if not met.is_over or time.monotonic() > deadline:
            kind = CollectiveTimeoutError if "did not join" in met.problem else CollectiveError
            reason = f"it was not formed: {met.problem or 'others are still leaving the one before'}"
            raise kind(group=name, rank=arrival.rank, reason=reason)
        time.sleep(LOOK_S)


def _chosen(backend: str | Factory) -> str | Factory:
    if backend != AUTO:
        return backend
    return "nccl" if require_torch().cuda.is_available() else "gloo"


def _store(port: int, timeout: datetime.timedelta) -> Any:
    """The group's store: here, on a port that the system chooses, or (port) where rank 0 has it."""
    distributed: Any = importlib.import_module("torch.distributed")
    return distributed.TCPStore(LOOPBACK, port, None, port == 0, timeout, False)


def _nccl() -> Any:
    return importlib.import_module("actorflow.collective.nccl")


def _make(backend: str | Factory, setup: Setup) -> Communicator:
    if not isinstance(backend, str):
        made = backend(setup)
        if not isinstance(made, Communicator):
            raise TypeError(f"the backend of group {setup.group!r} made {made!r}, which is no Communicator")
        return made
    if backend == "nccl":
        return _nccl().NcclCommunicator(setup)  # type: ignore[no-any-return]
    return importlib.import_module("actorflow.collective.gloo").GlooCommunicator(setup)  # type: ignore[no-any-return]


def _remember(member: Member) -> None:
    global _has_fork_hook
    with _lock:
        _members[member.name] = member
        if not _has_fork_hook:
            _has_fork_hook = True
            os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    """In a forked child: the connections and threads are its parent's. To free them here would wait for these."""
    global _lock
    _lock = threading.Lock()
    _of_parent.extend(_members.values())
    _members.clear()


def is_member(name: str) -> bool:
    """Whether this process is in the group of that name."""
    return name in _members


def find(name: str) -> Communicator:
    """This process' communicator in a group. CollectiveError names those there are."""
    member = _members.get(checked_name(name))
    if member is None:
        known = ", ".join(map(repr, sorted(_members))) or "none"
        raise CollectiveError(
            group=name,
            reason=f"this process is no member of it (it is in {known}): call init_collective_group here, or "
            "create_collective_group with its actor",
        )
    return member.communicator


def members() -> list[Member]:
    """This process in all its groups."""
    return list(_members.values())


def leave(name: str, identity: str = "") -> bool:
    """Leaves a group; whether this process was in it. `identity`: only if it is that very group."""
    with _lock:
        member = _members.get(name)
        if member is not None and identity not in ("", member.identity):
            member = None
        if member is not None:
            del _members[name]
    if member is not None:
        member.communicator.close()
    return member is not None


def abort(name: str, reason: str) -> None:
    """Breaks a group for whoever waits in it, from any thread, if this process is in it still."""
    member = _members.get(name)
    if member is not None:
        member.communicator.abort(reason)


def leave_all() -> None:
    """Leaves every group: the runtime ends."""
    for name in list(_members):
        leave(name)


runtime.at_end(leave_all)
