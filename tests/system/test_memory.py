"""Memory that runs short: the task that takes it is ended with an error that says so, and the node goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

import actorflow as af

MIB = 1024 * 1024


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ACTORFLOW_MEMORY_LIMIT_BYTES", str(400 * MIB))
    with af.init(num_cpus=2, object_store_memory=64 * MIB):
        yield


def eat() -> int:
    kept = [np.ones(8 * MIB, dtype=np.uint8)]
    while True:
        kept.append(np.ones(MIB, dtype=np.uint8))
        if len(kept) > 700:
            kept = kept[:700]


@pytest.mark.usefixtures("small")
def test_a_task_that_takes_too_much_is_ended_and_others_are_not() -> None:
    @af.remote
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def add(self) -> int:
            self.count += 1
            return self.count

    counter = Counter.remote()
    assert af.get(counter.add.remote()) == 1
    with pytest.raises(af.OutOfMemoryError) as caught:
        af.get(af.remote(max_retries=1)(eat).remote(), timeout=60)
    error = caught.value
    assert error.task_name == "eat"
    assert error.limit_bytes == 400 * MIB < error.used_bytes / 0.95
    assert error.process_bytes > 100 * MIB
    assert "memory=" in str(error)
    assert af.get(counter.add.remote()) == 2
    assert af.get(af.remote(lambda: 5).remote()) == 5


@pytest.mark.usefixtures("small")
def test_an_actor_goes_where_there_is_nothing_else() -> None:
    @af.remote
    class Eater:
        def eat(self) -> int:
            return eat()

    eater = Eater.remote()
    with pytest.raises(af.ActorDiedError, match="lack of memory"):
        af.get(eater.eat.remote(), timeout=60)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("retries", [0, 1])
def test_an_async_task_that_takes_too_much_is_named(retries: int) -> None:
    @af.remote(max_retries=retries)
    async def eat_and_await() -> int:
        kept = []
        while True:
            kept.append(np.ones(MIB, dtype=np.uint8))
            if len(kept) > 700:
                kept = kept[:700]
            await asyncio.sleep(0)

    @af.remote(max_retries=2)
    async def beside() -> int:
        return 1

    eaten = eat_and_await.remote()
    others = [beside.remote() for _ in range(20)]
    with pytest.raises(af.OutOfMemoryError) as caught:
        af.get(eaten, timeout=60)
    assert caught.value.task_name.endswith("eat_and_await")
    assert caught.value.process_bytes > 100 * MIB
    assert af.get(others, timeout=60) == [1] * 20


@pytest.mark.usefixtures("small")
def test_an_async_task_that_keeps_too_much_while_it_awaits_is_named() -> None:
    """Of the tasks on one loop none runs: it is found all the same."""

    @af.remote(max_retries=0)
    async def keep() -> int:
        kept = np.ones(500 * MIB, dtype=np.uint8)
        await asyncio.Event().wait()
        return int(kept[0])

    with pytest.raises(af.OutOfMemoryError, match="keep"):
        af.get(keep.remote(), timeout=60)
