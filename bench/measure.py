"""The ways to measure a workload: every system's operations go through the same loops.

Each function returns samples by quantity: "time_s" and "cpu_s" in seconds per call, "memory_bytes" and
"growth_bytes", "count", "sleeps" per operation.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bench import process_tree
from bench.child_process import ChildProcess
from bench.systems import Operation, System
from bench.workloads import Workload

Samples = dict[str, list[float]]
SETTLE_S = 2.0
# From just behind the backlog to where it has long had every worker; each a single task, not one of a series.
SECOND_DRIVER_CALLS = 10
SECOND_DRIVER_GAP_S = 0.1


@dataclass(frozen=True)
class Measurement:
    """One measurement to make, with the loop that asynchronous operations run on."""

    system: System
    operation: Operation
    workload: Workload
    loop: asyncio.AbstractEventLoop
    start_s: float

    def run(self) -> Samples:
        """Warm up, then take one repeat's samples."""
        if self.workload.warm_up_s:
            self._time_calls(self.workload.warm_up_s, gap_s=0.0)
        ways: dict[str, Callable[[], Samples]] = {
            "calls": self._calls,
            "paced": self._paced,
            "busy_thread": self._busy_thread,
            "busy_processes": self._busy_processes,
            "counted": self._counted,
            "returned": self._returned,
            "memory": self._memory,
            "started": self._started,
            "second_driver": self._second_driver,
        }
        return ways[self.workload.measure]()

    def _calls(self) -> Samples:
        sleeps = self.operation.sleeps
        before = sleeps() if sleeps is not None else 0
        samples = {"time_s": self._time_calls(self.workload.budget_s, self.workload.gap_s)}
        if sleeps is not None:
            operations = len(samples["time_s"]) * self.workload.operations_per_call
            samples["sleeps"] = [(sleeps() - before) / operations]
        return samples

    def _paced(self) -> Samples:
        root = os.getppid()
        before = process_tree.tree_cpu_s(root)
        times = self._time_calls(self.workload.budget_s, self.workload.gap_s)
        spent_s = process_tree.spent_s(before, process_tree.tree_cpu_s(root))
        return {"time_s": times, "cpu_s": [spent_s / len(times)]}

    def _busy_thread(self) -> Samples:
        with _busy_thread():
            return self._calls()

    def _busy_processes(self) -> Samples:
        with _busy_processes(2 * (os.cpu_count() or 1)):
            return self._calls()

    def _counted(self) -> Samples:
        begin = time.perf_counter()
        count = self.operation.call()
        return {"time_s": [time.perf_counter() - begin], "count": [count]}

    def _returned(self) -> Samples:
        times: list[float] = []
        end = time.perf_counter() + self.workload.budget_s
        while not times or time.perf_counter() < end:
            times.append(self.operation.call())
        return {"time_s": times}

    def _memory(self) -> Samples:
        root = os.getppid()
        before = process_tree.tree_pss_bytes(root)
        held = self.operation.call()
        after = process_tree.tree_pss_bytes(root)
        del held
        return {"memory_bytes": [after], "growth_bytes": [after - before]}

    def _started(self) -> Samples:
        time.sleep(SETTLE_S)  # what a runtime starts lazily, or ends when it is idle
        return {"time_s": [self.start_s], "memory_bytes": [process_tree.tree_pss_bytes(os.getppid())]}

    def _second_driver(self) -> Samples:
        times: list[float] = []
        with ChildProcess(self.system.name, attach=self.system.address()) as second:
            second.start(self.workload.time_limit_s)
            second.prepare("task", self.workload.time_limit_s)
            second.run("task", self.workload.time_limit_s, calls=100)
            is_done, wait = self.operation.call()
            while not times or (len(times) < SECOND_DRIVER_CALLS and not is_done()):
                time.sleep(SECOND_DRIVER_GAP_S)
                times.append(second.run("task", self.workload.time_limit_s, calls=1)["time_s"].p50)
            wait()
        return {"time_s": times}

    def _time_calls(self, budget_s: float, gap_s: float) -> list[float]:
        if self.operation.is_async:
            return self.loop.run_until_complete(_time_async(self.operation, budget_s, gap_s))
        return _time_sync(self.operation, budget_s, gap_s)


def time_count(operation: Operation, loop: asyncio.AbstractEventLoop, calls: int) -> list[float]:
    """Time a number of calls, without warming up. Returns seconds per call."""
    if operation.is_async:
        return loop.run_until_complete(_time_async(operation, 0.0, 0.0, calls))
    return _time_sync(operation, 0.0, 0.0, calls)


def _time_sync(operation: Operation, budget_s: float, gap_s: float, calls: int = 1) -> list[float]:
    """Time calls for `budget_s`, at least `calls`; each due `gap_s` after the last was due, or at once."""
    samples = []
    call, after, clock = operation.call, operation.after, time.perf_counter
    due = clock()
    deadline = due + budget_s
    while True:
        begin = clock()
        if after is None:
            call()
            end = clock()
        else:
            result = call()
            end = clock()
            after(result)
        samples.append(end - begin)
        if end >= deadline and len(samples) >= calls:
            return samples
        if gap_s:
            due = max(due + gap_s, end)
            time.sleep(max(0.0, due - clock()))


async def _time_async(operation: Operation, budget_s: float, gap_s: float, calls: int = 1) -> list[float]:
    """The same for awaitables, `after` among them."""
    samples = []
    call: Callable[[], Awaitable[Any]] = operation.call
    after, clock = operation.after, time.perf_counter
    due = clock()
    deadline = due + budget_s
    while True:
        begin = clock()
        if after is None:
            await call()
            end = clock()
        else:
            result = await call()
            end = clock()
            await after(result)
        samples.append(end - begin)
        if end >= deadline and len(samples) >= calls:
            return samples
        if gap_s:
            due = max(due + gap_s, end)
            await asyncio.sleep(max(0.0, due - clock()))


@contextlib.contextmanager
def _busy_thread() -> Iterator[None]:
    """Run a thread of pure Python that never waits."""
    stopped = False

    def spin() -> None:
        count = 0
        while not stopped:
            count += 1

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped = True
        thread.join()


@contextlib.contextmanager
def _busy_processes(count: int) -> Iterator[None]:
    """Run processes that never wait."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
