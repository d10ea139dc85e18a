"""Refs and handles in event loops: every combinator, asyncio and uvloop, several loops and threads at once."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import threading
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

import actorflow as af
from actorflow.client import blocking, waiting
from tests.system import bodies

DEADLINE_S = 30.0
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

pytestmark = pytest.mark.usefixtures("runtime")

Main = Callable[[], Coroutine[Any, Any, Any]]


@pytest.fixture(params=list(LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[[Main], Any]:
    """Runs a coroutine function to its end on a new loop of each kind."""

    def runs(main: Main) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(main())

    return runs


Run = Callable[[Main], Any]


def test_await_refs_and_methods(run: Run) -> None:
    async def main() -> Any:
        counter = bodies.Counter.remote()
        values = [await bodies.add.remote(1, 2), await bodies.add(1, 3), await counter.add(5)]
        ref = bodies.echo.remote("again")
        return [*values, await ref, await ref]

    assert run(main) == [3, 4, 5, "again", "again"]


def test_await_what_comes_later(run: Run) -> None:
    async def main() -> Any:
        gate = bodies.Gate.remote()
        late = asyncio.create_task(_await(gate.pass_through.remote()))
        assert await gate.arrived.remote(1) == 1
        assert not late.done()
        await gate.open.remote()
        return await late

    assert run(main) == 1


async def _await(ref: Any) -> Any:
    return await ref


def test_errors_are_raised_where_it_is_awaited(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="broken"):
            await bodies.fail.remote("broken")
        results = await asyncio.gather(
            bodies.fail.remote("one"), bodies.echo.remote(2), return_exceptions=True
        )
        assert isinstance(results[0], ValueError)
        assert results[1] == 2

    run(main)


def test_gather_many(run: Run) -> None:
    async def main() -> None:
        counter = bodies.Counter.remote()
        assert await asyncio.gather(*(counter.add() for _ in range(500))) == list(range(1, 501))
        assert await af.gather(*(bodies.echo.remote(number) for number in range(500))) == list(range(500))

    run(main)


def test_wait(run: Run) -> None:
    async def main() -> None:
        gate = bodies.Gate.remote()
        late, early = gate.pass_through.remote(), bodies.echo.remote(1)
        done, pending = await asyncio.wait([late, early], return_when=asyncio.FIRST_COMPLETED)
        assert (done, pending) == ({early}, {late})
        done, pending = await asyncio.wait([late], timeout=0.01)
        assert (done, pending) == (set(), {late})
        failed = bodies.fail.remote("x")
        done, pending = await asyncio.wait([late, failed], return_when=asyncio.FIRST_EXCEPTION)
        assert (done, pending) == ({failed}, {late})
        await gate.open.remote()
        done, pending = await asyncio.wait([late, early])
        assert (done, pending) == ({late, early}, set())

    run(main)


def test_wait_for_and_timeout_leave_the_call_alone(run: Run) -> None:
    async def main() -> None:
        gate = bodies.Gate.remote()
        ref = gate.pass_through.remote()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ref, 0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await ref
        assert not waiting.current_port()._waiting
        shielded = asyncio.ensure_future(ref)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(shielded), 0.01)
        assert not shielded.done()
        await gate.open.remote()
        assert await asyncio.wait_for(shielded, DEADLINE_S) == 1

    run(main)


def test_cancelling_an_await_does_not_cancel_the_call(run: Run) -> None:
    async def main() -> None:
        gate = bodies.Gate.remote()
        ref = gate.pass_through.remote()
        tasks = [asyncio.create_task(_await(ref)) for _ in range(3)]
        await gate.arrived.remote(1)
        for task in tasks[:2]:
            task.cancel()
        assert isinstance((await asyncio.gather(tasks[0], return_exceptions=True))[0], asyncio.CancelledError)
        await gate.open.remote()
        assert await tasks[2] == 1
        assert await ref == 1

    run(main)


def test_as_completed(run: Run) -> None:
    async def main() -> None:
        refs = [bodies.echo.remote(number) for number in range(20)]
        assert {await next_one for next_one in asyncio.as_completed(refs)} == set(range(20))
        assert {await ref async for ref in af.as_completed(refs)} == set(range(20))
        gate = bodies.Gate.remote()
        late = gate.pass_through.remote()
        completed = af.as_completed([late, refs[0]], timeout=0.05)
        assert await anext(completed) == refs[0]
        with pytest.raises(af.GetTimeoutError):
            await anext(completed)
        await gate.open.remote()

    run(main)


def test_task_groups(run: Run) -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_await(bodies.echo.remote(number))) for number in range(5)]
        assert [task.result() for task in tasks] == list(range(5))
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(_await(bodies.fail.remote("in the group")))
        assert isinstance(caught.value.exceptions[0], ValueError)

    run(main)


def test_done_callbacks(run: Run) -> None:
    async def main() -> None:
        mark = contextvars.ContextVar("mark", default="none")
        context = contextvars.copy_context()
        context.run(mark.set, "given")
        seen: asyncio.Queue[Any] = asyncio.Queue()

        def note(ref: Any) -> None:
            seen.put_nowait((ref, mark.get()))

        gate = bodies.Gate.remote()
        ref = gate.pass_through.remote()
        ref.add_done_callback(note, context=context)
        ref.add_done_callback(note)
        assert ref.remove_done_callback(note) == 2
        ref.add_done_callback(note, context=context)
        await gate.open.remote()
        assert await seen.get() == (ref, "given")
        ref.add_done_callback(note)
        assert await seen.get() == (ref, "none")
        assert (ref.done(), ref.cancelled(), ref.result(), ref.exception()) == (True, False, 1, None)

    run(main)


def test_aio(run: Run) -> None:
    async def main() -> None:
        refs = [await af.aio.put(number) for number in range(3)]
        assert await af.aio.get(refs) == [0, 1, 2]
        assert await af.aio.get(refs[2]) == 2
        assert await af.aio.wait(refs, num_returns=2) == (refs[:2], refs[2:])
        large = await af.aio.put(b"x" * 3_000_000)
        assert len(await af.aio.get(large)) == 3_000_000
        gate = bodies.Gate.remote()
        late = gate.pass_through.remote()
        for timeout in (0, 0.01):
            with pytest.raises(af.GetTimeoutError):
                await af.aio.get([refs[0], late], timeout=timeout)
            assert await af.aio.wait([late, refs[0]], num_returns=2, timeout=timeout) == ([refs[0]], [late])
        with pytest.raises(ValueError, match="ObjectRef"):
            await af.aio.get([1])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="twice"):
            await af.aio.wait([late, late])
        await gate.open.remote()
        assert await af.aio.wait([late]) == ([late], [])

    run(main)


def test_gather_raises_the_first_error_and_waits_for_no_other(run: Run) -> None:
    async def main() -> None:
        gate = bodies.Gate.remote()
        late = gate.pass_through.remote()
        with pytest.raises(ValueError, match="early"):
            await af.gather(late, bodies.fail.remote("early"))
        await gate.open.remote()
        results = await af.gather(late, bodies.fail.remote("kept"), return_exceptions=True)
        assert results[0] == 1
        assert isinstance(results[1], ValueError)
        assert await af.gather() == []

    run(main)


async def turns_of_others(await_one: Callable[[], Coroutine[Any, Any, Any]]) -> int:
    """How many turns another task has while 500 are awaited one after another."""
    turns, is_over = 0, False

    async def other() -> None:
        nonlocal turns
        while not is_over:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    for _ in range(500):
        await await_one()
    is_over = True
    await task
    return turns


def test_the_loop_goes_on_while_calls_are_awaited(run: Run) -> None:
    """Answers that come within microseconds must not keep other tasks from their turn."""

    async def main() -> int:
        counter = bodies.Counter.remote()

        async def add() -> None:
            await counter.add()

        await add()
        return await turns_of_others(add)

    at_once = waiting.SPINS_IN_A_ROW  # as many find their answer there without a spin
    assert run(main) >= 500 // (waiting.SPINS_IN_A_ROW + at_once)


def test_the_loop_goes_on_while_what_is_there_is_awaited(run: Run) -> None:
    async def main() -> int:
        ref = af.put(1)

        async def read() -> None:
            assert await ref == 1

        return await turns_of_others(read)

    assert run(main) >= 500 // 17


def test_loops_in_several_threads_share_refs(run: Run) -> None:
    gate = bodies.Gate.remote()
    ref = gate.pass_through.remote()

    def work(number: int) -> Any:
        async def main() -> Any:
            return await asyncio.gather(ref, *(bodies.echo.remote(number) for _ in range(20)))

        return run(main)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = [pool.submit(work, number) for number in range(4)]
        af.get(gate.arrived.remote(1))
        af.get(gate.open.remote())
        assert [result.result() for result in results] == [[1, *[number] * 20] for number in range(4)]


def test_many_loops_wait_at_once(run: Run) -> None:
    gate = bodies.Gate.remote()
    loops = 40

    def work() -> Any:
        async def main() -> Any:
            await bodies.echo.remote(0)
            return await gate.pass_through.remote()

        return run(main)

    with concurrent.futures.ThreadPoolExecutor(loops) as pool:
        results = [pool.submit(work) for _ in range(loops)]
        af.get(gate.arrived.remote(loops))
        af.get(gate.open.remote())
        assert sorted(result.result() for result in results) == list(range(1, loops + 1))


def test_a_loop_too_many_is_refused_and_has_its_turn_once_others_are_closed() -> None:
    async def main() -> Any:
        waiting.current_port()
        return await bodies.echo.remote(1)

    with contextlib.ExitStack() as stack:
        loops = [stack.enter_context(asyncio.Runner()) for _ in range(257)]
        for loop in loops[:200]:
            assert loop.run(main()) == 1
        with pytest.raises(RuntimeError, match="event loops of this process have awaited"):
            assert [loop.run(main()) for loop in loops[200:]]
        loops[0].close()
        assert loops[-1].run(main()) == 1


def test_a_closed_loop_gives_its_port_back() -> None:
    loop = asyncio.new_event_loop()
    gate = bodies.Gate.remote()
    ref = gate.pass_through.remote()
    with pytest.raises(TimeoutError):
        loop.run_until_complete(asyncio.wait_for(ref, 0.01))
    assert id(loop) in waiting._ports
    loop.close()
    del loop
    gc.collect()
    assert not waiting._ports
    af.get(gate.open.remote())


def test_sync_get_inside_a_loop_works_with_one_warning(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "_has_warned", False)

    async def main() -> Any:
        gate = bodies.Gate.remote()
        opener = threading.Timer(0.01, lambda: af.get(gate.open.remote()))
        opener.start()
        with pytest.warns(RuntimeWarning, match="blocks the running event loop") as seen:
            value = af.get(gate.pass_through.remote())
        assert len(seen) == 1
        assert seen[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert af.get(bodies.echo.remote(2)) == 2
        opener.join()
        return value

    assert run(main) == 1


def test_sync_get_in_a_thread_beside_the_loop(run: Run) -> None:
    async def main() -> Any:
        gate = bodies.Gate.remote()
        waiting_thread = asyncio.create_task(asyncio.to_thread(af.get, gate.pass_through.remote()))
        await gate.arrived.remote(1)
        await gate.open.remote()
        return await waiting_thread

    assert run(main) == 1


async def test_the_plain_pytest_loop() -> None:
    assert await bodies.echo.remote(1) == 1
    assert await bodies.async_echo.remote(2) == 2


async def test_callbacks_need_a_loop_of_the_calling_thread() -> None:
    ref = bodies.echo.remote(1)
    with pytest.raises(RuntimeError, match="no running event loop"):
        await asyncio.to_thread(ref.add_done_callback, print)
    await ref
