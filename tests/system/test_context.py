"""What code can learn of itself: the runtime context, its GPUs, and what the node has and has free."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

import actorflow as af
from actorflow.util import placement_group, remove_placement_group
from actorflow.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from tests.conftest import wait_until
from tests.system import bodies

pytestmark = pytest.mark.usefixtures("runtime")

DEADLINE_S = 30.0


def facts() -> dict[str, Any]:
    context = af.get_runtime_context()
    return {
        **context.get(),
        "name": context.get_task_name(),
        "resources": context.get_assigned_resources(),
        "attempt": context.get_attempt_number(),
        "gpus": af.get_gpu_ids(),
        "accelerators": context.get_accelerator_ids(),
        "actor_name": context.get_actor_name(),
    }


@af.remote(num_cpus=0.5, num_gpus=1)
def task_facts() -> dict[str, Any]:
    return facts()


@af.remote(num_cpus=0, resources={})
class Looker:
    def __init__(self) -> None:
        self.born = af.get_runtime_context().get_task_name()

    def facts(self) -> dict[str, Any]:
        return {**facts(), "born": self.born, "again": self.context().was_current_actor_reconstructed}

    def context(self) -> Any:
        return af.get_runtime_context()

    def own_handle(self) -> Any:
        return af.get_runtime_context().current_actor

    def in_a_thread(self) -> list[Any]:
        found: list[Any] = []

        def look() -> None:
            context = af.get_runtime_context()
            found.extend([context.get_task_id(), context.get_actor_id()])

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        return found


@af.remote(num_cpus=0)
class AsyncLooker:
    async def task_id(self, pause: int) -> str | None:
        before = af.get_runtime_context().get_task_id()
        for _ in range(pause):
            await asyncio.sleep(0)
        assert af.get_runtime_context().get_task_id() == before
        return before


def test_a_driver(runtime: af.Runtime) -> None:
    found = facts()
    assert found["node_id"] == runtime.node_id
    assert found["namespace"] == runtime.namespace
    assert (found["resources"], found["gpus"], found["name"]) == ({}, [], None)
    assert "task_id" not in found
    assert "actor_id" not in found
    with pytest.raises(RuntimeError, match="hosts none"):
        _ = af.get_runtime_context().was_current_actor_reconstructed
    with pytest.raises(RuntimeError, match="hosts none"):
        _ = af.get_runtime_context().current_actor


def test_a_task() -> None:
    ref = task_facts.remote()
    found, own = af.get(ref), af.get_runtime_context()
    assert found["task_id"] == ref.hex()
    assert found["job_id"] == own.get_job_id()
    assert found["node_id"] == own.get_node_id()
    assert found["worker_id"] != own.get_worker_id()
    assert found["name"] == "task_facts"
    assert found["resources"] == {"CPU": 0.5, "GPU": 1.0}
    assert found["attempt"] == 0
    assert found["gpus"] in ([0], [1])
    assert found["accelerators"] == {"GPU": [str(found["gpus"][0])]}
    assert found["actor_name"] is None


def environment_facts() -> dict[str, Any]:
    context = af.get_runtime_context()
    return {
        "env": context.runtime_env,
        "text": context.get_runtime_env_string(),
        "group": context.get_placement_group_id(),
        "captures": context.should_capture_child_tasks_in_placement_group,
        "labels": context.get_node_labels(),
        "ids": context.get(),
    }


def test_the_environment_and_the_placement_group() -> None:
    own = environment_facts()
    assert (own["env"], own["text"], own["group"], own["captures"]) == ({}, "{}", None, False)
    assert own["labels"] == af.nodes()[0]["Labels"]
    group = placement_group([{"CPU": 1}])
    env = {"env_vars": {"COLOUR": "green"}}
    task = af.remote(environment_facts)
    for captures in (True, False):
        strategy = PlacementGroupSchedulingStrategy(group, 0, captures)
        found = af.get(task.options(scheduling_strategy=strategy, runtime_env=env).remote())
        assert found["env"] == af.RuntimeEnv(**env) == json.loads(found["text"])
        assert (found["group"], found["captures"]) == (group.id.hex(), captures)
        assert found["ids"]["placement_group_id"] == group.id.hex()
    remove_placement_group(group)


@af.remote(max_concurrency=2, num_cpus=0)
class Patient:
    """Its threads cannot be interrupted."""

    def wait_until_cancelled(self, gate: Any) -> bool:
        context = af.get_runtime_context()
        before = context.is_canceled()
        gate.pass_through.remote()
        wait_until(context.is_canceled, DEADLINE_S, "cancelled")
        return before


def test_code_that_nothing_interrupts_can_ask_whether_it_is_cancelled() -> None:
    gate, patient = bodies.Gate.remote(), Patient.remote()
    ref = patient.wait_until_cancelled.remote(gate)
    af.get(gate.arrived.remote(1))
    af.cancel(ref)
    assert af.get(ref) is False
    af.get(gate.open.remote())
    with pytest.raises(RuntimeError, match="no call runs"):
        af.get_runtime_context().is_canceled()


def test_an_actor() -> None:
    looker = Looker.options(num_gpus=0.5, name="looker").remote()
    found = af.get(looker.facts.remote())
    assert found["actor_name"] == "looker"
    assert found["name"] == "Looker.facts"
    assert found["born"] == "Looker.__init__"
    assert found["resources"] == {"GPU": 0.5}
    assert found["again"] is False
    assert af.get(looker.in_a_thread.remote()) == [None, found["actor_id"]]
    own = af.get(looker.own_handle.remote())
    assert own == looker
    assert af.get(own.facts.remote())["actor_id"] == found["actor_id"]


def test_coroutines_each_know_their_call() -> None:
    looker = AsyncLooker.remote()
    refs = [looker.task_id.remote(number % 5) for number in range(50)]
    assert af.get(refs) == [ref.hex() for ref in refs]


def test_what_the_node_has_and_has_free() -> None:
    assert af.cluster_resources()["CPU"] == 4
    (node,) = af.nodes()
    assert node["NodeID"] == af.get_runtime_context().get_node_id()
    assert node["Alive"] is True
    assert node["Resources"] == af.cluster_resources()
    gate = bodies.Gate.remote()

    @af.remote(num_cpus=2)
    def wait_awake(gate: Any) -> None:
        arrived = threading.Event()
        ref = gate.pass_through.remote()
        while not ref.is_done():  # not blocked in a get: that would give the CPUs back
            arrived.wait(0.001)

    ref = wait_awake.remote(gate)
    af.get(gate.arrived.remote(1))
    assert af.available_resources()["CPU"] == 2
    af.get(gate.open.remote())
    af.get(ref)
    wait_until(lambda: af.available_resources()["CPU"] == 4, DEADLINE_S, "its CPUs are back")
