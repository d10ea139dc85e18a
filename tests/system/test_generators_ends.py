"""Generators that end early: closed, dropped, their reader or their worker killed."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actorflow as af
from tests.conftest import wait_until
from tests.system.generator_bodies import (
    DEADLINE_S,
    Counter,
    count,
    live_blocks,
    trace,
    traced,
    values,
)

pytestmark = pytest.mark.usefixtures("runtime")


# -- early ends


@pytest.mark.parametrize("limit", [-1, 1])
@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_generator_that_nobody_reads_is_closed(tmp_path: Path, how: str, limit: int) -> None:
    path = tmp_path / "trace"
    options = {} if limit < 0 else {"generator_backpressure_num_objects": limit}
    generator = traced.options(**options).remote(10**9, str(path))
    assert af.get(next(generator)) == 0
    if how == "close":
        generator.close()
        with pytest.raises(StopIteration):
            next(generator)
        assert generator.is_finished()
    del generator
    wait_until(lambda: "closed" in trace(path), DEADLINE_S, "the generator was closed")


async def test_an_async_one_that_awaits_for_ever_is_cancelled(tmp_path: Path) -> None:
    @af.remote
    class Waiting:
        async def items(self, path: str) -> AsyncIterator[int]:
            yield 1
            try:
                os.mkdir(f"{path}/waits")
                await asyncio.Event().wait()
            finally:
                os.mkdir(f"{path}/ended")
            yield 2

        def alive(self) -> bool:
            return True

    waiting = Waiting.remote()
    generator = waiting.items.remote(str(tmp_path))
    assert await (await anext(generator)) == 1
    await asyncio.to_thread(wait_until, (tmp_path / "waits").exists, DEADLINE_S, "it waits")
    await generator.aclose()
    wait_until((tmp_path / "ended").exists, DEADLINE_S, "its wait was cancelled")
    assert await waiting.alive.remote()


def test_one_whose_end_is_wanted_runs_to_it(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    completed = traced.options(generator_backpressure_num_objects=1).remote(20, str(path)).completed()
    assert af.get(completed, timeout=DEADLINE_S) is None
    assert trace(path) == [str(item) for item in range(20)]


def test_closing_goes_before_wanting_the_end(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    generator = traced.remote(10**9, str(path))
    completed = generator.completed()
    next(generator)
    generator.close()
    assert af.get(completed, timeout=DEADLINE_S) is None
    assert trace(path)[-1] == "closed"


def test_a_dead_readers_generator_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "trace"

    @af.remote(num_cpus=0)
    class Reader:
        def begin(self, path: str) -> int:
            self.generator = traced.options(generator_backpressure_num_objects=1).remote(10**9, path)
            af.get(next(self.generator))
            return os.getpid()

    reader = Reader.remote()
    os.kill(af.get(reader.begin.remote(str(path))), signal.SIGKILL)
    wait_until(lambda: "closed" in trace(path), DEADLINE_S, "the generator was closed")
    del reader
    gc.collect()


def test_items_that_were_not_read_are_freed() -> None:
    before = live_blocks()
    generator = count.remote(5000)
    af.wait([generator.completed()], timeout=DEADLINE_S)
    assert live_blocks() > before + 4000
    del generator
    gc.collect()
    wait_until(lambda: live_blocks() < before + 50, DEADLINE_S, "they are freed")


# -- deaths


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_a_replay_repeats_no_item(tmp_path: Path, ahead: int) -> None:
    path = tmp_path / "attempts"

    @af.remote(max_retries=2)
    def unlucky(items: int) -> Iterator[Any]:
        with open(path, "a") as attempts:
            print(os.getpid(), file=attempts)
        for item in range(items):
            if item == ahead and len(trace(path)) < 3:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item, np.full(ahead * 10, item)

    generator = unlucky.remote(8)
    assert [item for item, _ in values(generator)] == list(range(8))
    assert af.get(generator.completed()) is None
    assert len(trace(path)) == 3


def test_a_replay_after_an_exception_repeats_no_item(tmp_path: Path) -> None:
    path = tmp_path / "attempts"

    @af.remote(max_retries=1, retry_exceptions=True)
    def unlucky() -> Iterator[int]:
        yield 0
        yield 1
        with open(path, "a") as attempts:
            print("attempt", file=attempts)
        if len(trace(path)) < 2:
            raise OSError("once")
        yield 2

    assert values(unlucky.remote()) == [0, 1, 2]


@pytest.mark.parametrize("ahead", [0, 3])
def test_a_workers_death_is_the_next_item(ahead: int) -> None:
    @af.remote(max_retries=0)
    def dying(items: int) -> Iterator[int]:
        yield from range(items)
        os.kill(os.getpid(), signal.SIGKILL)

    generator = dying.remote(ahead)
    refs = list(generator)
    assert af.get(refs[:-1]) == list(range(ahead))
    with pytest.raises(af.WorkerCrashedError):
        af.get(refs[-1])
    with pytest.raises(af.WorkerCrashedError):
        af.get(generator.completed())


def test_an_actors_death_is_the_next_item() -> None:
    counter = Counter.remote()
    generator = counter.count.options(generator_backpressure_num_objects=2).remote(10**6)
    assert af.get(next(generator)) == 0
    af.kill(counter)
    *rest, last = generator
    assert af.get(rest) == list(range(1, len(rest) + 1))
    with pytest.raises(af.ActorDiedError):
        af.get(last)


def test_readers_and_writers_killed_at_any_time() -> None:
    @af.remote(num_cpus=0, max_retries=0)
    def read(items: int) -> int:
        return sum(values(count.options(num_cpus=0, max_retries=0).remote(items)))

    @af.remote(num_cpus=0, max_retries=0)
    def crash(items: int) -> Iterator[int]:
        for item in range(items):
            if item == items - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item

    for turn in range(20):
        generator = crash.remote(turn * 7 + 1)
        *good, bad = generator
        assert af.get(good) == list(range(turn * 7))
        with pytest.raises(af.WorkerCrashedError):
            af.get(bad)
    assert af.get([read.remote(100) for _ in range(10)]) == [4950] * 10


def test_a_forked_child_neither_reads_nor_ends_it() -> None:
    generator = count.options(generator_backpressure_num_objects=1).remote(3)
    assert af.get(next(generator)) == 0
    pid = os.fork()
    if pid == 0:
        try:
            next(generator)
        except RuntimeError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert values(generator) == [1, 2]
