"""Options: defaults, normal forms, merging, shapes, and what is refused with which words."""

from __future__ import annotations

import dataclasses
import pickle
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorflow.options import (
    ActorOptions,
    InitOptions,
    MethodOptions,
    Options,
    SchedulingStrategy,
    TaskOptions,
)

RECORDS: list[type[Options]] = [TaskOptions, ActorOptions, MethodOptions, InitOptions]
ROWS = [(record, row) for record in RECORDS for row in dataclasses.fields(record)]


class Anywhere(SchedulingStrategy):
    pass


# For each option: what is accepted and its normal form; what is of a wrong type; what is impossible.
ACCEPTED: dict[str, list[tuple[Any, Any]]] = {
    "num_cpus": [
        (0, 0),
        (2, 2),
        (0.5, 0.5),
        (1.0, 1),
        (0.0001, 0.0001),
        (Fraction(1, 4), 0.25),
        (np.float64(0.3), 0.3),
    ],
    "num_gpus": [(0, 0), (0.5, 0.5), (3, 3)],
    "memory": [(0, 0), (10**9, 10**9), (1e9, 10**9), (np.int64(5), 5)],
    "resources": [({}, ()), ({"b": 1, "a": 0.5}, (("a", 0.5), ("b", 1)))],
    "accelerator_type": [("A100", "A100")],
    "scheduling_strategy": [("DEFAULT", "DEFAULT"), ("SPREAD", "SPREAD")],
    "label_selector": [({"zone": "a"}, (("zone", "a"),))],
    "runtime_env": [({}, ""), ({"env_vars": {"B": "1", "A": "2"}}, '{"env_vars": {"A": "2", "B": "1"}}')],
    "num_returns": [(0, 0), (3, 3), ("streaming", "streaming"), ("dynamic", "dynamic")],
    "max_retries": [(0, 0), (-1, -1), (7, 7)],
    "retry_exceptions": [
        (True, True),
        ([ValueError], (ValueError,)),
        ((OSError, KeyError), (OSError, KeyError)),
    ],
    "max_calls": [(0, 0), (5, 5)],
    "name": [("a name", "a name")],
    "timeout_s": [(1, 1.0), (0.5, 0.5)],
    "generator_backpressure_num_objects": [(-1, -1), (1, 1)],
    "max_restarts": [(-1, -1), (0, 0), (3, 3)],
    "max_task_retries": [(-1, -1), (0, 0), (3, 3)],
    "max_concurrency": [(1, 1), (1000, 1000)],
    "max_pending_calls": [(-1, -1), (1, 1)],
    "namespace": [("space", "space")],
    "lifetime": [("detached", "detached"), ("non_detached", None)],
    "get_if_exists": [(False, False)],
    "concurrency_groups": [({"io": 2, "cpu": 1}, (("cpu", 1), ("io", 2)))],
    "concurrency_group": [("io", "io")],
    "tensor_transport": [("auto", "auto"), ("NCCL", "nccl"), ("gloo", "gloo"), ("shm", "shm")],
    "address": [
        ("auto", "auto"),
        ("actorflow/0/ab12", "actorflow/0/ab12"),
    ],
    "labels": [({"zone": "a"}, (("zone", "a"),))],
    "object_store_memory": [(1 << 30, 1 << 30)],
    "log_to_driver": [(False, False), (True, True)],
    "logging_level": [("INFO", 20), ("warning", 30), (10, 10)],
    "ignore_reinit_error": [(True, True)],
}
AMOUNTS = (["1", True, [], 1j], [-1, -0.1, 0.00005, float("nan"), float("inf"), 10**13])
TEXTS = ([1, b"x", True], [""])
SWITCHES: tuple[list[Any], list[Any]] = ([1, "yes", 0], [])
REFUSED: dict[str, tuple[list[Any], list[Any]]] = {
    "num_cpus": AMOUNTS,
    "num_gpus": (AMOUNTS[0], [*AMOUNTS[1], 1.5]),
    "memory": (["1", True, 1.5], [-1, 2**60]),
    "resources": (
        [5, "x", [("a", 1)], {1: 1}, {"a": "1"}],
        [{"CPU": 1}, {"GPU": 1}, {"memory": 1}, {"a": -1}],
    ),
    "accelerator_type": TEXTS,
    "scheduling_strategy": ([5, Anywhere], ["spread", ""]),
    "label_selector": (["zone", {"zone": 1}, {1: "a"}], [{"zone": ""}]),
    "runtime_env": (["x", {"a": object()}, {"a": float("nan")}], []),
    "num_returns": ([1.5, True, None.__class__], [-1, 10**6, "stream"]),
    "max_retries": ([1.5, "3", True], [-2]),
    "retry_exceptions": ([1, ValueError, [1], [int]], []),
    "max_calls": ([1.5], [-1]),
    "name": TEXTS,
    "timeout_s": (["1", True], [0, -1, float("inf"), float("nan")]),
    "generator_backpressure_num_objects": ([1.5], [0, -2]),
    "max_restarts": ([1.5], [-2]),
    "max_task_retries": (["1"], [-2]),
    "max_concurrency": ([1.5, True], [0, -1]),
    "max_pending_calls": ([1.5], [0, -2]),
    "namespace": TEXTS,
    "lifetime": ([1, True], ["forever", ""]),
    "get_if_exists": SWITCHES,
    "concurrency_groups": ([["io"], {"io": "2"}, {1: 1}], [{"io": 0}]),
    "concurrency_group": TEXTS,
    "tensor_transport": ([1, True], ["", "mpi"]),
    "address": ([1], ["", "host", "actorflow", "actorflow/x/1"]),
    "labels": ([[], {"zone": None}], [{"zone": ""}]),
    "object_store_memory": (["1 GB", True], [0, 1000]),
    "log_to_driver": SWITCHES,
    "logging_level": ([1.5, []], [-1, 101, "LOUD"]),
    "ignore_reinit_error": SWITCHES,
}


