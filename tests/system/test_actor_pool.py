"""af.util.ActorPool, and the loops over results in the order in which they are done."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import actorflow as af
from actorflow.util import ActorPool
from tests.system import bodies

pytestmark = pytest.mark.usefixtures("runtime")


@af.remote(num_cpus=0)
class Doubler:
    def __init__(self) -> None:
        self.calls = 0

    def double(self, number: int) -> int:
        self.calls += 1
        return 2 * number

    def pass_gate(self, gate: Any) -> str:
        af.get(gate.pass_through.remote())
        return "passed"

    def fail(self, text: str) -> None:
        raise ValueError(text)

    def die(self) -> None:
        af.exit_actor()

    @af.method(num_returns=2)
    def both(self, number: int) -> tuple[int, int]:
        return number, -number

    def count(self) -> int:
        return self.calls


def double(actor: Any, value: int) -> Any:
    return actor.double.remote(value)


@pytest.fixture
def actors() -> Iterator[list[Any]]:
    made = [Doubler.remote() for _ in range(3)]
    yield made
    made.clear()


def test_map_keeps_the_order_and_spreads_over_the_actors(actors: list[Any]) -> None:
    pool = ActorPool(actors)
    assert list(pool.map(double, range(50))) == [2 * number for number in range(50)]
    counts = af.get([actor.count.remote() for actor in actors])
    assert sum(counts) == 50
    assert all(counts)


def test_map_unordered_gives_each_result_once(actors: list[Any]) -> None:
    assert sorted(ActorPool(actors).map_unordered(double, range(50))) == [2 * number for number in range(50)]


def test_submit_and_get_next(actors: list[Any]) -> None:
    pool = ActorPool(actors[:1])
    assert pool.has_free()
    assert not pool.has_next()
    for number in range(3):
        pool.submit(double, number)
    assert not pool.has_free()
    assert [pool.get_next(), pool.get_next_unordered(), pool.get_next()] == [0, 2, 4]
    assert not pool.has_next()
    with pytest.raises(StopIteration):
        pool.get_next()


def test_unordered_gives_what_is_done_and_ordered_waits(actors: list[Any]) -> None:
    gate = bodies.Gate.remote()
    pool = ActorPool(actors)
    pool.submit(lambda actor, gate: actor.pass_gate.remote(gate), gate)
    pool.submit(double, 1)
    assert pool.get_next_unordered() == 2
    with pytest.raises(TimeoutError, match="can still be taken"):
        pool.get_next(timeout=0.05)
    af.get(gate.open.remote())
    assert pool.get_next() == "passed"


def test_a_result_can_be_given_up(actors: list[Any]) -> None:
    gate = bodies.Gate.remote()
    pool = ActorPool(actors[:1])
    pool.submit(lambda actor, gate: actor.pass_gate.remote(gate), gate)
    with pytest.raises(TimeoutError, match="given up"):
        pool.get_next(timeout=0, ignore_if_timedout=True)
    assert not pool.has_next()
    assert pool.has_free()
    af.get(gate.open.remote())
    assert list(pool.map(double, [4])) == [8]


def test_map_gives_up_what_was_submitted_before(actors: list[Any]) -> None:
    pool = ActorPool(actors[:2])
    for number in range(5):
        pool.submit(double, number)
    assert list(pool.map(double, [10, 20])) == [20, 40]


def test_errors_are_the_callers_and_the_actor_goes_on(actors: list[Any]) -> None:
    pool = ActorPool(actors[:1])
    pool.submit(lambda actor, text: actor.fail.remote(text), "broken")
    with pytest.raises(ValueError, match="broken"):
        pool.get_next()
    assert list(pool.map(double, [1])) == [2]
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda actor, value: value / 0, 1)
    assert pool.has_free()


def test_calls_with_several_results(actors: list[Any]) -> None:
    pool = ActorPool(actors)
    assert list(pool.map(lambda actor, value: actor.both.remote(value), [1, 2])) == [[1, -1], [2, -2]]
    pool.submit(lambda actor, value: actor.both.remote(value), 3)
    assert pool.get_next_unordered() == [3, -3]


def test_a_dead_actor_leaves_the_pool(actors: list[Any]) -> None:
    pool = ActorPool(actors[:1])
    pool.submit(lambda actor, _: actor.die.remote(), None)
    pool.submit(double, 5)
    with pytest.raises(af.ActorDiedError):
        pool.get_next()
    assert pool.has_next()
    with pytest.raises(RuntimeError, match="1 values wait and no actor of the pool lives"):
        pool.get_next()
    pool.push(actors[1])
    assert pool.get_next() == 10


def test_actors_come_and_go(actors: list[Any]) -> None:
    pool = ActorPool(actors[:1])
    with pytest.raises(ValueError, match="already"):
        pool.push(actors[0])
    assert pool.pop_idle() == actors[0]
    assert pool.pop_idle() is None
    pool.submit(double, 1)
    pool.push(actors[1])
    assert pool.get_next() == 2


def test_in_a_loop(actors: list[Any]) -> None:
    async def main() -> None:
        pool = ActorPool(actors)
        assert [value async for value in pool.map_async(double, range(10))] == [2 * n for n in range(10)]
        assert {value async for value in pool.map_unordered_async(double, range(10))} == {*range(0, 20, 2)}
        pool.submit(double, 4)
        assert await pool.get_next_async(timeout=10) == 8
        with pytest.raises(StopAsyncIteration):
            await pool.get_next_unordered_async()

    asyncio.run(main())


def test_as_completed_without_a_loop() -> None:
    gate = bodies.Gate.remote()
    late = gate.pass_through.remote()
    results = af.util.as_completed([late, *(bodies.echo.remote(n) for n in range(3))], chunk_size=1)
    assert {next(results) for _ in range(3)} == {0, 1, 2}
    af.get(gate.open.remote())
    assert list(results) == [1]
    refs = [bodies.echo.remote(n) for n in range(3)]
    assert set(af.util.as_completed(refs, yield_obj_refs=True)) == set(refs)
    with pytest.raises(ValueError, match="chunk_size=0"):
        af.util.as_completed(refs, chunk_size=0)


def test_map_unordered_keeps_to_its_limit() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    results = af.util.map_unordered(bodies.echo, items(), backpressure_size=4, chunk_size=2)
    assert not taken
    first = next(results)
    assert len(taken) <= 6
    assert sorted([first, *results]) == list(range(20))
    with pytest.raises(ValueError, match="chunk_size=5 must be from 1 to backpressure_size=4"):
        af.util.map_unordered(bodies.echo, [], backpressure_size=4, chunk_size=5)


def test_what_is_no_actor_is_refused() -> None:
    with pytest.raises(TypeError, match="actors must be actor handles, and 1 is none"):
        ActorPool([1, 2])  # type: ignore[list-item] # on purpose


@pytest.mark.parametrize("take", [ActorPool.get_next_async, ActorPool.get_next_unordered_async])
async def test_tasks_that_wait_at_once_get_a_result_each(actors: list[Any], take: Any) -> None:
    pool = ActorPool(actors)
    for number in range(6):
        pool.submit(double, number)
    waits = [take(pool, timeout=10) for _ in range(7)]
    *results, last = sorted(await asyncio.gather(*waits, return_exceptions=True), key=_order)
    assert results == [0, 2, 4, 6, 8, 10]
    assert isinstance(last, StopAsyncIteration)


def _order(result: Any) -> int:
    return result if isinstance(result, int) else 100
