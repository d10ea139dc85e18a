"""Ray Core's ideas about coroutines, futures and the order of calls, as small programs of a port."""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import Any

import pytest

import actorflow as ray
from tests.system import bodies

DEADLINE_S = 30.0

pytestmark = pytest.mark.usefixtures("runtime")


@pytest.fixture(scope="module", autouse=True)
def thread_of_futures(runtime: ray.Runtime) -> None:
    """It is started by the first future, and lives as long as the runtime."""
    bodies.start_futures()


def test_refs_as_futures_of_asyncio_and_of_threads() -> None:
    async def main() -> list[Any]:
        wrapped: Any = asyncio.wrap_future(bodies.echo.remote(1).future())
        done, _ = await asyncio.wait([wrapped])
        plain: Any = bodies.echo.remote(2)
        await asyncio.wait([plain], return_when=asyncio.FIRST_COMPLETED)
        return [done.pop().result(), await plain, *await asyncio.gather(bodies.echo.remote(3))]

    assert asyncio.run(main()) == [1, 2, 3]
    futures = [bodies.echo.remote(number).future() for number in range(4)]
    assert sorted(future.result() for future in concurrent.futures.as_completed(futures)) == [0, 1, 2, 3]


def test_coroutine_functions_are_tasks() -> None:
    @ray.remote
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    assert ray.get(answer.remote()) == 42


def test_how_many_calls_of_an_async_actor_run_at_once() -> None:
    @ray.remote
    class Room:
        def __init__(self) -> None:
            self.present = self.most = 0

        async def enter(self) -> int:
            self.present += 1
            self.most = max(self.most, self.present)
            await asyncio.sleep(0)
            self.present -= 1
            return self.most

    room = Room.options(max_concurrency=3).remote()
    assert max(ray.get([room.enter.remote() for _ in range(30)])) == 3


def test_an_actor_that_gives_signals() -> None:
    """Plain and async methods of one actor are run by its one loop."""

    @ray.remote(num_cpus=0)
    class Signal:
        def __init__(self) -> None:
            self.event = asyncio.Event()

        def send(self, clear: bool = False) -> None:
            self.event.set()
            if clear:
                self.event.clear()

        async def wait(self) -> str:
            await self.event.wait()
            return "go"

    @ray.remote(num_cpus=0)
    def wait_and_go(signal: Any) -> str:
        return str(ray.get(signal.wait.remote()))

    signal = Signal.remote()
    tasks = [wait_and_go.remote(signal) for _ in range(4)]
    ray.get(signal.send.remote())
    assert ray.get(tasks) == ["go"] * 4


def test_an_async_actor_does_its_work_and_answers_questions_meanwhile() -> None:
    @ray.remote
    class Worker:
        def __init__(self, source: Any) -> None:
            self.source = source
            self.done = 0

        async def work(self) -> int:
            while await self.source.add.remote(1) <= 5:
                self.done += 1
            return self.done

        async def progress(self) -> int:
            return self.done

    worker = Worker.remote(bodies.Counter.remote())
    working = worker.work.remote()
    assert 0 <= ray.get(worker.progress.remote()) <= 5
    assert ray.get(working) == 5


def test_the_group_of_a_call_can_be_chosen_with_it() -> None:
    @ray.remote(concurrency_groups={"io": 1, "compute": 1})
    class Service:
        def __init__(self) -> None:
            self.go = asyncio.Event()

        @ray.method(concurrency_group="io")
        async def work(self) -> str:
            await self.go.wait()
            return "done"

        @ray.method(concurrency_group="io")
        async def release(self) -> None:
            self.go.set()

        async def ungrouped(self) -> str:
            return "at once"

    service = Service.options(max_concurrency=10).remote()
    work = service.work.remote()
    assert ray.get(service.ungrouped.remote()) == "at once"
    ray.get(service.release.options(concurrency_group="compute").remote())
    assert ray.get(work) == "done"


def test_calls_of_one_caller_keep_their_order_and_those_of_several_need_not() -> None:
    gate = bodies.Gate.remote()
    counter = bodies.Counter.remote()
    assert ray.get([counter.add.remote(1), counter.add.remote(2)]) == [1, 3]

    @ray.remote
    def submit(value: int) -> int:
        return int(ray.get(counter.add.remote(value)))

    late = submit.remote(gate.pass_through.remote())
    assert ray.get(submit.remote(2)) == 5
    ray.get(gate.open.remote())
    assert ray.get(late) == 6


def test_async_and_threaded_actors_start_what_is_ready() -> None:
    @ray.remote
    class Adder:
        def __init__(self) -> None:
            self.value = 0

        async def add(self, number: int) -> int:
            self.value += number
            return self.value

    for adder in (Adder.remote(), bodies.Counter.options(max_concurrency=2).remote()):
        gate = bodies.Gate.remote()
        late = adder.add.remote(gate.pass_through.remote())
        assert ray.get(adder.add.remote(2)) == 2
        ray.get(gate.open.remote())
        assert ray.get(late) == 3


def test_cancelling_a_call_of_an_async_actor() -> None:
    @ray.remote
    class Waiting:
        def __init__(self) -> None:
            self.heard = False

        async def wait(self, gate: Any, catches: bool) -> str:
            try:
                await gate.pass_through.remote()
            except asyncio.CancelledError:
                self.heard = True
                if not catches:
                    raise
            return "cleaned up"

        async def has_heard(self) -> bool:
            return self.heard

    waiting = Waiting.remote()
    for catches in (False, True):
        gate = bodies.Gate.remote()
        ref = waiting.wait.remote(gate, catches)
        ray.get(gate.arrived.remote(1))
        ray.cancel(ref)
        if catches:  # better: what it returns is the result
            assert ray.get(ref) == "cleaned up"
        else:
            with pytest.raises(ray.exceptions.TaskCancelledError):
                ray.get(ref)
        assert ray.get(waiting.has_heard.remote())


def test_cancelling_a_call_of_a_sync_actor() -> None:
    """Better: it is interrupted, in the midst of a wait too, and need not look whether it was cancelled."""

    @ray.remote
    class Patient:
        def __init__(self) -> None:
            self.heard = False

        def wait(self, gate: Any) -> str:
            try:
                ray.get(gate.pass_through.remote())
            except KeyboardInterrupt:
                self.heard = ray.get_runtime_context().is_canceled()
                raise
            return "nobody cancelled"

        def has_heard(self) -> bool:
            return self.heard

    gate, patient = bodies.Gate.remote(), Patient.remote()
    ref = patient.wait.remote(gate)
    ray.get(gate.arrived.remote(1))
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref)
    assert ray.get(patient.has_heard.remote())
