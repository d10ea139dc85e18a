"""Patterns of parallel programs, and the mistakes that they replace, in Ray Core's terms.

Where a mistake is only slow, the program is the better way; where it gives something else, both are shown.
"""

from __future__ import annotations

import functools
import operator
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actorflow as ray
from tests.system import bodies

pytestmark = pytest.mark.usefixtures("runtime")


def test_nested_tasks_split_their_work_further() -> None:
    @ray.remote
    def merge_sorted(numbers: list[int]) -> list[int]:
        if len(numbers) <= 50:
            return sorted(numbers)
        middle = len(numbers) // 2
        halves = [merge_sorted.remote(numbers[:middle]), merge_sorted.remote(numbers[middle:])]
        left, right = ray.get(halves)
        return sorted([*left, *right])

    numbers = [(7919 * n) % 400 for n in range(400)]
    assert ray.get(merge_sorted.remote(numbers)) == sorted(numbers)


def test_generators_keep_few_results_in_memory() -> None:
    @ray.remote(num_returns="streaming")
    def blocks(count: int) -> Iterator[Any]:
        for number in range(count):
            yield np.full(50_000, number)

    assert [int(ray.get(ref)[0]) for ref in blocks.remote(4)] == [0, 1, 2, 3]


def test_wait_limits_how_many_tasks_are_pending() -> None:
    pending: list[Any] = []
    results = []
    for number in range(40):
        if len(pending) == 5:
            ready, pending = ray.wait(pending)
            results += ray.get(ready)
        pending.append(bodies.echo.remote(number))
    assert sorted(results + ray.get(pending)) == list(range(40))


def test_resources_limit_how_many_tasks_run_at_once() -> None:
    @ray.remote(num_cpus=0)
    class Inside:
        def __init__(self) -> None:
            self.now = self.most = 0

        def enter(self) -> None:
            self.now += 1
            self.most = max(self.most, self.now)

        def leave(self) -> int:
            self.now -= 1
            return self.most

    @ray.remote(num_gpus=1)
    def work(inside: Any) -> int:
        inside.enter.remote()
        return int(ray.get(inside.leave.remote()))

    inside = Inside.remote()
    assert max(ray.get([work.remote(inside) for _ in range(20)])) <= 2


def test_a_supervisor_spreads_work_over_actors() -> None:
    @ray.remote
    class Supervisor:
        def __init__(self, size: int) -> None:
            self.workers = [bodies.Counter.remote() for _ in range(size)]

        def run(self, amounts: list[int]) -> int:
            refs = [self.workers[i % len(self.workers)].add.remote(n) for i, n in enumerate(amounts)]
            ray.get(refs)
            return sum(ray.get([worker.add.remote(0) for worker in self.workers]))

    assert ray.get(Supervisor.remote(3).run.remote([1] * 30)) == 30


def test_an_actor_keeps_tasks_in_step() -> None:
    gate = bodies.Gate.remote()

    @ray.remote(num_cpus=0)
    def step() -> int:
        return int(ray.get(gate.pass_through.remote()))

    steps = [step.remote() for _ in range(3)]
    ray.get(gate.arrived.remote(3))
    ray.get(gate.open.remote())
    assert sorted(ray.get(steps)) == [1, 2, 3]


def test_work_and_fetching_overlap() -> None:
    """The next item is asked for before the last one is worked on."""

    @ray.remote
    class Source:
        def __init__(self) -> None:
            self.number = 0

        def next(self) -> int:
            self.number += 1
            return self.number

    source = Source.remote()
    asked, seen = source.next.remote(), []
    for _ in range(5):
        item = ray.get(asked)
        asked = source.next.remote()
        seen.append(item * item)
    assert seen == [1, 4, 9, 16, 25]


def test_mistake_get_in_a_loop() -> None:
    """Start everything, then wait: a get between two calls makes them take turns."""
    gate = bodies.Gate.remote()
    refs = [gate.pass_through.remote() for _ in range(3)]
    assert ray.get(gate.arrived.remote(3)) == 3
    ray.get(gate.open.remote())
    assert sorted(ray.get(refs)) == [1, 2, 3]


def test_mistake_get_in_the_order_of_submission() -> None:
    gate = bodies.Gate.remote()
    late = gate.pass_through.remote()
    completed = ray.util.as_completed([late, bodies.echo.remote("quick")], chunk_size=1)
    assert next(completed) == "quick"
    ray.get(gate.open.remote())
    assert list(completed) == [1]


def test_mistake_tasks_that_are_too_small() -> None:
    @ray.remote
    def double_all(numbers: list[int]) -> list[int]:
        return [2 * number for number in numbers]

    numbers = list(range(1000))
    batches = [double_all.remote(numbers[start : start + 100]) for start in range(0, 1000, 100)]
    assert [number for batch in ray.get(batches) for number in batch] == [2 * number for number in numbers]


def test_mistake_the_same_large_argument_again_and_again() -> None:
    array = np.ones(200_000)
    shared = ray.put(array)

    @ray.remote
    def total(values: Any) -> float:
        return float(values.sum())

    assert ray.get([total.remote(shared) for _ in range(5)]) == [200_000.0] * 5


def test_mistake_a_function_defined_in_a_loop() -> None:
    """One function with an argument is sent once; a new function in each round would be sent each time."""

    @ray.remote
    def power(base: int, exponent: int) -> int:
        return int(base**exponent)

    assert ray.get([power.remote(2, exponent) for exponent in range(5)]) == [1, 2, 4, 8, 16]


STATE = {"mode": "driver"}


