"""Ray Core's ideas about placing: groups of resources that are set aside together, and strategies by object."""

from __future__ import annotations

import pytest

import actorflow as ray
from actorflow.util.placement_group import placement_group, remove_placement_group
from actorflow.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

DEADLINE_S = 30.0

pytestmark = pytest.mark.usefixtures("runtime")


@ray.remote(num_cpus=1)
def node() -> str:
    return ray.get_runtime_context().get_node_id()


def test_a_group_sets_resources_aside_and_gives_them_back() -> None:
    before = ray.available_resources()["CPU"]
    group = placement_group([{"CPU": 1}, {"CPU": 2}], strategy="PACK")
    assert group.wait(DEADLINE_S)
    assert ray.available_resources()["CPU"] == before - 3
    inside = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=1)
    here = ray.get_runtime_context().get_node_id()
    assert ray.get(node.options(num_cpus=2, scheduling_strategy=inside).remote()) == here
    remove_placement_group(group)


def test_a_task_goes_to_the_node_that_it_names() -> None:
    here = ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(node_id=here, soft=False)
    assert ray.get(node.options(scheduling_strategy=strategy).remote()) == here
    assert ray.get(node.options(scheduling_strategy="SPREAD").remote()) == here
