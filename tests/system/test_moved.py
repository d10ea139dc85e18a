"""A zygote's memory that was moved into a file is the same for all; copies that nobody changed are given back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A page of each block is copied and restored, one of every tenth block is changed; what is changed must stay so.
FORKS = r"""
import gc, os, sys, threading
from actorflow import _hot

PAGE = 4096
block = bytearray(os.urandom(PAGE * 2000))
texts = [str(number) * 100 for number in range(10_000)]
before = bytes(block), list(texts)
gc.freeze()
assert _hot.give_back() == 0  # nothing is moved yet
assert _hot.move_memory() > 1
assert (bytes(block), texts) == before

def touch():
    for at in range(0, len(block), PAGE):
        old = block[at]
        block[at] = old ^ 255
        if at // PAGE % 10:
            block[at] = old

def check_and_exit():
    touch()
    expected = bytes(block)
    other = threading.Thread(target=(ended := threading.Event()).wait)
    other.start()
    assert _hot.give_back() == 0, "another thread may write"
    ended.set()
    other.join()
    while len(os.listdir("/proc/self/task")) > 1:
        os.sched_yield()
    given = _hot.give_back()
    assert 1700 < given, given
    assert _hot.give_back() == 0, "once"
    assert bytes(block) == expected and texts == before[1]
    touch()
    assert sum(a != b for a, b in zip(block[::PAGE], before[0][::PAGE])) == 0
    grown = [bytes(1000) for _ in range(100_000)]  # the heap goes on after the mapping
    os._exit(0)

for _ in range(3):
    child = os.fork()
    if not child:
        try:
            check_and_exit()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
assert (bytes(block), texts) == before
print("same")
"""


ACTORS = r"""
import os
import actorflow as af
from tests.conftest import wait_until

MANY = 70  # more than the children from which on the zygote moves its memory
GIVEN_BYTES = 256 * 1024  # at the least
FILE_NAME = "/memfd:actorflow zygote"

@af.remote(num_cpus=0)
class Counter:
    def __init__(self):
        self.value = 0

    def increment(self):
        self.value += 1
        return self.value

    def process_id(self):
        return os.getpid()

@af.remote(num_cpus=0)
class AsyncCounter:
    async def process_id(self):
        return os.getpid()

def private_bytes(process_id):
    with open(f"/proc/{process_id}/smaps_rollup") as facts:
        return next(int(line.split()[1]) for line in facts if line.startswith("Private_Dirty:")) * 1024

def maps(process_id):
    with open(f"/proc/{process_id}/maps") as facts:
        return facts.read()

def main():
    counters = [Counter.remote() for _ in range(MANY)]
    last = AsyncCounter.remote()
    assert af.get([counter.increment.remote() for counter in counters]) == [1] * MANY
    process_ids = af.get([actor.process_id.remote() for actor in [*counters, last]])
    held = [private_bytes(process_id) for process_id in process_ids[-2:]]
    for process_id, before in zip(process_ids[-2:], held):
        assert FILE_NAME in maps(process_id)
        wait_until(lambda: private_bytes(process_id) < before - GIVEN_BYTES, 30, "pages are given back")
    assert FILE_NAME not in maps(process_ids[0])  # it was born before
    assert af.get([counter.increment.remote() for counter in counters]) == [2] * MANY

with af.init(num_cpus=2, object_store_memory=1 << 28):
    main()
print("same")
"""


@pytest.mark.parametrize("program", [FORKS, ACTORS], ids=["forks", "actors"])
def test_memory_is_the_same_after_it_was_moved_and_given_back(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("same\n", "")
