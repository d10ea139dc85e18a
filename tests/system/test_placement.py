"""Where tasks and actors run: placement groups, nodes, labels; and what is told of what never can."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest

import actorflow as af
from actorflow.util import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from actorflow.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)
from tests.conftest import wait_until
from tests.system import bodies

pytestmark = pytest.mark.usefixtures("runtime")

DEADLINE_S = 30.0


@af.remote(num_cpus=1)
def where_am_i() -> tuple[Any, dict[str, float], list[Any], int]:
    """The group, what was given, GPUs and process of this task."""
    group = get_current_placement_group()
    return group, af.get_runtime_context().get_assigned_resources(), af.get_gpu_ids(), os.getpid()


@af.remote(num_cpus=1)
def nest(depth: int) -> list[Any]:
    """The groups of this task and of those nested in it."""
    inner = af.get(nest.remote(depth - 1)) if depth else []
    return [get_current_placement_group(), *inner]


@af.remote(num_cpus=1)
class Member:
    def group(self) -> Any:
        return get_current_placement_group()

    def child(self) -> Any:
        return af.get(where_am_i.remote())[0]


def inside(group: Any, index: int = -1, capture: bool = False) -> PlacementGroupSchedulingStrategy:
    return PlacementGroupSchedulingStrategy(group, index, capture)


def wait_until_free(cpus: float) -> None:
    wait_until(lambda: af.available_resources()["CPU"] == cpus, DEADLINE_S, f"{cpus} CPUs are free")


# -- placement groups


@pytest.mark.parametrize("strategy", ["PACK", "SPREAD", "STRICT_PACK"])
def test_a_group_is_reserved_used_and_removed(strategy: str) -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 2, "GPU": 1}], strategy=strategy)
    assert af.get(group.ready()) == group
    assert group.wait(5)
    assert group.bundle_specs == [{"CPU": 1}, {"CPU": 2, "GPU": 1}]
    assert placement_group_table(group)["state"] == "CREATED"
    wait_until_free(1)
    found, given, _, _ = af.get(where_am_i.options(scheduling_strategy=inside(group, 0)).remote())
    assert (found, given) == (group, {"CPU": 1.0})
    assert found.bundle_specs == group.bundle_specs
    both = where_am_i.options(scheduling_strategy=inside(group, 1), num_cpus=2, num_gpus=1).remote()
    assert af.get(both)[1] == {"CPU": 2.0, "GPU": 1.0}
    assert len(af.get(both)[2]) == 1
    assert af.cluster_resources()["CPU"] == 4
    remove_placement_group(group)
    remove_placement_group(group)
    wait_until_free(4)
    facts = placement_group_table()[group.id.hex()]
    assert (facts["state"], facts["strategy"]) == ("REMOVED", strategy)


def test_what_is_reserved_is_not_lent_to_others() -> None:
    group = placement_group([{"CPU": 3}])
    assert group.wait(5)
    gate = bodies.Gate.remote()

    @af.remote(num_cpus=1)
    def outside(gate: Any) -> int:
        number: int = bodies_wait(gate)
        return number

    refs = [outside.remote(gate) for _ in range(3)]
    af.get(gate.arrived.remote(1))
    members = [where_am_i.options(scheduling_strategy=inside(group)).remote() for _ in range(20)]
    assert {found for found, _, _, _ in af.get(members)} == {group}
    assert af.get(gate.arrived.remote(1)) == 1  # one CPU is left beside the group
    af.get(gate.open.remote())
    assert sorted(af.get(refs)) == [1, 2, 3]
    remove_placement_group(group)
    wait_until_free(4)


def bodies_wait(gate: Any) -> int:
    """Passes the gate without being blocked in a get, which would give the CPU back."""
    ref = gate.pass_through.remote()
    while not ref.is_done():
        os.sched_yield()
    number: int = af.get(ref)
    return number


def test_a_bundle_runs_only_what_fits_into_it() -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 1}])
    gate = bodies.Gate.remote()

    @af.remote(num_cpus=1)
    def hold(gate: Any) -> int:
        return bodies_wait(gate)

    refs = [hold.options(scheduling_strategy=inside(group, 0)).remote(gate) for _ in range(2)]
    af.get(gate.arrived.remote(1))
    assert af.get(where_am_i.options(scheduling_strategy=inside(group, 1)).remote())[0] == group
    assert af.get(gate.arrived.remote(1)) == 1
    af.get(gate.open.remote())
    assert sorted(af.get(refs)) == [1, 2]
    remove_placement_group(group)
    wait_until_free(4)


def test_a_group_waits_for_its_resources_and_calls_wait_for_the_group() -> None:
    first = placement_group([{"CPU": 3}])
    assert first.wait(5)
    second = placement_group([{"CPU": 2}, {"CPU": 1}])
    ref = where_am_i.options(scheduling_strategy=inside(second)).remote()
    member = Member.options(scheduling_strategy=inside(second, 0)).remote()
    assert not second.wait(0.05)
    assert placement_group_table(second)["state"] == "PENDING"
    assert af.wait([ref], timeout=0)[0] == []
    remove_placement_group(first)
    assert second.wait(DEADLINE_S)
    assert af.get(ref)[0] == second
    assert af.get(member.group.remote()) == second
    remove_placement_group(second)
    with pytest.raises(af.ActorDiedError, match="placement group was removed"):
        af.get(member.group.remote())
    wait_until_free(4)


def test_removal_ends_what_runs_and_what_waits() -> None:
    group = placement_group([{"CPU": 1}])
    gate = bodies.Gate.remote()

    @af.remote(num_cpus=1, max_retries=0)
    def hold(gate: Any) -> int:
        return bodies_wait(gate)

    held = hold.options(scheduling_strategy=inside(group))
    refs = [held.remote(gate) for _ in range(3)]
    af.get(gate.arrived.remote(1))
    remove_placement_group(group)
    for ref in refs:
        with pytest.raises((af.WorkerCrashedError, af.PlacementGroupError), match="removed"):
            af.get(ref, timeout=DEADLINE_S)
    for _ in range(2):
        with pytest.raises(af.PlacementGroupError, match="was removed: by process"):
            af.get(held.remote(gate), timeout=DEADLINE_S)
    with pytest.raises(af.PlacementGroupError, match="was removed"):
        group.wait(DEADLINE_S)
    af.get(gate.open.remote())  # for the call of the one that was killed
    wait_until_free(4)


def test_children_are_captured_only_where_that_is_asked_for() -> None:
    group = placement_group([{"CPU": 1}])
    captured = nest.options(scheduling_strategy=inside(group, 0, capture=True)).remote(2)
    assert af.get(captured, timeout=DEADLINE_S) == [group] * 3  # on one CPU: who waits gives it back
    plain = nest.options(scheduling_strategy=inside(group, 0)).remote(1)
    assert af.get(plain, timeout=DEADLINE_S) == [group, None]
    member = Member.options(num_cpus=0, scheduling_strategy=inside(group, 0, capture=True)).remote()
    assert af.get(member.child.remote(), timeout=DEADLINE_S) == group
    assert get_current_placement_group() is None
    del member
    remove_placement_group(group)
    wait_until_free(4)


def test_gpus_of_bundles() -> None:
    group = placement_group([{"GPU": 1, "CPU": 1}, {"GPU": 0.5, "CPU": 1}, {"GPU": 0.5, "CPU": 1}])
    assert group.wait(DEADLINE_S)
    whole = where_am_i.options(num_gpus=1, scheduling_strategy=inside(group, 0))
    half = where_am_i.options(num_gpus=0.5, scheduling_strategy=inside(group, 2))
    (first,), (second,) = af.get(whole.remote())[2], af.get(half.remote())[2]
    assert {first, second} == {0, 1}
    remove_placement_group(group)
    wait_until_free(4)
    assert af.available_resources()["GPU"] == 2


def test_names_of_groups() -> None:
    group = placement_group([{"CPU": 1}], name="team")
    assert get_placement_group("team") == group
    assert get_placement_group("team").bundle_specs == [{"CPU": 1}]
    with pytest.raises(ValueError, match=r"named 'teams'; did you mean 'team'\?"):
        get_placement_group("teams")
    with pytest.raises(af.PlacementGroupError, match="has that name already"):
        placement_group([{"CPU": 1}], name="team")
    remove_placement_group(group)
    with pytest.raises(ValueError, match="no placement group named 'team'"):
        get_placement_group("team")
    wait_until_free(4)


@pytest.mark.parametrize(
    ("bundles", "strategy", "why"),
    [
        ([{"CPU": 1}, {"CPU": 1}], "STRICT_SPREAD", "needs 2 nodes"),
        ([{"CPU": 3}, {"CPU": 2}], "PACK", "1 CPU missing"),
        ([{"magic": 1}], "SPREAD", "1 magic missing"),
        ([{"GPU": 0.7}, {"GPU": 0.7}, {"GPU": 0.6}], "PACK", "do not fit on the 2 devices"),
    ],
)
def test_what_can_never_be_reserved_says_so(bundles: list[Any], strategy: str, why: str) -> None:
    group = placement_group(bundles, strategy=strategy)
    with pytest.raises(af.PlacementGroupError, match=why):
        af.get(group.ready(), timeout=DEADLINE_S)
    with pytest.raises(af.PlacementGroupError, match=why):
        group.wait(DEADLINE_S)
    assert placement_group_table(group)["state"] == "INFEASIBLE"
    member = Member.options(scheduling_strategy=inside(group)).remote()
    with pytest.raises(af.ActorUnschedulableError, match=why):
        af.get(member.group.remote(), timeout=DEADLINE_S)
    remove_placement_group(group)


def test_what_no_bundle_has_room_for() -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 2}])
    big = where_am_i.options(num_cpus=2, scheduling_strategy=inside(group, 0))
    with pytest.raises(af.PlacementGroupError, match="bundle 0 does not"):
        af.get(big.remote())
    assert af.get(where_am_i.options(num_cpus=2, scheduling_strategy=inside(group)).remote())[0] == group
    with pytest.raises(af.PlacementGroupError, match="no bundle"):
        af.get(where_am_i.options(num_gpus=1, scheduling_strategy=inside(group)).remote())
    remove_placement_group(group)
    wait_until_free(4)


def test_wrong_arguments() -> None:
    for bundles, error in (
        ([], ValueError),
        ("CPU", TypeError),
        ([5], TypeError),
        ([{}], ValueError),
        ([{"CPU": 0}], ValueError),
        ([{"CPU": -1}], ValueError),
        ([{"CPU": "1"}], TypeError),
    ):
        with pytest.raises(error, match="bundle"):
            placement_group(bundles)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="STRICT_PACK"):
        placement_group([{"CPU": 1}], strategy="TIGHT")
    with pytest.raises(ValueError, match="detached"):
        placement_group([{"CPU": 1}], lifetime="long")
    with pytest.raises(TypeError, match="PlacementGroup"):
        PlacementGroupSchedulingStrategy("group")  # type: ignore[arg-type]
    group = placement_group([{"CPU": 1}])
    for index in (-2, 1):
        with pytest.raises(ValueError, match=r"from -1 \(any\) to 0"):
            PlacementGroupSchedulingStrategy(group, index)
    remove_placement_group(group)
    wait_until_free(4)


# -- nodes and labels


def test_a_task_and_an_actor_on_a_certain_node() -> None:
    own = NodeAffinitySchedulingStrategy(af.get_runtime_context().get_node_id())
    other = NodeAffinitySchedulingStrategy("f" * 32)
    rather = NodeAffinitySchedulingStrategy("f" * 32, soft=True)
    for strategy in (own, rather, "SPREAD"):
        assert af.get(where_am_i.options(scheduling_strategy=strategy).remote())[0] is None
        assert af.get(Member.options(scheduling_strategy=strategy).remote().group.remote()) is None
    with pytest.raises(af.TaskUnschedulableError, match="to run on node ffff"):
        af.get(where_am_i.options(scheduling_strategy=other).remote())
    refs = where_am_i.options(scheduling_strategy=other, num_returns=2).remote()
    assert len(refs) == 2
    lost = Member.options(scheduling_strategy=other).remote()
    with pytest.raises(af.ActorUnschedulableError, match="to run on node ffff"):
        af.get(lost.group.remote())


def test_what_needs_more_than_there_is_is_told_to_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    hungry = where_am_i.options(resources={"magic": 1})
    with caplog.at_level(logging.WARNING, "actorflow"):
        refs = [hungry.remote() for _ in range(3)]
    assert [record.getMessage() for record in caplog.records] == [
        "task 'where_am_i' cannot run on this node, and waits: "
        "it asks for 1 CPU, 1 magic, and the node has only 0 magic in all: 1 magic missing"
    ]
    assert af.wait(refs, timeout=0)[0] == []


def test_label_matches() -> None:
    hard = {"zone": In("a", "b"), "disk": Exists(), "gone": DoesNotExist(), "tier": NotIn("x")}
    wrong = NodeLabelSchedulingStrategy(hard)
    with pytest.raises(af.TaskUnschedulableError, match=r"label 'zone' is in\('a', 'b'\)"):
        af.get(where_am_i.options(scheduling_strategy=wrong).remote())
    right = NodeLabelSchedulingStrategy({"gone": DoesNotExist(), "tier": NotIn("x")}, soft={"zone": In("a")})
    assert af.get(where_am_i.options(scheduling_strategy=right).remote())[0] is None
    with pytest.raises(af.TaskUnschedulableError, match="label 'zone'"):
        af.get(where_am_i.options(label_selector={"zone": "a"}).remote())
    assert af.get(where_am_i.options(label_selector={"zone": "!in(a, b)"}).remote())[0] is None
    with pytest.raises(ValueError, match=r"in\(a, b\)"):
        where_am_i.options(label_selector={"zone": "in(a"})
    with pytest.raises(TypeError, match="NotIn, Exists"):
        NodeLabelSchedulingStrategy({"zone": "a"})  # type: ignore[dict-item]
