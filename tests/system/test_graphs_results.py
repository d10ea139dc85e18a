"""Results of compiled graphs: many who await at once, signals in the midst of a read or a write, what is kept."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import actorflow as af
from actorflow.dag import InputNode, MultiOutputNode
from tests.conftest import wait_until
from tests.system.graph_bodies import Adder, Gate, Stepper
from tests.system.graph_wiring import added, chain

pytestmark = pytest.mark.usefixtures("runtime")
TIMEOUT_S = 30


async def test_all_who_await_results_at_once_get_them() -> None:
    graph = added(Adder.remote(), max_inflight_executions=64)

    async def one(number: int) -> Any:
        return await graph.execute(number)

    for round_ in range(100):
        numbers = range(round_, round_ + 5 + round_ % 16)
        results = await asyncio.wait_for(asyncio.gather(*map(one, numbers)), TIMEOUT_S)
        assert results == [number + 1 for number in numbers]
    graph.teardown()


async def test_who_is_cancelled_lets_the_others_have_their_results() -> None:
    graph = added(Adder.remote(), max_inflight_executions=64)
    for round_ in range(50):
        tasks = [asyncio.ensure_future(graph.execute(number)) for number in range(8)]
        for _ in range(round_ % 4):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        rest = await asyncio.wait_for(asyncio.gather(*tasks[1::2]), TIMEOUT_S)
        assert rest == [2, 4, 6, 8]
        await asyncio.gather(*tasks[::2], return_exceptions=True)
    graph.teardown()


# -- exceptions of signal handlers


class Interruption(BaseException):
    pass


@pytest.fixture(params=[KeyboardInterrupt, LookupError, Interruption])
def interrupts(request: pytest.FixtureRequest) -> Iterator[Callable[[float], None]]:
    """Has an exception come out of a signal handler after so many seconds; 0: never."""

    def interrupt(*_: object) -> None:
        raise request.param("interrupted")

    before = signal.signal(signal.SIGALRM, interrupt)

    def after(delay_s: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, delay_s)

    gc.collect()
    gc.disable()  # what is called at collections would swallow an exception
    yield after
    gc.enable()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def check_that_nothing_shifts(execute: Callable[[int], Any], interrupts: Any) -> None:
    """Executes until some were interrupted; those that were not give their own results, and so do later ones."""
    interrupted = 0
    number = 0
    while interrupted < 500:
        number += 1
        try:
            try:
                interrupts((1 + number % 40) * 1e-6)  # an execution takes some microseconds
                result = execute(number)
            finally:
                interrupts(0)
        except (KeyboardInterrupt, LookupError, Interruption):
            interrupted += 1
        else:
            assert result == number + 1
    for number in range(40):
        assert execute(number) == number + 1


def test_an_interrupted_get_or_execute_shifts_no_result(interrupts: Any) -> None:
    with added(Adder.remote(), max_inflight_executions=4, max_buffered_results=4) as graph:
        check_that_nothing_shifts(lambda number: af.get(graph.execute(number), timeout=TIMEOUT_S), interrupts)


def test_an_interrupted_get_of_several_outputs_shifts_none(interrupts: Any) -> None:
    first, second = Adder.remote(), Adder.remote()
    with InputNode() as number:
        once = first.add.bind(number)
        end = MultiOutputNode([once, once, second.add.bind(number)])

    def execute(number: int) -> Any:
        results = set(af.get(graph.execute(number), timeout=TIMEOUT_S))
        assert len(results) == 1
        return results.pop()

    with end.experimental_compile(max_inflight_executions=4, max_buffered_results=4) as graph:
        check_that_nothing_shifts(execute, interrupts)


def test_an_interrupted_execute_with_several_inputs_shifts_no_result(interrupts: Any) -> None:
    first, second, third = Adder.remote(), Adder.remote(), Adder.remote()
    with InputNode() as numbers:
        left, right = first.add.bind(numbers[0], 0), second.add.bind(numbers[1], 0)
        end = third.add.bind(left, right)

    def execute(number: int) -> Any:
        return af.get(graph.execute(number, 1), timeout=TIMEOUT_S)

    with end.experimental_compile(max_inflight_executions=4) as graph:
        check_that_nothing_shifts(execute, interrupts)


class Stubborn:
    """Loading it is interrupted, once it is armed."""

    armed = False

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return load_stubborn, (self.number,)


def load_stubborn(number: int) -> Stubborn:
    if Stubborn.armed:
        Stubborn.armed = False
        os.kill(os.getpid(), signal.SIGALRM)
        sum(range(10))  # where the handler runs, at the latest
    return Stubborn(number)


@af.remote
class Maker:
    def stubborn(self, number: int) -> Stubborn:
        return Stubborn(number)


def test_a_loading_that_is_interrupted_loses_that_result_only(interrupts: Any) -> None:
    with InputNode() as inp:
        end = Maker.remote().stubborn.bind(inp)
    with end.experimental_compile() as graph:
        refs = [graph.execute(number) for number in range(4)]
        Stubborn.armed = True
        with pytest.raises((KeyboardInterrupt, LookupError, Interruption, af.ActorflowError)):
            af.get(refs[0], timeout=TIMEOUT_S)
        assert [af.get(ref, timeout=TIMEOUT_S).number for ref in refs[1:]] == [1, 2, 3]


def test_a_ref_whose_get_was_interrupted_can_be_read(interrupts: Any) -> None:
    actor = Gate.remote()
    with InputNode() as inp:
        end = actor.pass_on.bind(inp)
    with end.experimental_compile(max_buffered_results=2) as graph:
        for number in range(6):
            ref = graph.execute(number)

            def get_interrupted(ref: Any = ref) -> None:
                interrupts(0.02)
                af.get(ref, timeout=TIMEOUT_S)

            with pytest.raises((KeyboardInterrupt, LookupError, Interruption)):
                get_interrupted()
            af.get(actor.open.remote())
            assert af.get(ref, timeout=TIMEOUT_S) == number


def test_a_signal_handler_that_uses_the_graph_it_interrupts_is_told() -> None:
    actor = Gate.remote()
    with InputNode() as inp:
        end = actor.pass_on.bind(inp)
    told = []

    with end.experimental_compile() as graph:
        first, second = graph.execute(1), graph.execute(2)

        def handle(*_: object) -> None:
            try:
                af.get(second, timeout=TIMEOUT_S)
            except RuntimeError as error:
                told.append(str(error))
            actor.open.remote()

        def interrupt() -> None:
            wait_until(lambda: first._stream._is_reading, TIMEOUT_S, "the result is being read")
            os.kill(os.getpid(), signal.SIGALRM)

        before = signal.signal(signal.SIGALRM, handle)
        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            assert af.get(first, timeout=TIMEOUT_S) == 1
        finally:
            thread.join()
            signal.signal(signal.SIGALRM, before)
        assert "signal handler" in told[0]
        af.get(actor.open.remote())
        assert af.get(second, timeout=TIMEOUT_S) == 2


# -- what is kept


@pytest.mark.parametrize("reads", [[0], [1, 0], [0, 1]])
def test_a_failed_result_keeps_nothing(reads: list[int]) -> None:
    """Neither its ref nor the graph, without a collection: an error's traceback makes circles easily."""
    actor = Adder.remote()
    with InputNode() as number:
        graphs = [MultiOutputNode([actor.add.bind(number, None)] * 2).experimental_compile()]
    alive = weakref.ref(graphs[0])

    def fail() -> None:
        refs = [graphs[0].execute(number)[number] for number in range(2)]
        for read in reads:
            with pytest.raises(TypeError):
                af.get(refs[read], timeout=TIMEOUT_S)

    gc.collect()
    gc.disable()
    try:
        fail()
        graphs.clear()
        assert alive() is None
    finally:
        gc.enable()


