"""Ray Core's ideas about tasks, as small programs of a port: the import is all that is actorflow's."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

import actorflow as ray
from tests.system import bodies

pytestmark = pytest.mark.usefixtures("runtime")


def test_a_function_becomes_a_task() -> None:
    @ray.remote
    def area(width: float, height: float) -> float:
        return width * height

    ref = area.remote(3, height=4)
    assert isinstance(ref, ray.ObjectRef)
    assert ray.get(ref) == 12
    assert area.local(2, 5) == 10


def test_tasks_run_beside_each_other() -> None:
    meeting = bodies.Gate.remote()

    @ray.remote
    def attend() -> int:
        number = meeting.pass_through.remote()
        ray.get(meeting.arrived.remote(3))
        ray.get(meeting.open.remote())
        return int(ray.get(number))

    assert sorted(ray.get([attend.remote() for _ in range(3)])) == [1, 2, 3]


def test_what_a_task_needs_is_said_with_the_decorator_or_the_call() -> None:
    @ray.remote(num_cpus=2)
    def granted() -> dict[str, float]:
        return ray.get_runtime_context().get_assigned_resources()

    assert ray.get(granted.remote())["CPU"] == 2
    assert ray.get(granted.options(num_cpus=0.5).remote())["CPU"] == 0.5
    with pytest.raises(TypeError, match="did you mean 'num_cpus'"):
        granted.options(num_cpu=1)


def test_results_are_passed_on_as_refs() -> None:
    @ray.remote
    def read() -> list[int]:
        return [3, 1, 2]

    @ray.remote
    def in_order(numbers: list[int]) -> list[int]:
        return sorted(numbers)

    @ray.remote
    def is_ref(inside: list[Any]) -> bool:
        return isinstance(inside[0], ray.ObjectRef)

    numbers = read.remote()
    assert ray.get(in_order.remote(numbers)) == [1, 2, 3]
    assert ray.get(is_ref.remote([numbers]))


def test_waiting_for_some() -> None:
    gate = bodies.Gate.remote()
    late = gate.pass_through.remote()
    quick = [bodies.echo.remote(number) for number in range(3)]
    ready, rest = ray.wait([late, *quick], num_returns=3)
    assert ray.get(ready) == [0, 1, 2]
    assert rest == [late]
    ready, rest = ray.wait([late], timeout=0)
    assert not ready
    ray.get(gate.open.remote())
    assert ray.get(rest) == [1]


def test_several_results() -> None:
    @ray.remote(num_returns=3)
    def split(text: str) -> list[str]:
        return text.split()

    first, _, last = split.remote("one two three")
    assert ray.get([first, last]) == ["one", "three"]
    assert len(split.options(num_returns=2).remote("left right")) == 2


def test_a_task_can_be_cancelled() -> None:
    gate = bodies.Gate.remote()

    @ray.remote
    def endless() -> None:
        ray.get(gate.open.remote())
        time.sleep(600)

    ref = endless.remote()
    ray.get(gate.pass_through.remote())
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref)


def test_tasks_start_tasks() -> None:
    @ray.remote
    def factorial(number: int) -> int:
        return 1 if number < 2 else number * int(ray.get(factorial.remote(number - 1)))

    assert ray.get(factorial.remote(12)) == 479001600


def test_a_task_knows_where_it_runs() -> None:
    @ray.remote
    def who() -> tuple[int, str, Any]:
        context = ray.get_runtime_context()
        return os.getpid(), context.get_job_id(), context.get_task_name()

    pid, job, name = ray.get(who.remote())
    assert pid != os.getpid()
    assert job == ray.get_runtime_context().get_job_id()
    assert "who" in name


def test_an_environment_for_a_task() -> None:
    @ray.remote(runtime_env={"env_vars": {"GUIDE_SETTING": "on"}})
    def setting() -> str | None:
        return os.environ.get("GUIDE_SETTING")

    assert ray.get(setting.remote()) == "on"
    assert "GUIDE_SETTING" not in os.environ
