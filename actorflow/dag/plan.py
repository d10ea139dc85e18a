"""A graph as plain data: which actors do what with whose values; and whether it can be run at all.

Operations are numbered as they were bound. Everything that is decided about a graph before it runs is decided on this
description, without actors or processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from actorflow.core.graphs import BEGIN

DRIVER = -1  # where others are numbers of actors
GPU_TRANSPORTS = ("nccl",)
OWN = "own"  # a communicator of the user's
TRANSPORTS = ("auto", "shm", "gloo", *GPU_TRANSPORTS)

Access = int | str | None  # of the graph's input: one by position, one by keyword, or the whole


@dataclass(frozen=True)
class TensorTransport:
    """How the tensors of a value go from the actor that makes it to those that read it.

    `communicator`: the user's own; None: one that compiling makes. `static_shape`: shape and dtype never change.
    `direct_return`: the value is one tensor and nothing else.
    """

    kind: str = "auto"
    static_shape: bool = False
    direct_return: bool = False
    communicator: Any = None

    @property
    def needs_gpu(self) -> bool:
        """Whether both ends must have a GPU, which a driver does not."""
        return self.kind in GPU_TRANSPORTS


@dataclass(frozen=True)
class Constant:
    """An argument that was given when the operation was bound."""

    value: Any


@dataclass(frozen=True)
class Input:
    """What the driver gives with each execution, or one part of it."""

    access: Access = None


@dataclass(frozen=True)
class Result:
    """The value of another operation."""

    operation: int


Source = Constant | Input | Result


@dataclass(frozen=True)
class Collective:
    """Says of an operation that it is an actor's part of a collective one. `number`: of that in the graph; `phase`:
    which of the steps of a Part; `actors`: the members by their ranks; `op`: a ReduceOp's name."""

    kind: str
    number: int
    phase: str
    actors: tuple[int, ...]
    op: str = "SUM"
    root: int = 0
    transport: TensorTransport = TensorTransport()


@dataclass(frozen=True)
class Operation:
    """A method of an actor and where its arguments come from. `actor` is its number in the graph."""

    actor: int
    label: str
    method: str
    args: tuple[Source, ...] = ()
    kwargs: tuple[tuple[str, Source], ...] = ()
    transport: TensorTransport = TensorTransport()
    collective: Collective | None = None

    @property
    def sources(self) -> Iterator[Source]:
        """Of its places: by position, then by keyword."""
        yield from self.args
        for _, source in self.kwargs:
            yield source

    @property
    def upstream(self) -> Iterator[int]:
        """The operations whose values it takes, each as often as it does."""
        for source in self.sources:
            if isinstance(source, Result):
                yield source.operation


@dataclass(frozen=True)
class Graph:
    """Operations and which of their values are given to the driver. `is_list`: as a list even when it is one."""

    operations: tuple[Operation, ...]
    outputs: tuple[int, ...]
    is_list: bool = False
    input_transport: TensorTransport = field(default_factory=TensorTransport)

    @property
    def label(self) -> str:
        """What errors call it: by what it gives."""
        return f"compiled graph of {', '.join(self.operations[number].label for number in self.outputs)}"

    def transport_of(self, number: int) -> str:
        """What the tensors of an operation's value travel by: "shm" where the driver reads it, which is in no group."""
        kind = self.operations[number].transport.kind
        return kind if number not in self.outputs or kind == "auto" else "shm"

    @property
    def input_kind(self) -> str:
        """What the tensors of its input travel by."""
        return "auto" if self.input_transport.kind == "auto" else "shm"

    @property
    def accesses(self) -> tuple[Access, ...]:
        """The parts of the input that are used, each once, in the order of their first use."""
        found: dict[Access, None] = {}
        for operation in self.operations:
            for source in operation.sources:
                if isinstance(source, Input):
                    found[source.access] = None
        return tuple(found)

    @property
    def actors(self) -> tuple[int, ...]:
        """The actors that take part, in the order of their numbers."""
        return tuple(sorted({operation.actor for operation in self.operations}))


def checked(graph: Graph) -> Graph:
    """The graph itself. ValueError: it cannot be compiled, with what to change."""
    if not graph.operations:
        raise ValueError("the graph has no operation: bind a method of an actor to its InputNode")
    if graph.input_transport.needs_gpu:
        raise ValueError(_no_gpu("the InputNode", "give it to the first operation that makes a GPU tensor"))
    for operation in graph.operations:
        if all(isinstance(source, Constant) for source in operation.sources):
            raise ValueError(
                f"{operation.label} takes nothing from the graph, so nothing says when it is to run: bind it to "
                "the InputNode or to another node"
            )
    for output in graph.outputs:
        if graph.operations[output].transport.needs_gpu:
            raise ValueError(
                _no_gpu(
                    graph.operations[output].label, "end the graph with an operation that returns CPU data"
                )
            )
    return graph


def _no_gpu(label: str, advice: str) -> str:
    return f"{label} has a GPU transport, but the other end is the driver, which has no GPU in the graph: {advice}"


def order(operations: Sequence[Operation]) -> list[int]:
    """The operations such that each comes after those whose values it takes: level by level. ValueError: a cycle.

    The parts that begin a collective operation are on one level, since each takes what all offer; they lie side by
    side, so that all actors begin the collective operations in the same order.
    """
    levels: dict[int, int] = {}
    readers: dict[int, list[int]] = {}
    missing = []
    for number, operation in enumerate(operations):
        upstream = set(operation.upstream)
        missing.append(len(upstream))
        for other in upstream:
            readers.setdefault(other, []).append(number)
    ready = [number for number, count in enumerate(missing) if not count]
    for number in ready:  # grows
        upstream = set(operations[number].upstream)
        levels[number] = 1 + max((levels[other] for other in upstream), default=-1)
        for reader in readers.get(number, ()):
            missing[reader] -= 1
            if not missing[reader]:
                ready.append(reader)
    if len(levels) < len(operations):
        rest = [operation.label for number, operation in enumerate(operations) if number not in levels]
        raise ValueError(f"the graph has a cycle: each of {', '.join(rest)} waits for another of them")
    return sorted(levels, key=lambda number: (levels[number], _family(operations[number], number), number))


def _family(operation: Operation, number: int) -> tuple[bool, int]:
    """What lies side by side within a level."""
    collective = operation.collective
    return (
        (True, collective.number) if collective is not None and collective.phase == BEGIN else (False, number)
    )
