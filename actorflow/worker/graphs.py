"""An actor's parts in compiled graphs: reads what its steps need, runs them, writes what they give.

A *member* has its steps in the one order that all actors of the graph keep, and a position among them. The step at the
position runs when everything that it reads is there and there is room for what it writes; until then the member only
says which end of a channel it waits for. So it never blocks its thread in the midst of the steps, and an actor can
serve ordinary calls and other graphs by turns.

An exception is a value like others: it goes to those who read the step's value, and they pass it on without running.
Where a channel is closed or broken the membership ends: the member closes its other channels, so that everybody hears.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Any, NamedTuple

from actorflow import _hot
from actorflow.client.waiting import LoopPort
from actorflow.core.graphs import NOWHERE, MemberPlan, Step, Timing
from actorflow.wire import failures, outside
from actorflow.worker import settling
from actorflow.worker.functions import Body

MOST_TIMINGS = 10_000


class Reading(NamedTuple):
    """A reading end, and how a value is had from it: raises the error that was written, or ChannelClosed.

    `prepare`: called between two executions, when the values of the former have been let go of; or None. ChannelClosed.
    """

    end: _hot.End
    read: Callable[[], Any]
    prepare: Callable[[], None] | None = None


class Writing(NamedTuple):
    """A writing end, and how a value or an error (bytes of wire.failures) goes into it."""

    end: _hot.End
    write: Callable[[Any], None]
    write_error: Callable[[bytes, outside.Holds], None]


class Failure:
    """Stands for a value that could not be had: why."""

    __slots__ = ("data", "holds")

    def __init__(self, error: BaseException, label: str) -> None:
        self.data, self.holds = settling.encode(error, label)


class _Runnable:
    """A step with what it needs at hand."""

    __slots__ = (
        "constants",
        "ends",
        "frees",
        "function",
        "is_coroutine",
        "keeps",
        "label",
        "loads",
        "names",
        "only_read",
        "operation",
        "positional",
        "reads",
        "result",
        "write",
        "write_error",
    )

    def __init__(
        self,
        step: Step,
        body: Body,
        readers: Sequence[Reading],
        writers: Sequence[Writing],
    ) -> None:
        self.operation = step.operation
        self.label = step.label
        self.function = body.function
        self.is_coroutine = body.is_coroutine
        self.constants = step.constants
        self.names = step.names
        self.positional = len(step.constants) - len(step.names)
        self.reads = [(place, readers[end].read) for place, end in step.reads]
        is_simple = len(step.constants) == 1 and not (step.names or step.keeps or step.loads)
        self.only_read = (
            self.reads[0][1] if is_simple else None
        )  # of a step that takes one value, and nothing else
        self.loads = step.loads
        self.keeps = step.keeps
        self.frees = step.frees
        self.result = step.result
        self.write: Callable[[Any], None] | None = None
        self.write_error: Callable[[bytes, outside.Holds], None] | None = None
        self.ends = [readers[end].end for _, end in step.reads]
        if step.write != NOWHERE:
            end, self.write, self.write_error = writers[step.write]
            self.ends.append(end)

    def call_by_name(self, values: list[Any]) -> Any:
        """What the method returns for the values of its places, some of which are keyword arguments."""
        by_name = dict(zip(self.names, values[self.positional :], strict=True))
        return self.function(*values[: self.positional], **by_name)


class Member:
    """One actor's part in one graph. Used by one thread at a time."""

    def __init__(
        self,
        plan: MemberPlan,
        readers: Sequence[Reading],
        writers: Sequence[Writing],
        body_of: Callable[[Step], Body],
    ) -> None:
        self.graph = plan.graph
        self.groups = plan.groups
        self.title = body_of(plan.steps[0]).title  # what stands before the lines that it prints
        self.ends = [reading.end for reading in readers] + [writing.end for writing in writers]
        self._steps = [_Runnable(step, body_of(step), readers, writers) for step in plan.steps]
        self._prepares = [reading.prepare for reading in readers if reading.prepare is not None]
        self._registers: list[Any] = [None] * plan.registers
        self._position = 0
        self._executions = 0  # that are done
        self._timings: deque[Timing] | None = None  # where they are wanted
        self._free_since_ns = 0  # when the last timed step had ended
        self._slept = 0  # how often it had slept by then

    def advance(self) -> _hot.End:
        """Runs the steps that can run now, at most to the end of an execution; returns the end to wait for (it may be
        ready). Raises ChannelClosed once the graph has ended, and ExitActor."""
        while True:
            step = self._steps[self._position]
            for end in step.ends:
                if not end.ready():
                    return end
            self._run(step)
            self._position += 1
            if self._position == len(self._steps):
                self._position = 0
                self._end_execution()
                return self._steps[0].ends[0]

    def waits_for(self) -> _hot.End:
        """The end that the next step waits for first (it may be ready)."""
        return self._steps[self._position].ends[0]

    def run(self) -> None:
        """Runs the steps in a thread of their own, where reads and writes wait. Raises as `advance`."""
        _hot.enter(None)
        while True:
            for step in self._steps:
                self._run_timed(step)
            self._end_execution()

    async def follow(self, port: LoopPort) -> None:
        """Runs the steps in a task; coroutines are awaited. Raises as `advance`."""
        while True:
            for step in self._steps:
                for end in step.ends:
                    if not end.ready():
                        await port.until_ready(end)
                await self._run_async(step)
            self._end_execution()
            await asyncio.sleep(
                0
            )  # others of the loop have their turn, also where everything is always ready

    def close(self) -> None:
        """Leaves the graph: everybody else in it hears."""
        for end in self.ends:
            end.close()

    # -- being measured

    @property
    def sleeps(self) -> int:
        """How often its thread, or its loop, has gone to sleep so far while it waited for the graph."""
        return sum(end.sleeps for end in self.ends)

    def record(self, wanted: bool) -> None:
        """Notes from now on how long each step takes, or no more."""
        self._timings = deque(maxlen=MOST_TIMINGS) if wanted else None
        self._free_since_ns = 0
        self._slept = self.sleeps

    def timings(self) -> list[Timing]:
        """What was noted."""
        return list(self._timings or ())

    # -- one step

    def _end_execution(self) -> None:
        self._executions += 1
        for prepare in self._prepares:
            prepare()

    def _run(self, step: _Runnable) -> None:
        if self._timings is not None:
            self._run_timed(step)
            return
        if step.only_read is None:
            values, failure = self._take(step)
        else:  # the same, quicker
            failure = None
            try:
                values = [step.only_read()]
            except (_hot.ChannelClosed, _hot.NodeGoneError):
                raise
            except BaseException as error:
                values, failure = [], Failure(error, step.label)
        result = None
        if failure is None:
            result, failure = _computed(step, values)
        self._give(step, result, failure)

    async def _run_async(self, step: _Runnable) -> None:
        begin_ns = monotonic_ns()
        values, failure = self._take(step)
        read_ns = monotonic_ns()
        result = None
        if failure is None:
            _hot.enter(None)
            result, failure = _computed(step, values)
            if step.is_coroutine and failure is None:
                result, failure = await _awaited(step, result)
        computed_ns = monotonic_ns()
        self._give(step, result, failure)
        self._note(step, begin_ns, read_ns, computed_ns)

    def _run_timed(self, step: _Runnable) -> None:
        begin_ns = monotonic_ns()
        values, failure = self._take(step)
        read_ns = monotonic_ns()
        result = None
        if failure is None:
            result, failure = _computed(step, values)
        computed_ns = monotonic_ns()
        self._give(step, result, failure)
        self._note(step, begin_ns, read_ns, computed_ns)

    def _note(self, step: _Runnable, begin_ns: int, read_ns: int, computed_ns: int) -> None:
        """Notes how long a step took, if anybody wants to know."""
        if self._timings is None:
            return
        end_ns = monotonic_ns()
        free_ns, self._free_since_ns = self._free_since_ns or begin_ns, end_ns
        phases_ns = (begin_ns - free_ns, read_ns - begin_ns, computed_ns - read_ns, end_ns - computed_ns)
        slept, self._slept = self._slept, self.sleeps
        self._timings.append(
            Timing(self._executions, step.operation, free_ns, *phases_ns, self._slept - slept)
        )

    def _take(self, step: _Runnable) -> tuple[list[Any], Failure | None]:
        """The values of the step's places, and the first failure among them: everything is read all the same."""
        values = list(step.constants)
        has_failed = False
        for place, read in step.reads:
            try:
                values[place] = read()
            except (_hot.ChannelClosed, _hot.NodeGoneError):
                raise
            except BaseException as error:
                values[place] = Failure(error, step.label)
                has_failed = True
        registers = self._registers
        for place, register in step.keeps:
            registers[register] = values[place]
        for place, register in step.loads:
            value = values[place] = registers[register]
            if type(value) is Failure:
                has_failed = True
        for register in step.frees:
            registers[register] = None
        if not has_failed:
            return values, None
        return values, next(value for value in values if type(value) is Failure)

    def _give(self, step: _Runnable, result: Any, failure: Failure | None) -> None:
        """Keeps and writes the step's value or failure."""
        if step.result != NOWHERE:
            self._registers[step.result] = result if failure is None else failure
        if step.write is None or step.write_error is None:
            return
        if failure is None:
            try:
                step.write(result)
                return
            except (_hot.ChannelClosed, _hot.NodeGoneError):
                raise
            except BaseException as error:
                failure = Failure(settling.unsettled(error, result, step.label), step.label)
        try:
            step.write_error(failure.data, failure.holds)
        except (_hot.StoreFullError, _hot.FullError):
            step.write_error(failures.encode_briefly(failure.data), outside.Holds())


def _computed(step: _Runnable, values: list[Any]) -> tuple[Any, Failure | None]:
    """What the step's method returns, or what it raised. ExitActor, ChannelClosed."""
    try:
        if step.names:
            return step.call_by_name(values), None
        return step.function(*values), None
    except (settling.ExitActor, _hot.ChannelClosed):  # of a part of a collective operation
        raise
    except BaseException as error:
        return None, _failed(error, step.label)


async def _awaited(step: _Runnable, coroutine: Any) -> tuple[Any, Failure | None]:
    try:
        return await _hot.entering(None, coroutine), None
    except settling.ExitActor:
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # the loop ends
            raise
        return None, _failed(error, step.label)
    except BaseException as error:
        return None, _failed(error, step.label)


def _failed(error: BaseException, label: str) -> Failure:
    """What the step's method raised."""
    if settling.is_forked():
        raise error
    return Failure(settling.exited(error, label) if isinstance(error, SystemExit) else error, label)
