"""Tasks: what a call gives, how arguments and results travel, nesting, several returns, resources."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import actorflow as af
from tests.conftest import wait_until
from tests.system import bodies

DEADLINE_S = 30.0

pytestmark = pytest.mark.usefixtures("runtime")


def test_a_call_gives_a_ref_and_get_its_value() -> None:
    ref = bodies.add.remote(1, 2)
    assert isinstance(ref, af.ObjectRef)
    assert af.get(ref) == 3
    assert af.get(ref) == 3
    assert ref.done()


def test_calling_is_the_same_as_remote() -> None:
    assert af.get(bodies.add(1, right=2)) == 3


def test_local_runs_here() -> None:
    assert bodies.process_id.local() == os.getpid()
    assert af.get(bodies.process_id.remote()) != os.getpid()


def test_the_decorated_function_keeps_its_name_and_doc() -> None:
    @af.remote
    def documented() -> None:
        """What it does."""

    assert documented.__name__ == "documented"
    assert documented.__doc__ == "What it does."
    assert "documented" in repr(documented)


@pytest.mark.parametrize(
    "value",
    [None, True, 0, 1.5, "text", b"bytes", bytearray(b"x"), (1, [2, {"a": 3}]), {1, 2}, range(3), Ellipsis],
    ids=repr,
)
def test_values_come_back_as_they_went(value: Any) -> None:
    returned = af.get(bodies.echo.remote(value))
    assert returned == value
    assert type(returned) is type(value)


def test_keywords_and_defaults() -> None:
    @af.remote
    def collect(first: int, *rest: int, named: str = "default", **others: Any) -> Any:
        return first, rest, named, others

    assert af.get(collect.remote(1)) == (1, (), "default", {})
    assert af.get(collect.remote(1, 2, 3, named="x", more=4)) == (1, (2, 3), "x", {"more": 4})


def test_a_function_defined_in_a_function_travels_with_what_it_captured() -> None:
    factor = 7

    @af.remote
    def times(number: int) -> int:
        return number * factor

    assert af.get([times.remote(number) for number in range(4)]) == [0, 7, 14, 21]


def test_a_lambda_is_a_function() -> None:
    assert af.get(af.remote(lambda x: x + 1).remote(1)) == 2


def test_top_level_refs_become_values_and_nested_ones_stay() -> None:
    @af.remote
    def kinds(plain: Any, nested: list[Any], *, named: Any) -> tuple[bool, bool, bool]:
        return (
            isinstance(plain, af.ObjectRef),
            isinstance(nested[0], af.ObjectRef),
            isinstance(named, af.ObjectRef),
        )

    ref = bodies.echo.remote(1)
    assert af.get(kinds.remote(ref, [ref], named=ref)) == (False, True, False)


def test_chains_need_nobody_to_wait() -> None:
    ref = bodies.echo.remote(0)
    for _ in range(100):
        ref = bodies.add.remote(ref, 1)
    assert af.get(ref) == 100


def test_a_call_waits_for_all_its_arguments() -> None:
    gate = bodies.Gate.remote()
    late = gate.pass_through.remote()
    total = bodies.add.remote(late, bodies.echo.remote(10))
    assert af.wait([total], timeout=0) == ([], [total])
    af.get(gate.open.remote())
    assert af.get(total) == 11


def test_nested_tasks_deeper_than_there_are_cpus() -> None:
    @af.remote
    def depth(levels: int) -> int:
        return 0 if levels == 0 else 1 + int(af.get(depth.remote(levels - 1)))

    assert af.get(depth.remote(12)) == 12


def test_many_parents_each_waiting_for_children() -> None:
    @af.remote
    def parent(number: int) -> int:
        return sum(af.get([bodies.echo.remote(number) for _ in range(3)]))

    assert af.get([parent.remote(number) for number in range(40)]) == [3 * number for number in range(40)]


def test_threads_of_a_task_wait_for_children_one_by_one() -> None:
    child = bodies.echo.options(num_cpus=4)

    @af.remote(num_cpus=4)
    def parent() -> list[int]:
        with ThreadPoolExecutor(4) as threads:
            return list(threads.map(lambda number: af.get(child.remote(number)), range(8)))

    assert af.get(parent.remote(), timeout=DEADLINE_S) == list(range(8))


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_num_returns(count: int) -> None:
    @af.remote(num_returns=count)
    def values() -> Any:
        return tuple(range(count)) if count != 1 else 0

    refs = values.remote()
    if count == 0:
        assert refs is None
    elif count == 1:
        assert af.get(refs) == 0
    else:
        assert af.get(refs) == list(range(count))


def test_num_returns_by_options_and_from_any_iterable() -> None:
    @af.remote
    def letters() -> Any:
        return iter("abc")

    assert af.get(letters.options(num_returns=3).remote()) == ["a", "b", "c"]


@pytest.mark.parametrize(("returned", "error"), [((1, 2, 3), ValueError), (1, TypeError)])
def test_a_result_that_does_not_fit_num_returns(returned: Any, error: type[Exception]) -> None:
    first, second = bodies.echo.options(num_returns=2).remote(returned)
    for ref in (first, second):
        with pytest.raises(error, match="num_returns=2"):
            af.get(ref)


def test_a_thousand_tasks() -> None:
    refs = [bodies.echo.remote(number) for number in range(1000)]
    assert af.get(refs) == list(range(1000))


def test_tasks_run_at_once_as_far_as_there_are_cpus() -> None:
    gate = bodies.Gate.remote()

    @af.remote
    def visit(gate: Any) -> int:
        return int(af.get(gate.pass_through.remote()))

    refs = [visit.remote(gate) for _ in range(4)]
    assert af.get(gate.arrived.remote(4)) == 4
    af.get(gate.open.remote())
    assert sorted(af.get(refs)) == [1, 2, 3, 4]


def test_custom_resources_limit_and_what_no_node_has_never_runs() -> None:
    assert af.cluster_resources()["CPU"] == 4
    impossible = bodies.echo.options(resources={"unicorn": 1}).remote(1)
    assert af.wait([impossible], timeout=0.2) == ([], [impossible])


def test_cpus_of_running_tasks_are_taken() -> None:
    gate = bodies.Gate.remote()

    @af.remote(num_cpus=3)
    async def hold(gate: Any) -> None:
        await gate.pass_through()

    ref = hold.remote(gate)
    af.get(gate.arrived.remote(1))
    wait_until(lambda: af.available_resources()["CPU"] == 1, DEADLINE_S, "three of four CPUs are taken")
    af.get(gate.open.remote())
    af.get(ref)


def test_gpus_are_assigned_to_tasks_and_actors() -> None:
    gate = bodies.Gate.remote()

    @af.remote(num_cpus=0, num_gpus=1)
    def devices(gate: Any) -> str:
        af.get(gate.pass_through.remote())
        return os.environ["CUDA_VISIBLE_DEVICES"]

    @af.remote(num_cpus=0, num_gpus=0.5)
    class Half:
        def devices(self) -> str:
            return os.environ["CUDA_VISIBLE_DEVICES"]

    @af.remote
    def none() -> str | None:
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    refs = [devices.remote(gate) for _ in range(2)]
    af.get(gate.arrived.remote(2))
    assert af.get(none.remote()) == os.environ.get("CUDA_VISIBLE_DEVICES")
    af.get(gate.open.remote())
    assert sorted(af.get(refs)) == ["0", "1"]
    halves = [Half.remote() for _ in range(2)]
    first, second = af.get([half.devices.remote() for half in halves])
    assert first == second, "fractions share one device"


def test_refs_can_be_returned_and_passed_on() -> None:
    @af.remote
    def make() -> Any:
        return [bodies.echo.remote("inner")]

    (inner,) = af.get(make.remote())
    assert af.get(inner) == "inner"


@af.remote(max_retries=0)
def tell_name(end: str = "") -> str | None:
    if end == "raise":
        raise ValueError(end)
    if end == "die":
        os._exit(1)
    return af.get_runtime_context().get_task_name()


def test_a_name_of_its_own_is_shown() -> None:
    named = tell_name.options(name="nice")
    assert af.get([tell_name.remote(), named.remote(), tell_name.remote()]) == [
        "tell_name",
        "nice",
        "tell_name",
    ]
    with pytest.raises(af.TaskError, match="'nice' raised ValueError"):
        af.get(named.remote("raise"))
    with pytest.raises(af.WorkerCrashedError, match="worker of 'nice' died"):
        af.get(named.remote("die"))


def test_a_remote_function_is_an_argument_and_a_captured_name() -> None:
    @af.remote
    def apply(function: Any, value: int) -> Any:
        return af.get([function.remote(value), bodies.echo.remote(value)])

    assert af.get(apply.remote(bodies.echo, 5)) == [5, 5]


def test_a_task_captures_a_ref_and_a_handle() -> None:
    ref, counter = af.put(20), bodies.Counter.remote()

    @af.remote
    def use() -> int:
        return int(af.get(ref)) + int(af.get(counter.add.remote()))

    assert af.get(use.remote()) == 21


def test_async_tasks_run_many_at_once_on_one_worker() -> None:
    gate = bodies.Gate.remote()

    @af.remote
    async def visit(gate: Any) -> tuple[int, int]:
        return await gate.pass_through(), os.getpid()

    refs = [visit.remote(gate) for _ in range(20)]
    af.get(gate.arrived.remote(20))
    af.get(gate.open.remote())
    results = af.get(refs)
    assert sorted(number for number, _ in results) == list(range(1, 21))
    assert len({pid for _, pid in results}) <= 4


def test_async_and_sync_tasks_of_one_shape_do_not_hold_each_other_up() -> None:
    gate = bodies.Gate.remote()

    @af.remote(num_cpus=0.5)
    async def wait_at(gate: Any) -> int:
        return int(await gate.pass_through())

    @af.remote(num_cpus=0.5)
    def open_it(gate: Any) -> None:
        af.get(gate.open.remote())

    waiting = [wait_at.remote(gate) for _ in range(7)]  # on as many workers, they leave half a CPU
    af.get(gate.arrived.remote(7))
    af.get([open_it.remote(gate) for _ in range(8)])
    assert len(af.get(waiting)) == 7


def test_runtime_errors_in_options_are_told_at_once() -> None:
    with pytest.raises(TypeError, match="num_cpu"):
        af.remote(num_cpu=1)(lambda: None)
    with pytest.raises(ValueError, match="num_cpus"):
        bodies.echo.options(num_cpus=-1)
    with pytest.raises(ValueError, match="num_returns"):
        bodies.echo.options(num_returns="stream")


SCRIPT = """
import dataclasses, enum
import actorflow as af

