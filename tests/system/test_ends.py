"""The end of a runtime, and the time about it: who waits is told, and so is who comes too early or too late."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actorflow as af
from actorflow import _hot
from actorflow.client import runtime as runtimes
from tests.conftest import wait_until
from tests.system import bodies
from tests.system.channel_bodies import in_thread
from tests.system.conftest import stored_bytes

DEADLINE_S = 30.0


class Held:
    """Holds up whoever pickles or loads it, so that something else can happen meanwhile."""

    begun, go_on = threading.Event(), threading.Event()

    def __init__(self, where: str) -> None:
        self.where = where

    @classmethod
    def hold(cls) -> None:
        cls.begun.set()
        assert cls.go_on.wait(DEADLINE_S)

    def __getstate__(self) -> dict[str, str]:
        if self.where == "pickled":
            self.hold()
        return {"where": self.where}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__dict__.update(state)
        if self.where == "loaded":
            self.hold()


def shut_down_amid() -> None:
    """Ends the runtime while another thread is held up, and lets that go on."""
    assert Held.begun.wait(DEADLINE_S)
    af.shutdown()
    Held.go_on.set()


@pytest.fixture
def nothing_held() -> None:
    Held.begun.clear()
    Held.go_on.clear()


def test_many_threads_that_come_first_share_one_runtime() -> None:
    results: list[Any] = []
    start = threading.Barrier(8)

    def call() -> None:
        start.wait()
        results.append(af.get(bodies.echo.remote(1)))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    af.shutdown()
    assert results == [1] * 8


async def test_an_await_that_begins_while_the_runtime_ends_is_told() -> None:
    async with af.init(num_cpus=1):
        gate = bodies.Gate.remote()
        task = asyncio.ensure_future(gate.pass_through.remote())
    with pytest.raises(RuntimeError, match="shut down"):
        await asyncio.wait_for(task, 60)


WAITS = {"get": af.get, "wait": lambda ref: af.wait([ref]), "get many": lambda ref: af.get([ref, ref])}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_signal_handler_that_ends_the_runtime_ends_the_wait_that_it_interrupts(wait: Any) -> None:
    def end_in_wait(*_: object) -> None:
        if _hot.in_wait():
            af.shutdown()
        else:
            signal.setitimer(signal.ITIMER_REAL, 0.01)

    before = signal.signal(signal.SIGALRM, end_in_wait)
    try:
        with af.init(num_cpus=1):
            gate = bodies.Gate.remote()
            af.get(gate.arrived.remote(0))
            ref = gate.pass_through.remote()
            end_in_wait()
            with pytest.raises(RuntimeError, match="shut down while this thread waited"):
                wait(ref)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not af.is_initialized()


@pytest.mark.parametrize("is_awaited", [False, True])
async def test_an_end_that_is_interrupted_leaves_room_for_another_runtime(
    is_awaited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runtimes, "_forgetters", [interrupt])
    started = af.init(num_cpus=1)

    async def end() -> None:
        if is_awaited:
            await started.__aexit__(None, None, None)
        else:
            started.shutdown()

    with pytest.raises(KeyboardInterrupt):
        await end()
    monkeypatch.undo()
    assert not _hot.attached()
    with af.init(num_cpus=1):
        assert await bodies.echo.remote(1) == 1


class Noted:
    """Something that is bound to a runtime."""

    def __init__(self) -> None:
        self.is_bound = True

    def unbind(self) -> None:
        self.is_bound = False


def test_what_threads_bind_while_the_runtime_looks_for_what_is_bound_does_no_harm() -> None:
    session = object.__new__(runtimes.Runtime)
    session._bound = None
    bound = [Noted() for _ in range(10)]
    for one in bound:
        session.bind(one)

    def trace(frame: Any, *_: object) -> Any:
        if Path(frame.f_code.co_filename).name in ("weakref.py", "_weakrefset.py"):
            sys.settrace(None)
            bound.append(Noted())
            session.bind(bound[-1])
            sys.settrace(trace)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        session.rebind()
    finally:
        sys.settrace(before)
    assert not any(one.is_bound for one in bound[:10])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_signals_that_come_all_the_time_hide_no_death_of_the_node(wait: Any) -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        with af.init(num_cpus=1) as started:
            gate = bodies.Gate.remote()
            af.get(gate.arrived.remote(0))
            ref = gate.pass_through.remote()
            assert started._connection is not None
            os.kill(started._connection.node_pid, signal.SIGKILL)
            signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
            with pytest.raises(af.NodeDiedError):
                wait(ref)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


async def test_calls_made_while_the_runtime_ends_start_no_other() -> None:
    async def go_on() -> None:
        while True:
            await bodies.echo.remote(1)

    async with af.init(num_cpus=1):
        tasks = [asyncio.ensure_future(go_on()) for _ in range(10)]
        await bodies.echo.remote(2)
    for task in tasks:
        with pytest.raises((RuntimeError, af.NodeDiedError)):
            await asyncio.wait_for(task, 60)
    assert not af.is_initialized()


def test_concurrent_futures_leave_nothing_open() -> None:
    def once() -> int:
        with af.init(num_cpus=1):
            assert bodies.echo.remote(1).future().result() == 1
        return len(os.listdir("/proc/self/fd"))

    once()  # what is opened once and kept
    assert once() == once()


def test_a_program_without_standard_output_runs() -> None:
    program = (
        "import sys, actorflow as af\n"
        "@af.remote\n"
        "def f(x): print(x); return x\n"
        "sys.exit(af.get(f.remote(7)))\n"
    )
    without_output = "import os, sys; os.close(1); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", without_output, sys.executable, "-c", program]
    ended = subprocess.run(command, timeout=60, check=False)
    assert ended.returncode == 7


def test_more_refs_than_fit_into_a_message() -> None:
    with af.init(num_cpus=1):
        refs = [af.put(number) for number in range(20_000)]
        with pytest.raises(ValueError, match="put the refs into one object"):
            bodies.echo.remote(refs)
        assert len(af.get(bodies.echo.remote([af.put(refs)]))) == 1
        del refs


def test_a_process_that_multiprocessing_has_spawned_calls_what_the_main_script_defines(
    tmp_path: Path,
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, sys, actorflow as af\n"
        "def double(x): return 2 * x\n"
        "def child(): sys.exit(af.get(af.remote(double).remote(21)))\n"
        "if __name__ == '__main__':\n"
        "    process = multiprocessing.get_context('spawn').Process(target=child)\n"
        "    process.start(); process.join(); sys.exit(process.exitcode)\n"
    )
    where = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, str(script)], env=where, timeout=60, check=False).returncode == 42


def test_a_signal_handler_may_shut_down_while_its_thread_waits() -> None:
    def shut_down(*_: object) -> None:
        af.shutdown()

    before = signal.signal(signal.SIGUSR1, shut_down)
    try:
        af.init(num_cpus=1)
        gate = bodies.Gate.remote()
        passing = gate.pass_through.remote()

        def interrupt() -> None:
            af.get(gate.arrived.remote(1))
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        thread, _ = in_thread(interrupt)
        with pytest.raises(RuntimeError, match="shut down"):
            af.get(passing)
        thread.join(DEADLINE_S)
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("bytes_beside", [0, 50_000, 500_000])
@pytest.mark.parametrize("viewed", [False, True])
def test_a_value_that_is_loaded_while_the_runtime_ends_is_whole(
    nothing_held: None, bytes_beside: int, viewed: bool
) -> None:
    af.init(num_cpus=1)
    view = af.get(af.put(np.arange(50_000))) if viewed else None
    ref = af.put([Held("loaded"), b"x" * bytes_beside])
    thread, outcome = in_thread(lambda: af.get(ref))
    shut_down_amid()
    thread.join(DEADLINE_S)
    assert outcome[0][1] == b"x" * bytes_beside
    assert view is None or (view == np.arange(50_000)).all()


def test_a_reference_in_a_value_that_is_loaded_while_the_runtime_ends_is_refused(nothing_held: None) -> None:
    af.init(num_cpus=1)
    ref = af.put([Held("loaded"), af.put(1)])
    thread, outcome = in_thread(lambda: af.get(ref))
    shut_down_amid()
    thread.join(DEADLINE_S)
    assert isinstance(outcome[0], Exception)
    assert "shut down" in str(outcome[0])


@pytest.mark.parametrize("bytes_beside", [0, 50_000, 500_000])
def test_what_is_pickled_while_the_runtime_ends_goes_nowhere(nothing_held: None, bytes_beside: int) -> None:
    af.init(num_cpus=1)
    echo, value = bodies.echo.remote, [Held("pickled"), b"x" * bytes_beside]
    af.get(echo(1))
    thread, outcome = in_thread(lambda: echo(value))
    shut_down_amid()
    thread.join(DEADLINE_S)
    assert isinstance(outcome[0], RuntimeError)
    assert "shut down" in str(outcome[0])


def test_a_copy_into_the_store_goes_on_while_the_runtime_ends() -> None:
    af.init(num_cpus=1, object_store_memory=512 * 1024 * 1024)
    thread, outcome = in_thread(lambda: _hot.put(np.ones(40_000_000)))
    wait_until(lambda: stored_bytes() > 0, DEADLINE_S, "the value has its place")
    af.shutdown()
    thread.join(DEADLINE_S)
    assert isinstance(outcome[0], (RuntimeError, _hot.Reference))


def test_who_waits_for_credit_while_the_runtime_ends_is_told() -> None:
    af.init(num_cpus=1)
    target = _hot.Target(_hot.make_mailbox(_hot.ORDERED, 0, 2))
    sent: list[_hot.Reference] = []

    def send() -> None:
        while True:
            sent.append(target.call_raw(b""))

    thread, outcome = in_thread(send)
    wait_until(lambda: target.facts()["depth"] == 2, DEADLINE_S, "no credit is left")
    af.shutdown()
    thread.join(DEADLINE_S)
    assert len(sent) == 2
    assert isinstance(outcome[0], RuntimeError)
    assert "shut down" in str(outcome[0])
