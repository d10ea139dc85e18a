"""Steps of a graph that are an actor's part of a collective operation.

A part has two steps. The first tells the others, through a channel, what tensor this actor has; the second runs when
all have told, and so does not wait for an actor that still computes. What one of them has instead of a tensor, an
exception, comes to all in this way, and none enters an operation in which another one would be missing. Tensors that do
not fit together are found by all alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from actorflow.collective import groups
from actorflow.collective.communicator import Communicator, ReduceOp
from actorflow.collective.errors import require_torch
from actorflow.core.graphs import Part, Step
from actorflow.worker.functions import Body


class Offer(NamedTuple):
    """What an actor brings to a collective operation."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype} of shape {self.shape}"


def body_of(step: Step) -> Body:
    """What a step with a part runs."""
    part = step.part
    assert part is not None
    function = functools.partial(_offered if part.is_offer else _combined, part)
    return Body(function, step.label)


def _offered(part: Part, tensor: Any) -> Offer:
    """TypeError, ValueError: this cannot be combined with anything."""
    if not isinstance(tensor, require_torch().Tensor):
        raise TypeError(f"{part.kind} is for torch tensors, not for a {type(tensor).__name__}")
    size = groups.find(part.group).size
    if part.kind == "allgather" and not tensor.dim():
        raise ValueError("allgather joins tensors by their first dimension, and this one has none")
    if part.kind == "reducescatter" and (not tensor.dim() or tensor.shape[0] % size):
        raise ValueError(
            f"reducescatter cuts tensors into {size} by their first dimension, and this one is of shape "
            f"{tuple(tensor.shape)}"
        )
    return Offer(tuple(tensor.shape), str(tensor.dtype))


def _combined(part: Part, tensor: Any, *offers: Offer) -> Any:
    """ValueError: the tensors do not fit together. CollectiveError: a member has died."""
    if len(set(offers)) > 1:
        given = "; ".join(f"rank {rank}: {offer}" for rank, offer in enumerate(offers))
        raise ValueError(f"{part.kind} needs tensors of one shape and dtype: {given}")
    return _OPERATIONS[part.kind](groups.find(part.group), part, tensor)


def _allreduce(communicator: Communicator, part: Part, tensor: Any) -> Any:
    result = tensor.detach().clone()
    communicator.allreduce(result, ReduceOp[part.op])
    return result


def _broadcast(communicator: Communicator, part: Part, tensor: Any) -> Any:
    is_root = communicator.rank == part.root
    result = tensor.detach().clone() if is_root else require_torch().empty_like(tensor)
    communicator.broadcast(result, part.root)
    return result


def _allgather(communicator: Communicator, _: Part, tensor: Any) -> Any:
    result = tensor.new_empty((communicator.size * tensor.shape[0], *tensor.shape[1:]))
    if tensor.shape[0]:
        communicator.allgather(result.split(tensor.shape[0]), tensor)
    return result


def _reducescatter(communicator: Communicator, part: Part, tensor: Any) -> Any:
    length = tensor.shape[0] // communicator.size
    result = tensor.new_empty((length, *tensor.shape[1:]))
    if length:
        communicator.reducescatter(result, tensor.split(length), ReduceOp[part.op])
    return result


_OPERATIONS: dict[str, Callable[[Communicator, Part, Any], Any]] = {
    "allreduce": _allreduce,
    "broadcast": _broadcast,
    "allgather": _allgather,
    "reducescatter": _reducescatter,
}