# -- what takes results, and what refuses them


async def test_asyncio_takes_results_where_it_takes_awaitables() -> None:
    with chain(Stepper.remote().echo) as graph:
        assert list(await asyncio.gather(graph.execute(1), graph.execute(2))) == [1, 2]
        assert await asyncio.wait_for(graph.execute(3), TIMEOUT_S) == 3
        assert await asyncio.shield(graph.execute(4)) == 4
        assert await asyncio.ensure_future(graph.execute(5)) == 5
        each = asyncio.as_completed([graph.execute(number) for number in (6, 7)])
        assert {await value for value in each} == {6, 7}
        done, _ = await asyncio.wait([asyncio.ensure_future(graph.execute(8))])
        assert [task.result() for task in done] == [8]
        with pytest.raises(TypeError, match=r"echo.*asyncio\.ensure_future"):
            await asyncio.wait([graph.execute(9)])
        assert await graph.execute(10) == 10


async def test_aio_get_takes_results() -> None:
    actor = Gate.remote()
    with chain(actor.pass_on) as graph:
        ref, late = graph.execute(1), graph.execute(2)
        with pytest.raises(af.exceptions.ChannelTimeoutError, match="pass_on"):
            await af.aio.get(ref, timeout=0)
        with pytest.raises(af.exceptions.ChannelTimeoutError, match=r"no result within 0\.01 s"):
            await af.aio.get([af.put(0), ref], timeout=0.01)
        await actor.open.remote()
        assert await af.aio.get(ref, timeout=TIMEOUT_S) == 1
        await actor.open.remote()
        assert await af.aio.get([af.put(0), late]) == [0, 2]
        with pytest.raises(ValueError, match="read before"):
            await af.aio.get(late)


