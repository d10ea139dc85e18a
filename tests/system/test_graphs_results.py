"""Results of compiled graphs: many who await at once, signals in the midst of a read or a write, other threads."""

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
from tests.system.graph_bodies import Stepper
from tests.system.graph_wiring import chain

pytestmark = pytest.mark.usefixtures("runtime")
TIMEOUT_S = 20


@af.remote
class Adder:
    def add(self, left: Any, right: Any = 1) -> Any:
        return left + right


def added(actor: Any, **options: Any) -> Any:
    with InputNode() as number:
        return actor.add.bind(number).experimental_compile(**options)


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
            interrupts(0.02)
            try:
                with pytest.raises((KeyboardInterrupt, LookupError, Interruption)):
                    af.get(ref, timeout=TIMEOUT_S)
            finally:
                interrupts(0)
            af.get(actor.open.remote())
            assert af.get(ref, timeout=TIMEOUT_S) == number


@af.remote(max_concurrency=2)
class Gate:
    """Passes a number on once it was opened for it."""

    def __init__(self) -> None:
        self._opened = threading.Semaphore(0)

    def open(self) -> None:
        self._opened.release()

    def pass_on(self, number: int) -> int:
        self._opened.acquire()
        return number


def test_a_signal_handler_that_uses_the_graph_it_interrupts_is_told() -> None:
    actor = Gate.remote()
    with InputNode() as inp:
        end = actor.pass_on.bind(inp)
    told = []

    with end.experimental_compile() as graph:
        first, second = graph.execute(1), graph.execute(2)

        def handle(*_: object) -> None:
            try:
                af.get(second)
            except RuntimeError as error:
                told.append(str(error))
            actor.open.remote()

        before = signal.signal(signal.SIGALRM, handle)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            assert af.get(first, timeout=TIMEOUT_S) == 1
        finally:
            signal.signal(signal.SIGALRM, before)
        assert "signal handler" in told[0]
        af.get(actor.open.remote())
        assert af.get(second, timeout=TIMEOUT_S) == 2


# -- threads


async def test_a_result_is_awaited_while_a_thread_waits_for_a_later_one() -> None:
    actor = Gate.remote()
    with InputNode() as inp:
        graph = actor.pass_on.bind(inp).experimental_compile()
    refs = [graph.execute(number) for number in range(3)]
    thread = asyncio.ensure_future(asyncio.to_thread(af.get, refs[2], timeout=TIMEOUT_S))
    for number in range(2):
        await actor.open.remote()
        assert await asyncio.wait_for(refs[number], TIMEOUT_S) == number
    await actor.open.remote()
    assert await thread == 2
    graph.teardown()


@pytest.mark.parametrize("wanted", [2, 0])
async def test_a_thread_reads_a_result_just_before_its_wait_begins(
    wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`wanted`: by the thread, which has the channel to itself when the loop looks."""
    actor = Gate.remote()
    with InputNode() as inp:
        graph = actor.pass_on.bind(inp).experimental_compile()
    refs = [graph.execute(number) for number in range(3)]
    thread = threading.Thread(target=af.get, args=[refs[wanted]], daemon=True)
    thread.start()
    stream = refs[0]._stream
    wait_until(lambda: stream._is_reading, TIMEOUT_S, "the thread reads")
    loop = asyncio.get_running_loop()
    create_future = loop.create_future

    def read_meanwhile() -> asyncio.Future[Any]:
        if stream.position == 0:
            actor.open.remote()
            wait_until(lambda: stream.position == 1, TIMEOUT_S, "the first is read")
            if wanted == 0:
                thread.join(TIMEOUT_S)
        return create_future()

    monkeypatch.setattr(loop, "create_future", read_meanwhile)
    if wanted == 0:
        with pytest.raises(ValueError, match="read before"):
            await refs[0]
    else:
        assert await refs[0] == 0
    for _ in range(2):
        await actor.open.remote()
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()
    graph.teardown()


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
