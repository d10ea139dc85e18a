"""ActorflowExecutor: the contract of concurrent.futures, with processes of the node."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import actorflow as af
from actorflow.util.executor import ActorflowExecutor
from tests.conftest import wait_until
from tests.system import bodies

DEADLINE_S = 30.0

pytestmark = pytest.mark.usefixtures("runtime")


@pytest.fixture
def executor() -> Iterator[ActorflowExecutor]:
    with ActorflowExecutor(max_workers=2) as made:
        yield made
        made.kill_workers()


def pass_gate(gate: Any) -> int:
    passed: int = af.get(gate.pass_through.remote())
    return passed


def test_submit(executor: ActorflowExecutor) -> None:
    assert executor.submit(pow, 2, 10).result() == 1024
    assert executor.submit(int, "ff", base=16).result() == 255
    assert executor.submit(os.getpid).result() != os.getpid()
    captured = 5
    assert executor.submit(lambda number: number + captured, 1).result() == 6


def test_errors_are_of_their_own_type(executor: ActorflowExecutor) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        executor.submit(divmod, 1, 0).result()
    assert isinstance(caught.value, af.TaskError)
    with pytest.raises(TypeError, match="cannot pickle"):
        executor.submit(print, threading.Lock()).result()
    assert executor.submit(pow, 2, 2).result() == 4


@pytest.mark.parametrize("chunksize", [1, 7])
def test_map(executor: ActorflowExecutor, chunksize: int) -> None:
    assert list(executor.map(pow, range(20), [2] * 20, chunksize=chunksize)) == [n * n for n in range(20)]
    with pytest.raises(ZeroDivisionError):
        list(executor.map(divmod, [1, 1], [1, 0], chunksize=chunksize))


def test_what_is_queued_can_be_cancelled_and_what_runs_cannot(executor: ActorflowExecutor) -> None:
    gate = bodies.Gate.remote()
    running = [executor.submit(pass_gate, gate) for _ in range(2)]
    af.get(gate.arrived.remote(2))
    queued = [executor.submit(os.getpid) for _ in range(3)]
    assert [future.cancel() for future in queued[:2]] == [True, True]
    assert not running[0].cancel()
    af.get(gate.open.remote())
    assert queued[2].result() > 0
    assert sorted(future.result() for future in running) == [1, 2]
    assert all(future.cancelled() for future in queued[:2])


def test_no_more_processes_than_workers(executor: ActorflowExecutor) -> None:
    pids = {future.result() for future in [executor.submit(os.getpid) for _ in range(50)]}
    assert 1 <= len(pids) <= 2


def test_a_warm_process_is_used_again(executor: ActorflowExecutor) -> None:
    assert len({executor.submit(os.getpid).result() for _ in range(10)}) == 1


def test_shutdown_waits_for_what_is_queued() -> None:
    executor = ActorflowExecutor(max_workers=1)
    futures = [executor.submit(pow, n, 2) for n in range(10)]
    executor.shutdown()
    assert [future.result(timeout=0) for future in futures] == [n * n for n in range(10)]
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(pow, 1, 1)
    executor.shutdown()


def test_shutdown_can_cancel_what_is_queued() -> None:
    gate = bodies.Gate.remote()
    executor = ActorflowExecutor(max_workers=1)
    running, queued = executor.submit(pass_gate, gate), executor.submit(os.getpid)
    af.get(gate.arrived.remote(1))
    executor.shutdown(wait=False, cancel_futures=True)
    assert queued.cancelled()
    concurrent.futures.wait([queued], DEADLINE_S)
    af.get(gate.open.remote())
    assert running.result(DEADLINE_S) == 1
    executor.shutdown()


def test_a_process_that_dies_fails_its_call_alone(executor: ActorflowExecutor) -> None:
    with pytest.raises(af.ActorDiedError, match="exit code 3"):
        executor.submit(os._exit, 3).result()
    assert executor.submit(pow, 2, 3).result() == 8


def settings() -> str:
    return os.environ["EXECUTOR_SETTING"]


def set_up(text: str) -> None:
    if text == "broken":
        raise LookupError(text)
    os.environ["EXECUTOR_SETTING"] = text


def test_initializer() -> None:
    with ActorflowExecutor(2, initializer=set_up, initargs=("set",)) as executor:
        assert set(executor.map(lambda _: settings(), range(6))) == {"set"}
    with ActorflowExecutor(1, initializer=set_up, initargs=("broken",)) as executor:
        for _ in range(2):
            with pytest.raises(af.ActorDiedError, match="constructor raised"):
                executor.submit(settings).result(DEADLINE_S)


def test_processes_are_replaced_after_so_many_calls() -> None:
    with ActorflowExecutor(1, max_tasks_per_child=2) as executor:
        pids = [executor.submit(os.getpid).result() for _ in range(6)]
    assert pids[::2] == pids[1::2]
    assert len(set(pids)) == 3


def test_in_an_event_loop(executor: ActorflowExecutor) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, pow, n, 2) for n in range(10)))

    assert asyncio.run(main()) == [n * n for n in range(10)]


def test_in_a_task() -> None:
    @af.remote
    def squares() -> list[int]:
        with ActorflowExecutor(2) as executor:
            return list(executor.map(pow, range(5), [2] * 5))

    assert af.get(squares.remote()) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"max_workers": 0}, ValueError, "max_workers=0 must be at least 1"),
        ({"max_tasks_per_child": -1}, ValueError, "max_tasks_per_child=-1"),
        ({"max_workers": "two"}, TypeError, "max_workers must be a whole number"),
        ({"initializer": "set_up"}, TypeError, "initializer must be callable"),
        ({"actor_options": {"colour": 1}}, TypeError, "no actor option 'colour'"),
    ],
)
def test_bad_arguments(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        ActorflowExecutor(**options)


def test_one_that_is_forgotten_finishes_and_leaves_no_thread() -> None:
    assert ActorflowExecutor(1).submit(pow, 2, 2).result() == 4
    wait_until(
        lambda: "actorflow-crew" not in {thread.name for thread in threading.enumerate()},
        DEADLINE_S,
        "the executor's thread ends",
    )
