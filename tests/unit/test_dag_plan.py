"""Graphs as data: what cannot be compiled, the order of operations, channels and their ends, what execute takes."""

from __future__ import annotations

import pytest

from actorflow.core.graphs import NOWHERE, End
from actorflow.dag.inputs import GraphInput, Signature, input_part
from actorflow.dag.plan import (
    DRIVER,
    Constant,
    Graph,
    Input,
    Operation,
    Result,
    TensorTransport,
    checked,
    order,
)
from actorflow.dag.schedule import Channel, schedule

NCCL = TensorTransport("nccl")


def graph(*operations: Operation, outputs: tuple[int, ...] | None = None) -> Graph:
    return Graph(operations, (len(operations) - 1,) if outputs is None else outputs)


def test_a_cycle_is_named() -> None:
    first = Operation(0, "A.first", "first", (Result(1), Input()))
    second = Operation(1, "B.second", "second", (Result(0),))
    with pytest.raises(ValueError, match=r"cycle: each of A\.first, B\.second"):
        schedule(graph(first, second))


def test_the_order_goes_level_by_level() -> None:
    operations = [
        Operation(0, "late", "m", (Result(2),)),
        Operation(0, "other", "m", (Input(),)),
        Operation(1, "early", "m", (Input(),)),
    ]
    assert order(operations) == [1, 2, 0]


def test_an_operation_without_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"A\.free takes nothing from the graph"):
        checked(graph(Operation(0, "A.free", "free", (Constant(1),))))
    with pytest.raises(ValueError, match="has no operation"):
        checked(Graph((), ()))


def test_a_driver_has_no_gpu() -> None:
    with pytest.raises(ValueError, match="InputNode has a GPU transport"):
        checked(Graph((Operation(0, "A.run", "run", (Input(),)),), (0,), input_transport=NCCL))
    with pytest.raises(ValueError, match=r"A\.run has a GPU transport"):
        checked(graph(Operation(0, "A.run", "run", (Input(),), transport=NCCL)))
    inner = Operation(0, "A.run", "run", (Input(),), transport=NCCL)
    checked(graph(inner, Operation(1, "B.end", "end", (Result(0),))))


def test_each_value_that_leaves_its_actor_has_one_channel() -> None:
    plan = schedule(
        graph(
            Operation(0, "A.split", "split", (Input(0), Constant(5))),
            Operation(1, "B.left", "left", (Result(0), Input("scale"))),
            Operation(2, "C.right", "right", (Result(0), Input(0))),
            Operation(0, "A.join", "join", (Result(1),), (("right", Result(2)), ("own", Result(0)))),
        )
    )
    assert plan.channels == (
        Channel(DRIVER, (0, 2), "input[0]"),
        Channel(DRIVER, (1,), "input['scale']"),
        Channel(0, (1, 2), "A.split"),
        Channel(1, (0,), "B.left"),
        Channel(2, (0,), "C.right"),
        Channel(0, (DRIVER,), "A.join"),
    )
    assert plan.inputs == ((0, 0), ("scale", 1))
    assert plan.results == (End(5, 0),)
    assert plan.outputs == (0,)
    split, join = plan.members[0].steps
    assert (split.constants, split.reads, split.write) == ((None, 5), ((0, 0),), 0)
    assert join.names == ("right", "own")
    assert [place for place, _ in join.reads] == [0, 1]
    assert join.loads == ((2, split.result),), "its own value does not travel"
    assert join.frees == (split.result,)


def test_a_value_that_is_taken_twice_is_read_once() -> None:
    plan = schedule(graph(Operation(0, "A.square", "square", (Input(), Input()))))
    (step,) = plan.members[0].steps
    assert len(step.reads) == 1
    assert step.keeps == ((0, 0),)
    assert step.loads == ((1, 0),)
    assert step.frees == (0,)


def test_a_value_that_stays_in_its_actor_has_no_channel() -> None:
    plan = schedule(
        graph(Operation(0, "A.one", "one", (Input(),)), Operation(0, "A.two", "two", (Result(0),)))
    )
    assert [channel.label for channel in plan.channels] == ["input", "A.two"]
    assert plan.members[0].steps[0].write == NOWHERE


def test_an_output_twice_is_read_once() -> None:
    plan = schedule(graph(Operation(0, "A.one", "one", (Input(),)), outputs=(0, 0)))
    assert len(plan.results) == 1
    assert plan.outputs == (0, 0)


def test_execute_takes_what_the_graph_uses() -> None:
    signature = Signature((0, 2, "scale"))
    signature.check((1, 2, 3), {"scale": 4})
    with pytest.raises(TypeError, match="missing argument 2, 'scale'"):
        signature.check((1, 2), {})
    with pytest.raises(TypeError, match="nothing in the graph uses argument 3, 'other'"):
        signature.check((1, 2, 3, 4), {"scale": 4, "other": 5})


def test_a_graph_that_uses_the_whole_input_takes_anything_but_nothing() -> None:
    signature = Signature((None,))
    signature.check((1,), {})
    signature.check((1, 2), {"more": 3})
    with pytest.raises(TypeError, match="at least one argument"):
        signature.check((), {})
    Signature((None, 0)).check((1, 2), {"more": 3})
    with pytest.raises(TypeError, match="missing argument 0"):
        Signature((None, 0)).check((), {"more": 3})


def test_parts_of_the_input() -> None:
    assert input_part(None, (1,), {}) == 1
    assert input_part(1, (1, 2), {}) == 2
    assert input_part("name", (), {"name": 3}) == 3
    whole = input_part(None, (1, 2), {"name": 3})
    assert isinstance(whole, GraphInput)
    assert (whole[1], whole["name"], whole.name) == (2, 3, 3)
    with pytest.raises(AttributeError, match="no keyword argument 'other'"):
        _ = whole.other
    with pytest.raises(TypeError, match="missing argument 2 by position"):
        input_part(2, (1, 2), {})


def test_one_value_goes_to_so_many_actors_only() -> None:
    readers = [Operation(number, f"A{number}.run", "run", (Input(),)) for number in range(65)]
    with pytest.raises(ValueError, match="input goes to 65 actors"):
        schedule(graph(*readers, outputs=tuple(range(65))))
    assert len(schedule(graph(*readers[:64], outputs=tuple(range(64)))).channels[0].readers) == 64