def test_mistake_global_variables_are_not_shared() -> None:
    @ray.remote
    class Settings:
        def __init__(self) -> None:
            self.values: dict[str, str] = {}

        def set(self, name: str, value: str) -> None:
            self.values[name] = value

        def get(self, name: str) -> str:
            return self.values[name]

    @ray.remote
    def change() -> None:
        STATE["mode"] = "task"

    @ray.remote
    def change_shared(settings: Any) -> None:
        ray.get(settings.set.remote("mode", "task"))

    settings = Settings.remote()
    ray.get([change.remote(), change_shared.remote(settings)])
    assert STATE["mode"] == "driver"
    assert ray.get(settings.get.remote("mode")) == "task"


def test_mistake_a_closure_with_something_large() -> None:
    """Put it once and capture the ref: the function itself stays small."""
    table = ray.put(np.arange(300_000))

    @ray.remote
    def look_up(index: int) -> int:
        return int(ray.get(table)[index])

    assert ray.get([look_up.remote(index) for index in (0, 10, 299_999)]) == [0, 10, 299_999]


def test_mistake_returning_put() -> None:
    @ray.remote
    def wasteful() -> Any:
        return ray.put("value")

    @ray.remote
    def direct() -> str:
        return "value"

    assert ray.get(ray.get(wasteful.remote())) == ray.get(direct.remote()) == "value"


def test_mistake_waiting_for_more_refs_than_fit_beside_the_wanted_one() -> None:
    refs = [bodies.echo.remote(number) for number in range(20)]
    seen = []
    while refs:
        ready, refs = ray.wait(refs, num_returns=min(4, len(refs)))
        seen += ray.get(ready)
    assert sorted(seen) == list(range(20))


def test_refs_can_be_pickled_while_one_of_them_is_kept() -> None:
    ref = ray.put("kept")
    again = pickle.loads(pickle.dumps(ref))
    assert again == ref
    assert ray.get(again) == "kept"


def test_tasks_may_fork() -> None:
    @ray.remote
    def forked_sum(values: Any) -> int:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, str(int(values.sum())).encode())
            os._exit(0)
        os.waitpid(child, 0)
        return int(os.read(reader, 100))

    assert ray.get(forked_sum.remote(ray.put(np.ones(100_000, dtype=np.int64)))) == 100_000


def test_the_pools_of_the_standard_library() -> None:
    with ray.util.multiprocessing.Pool(2) as pool:
        assert pool.map(abs, [-1, -2, 3]) == [1, 2, 3]
        assert pool.apply(os.getpid) != os.getpid()


def test_map_and_reduce_by_tasks() -> None:
    @ray.remote
    def apply(function: Any, item: int) -> int:
        return int(function(item))

    @ray.remote
    def combine(function: Any, *items: int) -> int:
        return int(functools.reduce(function, items))

    mapped = [apply.remote(lambda item: item * 2, item) for item in range(100)]
    assert ray.get(combine.remote(operator.add, *mapped)) == 9900
    tree = [combine.remote(operator.add, *mapped[start : start + 20]) for start in range(0, 100, 20)]
    assert ray.get(combine.remote(operator.add, *tree)) == 9900


def test_a_program_follows_the_progress_of_its_tasks() -> None:
    @ray.remote
    class Progress:
        def __init__(self, total: int) -> None:
            self.total = total
            self.done: dict[int, int] = {}

        def report(self, task: int, done: int) -> None:
            self.done[task] = done

        def share(self) -> float:
            return sum(self.done.values()) / self.total

    @ray.remote
    def sample(number: int, count: int, progress: ray.actor.ActorHandle) -> int:
        progress.report.remote(number, count)
        return count

    progress = Progress.remote(40)
    samples = [sample.remote(number, 10, progress) for number in range(4)]
    assert sum(ray.get(samples)) == 40
    while ray.get(progress.share.remote()) < 1:
        continue


def test_memory_limits_how_many_tasks_run_at_once() -> None:
    half = int(ray.cluster_resources()["memory"] * 0.4)

    @ray.remote(num_cpus=0, memory=half)
    def rest() -> float:
        return ray.available_resources()["memory"]

    assert min(ray.get([rest.remote() for _ in range(10)])) >= 0


def test_a_queue_between_processes() -> None:
    queue = ray.util.queue.Queue(maxsize=100)

    @ray.remote
    def consume(items: Any) -> int:
        return int(items.get(block=True))

    consumers = [consume.remote(queue) for _ in range(2)]
    for number in range(10):
        queue.put(number)
    assert sorted(ray.get(consumers)) == [0, 1]
    assert queue.qsize() == 8


def test_mistake_a_get_that_nobody_needs() -> None:
    """Pass the ref on: a get between two tasks waits here for what the second one can wait for itself."""

    @ray.remote
    def start() -> list[int]:
        return [1, 2, 3]

    @ray.remote
    def double(numbers: list[int]) -> list[int]:
        return [2 * number for number in numbers]

    assert ray.get(double.remote(double.remote(start.remote()))) == [4, 8, 12]


SPAWNING = """
import concurrent.futures, multiprocessing
import numpy as np
import actorflow as ray

if __name__ == "__main__":
    ray.init(num_cpus=1)
    ones = ray.get(ray.put(np.ones(100_000)))
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        assert executor.submit(np.sum, ones).result() == 100_000
"""


def test_processes_that_are_spawned_take_values_of_the_store(tmp_path: Path) -> None:
    """In a process of its own: the standard library's helper process stays until that ends."""
    script = tmp_path / "spawning.py"
    script.write_text(SPAWNING)
    root = Path(__file__).resolve().parents[2]
    subprocess.run(
        [sys.executable, str(script)], check=True, timeout=60, env={**os.environ, "PYTHONPATH": str(root)}
    )