async def first_of(items: AsyncIterator[Any]) -> Any:
    return await anext(items)


@pytest.mark.parametrize(
    ("take", "kind"),
    [
        (lambda ref: af.wait([ref]), TypeError),
        (lambda ref: af.wait([af.put(1), ref], num_returns=2), TypeError),
        (lambda ref: list(af.util.as_completed([ref])), TypeError),
        (lambda ref: asyncio.run(af.aio.wait([ref])), TypeError),
        (lambda ref: asyncio.run(af.gather(ref)), ValueError),
        (lambda ref: asyncio.run(first_of(af.as_completed([ref]))), ValueError),
    ],
)
def test_what_waits_for_several_refs_says_what_to_do_with_results(take: Any, kind: type[Exception]) -> None:
    with chain(Stepper.remote().echo) as graph:
        ref = graph.execute(1)
        with pytest.raises(kind, match=r"CompiledRef.*echo.*read once: await it, or give it to get"):
            take(ref)
        assert af.get(ref) == 1


async def test_waits_in_a_loop_name_what_is_no_ref() -> None:
    with pytest.raises(TypeError, match="int 1, not an ObjectRef"):
        af.wait([1])
    with pytest.raises(ValueError, match="int 1, not an ObjectRef"):
        af.get([1])  # type: ignore[arg-type]


def test_a_graph_as_an_argument_is_refused_with_what_to_do() -> None:
    @af.remote
    def use(graph: Any) -> None: ...

    with (
        added(Adder.remote()) as graph,
        pytest.raises(TypeError, match=r"'graph'.*of Adder.add can only be used where"),
    ):
        use.remote(graph)


def test_the_loop_of_a_member_may_await_a_result_but_not_block_on_it() -> None:
    @af.remote
    class Looped:
        async def wire(self, me: Any) -> None:
            self.graph = await asyncio.to_thread(chain, me.echo)

        async def echo(self, value: int) -> int:
            return value

        async def blocks(self) -> Any:
            return af.get(self.graph.execute(1))

        async def gives_up(self) -> Any:
            return af.get(self.graph.execute(2), timeout=0.01)

        async def awaits(self) -> Any:
            return await self.graph.execute(3)

        async def blocks_in_thread(self) -> Any:
            return await asyncio.to_thread(af.get, self.graph.execute(4))

    looped = Looped.remote()
    af.get(looped.wire.remote(looped), timeout=TIMEOUT_S)
    try:
        with pytest.raises(af.DeadlockError, match=r"Looped\.echo .*the loop"):
            af.get(looped.blocks.remote(), timeout=TIMEOUT_S)
        with pytest.raises(af.exceptions.ChannelTimeoutError):
            af.get(looped.gives_up.remote(), timeout=TIMEOUT_S)
        refs = [looped.awaits.remote(), looped.blocks_in_thread.remote()]
        assert af.get(refs, timeout=TIMEOUT_S) == [3, 4]
    finally:
        af.kill(looped)  # it refers to itself
