"""Results of compiled graphs in several threads and loops: who reads, who waits, and who is woken when."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

import pytest

import actorflow as af
from actorflow.dag import InputNode
from actorflow.errors import ChannelError
from tests.conftest import wait_until
from tests.system.graph_bodies import Adder, Gate
from tests.system.graph_wiring import added

pytestmark = pytest.mark.usefixtures("runtime")
TIMEOUT_S = 30


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


class Interruption(BaseException):
    pass


class Heavy:
    """Loading it takes until it is released."""

    is_loading = threading.Event()
    released = threading.Event()

    def __reduce__(self) -> Any:
        return load_heavy, ()


def load_heavy() -> str:
    Heavy.is_loading.set()
    assert Heavy.released.wait(TIMEOUT_S)
    return "loaded"


@af.remote
class HeavyMaker:
    def heavy(self, _: int) -> Heavy:
        return Heavy()


async def test_a_loop_goes_on_while_a_thread_loads_a_result() -> None:
    with InputNode() as inp:
        graph = HeavyMaker.remote().heavy.bind(inp).experimental_compile()
    Heavy.is_loading.clear()
    Heavy.released.clear()
    first, second = graph.execute(1), graph.execute(2)
    thread = asyncio.ensure_future(asyncio.to_thread(af.get, first, timeout=TIMEOUT_S))
    assert await asyncio.to_thread(Heavy.is_loading.wait, TIMEOUT_S)
    task = asyncio.ensure_future(second)
    for _ in range(5):
        await asyncio.sleep(0)
    Heavy.released.set()  # as only this loop does
    assert await asyncio.wait_for(task, TIMEOUT_S) == await thread == "loaded"
    graph.teardown()


async def test_an_execution_is_begun_once_a_thread_has_read_the_oldest_one() -> None:
    actor = Gate.remote()
    with InputNode() as inp:
        graph = actor.pass_on.bind(inp).experimental_compile(max_inflight_executions=1)
    ref = graph.execute(1)
    thread = asyncio.ensure_future(asyncio.to_thread(af.get, ref, timeout=TIMEOUT_S))
    await asyncio.to_thread(wait_until, lambda: ref._stream._is_reading, TIMEOUT_S, "the thread reads")
    task = asyncio.ensure_future(graph.execute_async(2))
    await asyncio.sleep(0)
    for _ in range(2):
        await actor.open.remote()
    assert await thread == 1
    assert await (await asyncio.wait_for(task, TIMEOUT_S)) == 2
    graph.teardown()


def test_a_result_that_two_threads_read_at_once_goes_to_one_of_them() -> None:
    with added(Adder.remote()) as graph:
        ref = graph.execute(1)
        stream, results = ref._stream, []
        get, was_read, may_return = stream.get, threading.Event(), threading.Event()

        def get_slowly(*args: Any) -> Any:
            outcome = get(*args)
            was_read.set()
            assert may_return.wait(TIMEOUT_S)
            return outcome

        stream.get = get_slowly
        thread = threading.Thread(target=lambda: results.append(af.get(ref, timeout=TIMEOUT_S)))
        thread.start()
        assert was_read.wait(TIMEOUT_S)
        stream.get = get
        try:
            with pytest.raises(ChannelError, match="another thread"):
                af.get(ref, timeout=TIMEOUT_S)
        finally:
            may_return.set()
            thread.join()
        assert results == [2]
        with pytest.raises(ValueError, match="read before"):
            af.get(ref, timeout=TIMEOUT_S)


def test_a_signal_just_when_the_lock_is_had_leaves_it_to_other_threads() -> None:
    with added(Adder.remote()) as graph:
        refs = [graph.execute(number) for number in range(2)]
        stream = refs[0]._stream
        lock = stream._lock

        class Interrupted:
            def acquire(self, **options: Any) -> bool:
                lock.acquire(**options)
                stream._lock = lock
                raise Interruption

        stream._lock = Interrupted()
        with pytest.raises(Interruption):
            af.get(refs[0], timeout=TIMEOUT_S)
        results: list[int] = []
        thread = threading.Thread(
            target=lambda: results.append(af.get(refs[1], timeout=TIMEOUT_S)), daemon=True
        )
        thread.start()
        thread.join(TIMEOUT_S)
        assert results == [2]


def waiting_in(loop: asyncio.AbstractEventLoop, ref: Any) -> asyncio.Task[Any]:
    """A task that awaits the ref in a loop that does not run now."""

    async def result() -> Any:
        return await ref

    task = loop.create_task(result())
    loop.run_until_complete(asyncio.sleep(0))
    return task


def test_a_loop_that_closes_while_it_waits_costs_nobody_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = Gate.remote()
    with InputNode() as inp:
        end = actor.pass_on.bind(inp)
    with end.experimental_compile() as graph, asyncio.Runner() as runner:
        refs = [graph.execute(number) for number in range(2)]
        task = waiting_in(runner.get_loop(), refs[0])
        told = []

        def closed(*_: Any) -> None:
            monkeypatch.undo()
            told.append("closed")
            raise RuntimeError("Event loop is closed")

        monkeypatch.setattr(runner.get_loop(), "call_soon_threadsafe", closed)
        for _ in refs:
            actor.open.remote()
        assert af.get(refs[1], timeout=TIMEOUT_S) == 1
        assert told
        assert runner.run(asyncio.wait_for(task, TIMEOUT_S)) == 0


def test_who_waits_in_a_loop_that_does_not_run_holds_up_no_other() -> None:
    actor = Gate.remote()
    with InputNode() as inp:
        end = actor.pass_on.bind(inp)
    with (
        end.experimental_compile() as graph,
        asyncio.Runner() as stopped,
        asyncio.Runner() as running,
    ):
        refs = [graph.execute(number) for number in range(3)]
        watcher = waiting_in(running.get_loop(), refs[0])
        waits = waiting_in(stopped.get_loop(), refs[1])
        assert len(refs[0]._stream._waiting) == 2

        async def others() -> Any:
            task = asyncio.ensure_future(refs[2])
            await asyncio.sleep(0)
            watcher.cancel()
            for _ in range(3):
                await actor.open.remote()
            return await asyncio.wait_for(task, TIMEOUT_S)

        assert running.run(others()) == 2
        assert stopped.run(asyncio.wait_for(waits, TIMEOUT_S)) == 1


def test_a_signal_handler_that_tears_a_graph_down_wakes_the_loop_that_it_interrupts() -> None:
    actor = Gate.remote()
    with InputNode() as inp:
        graph = actor.pass_on.bind(inp).experimental_compile()
    refs = [graph.execute(number) for number in range(2)]
    before = signal.signal(signal.SIGALRM, lambda *_: graph.teardown())

    async def interrupted() -> None:
        task = asyncio.ensure_future(refs[1])
        await asyncio.sleep(0)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGALRM)).start()  # in the selector, most likely
        with pytest.raises(ChannelError, match="torn down"):
            await task

    try:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as other, asyncio.Runner() as runner:
            watcher = waiting_in(other.get_loop(), refs[0])
            runner.run(interrupted())
            with pytest.raises(ChannelError, match="torn down"):
                other.run(asyncio.wait_for(watcher, TIMEOUT_S))
    finally:
        signal.signal(signal.SIGALRM, before)
    for _ in refs:
        af.get(actor.open.remote())
