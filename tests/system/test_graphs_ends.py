"""How compiled graphs fail and end: bad input, exceptions, limits, teardown at any time."""

from __future__ import annotations

import asyncio
import copy
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import actorflow as af
from actorflow import _hot
from actorflow.dag import CompiledGraph, InputNode, MultiOutputNode
from actorflow.dag.compiled import SMALLEST_SLOT_BYTES
from actorflow.dag.options import MOST_SLOTS
from actorflow.dag.schedule import MOST_READERS
from tests.conftest import wait_until
from tests.system.conftest import stored_bytes
from tests.system.graph_bodies import AsyncStepper, Stepper
from tests.system.graph_wiring import BUSY_S, KINDS, chain, one_step

pytestmark = pytest.mark.usefixtures("runtime")

# -- exceptions


@KINDS
def test_an_exception_is_the_result_and_the_graph_goes_on(kind: Any) -> None:
    first, second, third = kind.remote(), kind.remote(), kind.remote()
    with chain(first.note, second.refuse_odd, third.note) as graph:
        refs = [graph.execute(number) for number in range(10)]
        for number, ref in enumerate(refs):
            if number % 2:
                with pytest.raises(ValueError, match=f"{number} is odd") as caught:
                    af.get(ref)
                assert isinstance(caught.value, af.TaskError)
                assert "refuse_odd" in caught.value.remote_traceback
            else:
                assert af.get(ref) == number
    assert af.get(first.notes()) == list(range(10))
    assert af.get(third.notes()) == [0, 2, 4, 6, 8], "what failed before it does not run"


def test_an_exception_stays_within_an_actor_too() -> None:
    actor = Stepper.remote()
    with InputNode() as inp:
        end = MultiOutputNode([actor.note.bind(actor.refuse.bind(inp)), actor.echo.bind(inp)])
    with end.experimental_compile() as graph:
        failed, fine = graph.execute(7)
        assert af.get(fine) == 7
        with pytest.raises(LookupError, match="not 7"):
            af.get(failed)
    assert af.get(actor.notes()) == []


async def test_an_exception_of_a_coroutine_is_awaited() -> None:
    actor = AsyncStepper.remote()
    graph = chain(actor.refuse_later, actor.echo)
    with pytest.raises(LookupError, match="not 1"):
        await graph.execute(1)
    graph.teardown()


@KINDS
def test_a_value_that_cannot_be_pickled_is_an_error_that_names_it(kind: Any) -> None:
    actor, other = kind.remote(), kind.remote()
    with chain(actor.unpicklable, other.echo) as graph:
        for _ in range(2):
            with pytest.raises(TypeError, match=r"result of 'Steps\.unpicklable'|AsyncStepper\.unpicklable"):
                af.get(graph.execute(1))


def test_an_input_that_cannot_be_pickled_is_refused_and_changes_nothing() -> None:
    actor = Stepper.remote()
    with InputNode() as inp:
        end = actor.join.bind(inp[0], inp[1], last=inp.last)
    with end.experimental_compile(max_inflight_executions=2) as graph:
        for position in range(3):
            given = [1, 2, 3]
            given[position] = threading.Lock()  # type: ignore[call-overload]
            for _ in range(3):
                with pytest.raises(TypeError, match="input"):
                    graph.execute(given[0], given[1], last=given[2])
            assert af.get(graph.execute(1, 2, last=3)) == (1, 2, ("last", 3))


def test_a_result_that_does_not_fit_the_store_is_an_error() -> None:
    @af.remote(num_cpus=0)
    class Large:
        def zeros(self, size_bytes: int) -> Any:
            return np.zeros(size_bytes, dtype=np.uint8)

    with one_step(Large.remote(), "zeros") as graph:
        with pytest.raises(af.ObjectStoreFullError):
            af.get(graph.execute(400 * 1024 * 1024))
        assert len(af.get(graph.execute(1_000_000))) == 1_000_000


def test_wrong_arguments_are_refused() -> None:
    actor = Stepper.remote()
    with InputNode() as inp:
        end = actor.scale.bind(inp[0], inp.factor)
    with end.experimental_compile() as graph:
        with pytest.raises(TypeError, match="missing argument 'factor'"):
            graph.execute(1)
        with pytest.raises(TypeError, match="nothing in the graph uses argument 1"):
            graph.execute(1, 2, factor=3)
        assert af.get(graph.execute(2, factor=3)) == 6


