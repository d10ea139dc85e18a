"""Generators as tasks and methods: items while they run, backpressure, errors."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actorflow as af
from tests.conftest import wait_until
from tests.system.bodies import Gate
from tests.system.conftest import stored_bytes
from tests.system.generator_bodies import (
    DEADLINE_S,
    AsyncCounter,
    Counter,
    count,
    count_async,
    live_blocks,
    trace,
    traced,
    values,
)

LARGE = 50_000  # float64s: 400 KB, over what lies in a cell

pytestmark = pytest.mark.usefixtures("runtime")


# -- items


def test_a_generator_function_gives_refs_to_its_items() -> None:
    generator = count.remote(4)
    assert isinstance(generator, af.ObjectRefGenerator)
    assert iter(generator) is generator
    refs = list(generator)
    assert all(ref.done() for ref in refs)
    assert af.get(refs) == [0, 1, 2, 3]
    assert generator.is_finished()
    with pytest.raises(StopIteration):
        next(generator)


@pytest.mark.parametrize("items", [0, 1, 1000])
@pytest.mark.parametrize(
    "call",
    [
        lambda items: count.remote(items),
        lambda items: count_async.remote(items),
        lambda items: Counter.remote().count.remote(items),
        lambda items: Counter.options(max_concurrency=3).remote().count.remote(items),
        lambda items: AsyncCounter.remote().count.remote(items),
        lambda items: AsyncCounter.remote().count_sync.remote(items),
    ],
    ids=["task", "async task", "actor", "threaded actor", "async actor", "sync method of async actor"],
)
def test_wherever_it_runs(call: Callable[[int], Any], items: int) -> None:
    assert values(call(items)) == list(range(items))


async def test_async_iteration() -> None:
    assert [await ref async for ref in count.remote(50)] == list(range(50))
    generators = [count_async.remote(20) for _ in range(5)]

    async def read(generator: af.ObjectRefGenerator[int]) -> list[int]:
        return [await ref async for ref in generator]

    assert await asyncio.gather(*map(read, generators)) == [list(range(20))] * 5


async def test_a_cancelled_wait_loses_no_item() -> None:
    gate = Gate.remote()

    @af.remote(num_cpus=0)
    def gated() -> Iterator[int]:
        af.get(gate.pass_through.remote())
        yield 7

    generator = gated.remote()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(generator), 0.02)
    gate.open.remote()
    assert await (await anext(generator)) == 7


def test_an_item_is_there_while_the_generator_runs() -> None:
    gate = Gate.remote()

    @af.remote
    def gated() -> Iterator[str]:
        yield "before"
        af.get(gate.pass_through.remote())
        yield "after"

    generator = gated.remote()
    assert af.get(next(generator), timeout=DEADLINE_S) == "before"
    assert not generator.next_ready()
    assert not generator.is_finished()
    assert not generator.completed().done()
    gate.open.remote()
    assert values(generator) == ["after"]
    assert af.get(generator.completed()) is None


def test_options_choose_what_a_generator_gives() -> None:
    first, second = count.options(num_returns=2).remote(2)
    assert af.get([first, second]) == [0, 1]
    gathered = af.get(count.options(num_returns="dynamic").remote(3))
    assert isinstance(gathered, af.DynamicObjectRefGenerator)
    assert len(gathered) == 3
    assert values(gathered) == [0, 1, 2]
    assert values(af.get(Counter.remote().gathered.remote(3))) == [0, 1, 2]
    assert values(af.get(AsyncCounter.remote().gathered.remote(3))) == [0, 1, 2]
    assert values(Counter.remote().gathered.options(num_returns="streaming").remote(3)) == [0, 1, 2]
    with pytest.raises(TypeError, match="generator"):
        af.get(count.options(num_returns=1).remote(3))


def test_a_function_that_returns_a_generator_streams_when_told() -> None:
    @af.remote(num_returns="streaming")
    def returning(items: int) -> Any:
        return (item * 2 for item in range(items))

    @af.remote(num_returns="streaming")
    def plain() -> int:
        return 5

    assert values(returning.remote(3)) == [0, 2, 4]
    with pytest.raises(TypeError, match="returned no generator"):
        values(plain.remote())


def test_large_items_lie_in_the_store_and_go_with_their_refs() -> None:
    @af.remote
    def arrays(items: int) -> Iterator[np.ndarray[Any, Any]]:
        for item in range(items):
            yield np.full(LARGE, item, dtype=np.float64)

    generator = arrays.remote(3)
    array = af.get(next(generator))
    assert not array.flags.writeable
    assert not array.flags.owndata
    assert stored_bytes() >= array.nbytes
    assert [float(af.get(ref)[0]) for ref in generator] == [1.0, 2.0]
    assert array[LARGE - 1] == 0.0


def test_an_item_that_is_kept_keeps_no_other() -> None:
    before = live_blocks()
    generator = count.remote(1000)
    first = next(generator)
    for ref in generator:
        del ref
    assert af.get(first) == 0
    wait_until(lambda: live_blocks() < before + 50, DEADLINE_S, "the items that were dropped are freed")


def test_refs_and_generators_as_items() -> None:
    @af.remote
    def refs() -> Iterator[Any]:
        yield af.put(1)
        yield [af.put(2), count.remote(1).completed()]

    first, second = values(refs.remote())
    assert af.get(first) == 1
    assert af.get(second[0]) == 2
    assert af.get(second[1]) is None


def test_wait_takes_generators() -> None:
    gate = Gate.remote()

    @af.remote(num_cpus=0)
    def gated() -> Iterator[int]:
        af.get(gate.pass_through.remote())
        yield 1

    late, early, ref = gated.remote(), count.remote(1), af.put(0)
    assert af.wait([late, early, ref], num_returns=2, timeout=DEADLINE_S) == ([early, ref], [late])
    assert af.wait([late], timeout=0) == ([], [late])
    gate.open.remote()
    assert af.wait([late], timeout=DEADLINE_S) == ([late], [])
    assert values(late) == [1]
    assert af.wait([late], timeout=0) == ([late], [])
    with pytest.raises(TypeError, match="int"):
        af.wait([early, 5], num_returns=1)


# -- backpressure


def test_backpressure_holds_the_generator_back(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    generator = traced.options(generator_backpressure_num_objects=2).remote(6, str(path))
    wait_until(lambda: len(trace(path)) == 2, DEADLINE_S, "two items are made")
    assert af.get(next(generator)) == 0
    wait_until(lambda: len(trace(path)) == 3, DEADLINE_S, "one more is made")
    assert not generator.completed().done()
    assert values(generator) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("most", [1, 3])
def test_backpressure_in_every_kind_of_actor(most: int) -> None:
    methods = [
        Counter.remote().count,
        Counter.options(max_concurrency=2).remote().count,
        AsyncCounter.remote().count,
        AsyncCounter.remote().count_sync,
    ]
    for method in methods:
        generator = method.options(generator_backpressure_num_objects=most).remote(30)
        assert values(generator) == list(range(30))


def test_a_generator_that_waits_has_given_its_cpu_back() -> None:
    generators = [count.options(generator_backpressure_num_objects=1).remote(3) for _ in range(8)]
    for generator in generators:  # more than there are CPUs
        assert af.get(next(generator), timeout=DEADLINE_S) == 0
    for generator in generators:
        assert values(generator) == [1, 2]


def test_ray_calls_the_option_otherwise() -> None:
    generator = count.options(_generator_backpressure_num_objects=1).remote(3)
    assert values(generator) == [0, 1, 2]


# -- errors


@af.remote
def fail_after(items: int) -> Iterator[int]:
    yield from range(items)
    raise ValueError("enough")


@pytest.mark.parametrize("items", [0, 2])
def test_an_error_is_the_item_after_those_before_it(items: int) -> None:
    generator = fail_after.remote(items)
    refs = list(generator)
    assert af.get(refs[:-1]) == list(range(items))
    with pytest.raises(ValueError, match="enough"):
        af.get(refs[-1])
    assert generator.is_finished()
    with pytest.raises(ValueError, match="enough"):
        af.get(generator.completed())


async def test_an_error_of_an_async_generator() -> None:
    @af.remote
    async def failing() -> AsyncIterator[int]:
        yield 1
        raise KeyError("gone")

    refs = [ref async for ref in failing.remote()]
    assert await refs[0] == 1
    with pytest.raises(KeyError, match="gone"):
        await refs[1]


def test_an_item_that_cannot_be_pickled_is_named() -> None:
    @af.remote
    def unpicklable() -> Iterator[Any]:
        yield 1
        yield (letter for letter in "abc")

    first, second = unpicklable.remote()
    assert af.get(first) == 1
    with pytest.raises(TypeError, match="item 1 of 'unpicklable'"):
        af.get(second)


def test_the_error_of_an_argument_is_the_only_item() -> None:
    @af.remote
    def broken() -> int:
        raise OSError("no argument")

    (ref,) = count.remote(broken.remote())
    with pytest.raises(OSError, match="no argument"):
        af.get(ref)


def test_a_gathering_generator_keeps_what_came_before_its_error() -> None:
    *good, bad = af.get(fail_after.options(num_returns="dynamic").remote(2))
    assert af.get(good) == [0, 1]
    with pytest.raises(ValueError, match="enough"):
        af.get(bad)


def test_a_generator_of_a_dead_actor_gives_its_error() -> None:
    counter = Counter.remote()
    af.get(counter.pid.remote())
    af.kill(counter)
    for _ in range(2):  # as the actor dies, and after it
        generator = counter.count.remote(3)
        (ref,) = generator
        with pytest.raises(af.ActorDiedError):
            af.get(ref, timeout=DEADLINE_S)
        wait_until(generator.completed().done, DEADLINE_S, "the call has failed")


def test_it_cannot_be_pickled_or_passed() -> None:
    generator = count.remote(1)
    with pytest.raises(TypeError, match="stays in the process"):
        pickle.dumps(generator)
    with pytest.raises(TypeError, match="stays in the process"):
        count.remote(generator)
    assert values(generator) == [0]


def test_reading_ones_own_generator_would_never_end() -> None:
    @af.remote
    class Own:
        def count(self) -> Iterator[int]:
            yield 1

        def read(self, own: Any) -> Any:
            return af.get(next(own.count.remote()))

    own = Own.remote()
    with pytest.raises(af.DeadlockError):
        af.get(own.read.remote(own), timeout=DEADLINE_S)
