"""Steps of a graph that are an actor's part of a collective operation.

A part has three steps. The first tells the others, through a channel, what tensor this actor has. The second runs when
all have told: it begins the operation, and tells the others that it has. What one of them has instead of a tensor, an
exception, comes to all by the first, and none begins an operation in which another one would be missing. Tensors that
do not fit together are found by all alike. The third waits for the operation, once all have begun it: so for the
transfer alone, and never for an actor that is elsewhere. Two actors with operations of two graphs, of which each has
come to another one first, would wait for each other otherwise.

A group that has broken serves no later execution: the member leaves the graph, which ends with the death that broke it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from actorflow import _hot
from actorflow.collective import groups
from actorflow.collective.communicator import Communicator, Pending, ReduceOp
from actorflow.collective.errors import CollectiveError, require_torch
from actorflow.core.graphs import BEGIN, OFFER, Part, Step
from actorflow.worker.functions import Body


class Offer(NamedTuple):
    """What an actor brings to a collective operation."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype} of shape {self.shape}"


class Begun:
    """What this actor has begun, and where its result will be. The others get one that says only that it has."""

    def __init__(self, result: Any = None, pending: Pending | None = None) -> None:
        self._result = result
        self._pending = pending

    def __reduce__(self) -> tuple[Any, ...]:
        return Begun, ()

    def end(self) -> Any:
        """The result, once it is there. CollectiveError."""
        if self._pending is not None:
            self._pending.wait()
        return self._result


def body_of(step: Step) -> Body:
    """What a step with a part runs."""
    part = step.part
    assert part is not None
    if part.phase == OFFER:
        return Body(functools.partial(_offered, part), step.label)
    return Body(functools.partial(_begun if part.phase == BEGIN else _ended, part), step.label)


def _offered(part: Part, tensor: Any) -> Offer:
    """TypeError, ValueError: this cannot be combined with anything."""
    if not isinstance(tensor, require_torch().Tensor):
        raise TypeError(f"{part.kind} is for torch tensors, not for a {type(tensor).__name__}")
    communicator = groups.find(part.group)
    communicator.check(tensor)
    size = communicator.size
    if part.kind == "allgather" and not tensor.dim():
        raise ValueError("allgather joins tensors by their first dimension, and this one has none")
    if part.kind == "reducescatter" and (not tensor.dim() or tensor.shape[0] % size):
        raise ValueError(
            f"reducescatter cuts tensors into {size} by their first dimension, and this one is of shape "
            f"{tuple(tensor.shape)}"
        )
    return Offer(tuple(tensor.shape), str(tensor.dtype))


def _begun(part: Part, tensor: Any, *offers: Offer) -> Begun:
    """ValueError: the tensors do not fit together. ChannelClosed: the group has broken."""
    if len(set(offers)) > 1:
        given = "; ".join(f"rank {rank}: {offer}" for rank, offer in enumerate(offers))
        raise ValueError(f"{part.kind} needs tensors of one shape and dtype: {given}")
    communicator = groups.find(part.group)
    try:
        return _BEGIN[part.kind](communicator, part, tensor)
    except CollectiveError as error:
        raise _hot.ChannelClosed(str(error)) from None
    except (TypeError, ValueError):  # as it is for all
        raise
    except BaseException as error:  # the others have begun, and would wait for this one
        communicator.abort(f"rank {communicator.rank} could not begin {part.kind}: {error!r}")
        raise


def _ended(part: Part, *begun: Begun) -> Any:
    """ChannelClosed: the group has broken."""
    try:
        return begun[groups.find(part.group).rank].end()
    except CollectiveError as error:
        raise _hot.ChannelClosed(str(error)) from None


def _allreduce(communicator: Communicator, part: Part, tensor: Any) -> Begun:
    result = tensor.detach().clone()
    return Begun(result, communicator.begin("allreduce", result, ReduceOp[part.op]))


def _broadcast(communicator: Communicator, part: Part, tensor: Any) -> Begun:
    is_root = communicator.rank == part.root
    result = tensor.detach().clone() if is_root else require_torch().empty_like(tensor)
    return Begun(result, communicator.begin("broadcast", result, part.root))


def _allgather(communicator: Communicator, _: Part, tensor: Any) -> Begun:
    result = tensor.new_empty((communicator.size * tensor.shape[0], *tensor.shape[1:]))
    if not tensor.shape[0]:
        return Begun(result)
    return Begun(result, communicator.begin("allgather", result.split(tensor.shape[0]), tensor))


def _reducescatter(communicator: Communicator, part: Part, tensor: Any) -> Begun:
    length = tensor.shape[0] // communicator.size
    result = tensor.new_empty((length, *tensor.shape[1:]))
    if not length:
        return Begun(result)
    return Begun(result, communicator.begin("reducescatter", result, tensor.split(length), ReduceOp[part.op]))


_BEGIN: dict[str, Callable[[Communicator, Part, Any], Begun]] = {
    "allreduce": _allreduce,
    "broadcast": _broadcast,
    "allgather": _allgather,
    "reducescatter": _reducescatter,
}