@pytest.mark.parametrize("pass_on", [af.put, copy.copy, copy.deepcopy], ids=["put", "copy", "deepcopy"])
def test_a_graph_is_no_value(pass_on: Callable[[object], object]) -> None:
    with (
        one_step(Stepper.remote(), "echo") as graph,
        pytest.raises(TypeError, match="only be used where it was compiled"),
    ):
        pass_on(graph)


def test_a_constant_that_cannot_be_pickled_ends_the_compile() -> None:
    actor, other = Stepper.remote(), Stepper.remote()
    with InputNode() as inp:
        end = other.echo.bind(actor.join.bind(inp, threading.Lock()))
    with pytest.raises(TypeError, match="pickle"):
        end.experimental_compile()
    assert af.get(other.add(1)) == 1


# -- reading


def test_a_result_is_read_once() -> None:
    actor = Stepper.remote()
    with one_step(actor, "refuse_odd") as graph:
        for number in (2, 3):
            ref = graph.execute(number)
            with pytest.raises(ValueError, match="3 is odd") if number % 2 else _nothing():
                af.get(ref)
            with pytest.raises(ValueError, match="was read before"):
                af.get(ref)
        ref = graph.execute(4)
        with pytest.raises(TypeError, match="can only be read where its graph was compiled"):
            actor.echo(ref)
        assert af.get([ref, af.put(5)]) == [4, 5]
        with pytest.raises(ValueError, match="ObjectRef"):
            af.get([graph.execute(6), 5])


def _nothing() -> Any:
    return pytest.MonkeyPatch.context()


def test_a_late_result_can_be_asked_for_again() -> None:
    actor = AsyncStepper.remote()
    with one_step(actor, "wait_open") as graph:
        ref = graph.execute(5)
        with pytest.raises(af.exceptions.ChannelTimeoutError, match=r"wait_open.*no result within 0\.01 s"):
            af.get(ref, timeout=0.01)
        with pytest.raises(TimeoutError):
            af.get(ref, timeout=0)
        af.get(actor.let_go())
        assert af.get(ref, timeout=float("inf")) == 5


def test_more_executions_than_fit_are_refused() -> None:
    actor = Stepper.remote()
    with one_step(actor, "echo", max_inflight_executions=3) as graph:
        refs = [graph.execute(number) for number in range(3)]
        with pytest.raises(af.exceptions.GraphCapacityError, match="3 executions are in flight"):
            graph.execute(3)
        assert af.get(refs[1]) == 1
        refs.append(graph.execute(3))
        refs.append(graph.execute(4))
        assert af.get([refs[0], *refs[2:]]) == [0, 2, 3, 4]


def test_as_many_executions_as_there_can_be() -> None:
    actor = Stepper.remote()
    with one_step(actor, "echo", max_inflight_executions=MOST_SLOTS) as graph:
        refs = [graph.execute(number) for number in range(MOST_SLOTS)]
        assert af.get(refs) == list(range(MOST_SLOTS))
    _hot.channel_create(MOST_SLOTS, SMALLEST_SLOT_BYTES, MOST_READERS)
    with pytest.raises(ValueError, match="from 1 to 900"):
        one_step(actor, "echo", max_inflight_executions=MOST_SLOTS + 1)


def test_only_so_many_results_are_kept_for_later() -> None:
    actor = Stepper.remote()
    with one_step(actor, "echo", max_buffered_results=2) as graph:
        refs = [graph.execute(number) for number in range(5)]
        with pytest.raises(
            af.exceptions.GraphCapacityError, match=r"2 results are kept.*max_buffered_results"
        ):
            af.get(refs[4])
        assert af.get(refs) == list(range(5))


