"""Collective operations in the plan of a graph: all begin them in one order; and which groups a graph needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorflow.core.graphs import BEGIN, END, OFFER
from actorflow.dag.plan import Collective, Graph, Input, Operation, Result, TensorTransport, order
from actorflow.dag.schedule import schedule

GLOO = TensorTransport("gloo")


@st.composite
def operations(draw: st.DrawFn) -> list[Operation]:
    """Methods and collective operations of a few actors, as binding them lists them, and mixed up."""
    actors = draw(st.integers(2, 4))
    listed: list[Operation] = []
    of_actor: dict[int, list[int]] = {}

    def add(operation: Operation) -> int:
        listed.append(operation)
        of_actor.setdefault(operation.actor, []).append(len(listed) - 1)
        return len(listed) - 1

    for actor in range(actors):
        add(Operation(actor, "first", "make", (Input(),)))
    for _ in range(draw(st.integers(1, 8))):
        if draw(st.booleans()):
            sources = draw(st.lists(st.integers(0, len(listed) - 1), min_size=1, max_size=3))
            add(Operation(draw(st.integers(0, actors - 1)), "mix", "mix", tuple(map(Result, sources))))
            continue
        members = tuple(draw(st.permutations(range(actors)))[: draw(st.integers(2, actors))])
        number = len(listed)
        values = [draw(st.sampled_from(of_actor[actor])) for actor in members]
        taken = [(Result(value),) for value in values]
        offers = parts(listed, number, OFFER, members, taken)
        begun = parts(listed, number, BEGIN, members, [(*value, *offers) for value in taken])
        for end in parts(listed, number, END, members, [begun] * len(members)):
            of_actor[listed[end.operation].actor].append(end.operation)
    return renumbered(listed, draw(st.permutations(range(len(listed)))))


def parts(
    listed: list[Operation],
    number: int,
    phase: str,
    members: tuple[int, ...],
    sources: Sequence[tuple[Result, ...]],
) -> tuple[Result, ...]:
    """Lists one part of each member."""
    collective = Collective("allreduce", number, phase, members)
    for actor, taken in zip(members, sources, strict=True):
        listed.append(Operation(actor, phase, "allreduce", taken, collective=collective))
    return tuple(map(Result, range(len(listed) - len(members), len(listed))))


def renumbered(listed: list[Operation], numbers: list[int]) -> list[Operation]:
    """The same operations in another order: the i-th one is number `numbers[i]` now."""
    moved = listed.copy()
    for number, operation in zip(numbers, listed, strict=True):
        sources = tuple(
            Result(numbers[source.operation]) if isinstance(source, Result) else source
            for source in operation.args
        )
        moved[number] = dataclasses.replace(operation, args=sources)
    return moved


@given(operations())
def test_all_members_begin_collective_operations_in_the_same_order(listed: list[Operation]) -> None:
    begun: dict[int, list[int]] = {}
    for number in order(listed):
        collective = listed[number].collective
        if collective is not None and collective.phase == BEGIN:
            begun.setdefault(listed[number].actor, []).append(collective.number)
    for one, other in combinations(begun.values(), 2):
        assert [number for number in one if number in other] == [number for number in other if number in one]


def graph_of(*listed: Operation, outputs: tuple[int, ...]) -> Graph:
    return Graph(listed, outputs, is_list=True)


def test_edges_of_one_transport_share_a_group() -> None:
    plan = schedule(
        graph_of(
            Operation(0, "a", "make", (Input(),), transport=GLOO),
            Operation(1, "b", "double", (Result(0),), transport=GLOO),
            Operation(2, "c", "total", (Result(1), Result(0))),
            outputs=(2,),
        ),
        "g",
        slots=4,
    )
    (group,) = plan.groups
    assert (group.backend, sorted(group.actors)) == ("gloo", [0, 1, 2])
    rank = {actor: group.actors.index(actor) for actor in range(3)}
    (writer,) = plan.members[0].writers
    assert writer.edge is not None
    assert (writer.edge.peers, writer.edge.slots) == ((rank[1], rank[2]), 4)
    for end in plan.members[2].readers:
        assert end.edge is not None
        assert end.edge.peers in ((rank[0],), (rank[1],))
    tags = {end.edge.tag for end in plan.members[2].readers if end.edge is not None}
    assert len(tags) == 2
    assert [member.groups for member in plan.members.values()] == [(group.name,)] * 3


def test_what_the_driver_reads_or_writes_is_in_no_group() -> None:
    graph = Graph((Operation(0, "a", "make", (Input(),), transport=GLOO),), (0,), input_transport=GLOO)
    assert (graph.transport_of(0), graph.input_kind) == ("shm", "shm")
    plan = schedule(graph, "g")
    assert plan.groups == ()
    assert [end.edge for end in (*plan.members[0].readers, *plan.members[0].writers)] == [None, None]


def test_own_communicators_have_groups_of_their_own() -> None:
    def make(_: object) -> None:
        pytest.fail("only compiling makes communicators")

    plan = schedule(
        graph_of(
            Operation(0, "a", "make", (Input(),), transport=GLOO),
            Operation(0, "b", "make", (Input(),), transport=TensorTransport("own", communicator=make)),
            Operation(1, "c", "total", (Result(0), Result(1))),
            outputs=(2,),
        ),
        "g",
    )
    assert [group.backend for group in plan.groups] == ["gloo", make]
    shared = schedule(
        graph_of(
            Operation(0, "a", "make", (Input(),), transport=GLOO),
            Operation(1, "c", "total", (Result(0),)),
            outputs=(1,),
        ),
        "g",
        communicator=make,
    )
    assert [group.backend for group in shared.groups] == [make]
