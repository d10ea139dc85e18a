"""Thousands of cancels aimed at short calls: each call ends with its value or as cancelled, and nothing else is hit."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

import actorflow as af
from tests.system.test_cancel import DEADLINE_S, wait_all_idle

pytestmark = pytest.mark.usefixtures("runtime")

STRESS_S = 4.0  # then it is over once calls have ended in each way
MOST = 40_000


@af.remote(max_retries=0)
def spin(number: int, spin_us: int) -> int:
    end = time.perf_counter() + spin_us * 1e-6
    while time.perf_counter() < end:
        pass
    return number


@af.remote(max_retries=0)
async def sleep_briefly(number: int, sleep_us: int) -> int:
    await asyncio.sleep(sleep_us * 1e-6)
    return number


@af.remote(num_cpus=0)
class Spinner:
    def spin(self, number: int, spin_us: int) -> int:
        end = time.perf_counter() + spin_us * 1e-6
        while time.perf_counter() < end:
            pass
        return number


@pytest.mark.parametrize("kind", ["task", "async task", "method"])
def test_no_cancel_hits_another_call_or_the_runtime(kind: str) -> None:
    """A hit of the runtime would end a worker, and with it a call: these are not tried again."""
    chance = random.Random(7)
    call = {"task": spin.remote, "async task": sleep_briefly.remote, "method": Spinner.remote().spin.remote}[
        kind
    ]
    af.get([call(number, 1000) for number in range(8)])  # workers are there, and have imported this module
    ends = {"value": 0, "before it ran": 0, "while it was running": 0}
    end = time.monotonic() + STRESS_S
    fired = 0
    while fired < MOST and (time.monotonic() < end or not all(ends.values())):
        numbers = range(fired, fired + 50)
        refs = {number: call(number, chance.randrange(2_000)) for number in numbers}
        mine = [number for number in numbers if chance.random() < 0.8]
        for number in mine:
            if chance.random() < 0.2:  # else all would be cancelled before one was taken
                af.wait(list(refs.values()), num_returns=chance.randrange(1, 8), timeout=1)
            af.cancel(refs[number])
        fired += len(mine)
        for number, ref in refs.items():
            try:
                assert af.get(ref, timeout=DEADLINE_S) == number
                ends["value"] += 1
            except af.TaskCancelledError as error:
                assert number in mine
                ends[error.when] += 1
    assert all(ends.values()), ends
    wait_all_idle()
