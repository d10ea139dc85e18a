"""Nodes: what can be bound to what, what is found wrong before anything runs. Actors are not needed for that."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from actorflow import dag
from actorflow.client.handles import ActorMethod
from actorflow.dag import ClassMethodNode, InputNode, MultiOutputNode, plan
from actorflow.dag.nodes import _described
from actorflow.dag.options import GraphOptions


class FakeMethod:
    """As much of an ActorMethod as nodes look at."""

    def __init__(self, actor: str, name: str, returns: int = 1) -> None:
        self.mailbox = actor
        self.name = name
        self.label = f"{actor}.{name}"
        self.returns = returns


def bind(actor: str, name: str, *args: Any, returns: int = 1, **kwargs: Any) -> ClassMethodNode:
    method: Any = FakeMethod(actor, name, returns)
    return ClassMethodNode(method, args, kwargs)


def described(end: dag.DAGNode) -> plan.Graph:
    return _described(end)[0]


@dataclasses.dataclass
class Holder:
    item: Any


def test_a_graph_as_data() -> None:
    with InputNode() as inp:
        first = bind("A", "first", inp[0], 5, scale=inp.scale)
        second = bind("B", "second", first, inp["scale"])
        third = bind("A", "third", second)
    graph = described(MultiOutputNode([third, second]))
    assert [(operation.actor, operation.method) for operation in graph.operations] == [
        (0, "first"),
        (1, "second"),
        (0, "third"),
    ]
    assert graph.operations[0].args == (plan.Input(0), plan.Constant(5))
    assert graph.operations[0].kwargs == (("scale", plan.Input("scale")),)
    assert graph.operations[1].args == (plan.Result(0), plan.Input("scale"))
    assert (graph.outputs, graph.is_list) == ((2, 1), True)


def test_unused_nodes_are_named_even_when_they_were_dropped() -> None:
    with InputNode() as inp:
        bind("A", "forgotten", inp)
        out = bind("B", "run", inp)
    with pytest.raises(ValueError, match=r"A\.forgotten of this graph lead to no output"):
        described(out)


@pytest.mark.parametrize("hide", [lambda node: [node], lambda node: {"a": (1, {node})}, Holder])
def test_a_node_inside_of_another_object_is_refused(hide: Any) -> None:
    with InputNode() as inp:
        node = bind("A", "run", inp)
        with pytest.raises(ValueError, match=r"inside of another object"):
            bind("B", "run", inp, hide(node))


def test_a_node_is_no_value() -> None:
    with pytest.raises(TypeError, match="is a node of a graph, and no value"):
        pickle.dumps(InputNode())


def test_two_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="two InputNodes"):
        bind("A", "run", InputNode(), InputNode())


def test_what_cannot_be_an_end() -> None:
    inp = InputNode()
    with pytest.raises(ValueError, match="a graph ends with"):
        described(inp)
    for wrong in ([], [inp], "A.run"):
        with pytest.raises(ValueError, match=r"MultiOutputNode|an output must be"):
            MultiOutputNode(wrong)
    end = MultiOutputNode([bind("A", "run", inp)])
    with pytest.raises(ValueError, match="is the end of a graph"):
        described(bind("B", "run", end))


def test_a_method_that_does_not_return_one_value_is_refused() -> None:
    with pytest.raises(ValueError, match="does not return one value"):
        described(bind("A", "run", InputNode(), returns=2))


@pytest.mark.parametrize("key", [-1, True, 1.5, None])
def test_what_an_input_has_not(key: Any) -> None:
    with pytest.raises(TypeError, match="by number from 0 and by name"):
        InputNode()[key]
    with pytest.raises(AttributeError):
        _ = InputNode()._private


def test_transports_are_noted_on_the_node() -> None:
    with InputNode() as inp:
        node = bind("A", "run", inp[0].with_tensor_transport("shm"))
        assert node.with_tensor_transport("gloo", _static_shape=True) is node
    graph = described(node)
    assert graph.operations[0].transport == plan.TensorTransport("gloo", static_shape=True)
    with pytest.raises(ValueError, match="must be one of auto, shm, gloo, nccl"):
        node.with_tensor_transport("pigeon")
    with pytest.raises(ValueError, match="device='cuda'"):
        node.with_tensor_transport("nccl", "cuda")


def test_of_one_input_the_transport_is_that_of_the_whole() -> None:
    with InputNode() as inp:
        node = bind("A", "run", inp[0], inp[1])
        inp[1].with_tensor_transport("nccl")
    with pytest.raises(ValueError, match="the InputNode has a GPU transport"):
        node.experimental_compile()


def test_options() -> None:
    given = GraphOptions(_submit_timeout=3, max_inflight_executions=2, _buffer_size_bytes=1_000_000)
    assert (given.submit_timeout, given.max_inflight_executions, given.buffer_size_bytes) == (3, 2, 1_000_000)
    with pytest.raises(TypeError, match="graph option"):
        GraphOptions(max_inflight=2)
    with pytest.raises(ValueError, match="max_inflight_executions must be a whole number from 1"):
        GraphOptions(max_inflight_executions=0)


def test_methods_of_actors_make_nodes() -> None:
    method: Any = FakeMethod("A", "run")
    assert isinstance(ActorMethod.bind(method, InputNode()), ClassMethodNode)
