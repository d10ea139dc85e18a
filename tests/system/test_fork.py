"""User code that forks, in the driver and in workers, with refs, handles and views in use.

A child goes on with all that its parent held, under a slot of its own: it frees nothing of the parent's and loses
nothing, whatever it does and however it ends.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import actorflow as af
from actorflow import _hot
from actorflow.shm.store import Role, Store
from tests.conftest import wait_until
from tests.system import bodies
from tests.system.conftest import stored_bytes

DEADLINE_S = 30.0
LARGE = 300_000

pytestmark = pytest.mark.usefixtures("runtime")
forking = multiprocessing.get_context("fork")


_hook: list[threading.Event] = []


def _before_fork() -> None:
    if _hook:
        forking, changed = _hook
        _hook.clear()
        forking.set()
        assert changed.wait(DEADLINE_S)


def wait_in_hook(forking: threading.Event, changed: threading.Event) -> None:
    """The next fork sets the one and waits for the other, between actorflow's hook and the fork itself."""
    _hook[:] = forking, changed


os.register_at_fork(before=_before_fork)  # hooks run last one first: actorflow's is registered by init


def in_child(body: Callable[[], object]) -> int:
    """Runs `body` in a forked child; returns its exit code: 0 if it did not raise."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            body()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_reads_refs_and_views_and_makes_calls() -> None:
    ref, counter = af.put(np.ones(LARGE)), bodies.Counter.remote()
    view, pending = af.get(ref), bodies.echo.remote("from the parent")

    def body() -> None:
        assert view.sum() == LARGE
        assert af.get(ref).sum() == LARGE
        assert af.get(pending) == "from the parent"
        assert af.get(bodies.add.remote(1, 2)) == 3
        assert af.get(counter.add.remote(5)) == 5
        assert af.get(bodies.Counter.remote().add.remote()) == 1
        assert af.get(af.put([ref]))[0] == ref
        assert af.is_initialized()

    assert in_child(body) == 0
    assert af.get(counter.add.remote()) == 6
    assert view.sum() == LARGE


def test_a_child_awaits() -> None:
    async def main() -> Any:
        return await asyncio.gather(*(bodies.echo.remote(number) for number in range(20)))

    def body() -> None:
        assert asyncio.run(main()) == list(range(20))

    assert asyncio.run(main()) == list(range(20))
    assert in_child(body) == 0
    assert asyncio.run(main()) == list(range(20))


def test_a_child_that_drops_everything_frees_nothing_of_its_parents() -> None:
    holder: list[Any] = [af.put(np.full(LARGE, 3.0)), bodies.Counter.remote()]
    before = stored_bytes()

    def body() -> None:
        holder.clear()
        gc.collect()

    for _ in range(3):
        assert in_child(body) == 0
    assert stored_bytes() == before
    assert af.get(holder[0]).sum() == 3 * LARGE
    assert af.get(holder[1].add.remote()) == 1


def test_what_the_parent_drops_stays_for_the_child() -> None:
    holder = [af.put(np.full(LARGE, 2.0))]
    before = stored_bytes()
    may_go_on, told = os.pipe()

    def body() -> None:
        os.close(told)
        os.read(may_go_on, 1)
        assert af.get(holder[0]).sum() == 2 * LARGE

    pid = os.fork()
    if pid == 0:
        try:
            body()
        except BaseException:
            os._exit(1)
        os._exit(0)
    os.close(may_go_on)
    holder.clear()
    gc.collect()
    assert stored_bytes() == before
    os.close(told)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    wait_until(lambda: stored_bytes() < before, DEADLINE_S, "the child's hold was dropped with it")


def test_a_child_that_is_killed_leaves_nothing() -> None:
    before = stored_bytes()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        kept = [af.put(np.zeros(LARGE)) for _ in range(3)]
        os.write(writer, b"x" * len(kept))
        signal.pause()
        os._exit(1)
    assert os.read(reader, 1) == b"x"
    assert stored_bytes() > before
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    wait_until(lambda: stored_bytes() == before, DEADLINE_S, "the dead child's objects were freed")


def test_a_grandchild() -> None:
    ref = af.put("deep")

    def child() -> None:
        assert in_child(grandchild) == 0
        assert af.get(ref) == "deep"

    def grandchild() -> None:
        assert af.get(bodies.echo.remote(ref)) == "deep"

    assert in_child(child) == 0
    assert af.get(ref) == "deep"


def test_a_child_may_shut_down_and_exit_as_it_likes() -> None:
    ref = af.put(1)
    assert in_child(af.shutdown) == 0

    pid = os.fork()
    if pid == 0:
        af.shutdown()
        try:
            af.get(ref)
        except RuntimeError as error:
            os._exit(0 if "shut down" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert af.get(ref) == 1


def _column_sum(column: int) -> float:
    """What a loader's worker does: reads a shared array that it inherited."""
    return float(_shared["array"][:, column].sum())


_shared: dict[str, Any] = {}


def test_a_pool_of_forked_loaders_reads_one_array() -> None:
    _shared["array"] = af.get(af.put(np.arange(LARGE, dtype=np.float64).reshape(-1, 4)))
    expected = _shared["array"].sum(axis=0).tolist()
    with forking.Pool(3) as pool:
        assert pool.map(_column_sum, range(4)) == expected
    assert _shared.pop("array").sum() == sum(expected)