def row_id(value: Any) -> str:
    return value.name if isinstance(value, dataclasses.Field) else value.__name__


@pytest.mark.parametrize(("record", "row"), ROWS, ids=row_id)
def test_an_option_takes_what_it_may_be_and_refuses_the_rest_by_name(record: type[Options], row: Any) -> None:
    assert getattr(record(), row.name) == row.default
    assert len(row.metadata["doc"]) > 3
    for given_value, normal in ACCEPTED[row.name]:
        taken = getattr(record(**{row.name: given_value}), row.name)
        assert taken == normal
        assert type(taken) is type(normal)
    for wrong_type in REFUSED[row.name][0]:
        with pytest.raises(TypeError, match=rf"{record._noun} {row.name} .*must be .*, not |JSON"):
            record(**{row.name: wrong_type})
    for impossible in REFUSED[row.name][1]:
        with pytest.raises(ValueError, match=rf"{record._noun} {row.name} .*must "):
            record(**{row.name: impossible})


@pytest.mark.parametrize("record", RECORDS)
def test_unknown_options_are_refused_with_the_nearest_name(record: type[Options]) -> None:
    name = dataclasses.fields(record)[0].name
    with pytest.raises(
        TypeError, match=f"there is no {record._noun} '{name}s'; did you mean '{name}'. Allowed are"
    ):
        record(**{f"{name}s": 1})
    with pytest.raises(TypeError, match="Allowed are"):
        record().merged(zzz=1)


def test_a_strategy_object_is_kept() -> None:
    strategy = Anywhere()
    assert TaskOptions(scheduling_strategy=strategy).scheduling_strategy is strategy


