"""Compiled graphs whose tensors travel by collective groups, and collective operations in graphs."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import actorflow as af
from actorflow.collective import groups
from actorflow.dag import (
    InputNode,
    MultiOutputNode,
    allgather,
    allreduce,
    broadcast,
    members,
    reducescatter,
)
from actorflow.util.collective import CollectiveError, ReduceOp
from tests.conftest import wait_until
from tests.system.conftest import stored_bytes

torch: Any = pytest.importorskip("torch")
bodies: Any = pytest.importorskip("tests.system.collective_bodies")

LARGE = 1 << 20


@af.remote(num_cpus=0)
class Stage:
    """A step of a pipeline, and a member of collective operations."""

    def __init__(self) -> None:
        self.kept: Any = torch.ones(4)

    def make(self, length: int) -> Any:
        return torch.full((length,), float(length))

    def make_some(self, length: int) -> Any:
        return {"first": torch.ones(length), "second": [torch.zeros(0), torch.arange(length)], "text": "some"}

    def values(self, rank: int) -> Any:
        return bodies.values(rank, "float64", (4, 3))

    def shaped(self, shape: Any) -> Any:
        return torch.ones(shape)

    def double(self, tensor: Any) -> Any:
        return tensor * 2

    def total(self, *values: Any) -> float:
        return sum(float(value.sum()) for value in values)

    def echo(self, value: Any) -> Any:
        return value

    def refuse_odd(self, number: int) -> Any:
        if number % 2:
            raise LookupError(f"{number} is odd")
        return torch.full((2,), float(number))

    def no_tensor(self, value: Any) -> Any:
        return [value]

    def pid(self) -> int:
        return os.getpid()

    def in_groups(self) -> int:
        return len(groups.members())


@af.remote(num_cpus=0)
class AsyncStage:
    async def double(self, tensor: Any) -> Any:
        return tensor * 2


@af.remote(num_cpus=0)
class Gated:
    """Waits between telling what tensor it has and beginning a collective operation."""

    def __init__(self) -> None:
        self.gates = {name: asyncio.Event() for name in ("one", "other")}
        self.reached: set[str] = set()

    def part(self, number: int) -> Any:
        return torch.full((2,), float(number))

    async def gate(self, _: Any, name: str) -> None:
        self.reached.add(name)
        await self.gates[name].wait()

    def open(self, name: str) -> None:
        self.gates[name].set()

    def waits_at(self) -> set[str]:
        return self.reached


@pytest.fixture(scope="module")
def stages() -> Iterator[list[Any]]:
    with af.init(num_cpus=4, object_store_memory=256 * 1024 * 1024):
        yield [Stage.remote() for _ in range(4)]


@pytest.fixture(autouse=True)
def no_group_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the actors are in no group, and the store is empty."""
    yield
    if "stages" in request.fixturenames:
        stages = request.getfixturevalue("stages")
        wait_until(lambda: not any(af.get([one.in_groups.remote() for one in stages])), 20, "groups are left")
        wait_until(lambda: stored_bytes() == 0, 20, "the store is empty")


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
    second = AsyncStage.remote()
    with InputNode() as inp:
        made = stages[0].make.bind(inp).with_tensor_transport("gloo")
        doubled = second.double.bind(made).with_tensor_transport("gloo")
        end = stages[2].total.bind(doubled)
    with end.experimental_compile() as graph:
        refs = [await graph.execute_async(length) for length in (1, 2, 3)]
        assert [await ref for ref in refs] == [2, 8, 18]


def test_threaded_actors(stages: list[Any]) -> None:
    second = Stage.options(max_concurrency=2).remote()
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
    dying = Stage.remote()
    with InputNode() as inp:
        made = stages[0].make.bind(inp).with_tensor_transport("gloo")
        middle = dying.double.bind(made).with_tensor_transport("gloo")
        end = stages[1].total.bind(middle)
    graph = end.experimental_compile()
    assert af.get(graph.execute(10)) == 200
    af.kill(dying)
    with pytest.raises(af.ActorDiedError):
        run_until_it_fails(graph, 10)
    assert af.get([stage.echo.remote(1) for stage in stages[:2]]) == [1, 1]


# -- collective operations


def collective_graph(stages: list[Any], collective: Any, **options: Any) -> Any:
    with InputNode() as inp:
        parts = [stage.values.bind(inp[rank]) for rank, stage in enumerate(stages)]
        outputs = collective.bind(parts, **options)
        return MultiOutputNode(outputs)


