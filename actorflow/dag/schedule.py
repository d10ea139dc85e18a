"""Who does what in which order, and through which channels: a graph's plan for the driver and for each actor.

There is one order of all operations (plan.order), and every actor runs its own in that order, execution after
execution. A channel leads from each operation whose value is read in another process, to all that read it; and one
from the driver for each part of the input. A value that is needed again in the actor itself stays there, in a register.

Why no valid graph can stand still, whatever the number of slots: take the unfinished step that is least by (execution,
place in the order). What it reads was written by lesser steps, which are done. A slot of its channel is free once
all readers have read what lies `slots` executions back: lesser steps again (or the driver, which reads its outputs
whenever it waits). Its actor is not in the midst of another step, for it runs its steps in this very order, and never
begins one that cannot be finished. So that step can run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from actorflow.core.graphs import NOWHERE, Edge, End, MemberPlan, Part, Step
from actorflow.dag.plan import (
    DRIVER,
    Access,
    Constant,
    Graph,
    Input,
    Operation,
    Result,
    Source,
    TensorTransport,
    order,
)
from actorflow.dag.transports import Group, Groups

MOST_READERS = 64  # of a channel


@dataclass(frozen=True)
class Channel:
    """One channel: who writes it, who reads it (actors, or the driver), what its values are called."""

    writer: int
    readers: tuple[int, ...]
    label: str
    tensors: TensorTransport = field(default_factory=TensorTransport)

    @property
    def transport(self) -> str:
        """What its tensors travel by."""
        return self.tensors.kind


@dataclass(frozen=True)
class Schedule:
    """A graph's plan. `inputs`: which part of the input goes into which channel; `results`: what the driver reads;
    `outputs`: for each output of the graph which of those it is; `groups`: collective groups of its actors."""

    order: tuple[int, ...]
    channels: tuple[Channel, ...]
    members: dict[int, MemberPlan]
    inputs: tuple[tuple[Access, int], ...]
    results: tuple[End, ...]
    outputs: tuple[int, ...]
    groups: tuple[Group, ...] = ()


def schedule(graph: Graph, name: str = "graph", slots: int = 1, communicator: Any = None) -> Schedule:
    """The plan of a checked graph. `slots`: of its channels; `communicator`: what makes those of its groups that name
    none. ValueError: it has a cycle."""
    return _Planning(graph, name, slots, communicator).plan()


class _Planning:
    """One graph being planned."""

    def __init__(self, graph: Graph, name: str, slots: int, communicator: Any) -> None:
        self._graph = graph
        self._name = name
        self._slots = slots
        self._groups = Groups(f"{graph.label} ({name})", communicator)
        self._order = order(graph.operations)
        self._channels: list[Channel] = []
        self._of_source: dict[Source, int] = {}  # the channel that carries it

    def plan(self) -> Schedule:
        inputs = tuple((access, self._open(Input(access))) for access in self._graph.accesses)
        for number in self._order:
            self._open(Result(number))
        for channel in self._channels:
            self._groups.add_edge(channel.tensors, channel.writer, channel.readers)
        for operation in self._graph.operations:
            self._groups.add_collective(operation.collective)
        results = [self._of_source[Result(number)] for number in dict.fromkeys(self._graph.outputs)]
        return Schedule(
            tuple(self._order),
            tuple(self._channels),
            {actor: self._member(actor) for actor in self._graph.actors},
            inputs,
            tuple(self._reading_end(channel, DRIVER) for channel in results),
            tuple(results.index(self._of_source[Result(number)]) for number in self._graph.outputs),
            self._groups.all(),
        )

    # -- channels

    def _open(self, source: Input | Result) -> int:
        """Makes the source's channel, if it has readers in other processes."""
        writer = self._graph.operations[source.operation].actor if isinstance(source, Result) else DRIVER
        readers = dict.fromkeys(
            operation.actor
            for operation in map(self._operation, self._order)
            if source in operation.sources and operation.actor != writer
        )
        if isinstance(source, Result) and source.operation in self._graph.outputs:
            readers[DRIVER] = None
        if not readers:
            return NOWHERE
        if len(readers) > MOST_READERS:
            raise ValueError(
                f"{self._label(source)} goes to {len(readers)} actors, and at most {MOST_READERS} can read one value: "
                "let one of them hand it on to others"
            )
        self._of_source[source] = len(self._channels)
        self._channels.append(Channel(writer, tuple(readers), self._label(source), self._transport(source)))
        return self._of_source[source]

    def _operation(self, number: int) -> Operation:
        return self._graph.operations[number]

    def _label(self, source: Input | Result) -> str:
        if isinstance(source, Result):
            return self._operation(source.operation).label
        if source.access is None:
            return "input"
        return f"input[{source.access!r}]"

    def _transport(self, source: Input | Result) -> TensorTransport:
        if isinstance(source, Result):
            return self._operation(source.operation).transport
        return self._graph.input_transport

    def _reading_end(self, channel: int, reader: int) -> End:
        made = self._channels[channel]
        return End(channel, made.readers.index(reader), made.transport, self._edge(channel, reader))

    def _writing_end(self, channel: int) -> End:
        made = self._channels[channel]
        return End(channel, NOWHERE, made.transport, self._edge(channel, made.writer))

    def _edge(self, channel: int, actor: int) -> Edge | None:
        """How the actor sends or receives the tensors of that channel's values; None: in the channel itself."""
        made = self._channels[channel]
        group = self._groups.of_edge(made.tensors, made.writer, made.readers)
        if group is None:
            return None
        others = made.readers if actor == made.writer else (made.writer,)
        ranks = tuple(map(group.actors.index, others))
        tensors = made.tensors
        return Edge(group.name, ranks, channel, self._slots, tensors.static_shape, tensors.direct_return)

    # -- members

    def _member(self, actor: int) -> MemberPlan:
        own = [number for number in self._order if self._operation(number).actor == actor]
        last_use: dict[Source, int] = {
            source: number
            for number in own
            for source in self._operation(number).sources
            if not isinstance(source, Constant)
        }
        registers: dict[Source, int] = {}
        readers: dict[Source, int] = {}
        writers: list[End] = []
        steps = []
        for number in own:
            read = self._read_first(number, readers)
            kept = [
                source for source in read if last_use[source] != number or self._is_repeated(number, source)
            ]
            for source in kept:
                registers[source] = len(registers)
            result = Result(number)
            if result in last_use:
                registers[result] = len(registers)
            write = NOWHERE
            if result in self._of_source:
                write = len(writers)
                writers.append(self._writing_end(self._of_source[result]))
            frees = tuple(registers[source] for source in registers if last_use[source] == number)
            steps.append(self._step(number, read, readers, registers, frees, write))
        ends = tuple(self._reading_end(self._of_source[source], actor) for source in readers)
        groups = tuple(group.name for group in self._groups.all() if actor in group.actors)
        return MemberPlan(self._name, tuple(steps), ends, tuple(writers), len(registers), groups)

    def _read_first(self, number: int, readers: dict[Source, int]) -> list[Source]:
        """What this step is the first of its actor to read; notes their reading ends."""
        operation = self._operation(number)
        first = []
        for source in operation.sources:
            from_elsewhere = isinstance(source, Input) or (
                isinstance(source, Result) and self._operation(source.operation).actor != operation.actor
            )
            if from_elsewhere and source not in readers:
                readers[source] = len(readers)
                first.append(source)
        return first

    def _is_repeated(self, number: int, source: Source) -> bool:
        return list(self._operation(number).sources).count(source) > 1

    def _step(
        self,
        number: int,
        read: list[Source],
        readers: dict[Source, int],
        registers: dict[Source, int],
        frees: tuple[int, ...],
        write: int,
    ) -> Step:
        operation = self._operation(number)
        constants: list[Any] = []
        reads, loads, keeps = [], [], []
        to_read = set(read)
        for place, source in enumerate(operation.sources):
            constants.append(source.value if isinstance(source, Constant) else None)
            if isinstance(source, Constant):
                continue
            if source in to_read:
                to_read.remove(source)
                reads.append((place, readers[source]))
                if source in registers:
                    keeps.append((place, registers[source]))
            else:
                loads.append((place, registers[source]))
        return Step(
            number,
            operation.label,
            operation.method,
            tuple(constants),
            tuple(name for name, _ in operation.kwargs),
            tuple(reads),
            tuple(loads),
            tuple(keeps),
            frees,
            registers.get(Result(number), NOWHERE),
            write,
            self._part(operation),
        )

    def _part(self, operation: Operation) -> Part | None:
        collective = operation.collective
        if collective is None:
            return None
        group = self._groups.of_collective(collective)
        return Part(collective.kind, collective.phase, group.name, collective.op, collective.root)
