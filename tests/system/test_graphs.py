"""Compiled graphs that run well: values, shapes of graphs, kinds of actors, ordinary calls meanwhile, event loops."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actorflow as af
from actorflow import dag
from actorflow.dag import InputNode, MultiOutputNode
from actorflow.errors import ChannelError
from tests.conftest import wait_until
from tests.system.channel_bodies import in_thread
from tests.system.graph_bodies import PAUSE_S, AsyncStepper, Stepper
from tests.system.graph_wiring import BUSY_S, KINDS, chain

pytestmark = pytest.mark.usefixtures("runtime")


def compiled(end: dag.DAGNode, **options: Any) -> dag.CompiledGraph:
    return end.experimental_compile(**options)


@KINDS
def test_one_actor(kind: Any) -> None:
    actor = kind.remote(5)
    with InputNode() as inp:
        end = actor.add.bind(inp)
    with compiled(end) as graph:
        for number in range(50):
            assert af.get(graph.execute(number)) == number + 5
    assert af.get(actor.add(1)) == 6, "it is an ordinary actor again"


@KINDS
def test_a_chain_gives_what_the_same_nodes_give_uncompiled(kind: Any) -> None:
    actors = [kind.remote(number) for number in range(3)]
    with InputNode() as inp:
        value: Any = inp
        for actor in actors:
            value = actor.add.bind(value, more=10)
    with compiled(value) as graph:
        assert af.get(graph.execute(1)) == af.get(value.execute(1)) == 1 + 30 + 3


def test_parts_of_the_input_fan_out_fan_in_and_several_outputs() -> None:
    left, right = Stepper.remote(), Stepper.remote()
    with InputNode() as inp:
        first = left.scale.bind(inp[0], inp.factor)
        second = right.join.bind(inp[0], first, 7, factor=inp["factor"])
        end = MultiOutputNode([first, left.join.bind(second, first), second])
    with compiled(end) as graph:
        for number in range(20):
            refs = graph.execute(number, factor=3)
            joined = (number, number * 3, 7, ("factor", 3))
            assert af.get(refs) == [number * 3, (joined, number * 3), joined]
        assert af.get(end.execute(2, factor=3)) == [
            6,
            ((2, 6, 7, ("factor", 3)), 6),
            (2, 6, 7, ("factor", 3)),
        ]


def test_the_whole_input() -> None:
    actor = Stepper.remote()
    with InputNode() as inp:
        end = actor.echo.bind(inp)
    with compiled(end) as graph:
        assert af.get(graph.execute({"a": 1})) == {"a": 1}
        whole = af.get(graph.execute(1, name=2))
        assert (whole[0], whole.name) == (1, 2)


def test_several_methods_of_one_actor_and_one_value_twice() -> None:
    actor, other = Stepper.remote(1), Stepper.remote(2)
    with InputNode() as inp:
        first = actor.add.bind(inp)
        second = actor.add.bind(first, first)
        third = other.add.bind(second, second)
        end = actor.join.bind(first, third, second, inp)
    with compiled(end) as graph:
        assert af.get(graph.execute(10)) == (11, 48, 23, 10)
        assert af.get(graph.execute(20)) == (21, 88, 43, 20)


def test_an_actor_in_several_graphs() -> None:
    shared, other = Stepper.remote(1), Stepper.remote(2)
    with InputNode() as inp:
        first = compiled(shared.add.bind(inp))
    with InputNode() as inp:
        second = compiled(other.add.bind(shared.add.bind(inp)))
    for number in range(10):
        refs = [first.execute(number), second.execute(number)]
        assert af.get(shared.add(number)) == number + 1
        assert af.get(refs) == [number + 1, number + 3]
    first.teardown()
    assert af.get(second.execute(1)) == 4
    second.teardown()


def test_the_same_nodes_twice() -> None:
    actor = Stepper.remote(1)
    with InputNode() as inp:
        end = actor.add.bind(inp)
    with compiled(end) as first, compiled(end) as second:
        assert af.get([first.execute(1), second.execute(2)]) == [2, 3]


def test_executions_in_flight_go_through_a_pipeline_in_order() -> None:
    first, second = Stepper.remote(), Stepper.remote()
    with InputNode() as inp:
        end = second.note.bind(first.note.bind(inp))
    with compiled(end, max_inflight_executions=8) as graph:
        for start in range(0, 80, 8):
            refs = [graph.execute(start + number) for number in range(8)]
            assert af.get(refs) == list(range(start, start + 8))
    assert af.get(first.notes()) == af.get(second.notes()) == list(range(80))


def test_results_can_be_read_in_any_order() -> None:
    actor = Stepper.remote()
    with InputNode() as inp:
        end = actor.echo.bind(inp)
    with compiled(end) as graph:
        refs = [graph.execute(number) for number in range(10)]
        assert [af.get(ref) for ref in reversed(refs)] == list(reversed(range(10)))


def test_large_arrays_are_not_copied_on_the_way() -> None:
    actors = [Stepper.remote() for _ in range(2)]
    array = np.arange(200_000, dtype=np.float64)
    with InputNode() as inp:
        end = actors[1].echo.bind(actors[0].echo.bind(inp))
    with compiled(end) as graph:
        for _ in range(5):
            got = af.get(graph.execute(array))
            np.testing.assert_array_equal(got, array)
            assert not got.flags.writeable, "it lies in the store"
        del got


def test_refs_and_handles_travel_through_graphs() -> None:
    actor = Stepper.remote()
    ref = af.put("there")
    with InputNode() as inp:
        end = actor.echo.bind(inp)
    with compiled(end) as graph:
        got_ref, got_actor = af.get(graph.execute([ref, actor]))
        assert af.get(got_ref) == "there"
        assert got_actor == actor
        assert af.get(got_actor.add(1)) == 1


def test_steps_run_where_ordinary_calls_run() -> None:
    actor = Stepper.remote()
    with InputNode() as inp:
        end = MultiOutputNode([actor.pid.bind(inp), actor.thread.bind(inp), actor.mark.bind(inp)])
    with compiled(end) as graph:
        af.get(actor.mark("from a call"))
        pid, thread, before = af.get(graph.execute("from a step"))
        assert (pid, thread) == (af.get(actor.pid()), af.get(actor.thread()))
        assert before == "from a call"
        assert af.get(actor.mark()) == "from a step"


def test_steps_of_an_async_actor_run_on_its_loop() -> None:
    actor = AsyncStepper.remote()
    with InputNode() as inp:
        end = actor.loop_id.bind(actor.later.bind(inp))
    with compiled(end) as graph:
        assert af.get(graph.execute(1)) == af.get(actor.loop_id())


def test_an_async_actor_serves_calls_while_a_step_waits() -> None:
    actor = AsyncStepper.remote()
    with InputNode() as inp:
        end = actor.wait_open.bind(inp)
    with compiled(end) as graph:
        ref = graph.execute(5)
        assert af.get(actor.later(1)) == 1
        af.get(actor.let_go())
        assert af.get(ref) == 5


def test_a_busy_graph_lets_ordinary_calls_in() -> None:
    actor = Stepper.remote()
    with InputNode() as inp:
        end = actor.note.bind(inp)
    with compiled(end, max_inflight_executions=64) as graph:
        stop = threading.Event()

        def drive() -> None:
            while not stop.is_set():
                af.get([graph.execute(1) for _ in range(64)])

        driver = threading.Thread(target=drive)
        driver.start()
        try:
            assert af.get([actor.add(number) for number in range(100)], timeout=60) == list(range(100))
        finally:
            stop.set()
            driver.join()


async def test_results_are_awaited() -> None:
    first, second = Stepper.remote(1), AsyncStepper.remote(2)
    with InputNode() as inp:
        end = second.later.bind(first.add.bind(inp))
    graph = compiled(end)
    assert await graph.execute(1) == 2
    refs = [await graph.execute_async(number) for number in range(10)]

    async def value(ref: Any) -> Any:
        return await ref

    results = await asyncio.gather(*(value(ref) for ref in reversed(refs)))
    assert results == list(reversed(range(1, 11)))
    graph.teardown()


async def test_awaited_executions_whose_refs_are_dropped_make_room() -> None:
    first, second = Stepper.remote(), AsyncStepper.remote()
    with InputNode() as inp:
        end = second.note.bind(first.echo.bind(inp))
    graph = compiled(end, max_inflight_executions=3)
    for number in range(100):
        await graph.execute_async(number)
    assert await graph.execute(100) == 100
    assert await second.notes() == list(range(101))
    graph.teardown()


def test_a_method_that_is_not_there_is_named() -> None:
    actor = Stepper.remote()
    with InputNode() as inp, pytest.raises(AttributeError, match="no method 'ecko': did you mean 'echo'"):
        actor.ecko.bind(inp)


async def test_a_cancelled_await_leaves_the_result() -> None:
    actor = AsyncStepper.remote()
    with InputNode() as inp:
        end = actor.wait_open.bind(inp)
    graph = compiled(end)
    refs = [graph.execute(number) for number in range(3)]

    async def value(ref: Any) -> Any:
        return await ref

    waits = [asyncio.create_task(value(ref)) for ref in refs]
    await asyncio.sleep(0)
    waits[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits[0]
    await actor.let_go()
    assert await asyncio.gather(*waits[1:]) == [1, 2]
    assert await refs[0] == 0
    graph.teardown()


def test_threads_share_a_graph() -> None:
    actor = Stepper.remote()
    with InputNode() as inp:
        end = actor.echo.bind(inp)
    with compiled(end, max_inflight_executions=4) as graph:
        got: dict[int, list[int]] = {}

        def drive(number: int) -> None:
            got[number] = [af.get(graph.execute(number * 100 + index)) for index in range(50)]

        threads = [threading.Thread(target=drive, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == {number: list(range(number * 100, number * 100 + 50)) for number in range(4)}


def test_a_graph_inside_of_an_actor() -> None:
    @af.remote(num_cpus=0)
    class Owner:
        def run(self, stepper: Any) -> list[int]:
            with InputNode() as inp:
                end = stepper.add.bind(inp)
            with end.experimental_compile() as graph:
                return [af.get(graph.execute(number)) for number in range(5)]

    assert af.get(Owner.remote().run(Stepper.remote(1))) == [1, 2, 3, 4, 5]


def test_a_graph_that_nobody_holds_ends() -> None:
    actor = Stepper.remote()
    with InputNode() as inp:
        graph = compiled(actor.echo.bind(inp))
    alive = weakref.ref(graph)
    ref = graph.execute(1)
    gc.disable()
    try:
        del graph, inp
        assert af.get(ref) == 1
        del ref
        assert alive() is None, "it needs no collection"
    finally:
        gc.enable()
    del actor  # the fixtures see that it ends


def test_pictures(tmp_path: Path) -> None:
    actor = Stepper.remote()
    with InputNode() as inp:
        graph = compiled(actor.echo.bind(actor.add.bind(inp)))
    assert graph.visualize().splitlines()[1] == "1: Steps.echo [actor 0] <- 0 (local)"
    svg = graph.visualize(str(tmp_path / "graph.svg"), format="svg")
    assert (tmp_path / "graph.svg").read_text() == svg
    with pytest.raises(ValueError, match="'text' or 'svg'"):
        graph.visualize(format="png")
    graph.teardown()


@KINDS
def test_a_profile_says_where_the_time_went(kind: Any) -> None:
    first, second = kind.remote(), kind.remote()
    with InputNode() as inp:
        middle = second.pause.bind(first.add.bind(inp))
        end = first.echo.bind(middle)
    with compiled(end) as graph:
        assert af.get(graph.execute(1)) == 1
        profile = graph.profile(5)
        assert profile.result == 5
        assert [step.actor for step in profile.steps] == [0, 1, 0]
        labels = [step.label.partition(".")[2] for step in profile.steps]
        assert labels == ["add", "pause", "echo"]
        paused = profile.steps[1]
        assert paused.compute_s >= PAUSE_S
        assert profile.total_s >= PAUSE_S
        waited = profile.steps[2]
        assert waited.wait_s + waited.read_s >= PAUSE_S, "the last step waits for the one before"
        assert waited.sleeps >= 1, "for longer than anybody looks"
        assert profile.sleeps >= 1
        assert str(profile).splitlines()[2].startswith(paused.label)
        assert af.get(graph.execute(1)) == 1


@KINDS
def test_sleeps_are_counted_in_every_process(kind: Any) -> None:
    idle, slow = kind.remote(), AsyncStepper.remote()
    with chain(idle.echo, slow.wait_open) as graph:
        wait_until(lambda: graph.sleeps() > 0, BUSY_S, "an actor that has nothing to do sleeps")
        driver, outcome = in_thread(lambda: graph.profile(1))
        wait_until(lambda: graph._slept() > 0, BUSY_S, "who waits for the result sleeps")
        assert graph.sleeps() > graph._slept()
        af.get(slow.let_go.remote())
        driver.join(BUSY_S)
        (profile,) = outcome
        assert profile.sleeps >= 1
        slept = graph.sleeps()
    with pytest.raises(ChannelError, match="torn down"):
        graph.sleeps()
    assert slept >= profile.sleeps + sum(step.sleeps for step in profile.steps)
