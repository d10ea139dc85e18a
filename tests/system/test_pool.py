"""af.util.multiprocessing.Pool: the contract of multiprocessing.Pool."""

from __future__ import annotations

import gc
import multiprocessing
import operator
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest

import actorflow as af
from actorflow.util.multiprocessing import Pool
from tests.system import bodies

DEADLINE_S = 30.0

pytestmark = pytest.mark.usefixtures("runtime")


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(2) as made:
        yield made


def square(number: int) -> int:
    return number * number


def square_unless(number: int) -> int:
    if number == 3:
        raise LookupError("three")
    return number * number


def pass_gate(gate: Any) -> str:
    af.get(gate.pass_through.remote())
    return "passed"


SQUARES = [n * n for n in range(30)]


def test_one_call(pool: Pool) -> None:
    assert pool.apply(int, ("ff",), {"base": 16}) == 255
    assert pool.apply_async(os.getpid).get() != os.getpid()


@pytest.mark.parametrize("chunksize", [None, 1, 7, 100])
def test_map(pool: Pool, chunksize: int | None) -> None:
    assert pool.map(square, range(30), chunksize) == SQUARES
    assert pool.starmap(operator.mul, ((n, n) for n in range(30)), chunksize) == SQUARES


def test_nothing_to_map(pool: Pool) -> None:
    assert pool.map(square, []) == []
    assert list(pool.imap(square, [])) == []


@pytest.mark.parametrize("chunksize", [1, 7])
def test_imap(pool: Pool, chunksize: int) -> None:
    assert list(pool.imap(square, range(30), chunksize)) == SQUARES
    assert sorted(pool.imap_unordered(square, range(30), chunksize)) == SQUARES


def test_imap_reads_its_items_little_by_little(pool: Pool) -> None:
    taken = []

    def items() -> Iterator[int]:
        number = 0
        while True:
            taken.append(number)
            yield number
            number += 1

    results = pool.imap(square, items())
    assert [next(results) for _ in range(10)] == SQUARES[:10]
    assert len(taken) < 20


def test_a_slow_item_holds_back_imap_and_not_imap_unordered(pool: Pool) -> None:
    gate = bodies.Gate.remote()
    calls: list[Callable[[], Any]] = [lambda: pass_gate(gate), lambda: "at once"]
    ordered = pool.imap(operator.call, calls)
    with pytest.raises(multiprocessing.TimeoutError):
        ordered.next(timeout=0.05)
    unordered = pool.imap_unordered(operator.call, [*calls[1:] * 3])
    assert next(unordered) == "at once"
    af.get(gate.open.remote())
    assert list(ordered) == ["passed", "at once"]
    assert list(unordered) == ["at once"] * 2


def test_async_results(pool: Pool) -> None:
    gate = bodies.Gate.remote()
    result = pool.apply_async(pass_gate, (gate,))
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0.01)
    result.wait(0.01)
    af.get(gate.open.remote())
    assert result.get() == "passed"
    assert result.successful()


def test_errors(pool: Pool) -> None:
    for run in (pool.map, lambda *given: list(pool.imap(*given))):
        with pytest.raises(LookupError, match="three"):
            run(square_unless, range(5))
    result = pool.map_async(square_unless, range(5))
    result.wait()
    assert not result.successful()
    results = pool.imap(square_unless, [2, 3, 4])
    assert next(results) == 4
    with pytest.raises(LookupError):
        next(results)
    assert next(results) == 16


def test_callbacks(pool: Pool) -> None:
    seen: list[Any] = []
    done = threading.Semaphore(0)

    def note(what: Any) -> None:
        seen.append(what)
        done.release()

    pool.apply_async(square, (3,), callback=note)
    assert done.acquire(timeout=DEADLINE_S)
    pool.map_async(square, range(3), callback=note)
    assert done.acquire(timeout=DEADLINE_S)
    pool.map_async(square_unless, range(5), callback=note, error_callback=note)
    assert done.acquire(timeout=DEADLINE_S)
    assert seen[:2] == [9, [0, 1, 4]]
    assert isinstance(seen[2], LookupError)


def test_what_a_function_captured_is_sent_once(pool: Pool) -> None:
    array = np.arange(300_000)
    assert pool.map(lambda index: int(array[index]), range(0, 300_000, 10_000)) == [
        *range(0, 300_000, 10_000)
    ]


def test_close_lets_what_is_queued_finish() -> None:
    pool = Pool(2)
    result = pool.map_async(square, range(30))
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.map(square, [1])
    pool.join()
    assert result.get(timeout=0) == SQUARES


def test_terminate_ends_what_runs() -> None:
    gate = bodies.Gate.remote()
    pool = Pool(1)
    results = [pool.apply_async(pass_gate, (gate,)) for _ in range(3)]
    af.get(gate.arrived.remote(1))
    pool.terminate()
    for result in results:
        with pytest.raises(CancelledError):
            result.get(DEADLINE_S)
    af.get(gate.open.remote())


def test_initializer_and_tasks_per_child() -> None:
    with Pool(1, os.putenv, ("NAME", "value"), maxtasksperchild=3) as pool:
        pids = [pool.apply(os.getpid) for _ in range(6)]
    assert len(set(pids)) == 2


def test_a_process_that_dies_fails_its_call_and_the_pool_goes_on(pool: Pool) -> None:
    with pytest.raises(af.ActorDiedError):
        pool.apply(os._exit, (1,))
    assert pool.map(square, range(30)) == SQUARES


def test_options_of_the_actors() -> None:
    with Pool(2, ray_remote_args={"num_cpus": 1}) as pool:
        assert pool.map(square, range(3)) == [0, 1, 4]
        assert af.available_resources().get("CPU", 0) <= 3


def test_a_pool_stays_where_it_is(pool: Pool) -> None:
    with pytest.raises(NotImplementedError, match="cannot be passed between processes"):
        pickle.dumps(pool)


def test_a_forgotten_pool_ends_and_says_so() -> None:
    pools = [Pool(1)]
    assert pools[0].apply(square, (2,)) == 4
    with pytest.warns(ResourceWarning, match="unclosed running Pool"):
        pools.clear()


def test_a_forgotten_pool_ends_after_an_error_too() -> None:
    def use() -> None:
        pool = Pool(1)
        with pytest.raises(ZeroDivisionError):
            pool.apply(divmod, (1, 0))  # the error's traceback refers to this frame, and so to the pool

    use()
    with pytest.warns(ResourceWarning, match="unclosed running Pool"):
        gc.collect()


ENDS_WITH_ITS_RUNTIME = """
import threading, time
import actorflow as af
from actorflow.util.multiprocessing import Pool

af.init(num_cpus=1)
pool = Pool(1)
assert pool.apply(pow, (2, 3)) == 8
late = pool.apply_async(time.sleep, (600,))
af.shutdown()
assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
try:
    late.get(10)
except BaseException as error:
    print(type(error).__name__)
try:
    pool.map(len, ["late"])
except RuntimeError as error:
    print(error)
pool.terminate()
assert not af.is_initialized()
"""


def test_a_pool_ends_with_its_runtime() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS_WITH_ITS_RUNTIME], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] in ("CancelledError", "RuntimeError")
    assert "takes no more calls" in said[1] or "shut down" in said[1]
    assert not done.stderr
