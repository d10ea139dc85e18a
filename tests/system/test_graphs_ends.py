"""How compiled graphs fail and end: bad input, exceptions, limits, teardown at any time, deaths of every party."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import actorflow as af
from actorflow.dag import CompiledGraph, InputNode, MultiOutputNode
from tests.conftest import wait_until
from tests.system.conftest import stored_bytes
from tests.system.graph_bodies import AsyncStepper, Restarting, Stepper, Threaded

pytestmark = pytest.mark.usefixtures("runtime")

KINDS = pytest.mark.parametrize("kind", [Stepper, AsyncStepper, Threaded], ids=["sync", "async", "threaded"])
BUSY_S = 20.0  # a machine that has much else to do takes no longer


def one_step(actor: Any, method: str, **options: Any) -> CompiledGraph:
    with InputNode() as inp:
        return getattr(actor, method).bind(inp).experimental_compile(**options)  # type: ignore[no-any-return]


def chain(*methods: Any, **options: Any) -> CompiledGraph:
    with InputNode() as inp:
        value: Any = inp
        for method in methods:
            value = method.bind(value)
        return value.experimental_compile(**options)  # type: ignore[no-any-return]


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


def test_a_constant_that_cannot_be_pickled_ends_the_compile() -> None:
    actor, other = Stepper.remote(), Stepper.remote()
    with InputNode() as inp:
        end = other.echo.bind(actor.join.bind(inp, threading.Lock()))
    with pytest.raises(TypeError, match="pickle"):
        end.experimental_compile()
    assert af.get(other.add(1)) == 1


def test_transports_that_are_not_there_say_so() -> None:
    actor, other = Stepper.remote(), Stepper.remote()
    with InputNode() as inp:
        end = other.echo.bind(actor.echo.bind(inp).with_tensor_transport("nccl"))
    with pytest.raises(NotImplementedError, match="'nccl' is not there yet"):
        end.experimental_compile()


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
        assert af.get(ref, timeout=BUSY_S) == 5


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
        assert stored_bytes() == before


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
    started = time.monotonic()
    with pytest.raises(af.exceptions.ChannelError, match="the graph was torn down"):
        af.get(ref, timeout=BUSY_S)
    assert time.monotonic() - started < BUSY_S
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


# -- deaths


def killed(handle: Any) -> int:
    """Kills an actor's process, as nobody's wish."""
    pid: int = af.get(handle.pid())
    os.kill(pid, signal.SIGKILL)
    return pid


def run_many(graph: CompiledGraph) -> None:
    """Uses a graph until it fails: who has been killed has not ended yet."""
    for number in range(10_000):
        af.get(graph.execute(number), timeout=BUSY_S)


def test_an_actor_that_is_dead_before() -> None:
    dead, other = Stepper.remote(), Stepper.remote()
    af.kill(dead)
    with pytest.raises(af.ActorDiedError, match="killed on request"):
        chain(other.echo, dead.echo)
    assert af.get(other.add(1)) == 1


def test_an_actor_whose_constructor_raises() -> None:
    @af.remote(num_cpus=0)
    class Unborn:
        def __init__(self) -> None:
            raise OSError("no such device")

        def echo(self, value: Any) -> Any:
            return value

    other = Stepper.remote()
    with pytest.raises(af.ActorDiedError, match="no such device"):
        chain(other.echo, Unborn.remote().echo, other.echo)
    assert af.get(other.add(1)) == 1


def test_an_actor_that_dies_while_it_joins() -> None:
    @af.remote(num_cpus=0)
    class Fatal:
        def take(self, value: Any, _: Any) -> Any:
            return value

    class Bomb:
        def __reduce__(self) -> Any:
            return os._exit, (5,)

    fatal, other = Fatal.remote(), Stepper.remote()
    with InputNode() as inp:
        end = other.echo.bind(fatal.take.bind(other.echo.bind(inp), Bomb()))
    with pytest.raises(af.ActorDiedError, match="its process exited"):
        end.experimental_compile()
    assert af.get(other.add(1)) == 1
    assert af.get(one_step(other, "add").execute(2)) == 2


@KINDS
@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "middle", "last"])
def test_an_actor_that_dies_while_it_waits(kind: Any, place: int) -> None:
    actors = [kind.remote() for _ in range(3)]
    graph = chain(*(actor.echo for actor in actors))
    assert af.get(graph.execute(1)) == 1
    pid = killed(actors[place])
    with pytest.raises(af.ActorDiedError, match=rf"signal 9.*pid {pid}"):
        run_many(graph)
    with pytest.raises(af.ActorDiedError, match="signal 9"):
        graph.execute(1)
    for index in {0, 1, 2} - {place}:
        assert af.get(actors[index].add(index)) == index


@KINDS
@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "middle", "last"])
def test_an_actor_that_dies_in_a_step(kind: Any, place: int) -> None:
    actors = [kind.remote() for _ in range(3)]
    graph = chain(*(actor.die_at if index == place else actor.echo for index, actor in enumerate(actors)))
    refs = [graph.execute(number) for number in (1, -1, 2, 3)]
    with pytest.raises(af.ActorDiedError, match="its process exited"):
        af.get(refs, timeout=BUSY_S)
    for index in {0, 1, 2} - {place}:
        assert af.get(actors[index].add(index)) == index


@KINDS
def test_an_actor_that_ends_itself_in_a_step(kind: Any) -> None:
    actor, other = kind.remote(), Stepper.remote()
    graph = chain(other.echo, actor.exit_at, other.echo)
    assert af.get(graph.execute(1)) == 1
    with pytest.raises(af.ActorDiedError, match="exit_actor"):
        af.get(graph.execute(-1), timeout=BUSY_S)
    assert af.get(other.add(1)) == 1


def test_an_actor_that_is_restarted_does_not_come_back_into_the_graph() -> None:
    actor = Restarting.remote()
    graph = chain(actor.die_at, actor.echo)
    with pytest.raises(af.ActorDiedError):
        af.get(graph.execute(-1), timeout=BUSY_S)
    assert af.get(actor.add(1)) == 1
    assert af.get(one_step(actor, "add").execute(1)) == 1


async def test_a_death_is_told_to_all_who_await() -> None:
    actor = AsyncStepper.remote()
    graph = one_step(actor, "wait_open")

    async def value(ref: Any) -> Any:
        return await ref

    waits = [asyncio.create_task(value(graph.execute(number))) for number in range(3)]
    await asyncio.sleep(0)
    os.kill(await actor.pid(), signal.SIGKILL)
    async with asyncio.timeout(BUSY_S):
        for result in await asyncio.gather(*waits, return_exceptions=True):
            assert isinstance(result, af.ActorDiedError)


def test_an_actor_that_dies_in_the_midst_of_teardown() -> None:
    actors = [Stepper.remote() for _ in range(2)]
    graph = chain(*(actor.echo for actor in actors))
    pids = af.get([actor.pid() for actor in actors])
    refs = [graph.execute(number) for number in range(5)]
    os.kill(pids[0], signal.SIGKILL)
    graph.teardown()
    with pytest.raises(af.exceptions.ChannelError):
        af.get(refs[4])
    assert af.get(actors[1].add(1)) == 1


def test_one_graph_ends_with_its_actor_and_another_goes_on() -> None:
    shared, dying = Stepper.remote(), Stepper.remote()
    ending, staying = chain(shared.echo, dying.die_at), one_step(shared, "add")
    with pytest.raises(af.ActorDiedError):
        af.get(ending.execute(-1), timeout=BUSY_S)
    assert af.get([staying.execute(number) for number in range(5)]) == list(range(5))


DRIVER = """
import os, signal, sys
import actorflow as af
from actorflow.dag import InputNode
from tests.system.graph_bodies import AsyncStepper, Stepper

