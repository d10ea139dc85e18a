"""Deaths of every party of a compiled graph, at any time: who waits is told how, who lives serves on, nothing stays."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

import actorflow as af
from actorflow import _hot
from actorflow.dag import CompiledGraph, InputNode, members
from actorflow.shm.store import Role, Store
from tests.conftest import wait_until
from tests.system.graph_bodies import PAUSE_S, AsyncStepper, Restarting, Stepper
from tests.system.graph_wiring import BUSY_S, KINDS, chain, one_step

CHANNEL = 12  # AF_KIND_CHANNEL of ext/core/af.h

pytestmark = pytest.mark.usefixtures("runtime")


def killed(handle: Any) -> int:
    """Kills an actor's process, as nobody's wish."""
    pid: int = af.get(handle.pid())
    os.kill(pid, signal.SIGKILL)
    return pid


def channels_of_workers() -> int:
    """How many ends of channels they have."""
    store = Store(_hot.client_address())
    return sum(hold.kind == CHANNEL for slot in store.slots(Role.WORKER) for hold in store.holds(slot.number))


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


@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "middle", "last"])
def test_a_graph_that_cannot_be_compiled_is_left_by_those_who_had_joined(place: int) -> None:
    others, dead = [Stepper.remote() for _ in range(2)], Stepper.remote()
    af.kill(dead)
    with pytest.raises(af.ActorDiedError):
        chain(*(actor.echo for actor in [*others[:place], dead, *others[place:]]))
    wait_until(lambda: not channels_of_workers(), BUSY_S, "nobody has an end of a channel any more")
    assert af.get([other.add(1) for other in others]) == [1, 1]


def test_an_actor_that_is_stopped_while_a_graph_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "SILENCE_S", 0.1)
    stopped, other = Stepper.remote(), Stepper.remote()
    pid = af.get(stopped.pid())
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(af.exceptions.ChannelTimeoutError, match=rf"actor Steps .*pid {pid}\) is stopped"):
            chain(other.echo, stopped.echo, other.echo)
        assert af.get(other.add(1)) == 1
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not channels_of_workers(), BUSY_S, "nobody has an end of a channel any more")
    with chain(other.echo, stopped.echo) as graph:
        assert af.get(graph.execute(1)) == 1
        assert channels_of_workers() > 0
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(af.exceptions.ChannelTimeoutError, match=f"pid {pid}"):
                graph.sleeps()
        finally:
            os.kill(pid, signal.SIGCONT)
        assert af.get(graph.execute(2)) == 2


def test_an_actor_that_is_busy_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "SILENCE_S", PAUSE_S / 10)
    busy = Stepper.remote()
    pausing = busy.pause(1)
    with chain(busy.echo) as graph:
        assert af.get(graph.execute(1)) == 1
    assert af.get(pausing) == 1


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
    with pytest.raises(af.ActorDiedError, match="its process exited"):  # perhaps before the last have begun
        af.get([graph.execute(number) for number in (1, -1, 2, 3)], timeout=BUSY_S)
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
    killed, deaths = [], []
    for trial in range(10):
        victim = kind.remote()
        actors = [*others[:place], victim, *others[place:]]
        killed.append(af.get(victim.pid()))
        killer = threading.Timer(trial * 0.001, os.kill, (killed[-1], signal.SIGKILL))
        killer.start()
        try:
            graph = chain(*(actor.echo for actor in actors))
            for start in range(0, 50, 10):
                refs = [graph.execute(start + number) for number in range(10)]
                assert af.get(refs, timeout=BUSY_S) == list(range(start, start + 10))
            graph.teardown()
        except af.ActorDiedError as error:
            deaths.append(error.death.pid)
        killer.join()
        assert [af.get(other.add(trial), timeout=BUSY_S) for other in others] == [trial, trial]
    assert set(deaths) <= set(killed)


def test_an_actor_killed_by_the_runtime_while_a_graph_uses_it() -> None:
    actor, other = Stepper.remote(), Stepper.remote()
    graph = chain(actor.echo, other.echo)
    af.kill(actor)
    with pytest.raises(af.ActorDiedError, match="killed on request"):
        run_many(graph)
    assert af.get(other.add(1)) == 1
