"""max_calls: a worker ends after so many calls of the function; no call is lost and none fails for it."""

from __future__ import annotations

import asyncio
import os
from collections import Counter as Tally
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

import actorflow as af
from tests.conftest import wait_until
from tests.system.bodies import Gate

pytestmark = pytest.mark.usefixtures("runtime")
DEADLINE_S = 60.0


@af.remote(max_calls=1)
def once() -> int:
    return os.getpid()


@af.remote(max_calls=3)
def thrice(value: int) -> tuple[int, int]:
    return value, os.getpid()


@af.remote(max_calls=2)
async def twice() -> int:
    await asyncio.sleep(0)
    return os.getpid()


@af.remote
def unlimited() -> int:
    return os.getpid()


@af.remote(max_calls=1)
def through(gate: Any) -> int:
    af.get(gate.pass_through.remote())
    pid: int = af.get(once.remote(), timeout=DEADLINE_S)
    return pid


@af.remote(max_calls=1)
def items(count: int) -> Iterator[int]:
    for _ in range(count):
        yield os.getpid()


@af.remote(max_calls=1, max_retries=2, retry_exceptions=[KeyError])
def fail_at_first() -> int:
    if af.get_runtime_context().get_attempt_number() == 0:
        raise KeyError("the first attempt")
    return os.getpid()


def wait_until_ended(pid: int) -> None:
    """The process ends in order, some time after its last call."""
    wait_until(lambda: not psutil.pid_exists(pid), DEADLINE_S, f"{pid} has ended")


def test_each_call_has_a_process_of_its_own() -> None:
    pids = af.get([once.remote() for _ in range(20)], timeout=DEADLINE_S)
    assert len(set(pids)) == 20
    for pid in pids:
        wait_until_ended(pid)


def test_so_many_calls_a_process_and_none_is_lost() -> None:
    results = af.get([thrice.remote(value) for value in range(30)], timeout=DEADLINE_S)
    assert [value for value, _ in results] == list(range(30))
    calls = Tally(pid for _, pid in results)
    assert max(calls.values()) == 3
    for pid, count in calls.items():
        if count == 3:
            wait_until_ended(pid)


def test_options_count_together() -> None:
    function = unlimited.options(max_calls=2)
    pids = [af.get(unlimited.options(max_calls=2).remote(), timeout=DEADLINE_S) for _ in range(4)]
    pids += [af.get(function.remote(), timeout=DEADLINE_S) for _ in range(4)]
    assert max(Tally(pids).values()) == 2


def test_calls_of_other_functions_do_not_count() -> None:
    pids = [af.get(unlimited.remote(), timeout=DEADLINE_S) for _ in range(20)]
    assert max(Tally(pids).values()) > 3


def test_async_tasks() -> None:
    pids = af.get([twice.remote() for _ in range(10)], timeout=DEADLINE_S)
    assert max(Tally(pids).values()) <= 2


def test_a_last_call_may_wait_for_others() -> None:
    gate = Gate.remote()
    refs = [through.remote(gate) for _ in range(3)]
    af.get(gate.open.remote())
    assert len(set(af.get(refs, timeout=DEADLINE_S))) == 3


def test_a_generator_is_one_call() -> None:
    pids = {af.get(ref, timeout=DEADLINE_S) for ref in items.remote(5)}
    others = {af.get(ref, timeout=DEADLINE_S) for ref in items.remote(5)}
    assert (len(pids), len(others)) == (1, 1)
    assert pids != others


def test_an_attempt_is_a_call() -> None:
    assert af.get(fail_at_first.remote(), timeout=DEADLINE_S) != os.getpid()


def test_a_worker_that_is_killed_on_its_last_call_is_replaced() -> None:
    @af.remote(max_calls=1)
    def die_at_first() -> int:
        if af.get_runtime_context().get_attempt_number() == 0:
            os._exit(1)
        return os.getpid()

    assert len(set(af.get([die_at_first.remote() for _ in range(4)], timeout=DEADLINE_S))) == 4