with af.init(num_cpus=2):
    actors = [Stepper.remote(), AsyncStepper.remote(), Stepper.remote()]
    with InputNode() as inp:
        end = actors[2].echo.bind(actors[1].{method}.bind(actors[0].echo.bind(inp)))
    graph = end.experimental_compile()
    refs = [graph.execute(number) for number in range(3)]
    print(*af.get([actor.pid() for actor in actors]), flush=True)
    {last}
"""


@pytest.mark.parametrize("method", ["echo", "wait_open"])
@pytest.mark.parametrize("last", ["os.kill(os.getpid(), signal.SIGKILL)", "af.shutdown()", "pass"])
def test_a_driver_that_ends_with_a_graph_open_leaves_nothing(method: str, last: str) -> None:
    script = DRIVER.format(method=method, last=last)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == (-signal.SIGKILL if "SIGKILL" in last else 0), done.stderr
    assert not done.stderr.strip(), done.stderr
    for pid in map(int, done.stdout.split()):
        wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), BUSY_S, f"{pid} ends")  # type: ignore[misc]


def test_refs_and_graphs_after_shutdown_say_so() -> None:
    script = """
import actorflow as af
from actorflow.dag import InputNode
from tests.system.graph_bodies import Stepper
af.init(num_cpus=1)
actor = Stepper.remote()
with InputNode() as inp:
    graph = actor.echo.bind(inp).experimental_compile()
ref = graph.execute(1)
af.shutdown()
for use in (lambda: af.get(ref), lambda: graph.execute(1)):
    try:
        use()
    except af.exceptions.ChannelError as error:
        assert "the runtime was shut down" in str(error), error
    else:
        raise SystemExit("no error")
graph.teardown(kill_actors=True)
assert not af.is_initialized()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@KINDS
@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "middle", "last"])
def test_a_kill_at_any_moment_of_a_graphs_life(kind: Any, place: int) -> None:
    """Compile, executions and teardown, with one of the actors killed later each time, as far as beyond the end."""
    others = [kind.remote() for _ in range(2)]
    for trial in range(10):
        victim = kind.remote()
        actors = [*others[:place], victim, *others[place:]]
        pid = af.get(victim.pid())
        killer = threading.Timer(trial * 0.001, os.kill, (pid, signal.SIGKILL))
        killer.start()
        try:
            graph = chain(*(actor.echo for actor in actors))
            for start in range(0, 50, 10):
                refs = [graph.execute(start + number) for number in range(10)]
                assert af.get(refs, timeout=BUSY_S) == list(range(start, start + 10))
            graph.teardown()
        except af.ActorDiedError as error:
            assert error.death.pid in (pid, None)
        killer.join()
        assert [af.get(other.add(trial), timeout=BUSY_S) for other in others] == [trial, trial]


def test_an_actor_killed_by_the_runtime_while_a_graph_uses_it() -> None:
    actor, other = Stepper.remote(), Stepper.remote()
    graph = chain(actor.echo, other.echo)
    af.kill(actor)
    with pytest.raises(af.ActorDiedError, match="killed on request"):
        run_many(graph)
    assert af.get(other.add(1)) == 1