def _echo_through_actorflow(number: int) -> int:
    return int(af.get(bodies.echo.remote(number)))


def test_pool_workers_call_tasks() -> None:
    assert af.get(bodies.echo.remote(0)) == 0
    with forking.Pool(3) as pool:
        assert pool.map(_echo_through_actorflow, range(12)) == list(range(12))
    assert af.get(bodies.echo.remote(1)) == 1


def test_a_process_of_multiprocessing_exits_on_its_own() -> None:
    ref = af.put(np.ones(LARGE))
    view = af.get(ref)
    process = forking.Process(target=lambda: sys.exit(7 if view.sum() == LARGE else 1))
    process.start()
    process.join()
    assert process.exitcode == 7
    assert af.get(ref).sum() == LARGE


def test_a_task_that_forks() -> None:
    @af.remote
    def fork(ref: list[Any], view: Any) -> tuple[int, float]:
        def body() -> None:
            assert af.get(ref[0]) == "kept"
            assert view.sum() == LARGE
            assert af.get(bodies.echo.remote(4)) == 4

        return in_child(body), float(view.sum())

    assert af.get(fork.remote([af.put("kept")], np.ones(LARGE))) == (0, LARGE)


def test_a_task_whose_child_comes_back_settles_once() -> None:
    """A child that leaves user code by returning or raising must neither answer the call nor serve others."""

    @af.remote
    def fork(how: str) -> str:
        pid = os.fork()
        if pid == 0:
            if how == "raise":
                raise ValueError("in the child")
            if how == "exit":
                sys.exit(9)
            return "child"
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return f"parent of {code}"

    assert af.get(fork.remote("exit")) == "parent of 9"
    assert af.get(fork.remote("raise")) == "parent of 1"
    assert af.get(fork.remote("return")) == "parent of 1"
    assert af.get([bodies.echo.remote(number) for number in range(10)]) == list(range(10))


def test_a_pool_inside_a_task_and_inside_an_actor() -> None:
    @af.remote
    def pooled() -> list[int]:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(abs, [-1, -2, -3])

    @af.remote
    class Pooled:
        def pooled(self) -> list[int]:
            with multiprocessing.get_context("fork").Pool(2) as pool:
                return pool.map(abs, [-4, -5])

    assert af.get(pooled.remote()) == [1, 2, 3]
    actor = Pooled.remote()
    assert af.get([actor.pooled.remote(), actor.pooled.remote()]) == [[4, 5], [4, 5]]


def test_children_of_a_task_end_with_its_worker() -> None:
    @af.remote
    class Parent:
        def fork(self) -> int:
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            return pid

    parent = Parent.remote()
    child = af.get(parent.fork.remote())
    assert os.path.exists(f"/proc/{child}")
    af.kill(parent)
    wait_until(lambda: not os.path.exists(f"/proc/{child}"), DEADLINE_S, "the child ended too")


def test_what_other_threads_take_just_before_a_fork_stays_for_the_child() -> None:
    """Hooks of others run between ours and the fork, and wait; what is taken then is the child's too."""
    refs = [af.put(np.full(LARGE, 1.0))]
    before = stored_bytes()
    forking, changed = threading.Event(), threading.Event()
    may_go_on, told = os.pipe()

    def take() -> None:
        assert forking.wait(DEADLINE_S)
        refs.append(af.put(np.full(LARGE, 2.0)))
        changed.set()

    thread = threading.Thread(target=take)
    thread.start()
    wait_in_hook(forking, changed)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(told)
            os.read(may_go_on, 1)
            assert [af.get(ref).sum() for ref in refs] == [LARGE, 2 * LARGE]
            refs.clear()
        except BaseException:
            os._exit(1)
        os._exit(0)
    os.close(may_go_on)
    thread.join()
    refs.clear()
    gc.collect()
    assert stored_bytes() > before
    os.close(told)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    wait_until(lambda: stored_bytes() == 0, DEADLINE_S, "the child's holds were dropped with it")


def test_a_child_shuts_down_though_a_thread_of_its_parent_waits() -> None:
    gate = bodies.Gate.remote()
    thread = threading.Thread(target=lambda: af.get(gate.pass_through.remote()))
    thread.start()
    af.get(gate.arrived.remote(1))
    store = Store(_hot.client_address())

    def slots() -> list[int]:
        return [slot.number for slot in store.slots(Role.FORK)]

    before = slots()
    may_end, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(told)
        af.shutdown()
        os.read(may_end, 1)
        os._exit(0)
    os.close(may_end)
    wait_until(lambda: slots() == before, DEADLINE_S, "the child has left its slot")
    os.close(told)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    af.get(gate.open.remote())
    thread.join(DEADLINE_S)


def test_a_fork_while_calls_are_awaited_elsewhere() -> None:
    async def main() -> Any:
        gate = bodies.Gate.remote()
        late = asyncio.ensure_future(gate.pass_through.remote())
        await gate.arrived.remote(1)
        code = await asyncio.to_thread(in_child, lambda: af.get(bodies.echo.remote(1)))
        await gate.open.remote()
        return code, await late

    assert asyncio.run(main()) == (0, 1)