def test_merging_replaces_what_is_given_and_keeps_the_rest() -> None:
    decorated = TaskOptions(num_cpus=2, name="parse", max_retries=0)
    called = decorated.merged(num_cpus=0.5, timeout_s=3)
    assert (called.num_cpus, called.name, called.max_retries, called.timeout_s) == (0.5, "parse", 0, 3.0)
    assert (decorated.num_cpus, decorated.timeout_s) == (2, None)
    assert called.merged(num_cpus=None).num_cpus is None
    assert called.merged() == called
    with pytest.raises(ValueError, match="num_cpus"):
        called.merged(num_cpus=-1)


def test_records_cannot_be_changed_and_can_be_compared_hashed_and_pickled() -> None:
    one = TaskOptions(resources={"a": 1, "b": 2}, retry_exceptions=[ValueError], runtime_env={"x": 1})
    other = TaskOptions(runtime_env={"x": 1}, retry_exceptions=(ValueError,), resources={"b": 2, "a": 1})
    assert one == other
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one
    assert one != TaskOptions()
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.num_cpus = 3  # type: ignore[misc]


# -- shapes -----------------------------------------------------------------------------------------


def test_shapes_are_in_ten_thousandths_sorted_and_without_zeros() -> None:
    options = TaskOptions(
        num_cpus=0.25,
        num_gpus=2,
        memory=1000,
        resources={"b": 0.0001, "a": 3, "none": 0},
        accelerator_type="T4",
    )
    assert options.shape() == (
        ("CPU", 2500),
        ("GPU", 20_000),
        ("a", 30_000),
        ("accelerator_type:T4", 10),
        ("b", 1),
        ("memory", 10_000_000),
    )
    assert {options.shape(): 1}[options.shape()] == 1


def test_a_task_takes_one_cpu_and_an_actor_needs_one_to_be_placed_only() -> None:
    assert TaskOptions().shape() == (("CPU", 10_000),)
    assert TaskOptions(num_cpus=0).shape() == ()
    assert (ActorOptions().placing_shape(), ActorOptions().shape()) == ((("CPU", 10_000),), ())
    with_two = ActorOptions(num_cpus=2, num_gpus=0.5)
    assert with_two.placing_shape() == with_two.shape() == (("CPU", 20_000), ("GPU", 5_000))
    assert ActorOptions(num_cpus=0).placing_shape() == ()


@given(st.integers(0, 10**9))
def test_every_step_of_a_ten_thousandth_is_kept_exactly(units: int) -> None:
    assert dict(TaskOptions(num_cpus=units / 10_000).shape()).get("CPU", 0) == units


@given(st.floats(0, 1e6))
def test_what_is_finer_than_a_ten_thousandth_is_refused_and_never_rounded(amount: float) -> None:
    try:
        options = TaskOptions(num_cpus=amount)
    except ValueError:
        return
    assert abs(dict(options.shape()).get("CPU", 0) / 10_000 - amount) <= 1e-9 * max(1.0, amount)


# -- together ---------------------------------------------------------------------------------------


def test_taking_an_existing_actor_needs_its_name() -> None:
    with pytest.raises(ValueError, match="get_if_exists needs the option name"):
        ActorOptions(get_if_exists=True)
    assert ActorOptions(name="n").merged(get_if_exists=True).get_if_exists


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "ray://head:10001"])
def test_a_node_of_another_machine_is_refused_by_name(address: str) -> None:
    with pytest.raises(NotImplementedError, match=f"address '{address}': nodes of other machines"):
        InitOptions(address=address)


@pytest.mark.parametrize(
    "name", ["num_cpus", "num_gpus", "memory", "resources", "labels", "object_store_memory"]
)
def test_resources_and_an_address_contradict_each_other(name: str) -> None:
    given_value = {"resources": {"a": 1}, "labels": {"a": "b"}, "object_store_memory": 1 << 30}.get(name, 1)
    with pytest.raises(ValueError, match=f"af.init option {name} is for a node that is started here"):
        InitOptions(address="auto", **{name: given_value})
    InitOptions(**{name: given_value})
    InitOptions(address="auto", namespace="n")
