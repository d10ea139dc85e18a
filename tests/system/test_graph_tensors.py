"""Compiled graphs whose tensors travel by collective groups."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
from typing import Any

import pytest

import actorflow as af
from actorflow.collective import groups
from actorflow.dag import (
    InputNode,
    MultiOutputNode,
    members,
)
from actorflow.shm.process import process_state
from actorflow.util.collective import CollectiveError
from tests.conftest import wait_until
from tests.system.conftest import stored_bytes

torch: Any = pytest.importorskip("torch")
bodies: Any = pytest.importorskip("tests.system.collective_bodies")
actors: Any = pytest.importorskip("tests.system.tensor_stages")
stages, nothing_is_left = actors.stages, actors.nothing_is_left

LARGE = 1 << 20


def pipeline(stages: list[Any], transport: Any, **options: Any) -> Any:
    """input -> a tensor of that length -> doubled elsewhere -> its total back at the first."""
    with InputNode() as inp:
        made = stages[0].make.bind(inp).with_tensor_transport(transport, **options)
        doubled = stages[1].double.bind(made).with_tensor_transport(transport, **options)
        return stages[0].total.bind(doubled)


@pytest.mark.parametrize(
    ("transport", "options"),
    [("gloo", {}), ("gloo", {"direct_return": True}), ("auto", {}), ("shm", {}), (bodies.counting, {})],
)
def test_tensors_travel_along_edges(stages: list[Any], transport: Any, options: dict[str, Any]) -> None:
    with pipeline(stages, transport, **options).experimental_compile() as graph:
        assert [af.get(graph.execute(length)) for length in (1, 10, LARGE)] == [2, 200, 2.0 * LARGE**2]


@pytest.mark.parametrize("options", [{}, {"direct_return": True}])
def test_static_shapes_are_told_once(stages: list[Any], options: dict[str, Any]) -> None:
    with pipeline(stages, "gloo", static_shape=True, **options).experimental_compile() as graph:
        assert [af.get(graph.execute(10)) for _ in range(3)] == [200] * 3
        with pytest.raises(
            ValueError, match=r"has torch.float32 of shape \(11,\), the first one had .*\(10,\)"
        ):
            af.get(graph.execute(11))
        assert af.get(graph.execute(10)) == 200


def test_what_goes_by_a_group_does_not_go_through_the_store(stages: list[Any]) -> None:
    with InputNode() as inp:
        made = stages[0].make.bind(inp).with_tensor_transport("gloo")
        end = stages[1].total.bind(made)
    with end.experimental_compile(max_inflight_executions=4) as graph:
        refs = [graph.execute(LARGE) for _ in range(4)]
        assert stored_bytes() == 0
        assert [af.get(ref) for ref in refs] == [float(LARGE) ** 2] * 4


def test_tensors_unlike_the_first_pass_a_receive_that_was_begun_ahead(stages: list[Any]) -> None:
    lengths = [3, 3, 5, 3, 5, LARGE, 3, 3]
    with pipeline(stages, "gloo").experimental_compile(max_inflight_executions=8) as graph:
        for _ in range(3):
            refs = [graph.execute(length) for length in lengths]
            assert [af.get(ref) for ref in refs] == [2.0 * length**2 for length in lengths]


@pytest.mark.parametrize(("communicator", "ahead"), [(bodies.counting_ahead, 1), (bodies.counting, 0)])
def test_receives_are_begun_ahead_where_the_transport_can(
    stages: list[Any], communicator: Any, ahead: int
) -> None:
    def received(_: Any) -> int:
        return max(getattr(member.communicator, "received", 0) for member in groups.members())

    with InputNode() as inp:
        end = stages[1].total.bind(stages[0].make.bind(inp).with_tensor_transport(communicator))
    with end.experimental_compile() as graph:
        for executions, length in enumerate((4, 4, 5, 4), start=1):
            assert af.get(graph.execute(length)) == length**2
            assert af.get(stages[1].__ray_call__.remote(received)) == executions + ahead


def test_other_parts_of_a_value_go_along(stages: list[Any]) -> None:
    with InputNode() as inp:
        some = stages[0].make_some.bind(inp).with_tensor_transport("gloo")
        end = MultiOutputNode(
            [stages[1].echo.bind(some), stages[2].echo.bind(some), stages[0].echo.bind(some)]
        )
    with end.experimental_compile() as graph:
        for length in (3, 5):
            for found in af.get(graph.execute(length)):
                assert found["text"] == "some"
                assert torch.equal(found["second"][1], torch.arange(length))
                assert [found["first"].sum(), found["second"][0].numel()] == [length, 0]


def test_several_executions_are_in_flight(stages: list[Any]) -> None:
    with pipeline(stages, "gloo").experimental_compile(max_inflight_executions=8) as graph:
        for _ in range(4):
            refs = [graph.execute(length) for length in range(1, 9)]
            assert [af.get(ref) for ref in refs] == [2 * length**2 for length in range(1, 9)]


def test_both_ways_between_two_actors(stages: list[Any]) -> None:
    with InputNode() as inp:
        one = stages[0].make.bind(inp).with_tensor_transport("gloo")
        other = stages[1].make.bind(inp).with_tensor_transport("gloo")
        end = MultiOutputNode([stages[0].total.bind(one, other), stages[1].total.bind(one, other)])
    with end.experimental_compile() as graph:
        for _ in range(5):
            assert af.get(graph.execute(1000)) == [2e6, 2e6]


async def test_async_actors_and_awaited_results(stages: list[Any]) -> None:
    second = actors.AsyncStage.remote()
    with InputNode() as inp:
        made = stages[0].make.bind(inp).with_tensor_transport("gloo")
        doubled = second.double.bind(made).with_tensor_transport("gloo")
        end = stages[2].total.bind(doubled)
    with end.experimental_compile() as graph:
        refs = [await graph.execute_async(length) for length in (1, 2, 3)]
        assert [await ref for ref in refs] == [2, 8, 18]


def test_threaded_actors(stages: list[Any]) -> None:
    second = actors.Stage.options(max_concurrency=2).remote()
    with pipeline([stages[0], second], "gloo").experimental_compile() as graph:
        assert [af.get(graph.execute(length)) for length in (1, 2, 3)] == [2, 8, 18]


def test_errors_go_along_edges_and_the_graph_goes_on(stages: list[Any]) -> None:
    with InputNode() as inp:
        made = stages[0].refuse_odd.bind(inp).with_tensor_transport("gloo")
        end = stages[1].total.bind(made)
    with end.experimental_compile() as graph:
        assert af.get(graph.execute(2)) == 4
        with pytest.raises(LookupError, match="3 is odd"):
            af.get(graph.execute(3))
        assert af.get(graph.execute(4)) == 8


def test_direct_return_is_for_tensors(stages: list[Any]) -> None:
    with InputNode() as inp:
        made = stages[0].no_tensor.bind(inp).with_tensor_transport("gloo", direct_return=True)
        end = stages[1].echo.bind(made)
    with (
        end.experimental_compile() as graph,
        pytest.raises(TypeError, match="is a list, and its edge has direct"),
    ):
        af.get(graph.execute(1))


@pytest.mark.parametrize("name", actors.ODD)
def test_tensors_that_cannot_be_sent(stages: list[Any], name: str) -> None:
    """They go along with a value through its channel; alone, where nothing else may, they are refused."""
    with InputNode() as inp:
        made = stages[0].odd.bind(inp).with_tensor_transport("gloo")
        alone = stages[0].odd.bind(inp).with_tensor_transport("gloo", direct_return=True)
        end = MultiOutputNode([stages[1].shape.bind(made), stages[1].shape.bind(alone)])
    with end.experimental_compile() as graph:
        for wanted in (name, "dense", name):
            along, sent = graph.execute(wanted)
            assert af.get(along, timeout=20)[-1] == 2
            with pytest.raises((TypeError, ValueError), match="tensor") if wanted != "dense" else _nothing():
                assert af.get(sent, timeout=20) == (2,)


def _nothing() -> Any:
    return contextlib.nullcontext()


def test_a_communicator_that_fails_ends_the_graph(stages: list[Any]) -> None:
    """Whoever waits at the other end of its edge is not left to wait."""
    for fails in ("isend", "irecv"):
        graph = pipeline(stages, functools.partial(bodies.failing, fails)).experimental_compile()
        with pytest.raises(af.exceptions.ChannelError, match="left it or died"):
            af.get(graph.execute(3), timeout=20)
        assert af.get([stage.echo.remote(1) for stage in stages[:2]], timeout=20) == [1, 1]


def test_values_that_cannot_be_pickled(stages: list[Any]) -> None:
    with InputNode() as inp:
        made = stages[0].echo.bind(inp).with_tensor_transport("gloo")
        end = stages[1].echo.bind(made)
    with end.experimental_compile() as graph:
        assert af.get(graph.execute([1])) == [1]
        with pytest.raises(TypeError):
            graph.execute(threading.Lock())
        assert torch.equal(af.get(graph.execute(torch.ones(2))), torch.ones(2))


def test_two_graphs_of_the_same_actors(stages: list[Any]) -> None:
    with (
        pipeline(stages, "gloo").experimental_compile() as one,
        pipeline(stages[1::-1], "gloo").experimental_compile() as other,
    ):
        refs = [one.execute(3), other.execute(4), one.execute(5)]
        assert [af.get(ref) for ref in refs] == [18, 32, 50]
        assert af.get(stages[0].pid.remote()) > 0


def test_a_death_ends_the_graph_and_the_others_live(stages: list[Any]) -> None:
    dying = actors.Stage.remote()
    with InputNode() as inp:
        made = stages[0].make.bind(inp).with_tensor_transport("gloo")
        middle = dying.double.bind(made).with_tensor_transport("gloo")
        end = stages[1].total.bind(middle)
    graph = end.experimental_compile()
    assert af.get(graph.execute(10)) == 200
    af.kill(dying)
    with pytest.raises(af.ActorDiedError):
        actors.run_until_it_fails(graph, 10)
    assert af.get([stage.echo.remote(1) for stage in stages[:2]]) == [1, 1]


def test_a_graph_whose_group_cannot_be_formed(stages: list[Any]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(CollectiveError, match=r"compiled graph of \w+\.\w+.*sees no GPU"):
        pipeline(stages, "nccl").experimental_compile()
    dead = actors.Stage.remote()
    af.get(dead.pid.remote())
    af.kill(dead)
    with pytest.raises(af.ActorDiedError):
        pipeline([stages[0], dead], "gloo").experimental_compile()


def test_a_stopped_member_is_named_before_the_others_wait_for_it(
    stages: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "SILENCE_S", 0.1)
    pid = af.get(stages[1].pid.remote())
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(af.exceptions.ChannelTimeoutError, match=rf"pid {pid}\) is stopped"):
            pipeline(stages, "gloo").experimental_compile()
    finally:
        os.kill(pid, signal.SIGCONT)
    with pipeline(stages, "gloo").experimental_compile() as graph:
        assert af.get(graph.execute(3)) == 18


def test_teardown_frees_who_waits_in_a_transfer_with_a_stopped_member(stages: list[Any]) -> None:
    stopped = actors.Stage.remote()
    pid = af.get(stopped.pid.remote())
    with InputNode() as inp:
        made = stopped.make.bind(inp).with_tensor_transport(bodies.stopping)
        end = stages[1].total.bind(stages[0].double.bind(made))
    graph = end.experimental_compile()
    ref = graph.execute(3)
    try:
        wait_until(lambda: process_state(pid) == "stopped", 20, "the member is stopped")
        with pytest.raises(af.exceptions.ChannelTimeoutError):
            af.get(ref, timeout=0.1)
        graph.teardown()
        assert af.get([stage.echo.remote(1) for stage in stages[:2]], timeout=20) == [1, 1]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert af.get(stopped.echo.remote(2), timeout=20) == 2
    actors.wait_until_left([stopped])


def test_own_communicators_for_the_whole_graph(stages: list[Any]) -> None:
    def count(_: Any) -> int:
        return sum(getattr(member.communicator, "sent", 0) for member in groups.members())

    graph = pipeline(stages, "gloo").experimental_compile(default_communicator=bodies.counting)
    assert af.get(graph.execute(3)) == 18
    assert af.get(stages[0].__ray_call__.remote(count)) == 1
    graph.teardown()
    with pytest.raises(TypeError, match="default_communicator must be 'create' or a function"):
        pipeline(stages, "gloo").experimental_compile(default_communicator=3)
