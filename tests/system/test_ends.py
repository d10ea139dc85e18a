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

import pytest

import actorflow as af
from tests.system import bodies


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
    before = signal.signal(signal.SIGALRM, lambda *_: af.shutdown())
    try:
        with af.init(num_cpus=1):
            gate = bodies.Gate.remote()
            af.get(gate.arrived.remote(0))
            ref = gate.pass_through.remote()
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            with pytest.raises(RuntimeError, match="shut down while this thread waited"):
                wait(ref)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not af.is_initialized()


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
