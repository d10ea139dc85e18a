"""A graph run by its real members over channels that are lists, one step at a time, in whatever order a test says.

The driver is simulated too: it begins executions while fewer than `inflight` are unread, and reads outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actorflow.core.graphs import End, Step
from actorflow.dag.plan import Access, Constant, Graph, Input, order
from actorflow.dag.schedule import Channel, Schedule, schedule
from actorflow.wire import failures
from actorflow.worker.functions import Body
from actorflow.worker.graphs import Member, Reading, Writing

Method = Callable[..., Any]


class FakeChannel:
    """Slots in a list. `cursors`: how many values each reader has read."""

    def __init__(self, channel: Channel, slots: int) -> None:
        self._slots = slots
        self._values: list[tuple[bool, Any]] = []
        self._cursors = [0] * len(channel.readers)

    def has_room(self) -> bool:
        return len(self._values) - min(self._cursors) < self._slots

    def has_value(self, reader: int) -> bool:
        return self._cursors[reader] < len(self._values)

    def push(self, is_value: bool, value: Any) -> None:
        assert self.has_room(), "a step ran that could not be finished"
        self._values.append((is_value, value))

    def pull(self, reader: int) -> Any:
        assert self.has_value(reader), "a step ran whose inputs were not there"
        is_value, value = self._values[self._cursors[reader]]
        self._cursors[reader] += 1
        if not is_value:
            raise failures.decode_error(value)
        return value


class FakeReader:
    def __init__(self, channel: FakeChannel, reader: int) -> None:
        self._channel = channel
        self._reader = reader

    def ready(self) -> bool:
        return self._channel.has_value(self._reader)

    def read(self) -> Any:
        return self._channel.pull(self._reader)

    def close(self) -> None:
        raise AssertionError("nothing closes")


class FakeWriter:
    def __init__(self, channel: FakeChannel) -> None:
        self._channel = channel

    def ready(self) -> bool:
        return self._channel.has_room()

    def write(self, value: Any) -> None:
        self._channel.push(True, value)

    def write_error(self, data: bytes, _: Any) -> None:
        self._channel.push(False, data)

    def close(self) -> None:
        raise AssertionError("nothing closes")


class Simulation:
    """One graph. `method_of(actor, name)`: what its operations compute."""

    def __init__(
        self, graph: Graph, slots: int, inflight: int, method_of: Callable[[int, str], Method]
    ) -> None:
        self.plan: Schedule = schedule(graph)
        self._channels = [FakeChannel(channel, slots) for channel in self.plan.channels]
        self._method_of = method_of
        self._inflight = inflight
        self._begun = 0
        self.results: list[list[Any]] = [[] for _ in self.plan.results]
        self._members = [
            Member(
                member,
                [self._reading(end) for end in member.readers],
                [self._writing(end) for end in member.writers],
                self._bodies_of(actor),
            )
            for actor, member in self.plan.members.items()
        ]

    def _reading(self, end: End) -> Reading:
        fake: Any = FakeReader(self._channels[end.channel], end.reader)
        return Reading(fake, fake.read)

    def _writing(self, end: End) -> Writing:
        fake: Any = FakeWriter(self._channels[end.channel])
        return Writing(fake, fake.write, fake.write_error)

    def _bodies_of(self, actor: int) -> Callable[[Step], Body]:
        return lambda step: Body(self._method_of(actor, step.method), step.method)

    @property
    def parties(self) -> int:
        """Who can be given a turn: the driver's writing and reading, and each member."""
        return 2 + len(self._members)

    def turn(self, party: int, given: Callable[[Access, int], Any], executions: int) -> bool:
        """Lets one go on as far as it can; whether it did anything."""
        if party == 0:
            return self._begin(given, executions)
        if party == 1:
            return self._read()
        member = self._members[party - 2]
        before = (member._executions, member._position)
        member.advance()
        return (member._executions, member._position) != before

    def is_done(self, executions: int) -> bool:
        return all(len(results) == executions for results in self.results)

    def _begin(self, given: Callable[[Access, int], Any], executions: int) -> bool:
        read = min(len(results) for results in self.results)
        channels = [self._channels[number] for _, number in self.plan.inputs]
        has_room = all(channel.has_room() for channel in channels)
        if self._begun == executions or self._begun - read >= self._inflight or not has_room:
            return False
        for (access, _), channel in zip(self.plan.inputs, channels, strict=True):
            channel.push(True, given(access, self._begun))
        self._begun += 1
        return True

    def _read(self) -> bool:
        did = False
        for end, results in zip(self.plan.results, self.results, strict=True):
            channel = self._channels[end.channel]
            if channel.has_value(end.reader):
                did = True
                try:
                    results.append(channel.pull(end.reader))
                except Exception as error:
                    results.append(error)
        return did


def evaluated(
    graph: Graph, execution: int, given: Callable[[Access, int], Any], method_of: Callable[[int, str], Method]
) -> list[Any]:
    """The same execution, computed one operation after another."""
    values: dict[int, Any] = {}

    def value_of(source: Any) -> Any:
        if isinstance(source, Constant):
            return source.value
        if isinstance(source, Input):
            return given(source.access, execution)
        return values[source.operation]

    for number in order(graph.operations):
        operation = graph.operations[number]
        args = [value_of(source) for source in operation.args]
        kwargs = {name: value_of(source) for name, source in operation.kwargs}
        failed = next((value for value in [*args, *kwargs.values()] if isinstance(value, Exception)), None)
        if failed is not None:
            values[number] = failed
            continue
        try:
            values[number] = method_of(operation.actor, operation.method)(*args, **kwargs)
        except Exception as error:
            values[number] = error
    return [values[output] for output in graph.outputs]
