"""Collective operations on tensors, under Ray's names: groups of processes, each with a rank, on gloo or NCCL.

A group is made either by its members, each calling `init_collective_group`, or for actors from outside, by
`create_collective_group`. Tensors are torch tensors, or numpy arrays, whose memory is then used. Operations wait until
this process may go on; on GPUs they are ordered with the current stream. All members call the collectives of a group
in the same order.

Raises of every operation: CollectiveError where this process is in no such group, or the group has broken (a member
died, left or failed); CollectiveTimeoutError where the others did not do their part in time; TypeError and ValueError
for wrong arguments, before anything is sent. What was broken stays so: destroy it and make another.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from actorflow.client import handles, runtime
from actorflow.client.handles import ActorHandle
from actorflow.collective import forming, groups, rendezvous
from actorflow.collective.communicator import Communicator, Factory, Pending, ReduceOp, Setup
from actorflow.collective.errors import CollectiveError, CollectiveTimeoutError, require_torch

__all__ = [
    "init_collective_group",
    "create_collective_group",
    "destroy_collective_group",
    "is_group_initialized",
    "get_rank",
    "get_collective_group_size",
    "get_group_handle",
    "gloo_available",
    "nccl_available",
    "allreduce",
    "reduce",
    "broadcast",
    "allgather",
    "reducescatter",
    "send",
    "recv",
    "barrier",
    "ReduceOp",
    "Communicator",
    "Pending",
    "Setup",
    "CollectiveError",
    "CollectiveTimeoutError",
]

DEFAULT = "default"
TIMEOUT_MS = 30_000

_created: dict[
    str, list[ActorHandle]
] = {}  # groups that this process made for actors, whom that keeps not alive


def init_collective_group(
    world_size: int,
    rank: int,
    backend: str | Factory = groups.AUTO,
    group_name: str = DEFAULT,
    gloo_timeout: int = TIMEOUT_MS,
) -> None:
    """Makes this process a member of a group; returns once all `world_size` processes of the job have called it.

    `backend`: "gloo", "nccl", "auto" (nccl where torch sees a GPU), or a function that makes a Communicator of a Setup;
    `gloo_timeout`: milliseconds that joining, and each later wait, may take. Raises CollectiveError where the group is
    not formed, CollectiveTimeoutError naming the ranks that did not come, ImportError without torch, TypeError,
    ValueError.
    """
    name = groups.checked_name(group_name)
    runtime.ensure()
    groups.join(
        name,
        rank,
        groups.checked_size(world_size),
        groups.checked_backend(backend),
        lambda identity: rendezvous.by_name(name, identity),
        _timeout_s(gloo_timeout),
    )


def create_collective_group(
    actors: Sequence[Any],
    world_size: int | None = None,
    ranks: Sequence[int] | None = None,
    backend: str | Factory = groups.AUTO,
    group_name: str = DEFAULT,
    gloo_timeout: int = TIMEOUT_MS,
) -> None:
    """Makes actors the members of a group, by their order or with these ranks; returns once it is formed.

    Each actor joins as if that were a call of one of its methods. Arguments and errors as of init_collective_group, and
    ActorDiedError for an actor that cannot come; then none is a member.
    """
    handles_of = _checked_actors(actors, world_size)
    name, backend = groups.checked_name(group_name), groups.checked_backend(backend)
    places = _checked_ranks(ranks, len(handles_of))
    timeout_s = _timeout_s(gloo_timeout)
    forming.form(handles_of, places, backend, name, timeout_s)
    _created[name] = [handles.unowned(actor) for actor in handles_of]


def destroy_collective_group(group_name: str = DEFAULT) -> None:
    """Leaves the group; in the process that created it for actors, makes these leave it. Without one does nothing."""
    name = groups.checked_name(group_name)
    groups.leave(name)
    forming.dissolve(_created.pop(name, []), name)


def is_group_initialized(group_name: str = DEFAULT) -> bool:
    """Whether this process is a member of the group."""
    return groups.is_member(groups.checked_name(group_name))


def get_rank(group_name: str = DEFAULT) -> int:
    """This process' rank in the group; -1 where it is no member."""
    return groups.find(group_name).rank if is_group_initialized(group_name) else -1


def get_collective_group_size(group_name: str = DEFAULT) -> int:
    """How many members the group has; -1 where this process is none."""
    return groups.find(group_name).size if is_group_initialized(group_name) else -1


def get_group_handle(group_name: str = DEFAULT) -> Communicator:
    """This process' communicator in the group. CollectiveError where it is no member."""
    return groups.find(group_name)


def gloo_available() -> bool:
    """Whether groups can use gloo here."""
    return _has("is_gloo_available")


def nccl_available() -> bool:
    """Whether groups can use NCCL here: torch was built with it, and sees a GPU."""
    return _has("is_nccl_available") and bool(require_torch().cuda.is_available())


