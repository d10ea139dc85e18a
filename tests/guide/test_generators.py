"""Ray Core's ideas about generators as tasks and methods, as small programs of a port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

import actorflow as ray
from tests.system import bodies

DEADLINE_S = 30.0

pytestmark = pytest.mark.usefixtures("runtime")


@ray.remote
def count(limit: int) -> Iterator[int]:
    yield from range(limit)


@ray.remote
def break_off(after: int) -> Iterator[int]:
    yield from range(after)
    raise ValueError(f"after {after}")


@ray.remote
def gated(gate: Any, limit: int) -> Iterator[int]:
    """Each item only once the gate has been opened for it."""
    for number in range(limit):
        ray.get(gate[number].pass_through.remote())
        yield number


def test_items_are_there_while_the_task_runs() -> None:
    gates = [bodies.Gate.remote() for _ in range(2)]
    items = gated.remote(gates, 2)
    assert isinstance(items, ray.ObjectRefGenerator)
    for number, gate in enumerate(gates):
        gate.open.remote()
        assert ray.get(next(items)) == number
    with pytest.raises(StopIteration):
        next(items)


def test_an_exception_comes_as_the_next_item() -> None:
    items = break_off.remote(1)
    assert ray.get(next(items)) == 0
    with pytest.raises(ValueError, match="after 1"):
        ray.get(next(items))


def test_methods_of_all_kinds_of_actors_can_be_generators() -> None:
    @ray.remote
    class Plain:
        def items(self) -> Iterator[int]:
            yield from range(3)

    @ray.remote
    class Loop:
        async def items(self) -> AsyncIterator[int]:
            for number in range(3):
                yield number

    for actor in (Plain.remote(), Plain.options(max_concurrency=5).remote(), Loop.remote()):
        assert [ray.get(ref) for ref in actor.items.remote()] == [0, 1, 2]


def test_generators_in_coroutines() -> None:
    async def read() -> list[int]:
        return [await ref async for ref in count.remote(3)]

    async def main() -> list[list[int]]:
        return list(await asyncio.gather(read(), read()))

    assert asyncio.run(main()) == [[0, 1, 2]] * 2


def test_waiting_for_the_next_item_of_a_generator() -> None:
    gates = [bodies.Gate.remote() for _ in range(2)]
    items = gated.remote(gates, 2)
    assert ray.wait([items], timeout=0) == ([], [items])
    gates[0].open.remote()
    assert ray.wait([items]) == ([items], [])
    assert ray.get(next(items)) == 0
    assert ray.wait([items], timeout=0) == ([], [items])
    gates[1].open.remote()
    assert [ray.get(ref) for ref in items] == [1]


def test_waiting_for_generators_and_refs_together() -> None:
    rest: list[Any] = [count.remote(3), bodies.echo.remote("a result")]
    found = []
    while rest:
        ready, rest = ray.wait(rest)
        for one in ready:
            if isinstance(one, ray.ObjectRefGenerator):
                try:
                    found.append(ray.get(next(one)))
                except StopIteration:
                    continue
                rest.append(one)
            else:
                found.append(ray.get(one))
    assert sorted(map(str, found)) == ["0", "1", "2", "a result"]


def test_an_item_outlives_its_generator() -> None:
    items = count.remote(5)
    first = next(items)
    del items
    assert ray.get(first) == 0


def test_a_number_of_results_that_a_generator_gives() -> None:
    first, second = count.options(num_returns=2).remote(2)
    assert ray.get([first, second]) == [0, 1]
    first, second, third, fourth = break_off.options(num_returns=4).remote(2)
    assert ray.get([first, second]) == [0, 1]
    for ref in (third, fourth):
        with pytest.raises(ValueError, match="after 2"):
            ray.get(ref)


@ray.remote(num_returns="dynamic")
def split(array: Any, size: int) -> Iterator[Any]:
    while len(array):
        yield array[:size]
        array = array[size:]


def test_refs_whose_number_is_known_at_the_end() -> None:
    whole = ray.put(np.zeros(25_500))
    parts = split.remote(whole, 1000)

    @ray.remote
    def size(generator: Any) -> int:
        return sum(len(ray.get(ref)) for ref in generator)

    generator = ray.get(parts)
    assert isinstance(generator, ray.DynamicObjectRefGenerator)
    assert ray.get([size.remote(parts), size.remote(generator)]) == [25_500] * 2
    assert [len(ray.get(ref)) for ref in generator] == [1000] * 25 + [500]
    first, second, last = ray.get(break_off.options(num_returns="dynamic").remote(2))
    assert ray.get([first, second]) == [0, 1]
    with pytest.raises(ValueError, match="after 2"):
        ray.get(last)
