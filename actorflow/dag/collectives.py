"""Collective operations as nodes: `allreduce.bind([a.part.bind(inp), b.part.bind(inp)])` gives one node for each actor.

The value of the i-th node is made by the actor of the i-th input, whose rank is i.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from actorflow.client.refs import ObjectRef
from actorflow.collective.communicator import ReduceOp
from actorflow.collective.errors import require_torch
from actorflow.core.graphs import BEGIN, END, OFFER
from actorflow.dag import plan
from actorflow.dag.nodes import ActorNode, DAGNode, Listing, family_of, transport_of
from actorflow.dag.plan import TensorTransport


class _Operation:
    """What the nodes of one collective operation have in common."""

    def __init__(
        self, kind: str, inputs: Sequence[ActorNode], op: ReduceOp, root: int, transport: TensorTransport
    ) -> None:
        self.kind = kind
        self.inputs = tuple(inputs)
        self.op = op
        self.root = root
        self.transport = transport
        self.transports = [TensorTransport()] * len(inputs)  # of what comes out
        self.family, self.number = family_of(kind, self.inputs)

    def key(self, rank: int, phase: str) -> object:
        """What that part of a rank is found by while a graph is described."""
        return id(self), rank, phase

    def part(
        self, rank: int, actor: int, title: str, sources: tuple[plan.Source, ...], part: plan.Collective
    ) -> plan.Operation:
        """That part of a rank, as an operation of its actor."""
        label = f"{title}{self.kind} of {self.inputs[rank]._label}"
        transport = self.transports[rank] if part.phase == END else TensorTransport()
        return plan.Operation(actor, label, self.kind, sources, (), transport, part)


class CollectiveOutputNode(ActorNode):
    """What one actor gets of a collective operation. Made by `af.dag.allreduce.bind(...)` and the like."""

    def __init__(self, operation: _Operation, rank: int) -> None:
        self._operation = operation
        self._rank = rank
        self._method = operation.inputs[rank]._method
        self._family, self._number = operation.family, operation.number
        self._label = f"{operation.kind} of {operation.inputs[rank]._label}"

    @property
    def _key(self) -> object:
        return self._operation.key(self._rank, END)

    def _upstream(self) -> Iterator[DAGNode]:
        return iter(self._operation.inputs)

    def _evaluate(
        self, values: dict[int, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ObjectRef[Any]:
        operation = self._operation
        refs = [values[id(node)] for node in operation.inputs]
        ref: ObjectRef[Any] = self._method.handle.__ray_call__.remote(
            _here, operation.kind, self._rank, operation.op, operation.root, *refs
        )
        return ref

    def with_tensor_transport(self, *args: Any, **kwargs: Any) -> DAGNode:
        """How the tensor that this actor gets travels on; arguments as of every node."""
        super().with_tensor_transport(*args, **kwargs)
        self._operation.transports[self._rank] = self._transport
        return self

    def _list_in(self, listing: Listing) -> None:
        """All members take part, whichever of their nodes lead to an output."""
        if listing.has(self._key):
            return
        operation = self._operation
        actors = tuple(listing.actor_of(node._method) for node in operation.inputs)
        number = len(listing.operations)
        values = [plan.Result(listing.number(node)) for node in operation.inputs]

        def add(
            phase: str, title: str, sources: Sequence[tuple[plan.Source, ...]]
        ) -> tuple[plan.Source, ...]:
            part = plan.Collective(
                operation.kind, number, phase, actors, operation.op.name, operation.root, operation.transport
            )
            return tuple(
                plan.Result(
                    listing.add(operation.key(rank, phase), operation.part(rank, actor, title, taken, part))
                )
                for rank, (actor, taken) in enumerate(zip(actors, sources, strict=True))
            )

        offers = add(OFFER, "the tensor shapes of ", [(value,) for value in values])
        begun = add(BEGIN, "the beginning of ", [(value, *offers) for value in values])
        add(END, "", [begun] * len(actors))


class Collective:
    """A collective operation that can be bound: `af.dag.allreduce` and the like."""

    def __init__(self, kind: str, has_op: bool = False, has_root: bool = False) -> None:
        self._kind = kind
        self._has_op = has_op
        self._has_root = has_root

    def bind(
        self,
        input_nodes: Sequence[Any],
        op: ReduceOp = ReduceOp.SUM,
        transport: Any = "auto",
        *,
        root: Any = 0,
    ) -> list[CollectiveOutputNode]:
        """One node for each of the inputs, made by the same actors, whose ranks are their places in the list.

        The inputs' values are torch tensors of one shape and dtype. `op`: of allreduce and reducescatter; `root`: the
        rank whose tensor broadcast gives to all. `transport`: "auto" ("nccl" where torch sees a GPU, else "gloo"),
        "nccl", "gloo", or a function that makes a Communicator of a Setup. TypeError, ValueError.
        """
        made = transport_of(transport)
        if made.kind == "shm":
            raise ValueError(
                f"{self._kind}: transport must be 'auto', 'gloo', 'nccl' or a function, not 'shm'"
            )
        if not isinstance(op, ReduceOp):
            raise TypeError(f"{self._kind}: op must be a ReduceOp, not {op!r}")
        if (op is not ReduceOp.SUM and not self._has_op) or (root and not self._has_root):
            raise ValueError(f"{self._kind} takes no {'root' if root else 'op'}")
        self._check_inputs(input_nodes)
        if not isinstance(root, int) or not 0 <= root < len(input_nodes):
            raise ValueError(f"{self._kind}: root must be from 0 to {len(input_nodes) - 1}, not {root!r}")
        operation = _Operation(self._kind, input_nodes, op, root, made)
        return [CollectiveOutputNode(operation, rank) for rank in range(len(input_nodes))]

    def _check_inputs(self, nodes: Any) -> None:
        if not isinstance(nodes, list | tuple) or not nodes:
            raise ValueError(f"{self._kind} takes a list of nodes, at least one")
        for node in nodes:
            if not isinstance(node, ActorNode):
                raise ValueError(f"{self._kind} takes bound methods of actors, not {node!r}")
        if len({node._method.mailbox for node in nodes}) < len(nodes):
            raise ValueError(f"{self._kind} takes one node of each actor: two of these are of the same one")

    def __repr__(self) -> str:
        return f"actorflow.dag.{self._kind}"


def _here(_: Any, kind: str, rank: int, op: ReduceOp, root: int, *tensors: Any) -> Any:
    """The operation without a group, for a graph that is not compiled: all tensors came to this actor."""
    torch = require_torch()
    if kind == "broadcast":
        return tensors[root].clone()
    if kind == "allgather":
        return torch.cat(tensors)
    stacked = torch.stack(tensors)
    reduced = {
        ReduceOp.SUM: lambda: stacked.sum(0),
        ReduceOp.PRODUCT: lambda: stacked.prod(0),
        ReduceOp.MIN: lambda: stacked.amin(0),
        ReduceOp.MAX: lambda: stacked.amax(0),
        ReduceOp.AVERAGE: lambda: stacked.mean(0),
    }[op]().to(stacked.dtype)
    return reduced.chunk(len(tensors))[rank].clone() if kind == "reducescatter" else reduced


allreduce = Collective("allreduce", has_op=True)
allgather = Collective("allgather")
reducescatter = Collective("reducescatter", has_op=True)
broadcast = Collective("broadcast", has_root=True)