# -- operations


def allreduce(tensor: Any, group_name: str = DEFAULT, op: ReduceOp = ReduceOp.SUM) -> None:
    """Replaces each member's tensor by the reduction of all."""
    groups.find(group_name).allreduce(_tensor(tensor), _checked_op(op))


def reduce(tensor: Any, dst_rank: int = 0, group_name: str = DEFAULT, op: ReduceOp = ReduceOp.SUM) -> None:
    """Replaces rank `dst_rank`'s tensor by the reduction of all; the others' content is undefined then."""
    groups.find(group_name).reduce(_tensor(tensor), dst_rank, _checked_op(op))


def broadcast(tensor: Any, src_rank: int = 0, group_name: str = DEFAULT) -> None:
    """Replaces each member's tensor by that of rank `src_rank`."""
    groups.find(group_name).broadcast(_tensor(tensor), src_rank)


def allgather(tensor_list: list[Any], tensor: Any, group_name: str = DEFAULT) -> None:
    """Fills `tensor_list`, one tensor for each rank, with all members' tensors."""
    communicator = groups.find(group_name)
    communicator.allgather([_tensor(output) for output in _listed(tensor_list)], _tensor(tensor, False))


def reducescatter(
    tensor: Any, tensor_list: list[Any], group_name: str = DEFAULT, op: ReduceOp = ReduceOp.SUM
) -> None:
    """Puts into rank r's tensor the reduction of what all members have at place r of `tensor_list`."""
    inputs = [_tensor(part, False) for part in _listed(tensor_list)]
    groups.find(group_name).reducescatter(_tensor(tensor), inputs, _checked_op(op))


def send(tensor: Any, dst_rank: int, group_name: str = DEFAULT) -> None:
    """Sends a tensor to rank `dst_rank`, which calls recv."""
    groups.find(group_name).send(_tensor(tensor, False), dst_rank)


def recv(tensor: Any, src_rank: int, group_name: str = DEFAULT) -> None:
    """Receives from rank `src_rank` into a tensor of the shape and dtype that it sends."""
    groups.find(group_name).recv(_tensor(tensor), src_rank)


def barrier(group_name: str = DEFAULT) -> None:
    """Returns once all members have called it."""
    groups.find(group_name).barrier()


# -- checks


def _has(available: str) -> bool:
    try:
        require_torch()
    except ImportError:
        return False
    return bool(getattr(importlib.import_module("torch.distributed"), available)())


def _timeout_s(milliseconds: Any) -> float:
    if not isinstance(milliseconds, int | float) or isinstance(milliseconds, bool):
        raise TypeError(f"gloo_timeout must be a number of milliseconds, not {milliseconds!r}")
    if not 0 < milliseconds < 1e9:
        raise ValueError(f"gloo_timeout must be above 0 and below 1e9 milliseconds, not {milliseconds}")
    return milliseconds / 1e3


def _checked_actors(actors: Any, world_size: int | None) -> list[ActorHandle]:
    if not isinstance(actors, list | tuple):
        raise TypeError(f"actors must be a list of actor handles, not {actors!r}")
    for actor in actors:
        if not isinstance(actor, ActorHandle):
            raise TypeError(f"actors must be a list of actor handles, and {actor!r} is none")
    if not actors or len(set(actors)) != len(actors):
        raise ValueError("actors must be at least one, and each only once")
    if world_size is not None and groups.checked_size(world_size) != len(actors):
        raise ValueError(f"world_size={world_size} must be the number of actors, {len(actors)}")
    return list(actors)


def _checked_ranks(ranks: Any, size: int) -> list[int]:
    if ranks is None:
        return list(range(size))
    if not isinstance(ranks, list | tuple) or sorted(ranks) != list(range(size)):
        raise ValueError(f"ranks must be 0 to {size - 1}, each once, not {ranks!r}")
    return list(ranks)


def _checked_op(op: Any) -> ReduceOp:
    if not isinstance(op, ReduceOp):
        raise TypeError(f"op must be a ReduceOp, not {op!r}")
    return op


def _listed(tensors: Any) -> list[Any]:
    if not isinstance(tensors, list | tuple):
        raise TypeError(f"tensor_list must be a list of tensors, not {type(tensors).__name__}")
    return list(tensors)


def _tensor(value: Any, is_output: bool = True) -> Any:
    """The tensor, or that of an array's memory; of an array that may not be written to, a copy."""
    if not isinstance(value, np.ndarray):
        return value
    if not value.flags.writeable:
        if is_output:
            raise ValueError("this array is read-only: give one that can be written to, as array.copy() is")
        value = value.copy()
    return require_torch().from_numpy(value)


runtime.at_end(_created.clear)