class Color(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Point:
    x: int
    color: Color = Color.RED

class Refused(Exception):
    def __init__(self, point):
        super().__init__("refused")
        self.point = point

@af.remote
def move(point):
    return dataclasses.replace(point, x=point.x + 1)

@af.remote
def fibonacci(n):
    return n if n < 2 else sum(af.get([fibonacci.remote(n - 1), fibonacci.remote(n - 2)]))

@af.remote
def refuse(point):
    raise Refused(point)

@af.remote
class Keeper:
    def point(self):
        return Point(0)

    def another(self):
        return Keeper.remote()

if __name__ == "__main__":
    with af.init(num_cpus=2):
        point = af.get(move.remote(Point(1)))
        assert type(point) is Point and point == Point(2) and point.color is Color.RED, point
        assert af.get(fibonacci.remote(8)) == 21
        try:
            af.get(refuse.remote(Point(5)))
        except Refused as error:
            assert type(error.point) is Point and error.point == Point(5), error
        keeper = Keeper.remote()
        assert type(af.get(keeper.point.remote())) is Point
        assert type(af.get(af.get(keeper.another.remote()).point.remote())) is Point

        @af.remote
        def through_a_global():
            return af.get(keeper.point.remote())

        assert af.get(through_a_global.remote()) == Point(0)
    print("fine")
"""


def test_what_a_script_defines_travels_by_value_and_comes_back_as_the_same_classes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.stdout == "fine\n", done.stdout + done.stderr