def run_until_it_fails(graph: Any, *args: Any) -> None:
    """A death shows within a few executions."""
    for _ in range(1000):
        af.get(graph.execute(*args), timeout=20)


def parts_of(size: int) -> Any:
    return torch.stack([bodies.values(rank, "float64", (4, 3)) for rank in range(size)])


@pytest.mark.parametrize(("size", "is_compiled"), [(2, True), (3, True), (4, False)])
def test_collectives_against_torch(stages: list[Any], size: int, is_compiled: bool) -> None:
    parts = parts_of(size)
    expected: list[tuple[Any, dict[str, Any], list[Any]]] = [
        (allreduce, {"transport": "gloo"}, [parts.sum(0)] * size),
        (allreduce, {"op": ReduceOp.MAX, "transport": bodies.counting}, [parts.amax(0)] * size),
        (allreduce, {"op": ReduceOp.AVERAGE}, [parts.mean(0)] * size),
        (allgather, {}, [torch.cat(list(parts))] * size),
        (broadcast, {"root": size - 1}, [parts[-1]] * size),
    ]
    if 4 % size == 0:
        expected.append((reducescatter, {}, list(parts.sum(0).chunk(size))))
        expected.append((reducescatter, {"op": ReduceOp.PRODUCT}, list(parts.prod(0).chunk(size))))
    for collective, options, wanted in expected:
        end = collective_graph(stages[:size], collective, **options)
        graph = end.experimental_compile() if is_compiled else end
        for _ in range(2):
            found = af.get(graph.execute(*range(size)))
            assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
        if is_compiled:
            graph.teardown()


def test_results_of_collectives_are_used_in_the_graph(stages: list[Any]) -> None:
    with InputNode() as inp:
        parts = [stage.make.bind(inp) for stage in stages[:2]]
        first, second = allreduce.bind(parts)
        doubled = [stages[0].double.bind(first), stages[1].double.bind(second)]
        again = allreduce.bind(doubled)
        other = stages[2].total.bind(second.with_tensor_transport("gloo"))
        end = MultiOutputNode([stages[0].total.bind(again[0], parts[0]), other])
    with end.experimental_compile() as graph:
        for _ in range(3):
            assert af.get(graph.execute(2)) == [2 * 16 + 4, 8]


def test_two_collectives_side_by_side(stages: list[Any]) -> None:
    """Bound so that the actors would come to them in different orders, if it were not for the plan."""
    with InputNode() as inp:
        a, b = stages[0].make.bind(inp), stages[1].make.bind(inp)
        one = allreduce.bind([a, b])
        other = allreduce.bind([a, b], op=ReduceOp.MAX)
        end = MultiOutputNode(
            [stages[0].total.bind(one[0], other[0]), stages[1].total.bind(other[1], one[1]), other[0]]
        )
    with end.experimental_compile(max_inflight_executions=4) as graph:
        refs = [graph.execute(length) for length in (1, 2, 3)]
        assert [float(af.get(ref[0])) for ref in refs] == [3, 12, 27]


def test_actors_come_to_the_collectives_of_two_graphs_in_different_orders(stages: list[Any]) -> None:
    """One has begun that of the first graph and the other that of the second before either can go on to the next."""
    pair = [Gated.remote() for _ in range(2)]
    names = ("one", "other")
    graphs = []
    for name in names:
        with InputNode() as inp:
            parts = [actor.part.bind(inp) for actor in pair]
            gates = [actor.gate.bind(part, name) for actor, part in zip(pair, parts, strict=True)]
            end = MultiOutputNode([*allreduce.bind(parts), *gates])
        graphs.append(end.experimental_compile())
    refs = [graph.execute(number) for number, graph in enumerate(graphs, 1)]
    for actor in pair:
        wait_until(lambda actor=actor: af.get(actor.waits_at.remote()) == set(names), 20, "all have offered")  # type: ignore[misc]
    for opened in (names, names[::-1]):
        af.get([actor.open.remote(name) for actor, name in zip(pair, opened, strict=True)], timeout=20)
        assert len(af.get([actor.waits_at.remote() for actor in pair], timeout=20)) == 2
    for number, given in enumerate(refs, 1):
        assert [float(value.sum()) for value in af.get(given[:2], timeout=20)] == [4 * number] * 2
    for graph in graphs:
        graph.teardown()


