"""Collective operations as nodes of compiled graphs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import actorflow as af
from actorflow.dag import InputNode, MultiOutputNode, allgather, allreduce, broadcast, reducescatter
from actorflow.util.collective import ReduceOp
from tests.conftest import wait_until

torch: Any = pytest.importorskip("torch")
bodies: Any = pytest.importorskip("tests.system.collective_bodies")
actors: Any = pytest.importorskip("tests.system.tensor_stages")
stages, nothing_is_left = actors.stages, actors.nothing_is_left


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


def collective_graph(stages: list[Any], collective: Any, **options: Any) -> Any:
    with InputNode() as inp:
        parts = [stage.values.bind(inp[rank]) for rank, stage in enumerate(stages)]
        outputs = collective.bind(parts, **options)
        return MultiOutputNode(outputs)


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


def test_a_tensor_that_one_member_cannot_send(stages: list[Any]) -> None:
    with InputNode() as inp:
        parts = [stage.odd.bind(inp[rank]) for rank, stage in enumerate(stages[:2])]
        end = MultiOutputNode(allreduce.bind(parts))
    with end.experimental_compile() as graph:
        for ref in graph.execute("sparse", "square"):
            with pytest.raises(TypeError, match="must be a dense tensor"):
                af.get(ref, timeout=20)
        assert [float(one.sum()) for one in af.get(graph.execute("square", "square"), timeout=20)] == [8, 8]


def test_a_member_that_dies_while_others_are_in_the_operation(stages: list[Any]) -> None:
    """It has begun, as far as the others know, and they wait for what it has not sent."""
    dying = actors.Stage.remote()
    with InputNode() as inp:
        parts = [actor.make.bind(inp) for actor in (stages[0], dying, stages[1])]
        end = MultiOutputNode(allreduce.bind(parts, transport=bodies.dying))
    graph = end.experimental_compile()
    with pytest.raises(af.ActorDiedError, match="its process exited"):
        af.get(graph.execute(3), timeout=20)
    assert af.get([stage.echo.remote(1) for stage in stages[:2]], timeout=20) == [1, 1]


def test_a_member_that_dies_in_a_collective(stages: list[Any]) -> None:
    dying = actors.Stage.remote()
    graph = collective_graph([*stages[:2], dying], allreduce).experimental_compile()
    af.get(graph.execute(0, 1, 2))
    af.kill(dying)
    with pytest.raises(af.ActorDiedError, match="killed on request"):
        actors.run_until_it_fails(graph, 0, 1, 2)
    graph.teardown()
    assert af.get([stage.echo.remote(1) for stage in stages[:2]]) == [1, 1]


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