def test_dropped_refs_take_no_room() -> None:
    actor = Stepper.remote()
    array = np.zeros(1_000_000, dtype=np.uint8)
    with one_step(actor, "echo", max_inflight_executions=2) as graph:
        before = stored_bytes()
        for _ in range(10):
            ref = graph.execute(array)
            wait_until(graph._streams[0]._reader.ready, BUSY_S, "a result")
            del ref
        assert len(af.get(graph.execute(array))) == 1_000_000
        refs = [graph.execute(array) for _ in range(2)]
        assert len(af.get(refs.pop())) == 1_000_000
        refs.clear()  # the first was kept for its ref
        assert af.get(graph.execute(1)) == 1
        wait_until(lambda: stored_bytes() == before, BUSY_S, "the store holds what it held before")


# -- the end


def test_after_teardown() -> None:
    actor = Stepper.remote()
    graph = one_step(actor, "echo")
    ref = graph.execute(1)
    graph.teardown()
    graph.teardown()
    uses: list[Callable[[], object]] = [lambda: af.get(ref), lambda: graph.execute(2)]
    for use in uses:
        with pytest.raises(af.exceptions.ChannelError, match="the graph was torn down"):
            use()
    assert af.get(actor.add(1)) == 1
    again = one_step(actor, "add")
    assert af.get(again.execute(2)) == 2
    again.teardown(kill_actors=True)
    with pytest.raises(af.ActorDiedError, match="killed on request"):
        af.get(actor.add(1))


def blocked_get(end: Callable[[CompiledGraph], object]) -> None:
    """A get that waits is told when the graph ends."""
    actor = AsyncStepper.remote()
    graph = one_step(actor, "wait_open")
    ref = graph.execute(5)
    end(graph)
    with pytest.raises(af.exceptions.ChannelError, match="the graph was torn down"):  # not that time is over
        af.get(ref, timeout=BUSY_S)
    af.get(actor.let_go())


def test_teardown_by_another_thread() -> None:
    timers = []

    def later(graph: CompiledGraph) -> None:
        timers.append(threading.Timer(0.1, graph.teardown))
        timers[0].start()

    blocked_get(later)
    timers[0].join()


def test_teardown_by_a_signal_handler() -> None:
    before = signal.getsignal(signal.SIGALRM)

    def later(graph: CompiledGraph) -> None:
        signal.signal(signal.SIGALRM, lambda *_: graph.teardown())
        signal.setitimer(signal.ITIMER_REAL, 0.1)

    try:
        blocked_get(later)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_forked_child_is_told_that_the_graph_is_its_parents() -> None:
    actor = Stepper.remote()
    graph = one_step(actor, "echo")
    ref = graph.execute(1)

    def use() -> bool:
        told = [_told_of_parent(lambda: graph.execute(2)), _told_of_parent(lambda: af.get(ref))]
        graph.teardown()
        with one_step(actor, "add") as own:
            return all(told) and af.get(own.execute(3)) == 3

    assert _forked(use)
    assert [af.get(ref), af.get(graph.execute(4))] == [1, 4]
    graph.teardown()


def test_a_fork_while_another_thread_has_the_locks_of_a_graph() -> None:
    graph = one_step(Stepper.remote(), "echo")
    done = threading.Event()

    def execute() -> None:
        while not done.is_set():
            af.get(graph.execute(2))

    busy = threading.Thread(target=execute)
    busy.start()
    told = [_forked(lambda: _told_of_parent(lambda: graph.execute(3))) for _ in range(20)]
    done.set()
    busy.join()
    assert told == [True] * 20
    assert af.get(graph.execute(4)) == 4
    graph.teardown()


def _forked(use: Callable[[], bool]) -> bool:
    """What it says in a forked child; False for a child that hangs or fails."""
    child = os.fork()
    if not child:
        signal.alarm(int(BUSY_S))
        code = 1
        try:
            code = 0 if use() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _told_of_parent(use: Callable[[], object]) -> bool:
    try:
        use()
    except af.exceptions.ChannelError as error:
        return "belongs to the process that forked this one" in str(error)
    return False


async def test_teardown_while_results_are_awaited() -> None:
    actor = AsyncStepper.remote()
    graph = one_step(actor, "wait_open")

    async def value(ref: Any) -> Any:
        return await ref

    waits = [asyncio.create_task(value(graph.execute(number))) for number in range(3)]
    await asyncio.sleep(0)
    graph.teardown()
    for result in await asyncio.gather(*waits, return_exceptions=True):
        assert isinstance(result, af.exceptions.ChannelError)
    await actor.let_go()