def test_an_error_of_one_comes_to_all_and_the_graph_goes_on(stages: list[Any]) -> None:
    with InputNode() as inp:
        parts = [stage.refuse_odd.bind(inp[rank]) for rank, stage in enumerate(stages[:3])]
        end = MultiOutputNode(allreduce.bind(parts))
    with end.experimental_compile() as graph:
        assert [float(one[0]) for one in af.get(graph.execute(2, 4, 6))] == [12, 12, 12]
        for ref in graph.execute(2, 3, 4):
            with pytest.raises(LookupError, match="3 is odd"):
                af.get(ref, timeout=20)
        assert [float(one[0]) for one in af.get(graph.execute(2, 2, 2))] == [6, 6, 6]


def test_tensors_that_do_not_fit_together(stages: list[Any]) -> None:
    with InputNode() as inp:
        parts = [stage.shaped.bind(inp[rank]) for rank, stage in enumerate(stages[:2])]
        end = MultiOutputNode(allreduce.bind(parts))
    with end.experimental_compile() as graph:
        for ref in graph.execute((2,), (3,)):
            with pytest.raises(
                ValueError, match=r"one shape and dtype: rank 0: torch.float32 of shape \(2,\); rank 1"
            ):
                af.get(ref, timeout=20)
        assert len(af.get(graph.execute((2,), (2,)))) == 2
    with collective_graph(stages[:3], reducescatter).experimental_compile() as graph:
        for ref in graph.execute(0, 1, 2):
            with pytest.raises(ValueError, match="cuts tensors into 3"):
                af.get(ref, timeout=20)


def test_a_member_that_dies_in_a_collective(stages: list[Any]) -> None:
    dying = Stage.remote()
    graph = collective_graph([*stages[:2], dying], allreduce).experimental_compile()
    af.get(graph.execute(0, 1, 2))
    af.kill(dying)
    with pytest.raises((af.ActorDiedError, CollectiveError)):
        run_until_it_fails(graph, 0, 1, 2)
    graph.teardown()
    assert af.get([stage.echo.remote(1) for stage in stages[:2]]) == [1, 1]


def test_a_graph_whose_group_cannot_be_formed(stages: list[Any]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(CollectiveError, match=r"compiled graph of \w+\.\w+.*sees no GPU"):
        pipeline(stages, "nccl").experimental_compile()
    dead = Stage.remote()
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


def test_own_communicators_for_the_whole_graph(stages: list[Any]) -> None:
    def count(_: Any) -> int:
        return sum(getattr(member.communicator, "sent", 0) for member in groups.members())

    graph = pipeline(stages, "gloo").experimental_compile(default_communicator=bodies.counting)
    assert af.get(graph.execute(3)) == 18
    assert af.get(stages[0].__ray_call__.remote(count)) == 1
    graph.teardown()
    with pytest.raises(TypeError, match="default_communicator must be 'create' or a function"):
        pipeline(stages, "gloo").experimental_compile(default_communicator=3)


def test_under_the_names_of_ray(stages: list[Any]) -> None:
    named = af.experimental.collective
    assert named.allreduce is allreduce
    name = named.create_collective_group(stages[:2], backend="torch_gloo")
    assert af.get([stage.in_groups.remote() for stage in stages[:3]]) == [1, 1, 0]
    named.destroy_collective_group(name)


def test_what_collectives_cannot_be_bound_to(stages: list[Any]) -> None:
    with InputNode() as inp:
        good = [stage.make.bind(inp) for stage in stages[:2]]
        wrong: list[tuple[Any, tuple[Any, ...], dict[str, Any], type[Exception]]] = [
            (allreduce, ([],), {}, ValueError),
            (allreduce, (good[0],), {}, ValueError),
            (allreduce, ([good[0], inp],), {}, ValueError),
            (allreduce, ([good[0], good[0]],), {}, ValueError),
            (allreduce, (good,), {"op": "sum"}, TypeError),
            (allreduce, (good,), {"transport": "mpi"}, ValueError),
            (allreduce, (good,), {"transport": "shm"}, ValueError),
            (allgather, (good,), {"op": ReduceOp.MAX}, ValueError),
            (broadcast, (good,), {"root": 2}, ValueError),
            (allreduce, (good,), {"root": 1}, ValueError),
        ]
        for collective, args, options, kind in wrong:
            with pytest.raises(kind):
                collective.bind(*args, **options)
