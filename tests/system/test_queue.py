"""af.util.queue.Queue: order, limits, waiting, and that no item is lost where a wait is given up."""

from __future__ import annotations

import asyncio
import os
import queue as standard
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import actorflow as af
from actorflow.util.queue import Empty, Full, Queue, _QueueActor
from tests.system import bodies

DEADLINE_S = 30.0

pytestmark = pytest.mark.usefixtures("runtime")


@pytest.fixture
def queue() -> Iterator[Queue]:
    made = Queue(maxsize=3)
    yield made
    made.shutdown(force=True)


def test_first_in_first_out(queue: Queue) -> None:
    for number in range(3):
        queue.put(number)
    assert [queue.get() for _ in range(3)] == [0, 1, 2]


def test_what_it_says_of_itself(queue: Queue) -> None:
    assert queue.empty()
    queue.put_nowait_batch("abc")
    assert queue.full()
    assert len(queue) == queue.qsize() == queue.size() == 3
    endless = Queue()
    endless.put(None)
    assert not endless.full()


def test_empty_and_full_are_the_standard_ones(queue: Queue) -> None:
    for get in (queue.get_nowait, lambda: queue.get(timeout=0.01), lambda: queue.get(block=False)):
        with pytest.raises(Empty):
            get()
    queue.put_nowait_batch([1, 2, 3])
    for put in (queue.put_nowait, lambda item: queue.put(item, timeout=0.01)):
        with pytest.raises(standard.Full):
            put(4)
    assert queue.qsize() == 3


def test_batches_are_all_or_nothing(queue: Queue) -> None:
    with pytest.raises(Full):
        queue.put_nowait_batch(range(4))
    assert queue.empty()
    queue.put_nowait_batch([1, 2])
    with pytest.raises(Empty):
        queue.get_nowait_batch(3)
    assert queue.get_nowait_batch(2) == [1, 2]
    assert queue.get_nowait_batch(0) == []


def test_bad_arguments(queue: Queue) -> None:
    for wrong in (lambda: queue.get(timeout=-1), lambda: queue.put(1, timeout=-1)):
        with pytest.raises(ValueError, match="timeout=-1"):
            wrong()
    with pytest.raises(ValueError, match="num_items=-1"):
        queue.get_nowait_batch(-1)
    with pytest.raises(TypeError, match="items must be iterable"):
        queue.put_nowait_batch(3)  # type: ignore[arg-type] # what is tested
    with pytest.raises(TypeError, match="maxsize"):
        Queue(maxsize="3")  # type: ignore[arg-type] # what is tested
    with pytest.raises(TypeError, match="there is no actor option 'colour'"):
        Queue(actor_options={"colour": "red"})


def test_who_waits_gets_the_next_item(queue: Queue) -> None:
    with ThreadPoolExecutor(2) as threads:
        got = threads.submit(queue.get, timeout=DEADLINE_S)
        queue.put("late")
        assert got.result() == "late"
        queue.put_nowait_batch([1, 2, 3])
        put = threads.submit(queue.put, 4, timeout=DEADLINE_S)
        assert [queue.get(timeout=DEADLINE_S) for _ in range(4)] == [1, 2, 3, 4]
        assert put.result() is None


def test_tasks_produce_and_consume(queue: Queue) -> None:
    @af.remote
    def produce(queue: Queue, count: int) -> None:
        for number in range(count):
            queue.put(number)

    @af.remote
    def consume(queue: Queue, count: int) -> list[int]:
        return [queue.get() for _ in range(count)]

    consumers = [consume.remote(queue, 50) for _ in range(2)]
    producers = [produce.remote(queue, 50) for _ in range(2)]
    assert af.get(producers) == [None, None]
    assert sorted(number for part in af.get(consumers) for number in part) == sorted([*range(50)] * 2)


def test_more_getters_than_a_common_actor_takes_keep_no_putter_out() -> None:
    queue = Queue()

    async def main() -> list[Any]:
        getters = [asyncio.ensure_future(queue.get_async()) for _ in range(1500)]
        await asyncio.sleep(0)
        for number in range(1500):
            await queue.put_async(number)
        return await asyncio.gather(*getters)

    assert asyncio.run(main()) == list(range(1500))


def test_a_cancelled_get_takes_no_item(queue: Queue) -> None:
    async def main() -> None:
        for _ in range(20):
            waiting = asyncio.ensure_future(queue.get_async())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await queue.put_async("kept")
        assert await queue.get_async(timeout=DEADLINE_S) == "kept"

    asyncio.run(main())


def test_an_item_that_was_put_before_a_get_is_withdrawn_comes_back(queue: Queue) -> None:
    pid = af.get(queue.actor.__ray_call__.remote(lambda _: os.getpid()))
    getter = queue.actor.get.remote(None, b"ticket")
    af.get(queue.actor.qsize.remote())  # behind the get
    os.kill(pid, signal.SIGSTOP)  # so that the actor finds both at once
    try:
        refs = [
            queue.actor.put.remote("kept", None, b"other"),
            queue.actor.withdraw.remote(b"ticket", [getter]),
        ]
    finally:
        os.kill(pid, signal.SIGCONT)
    af.get(refs, timeout=DEADLINE_S)
    assert queue.get(timeout=DEADLINE_S) == "kept"


def test_an_item_on_its_way_to_a_cancelled_get_comes_back(queue: Queue) -> None:
    async def main() -> None:
        for number in range(50):
            waiting = asyncio.ensure_future(queue.get_async())
            await asyncio.sleep(0)
            await queue.put_async(number)
            if not waiting.cancel():  # done before: then it has the item
                assert waiting.result() == number
            elif (await asyncio.gather(waiting, return_exceptions=True))[0] != number:
                assert await queue.get_async(timeout=DEADLINE_S) == number

    asyncio.run(main())
    assert queue.empty()


def test_async_limits(queue: Queue) -> None:
    async def main() -> None:
        with pytest.raises(Empty):
            await queue.get_async(block=False)
        with pytest.raises(Empty):
            await queue.get_async(timeout=0.01)
        for number in range(3):
            await queue.put_async(number)
        with pytest.raises(Full):
            await queue.put_async(4, block=False)
        with pytest.raises(Full):
            await queue.put_async(4, timeout=0.01)

    asyncio.run(main())


def test_large_items_and_refs(queue: Queue) -> None:
    array = np.arange(200_000)
    queue.put(array)
    assert (queue.get() == array).all()
    queue.put([bodies.echo.remote("inside")])
    assert af.get(queue.get())[0] == "inside"


def test_shutdown_ends_those_who_wait(queue: Queue) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(queue.get)
        queue.shutdown()
        with pytest.raises(af.ActorDiedError):
            waiting.result(DEADLINE_S)
    with pytest.raises(af.ActorDiedError):
        queue.put(1)
    queue.shutdown(force=True)


@pytest.mark.parametrize("waits", ["getter", "putter"])
async def test_a_wait_in_the_actor_that_is_cancelled_takes_no_item(waits: str) -> None:
    """Between the cancelling of a call and its next turn its place is still in the line."""
    made: Any = _QueueActor
    actor = made.cls(1)
    if waits == "putter":
        assert await actor.put("first", 0, b"1")
    wait = actor.get(None, b"2") if waits == "getter" else actor.put("late", None, b"2")
    task = asyncio.create_task(wait)
    await asyncio.sleep(0)
    task.cancel()
    if waits == "getter":
        assert await actor.put("first", 0, b"3")
    assert await actor.get(0, b"4") == ["first"]
    assert await actor.qsize() == 0
    with pytest.raises(asyncio.CancelledError):
        await task
