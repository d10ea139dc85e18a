"""Results of compiled graphs: many who await at once, signals in the midst of a read or a write, other threads."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import actorflow as af
from actorflow.dag import InputNode

pytestmark = pytest.mark.usefixtures("runtime")
TIMEOUT_S = 20


@af.remote
class Adder:
    def add(self, left: Any, right: Any = 1) -> Any:
        return left + right


def added(actor: Any, **options: Any) -> Any:
    with InputNode() as number:
        return actor.add.bind(number).experimental_compile(**options)


async def test_all_who_await_results_at_once_get_them() -> None:
    graph = added(Adder.remote(), max_inflight_executions=64)

    async def one(number: int) -> Any:
        return await graph.execute(number)

    for round_ in range(100):
        numbers = range(round_, round_ + 5 + round_ % 16)
        results = await asyncio.wait_for(asyncio.gather(*map(one, numbers)), TIMEOUT_S)
        assert results == [number + 1 for number in numbers]
    graph.teardown()


async def test_who_is_cancelled_lets_the_others_have_their_results() -> None:
    graph = added(Adder.remote(), max_inflight_executions=64)
    for round_ in range(50):
        tasks = [asyncio.ensure_future(graph.execute(number)) for number in range(8)]
        for _ in range(round_ % 4):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        rest = await asyncio.wait_for(asyncio.gather(*tasks[1::2]), TIMEOUT_S)
        assert rest == [2, 4, 6, 8]
        await asyncio.gather(*tasks[::2], return_exceptions=True)
    graph.teardown()
