"""No valid graph can stand still: random graphs, slots, executions in flight and turns; and their values are right.

What runs here are the members that run in actors (worker/graphs.py), over channels that are lists.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from actorflow.dag.plan import Access, Constant, Graph, Input, Operation, Result, Source, checked
from actorflow.worker import settling
from tests.unit.graph_simulator import Simulation, evaluated

ACCESSES: tuple[Access, ...] = (None, 0, 1, "scale")
MOST_TURNS = 20_000


@pytest.fixture(scope="module", autouse=True)
def worker() -> Iterator[None]:
    """This process is the worker of all members."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settling, "_worker_pid", os.getpid())
        yield


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Any graph that compiles: operations of a few actors, each fed by the input or others; some fail at times."""
    actors = draw(st.integers(1, 4))
    operations: list[Operation] = []
    for number in range(draw(st.integers(1, 9))):
        fed: list[st.SearchStrategy[Source]] = [st.sampled_from(ACCESSES).map(Input)]
        if number:
            fed = [st.integers(0, number - 1).map(Result), *fed]
        first = draw(st.one_of(fed))
        more = draw(st.lists(st.one_of(*fed, st.integers(1, 9).map(Constant)), max_size=3))
        sources = draw(st.permutations([first, *more]))
        cut = draw(st.integers(0, len(sources)))
        kwargs = tuple((f"k{index}", source) for index, source in enumerate(sources[cut:]))
        method = draw(st.sampled_from(["mix", "mix", "mix", "fail_at_times"]))
        actor = draw(st.integers(0, actors - 1))
        operations.append(Operation(actor, f"op{number}", method, tuple(sources[:cut]), kwargs))
    used = {number for operation in operations for number in operation.upstream}
    ends = [number for number in range(len(operations)) if number not in used]
    more_outputs = draw(st.lists(st.integers(0, len(operations) - 1), max_size=2))
    return checked(Graph(tuple(operations), tuple(draw(st.permutations(ends + more_outputs))), is_list=True))


def method_of(actor: int, name: str) -> Any:
    """Values from which one can tell which operation got which arguments in which place."""

    def mix(*args: int, **kwargs: int) -> int:
        return hash((actor, args, tuple(sorted(kwargs.items())))) % 1_000_003

    def fail_at_times(*args: int, **kwargs: int) -> int:
        value = mix(*args, **kwargs)
        if value % 3 == 0:
            raise ValueError(str(value))
        return value

    return mix if name == "mix" else fail_at_times


def input_of(access: Access, execution: int) -> int:
    return hash((access, execution)) % 1_000_003


def plain(value: Any) -> Any:
    """Errors by what they say: the same exception arrives as a TaskError of its type."""
    return ("error", str(value.args[0])) if isinstance(value, ValueError) else value


@settings(max_examples=300)
@given(
    graph=graphs(),
    slots=st.integers(1, 4),
    inflight=st.integers(1, 6),
    executions=st.integers(1, 6),
    seed=st.integers(0, 1 << 30),
)
def test_every_valid_graph_ends_with_the_values_of_plain_evaluation(
    graph: Graph, slots: int, inflight: int, executions: int, seed: int
) -> None:
    simulation = Simulation(graph, slots, inflight, method_of)
    turns = random.Random(seed)
    for _ in range(MOST_TURNS):
        if simulation.is_done(executions):
            break
        first = turns.randrange(simulation.parties)
        order = [first, *(party for party in range(simulation.parties) if party != first)]
        assert any(simulation.turn(party, input_of, executions) for party in order), "nobody can go on"
    else:
        raise AssertionError("it goes on and never ends")
    event(f"{len(graph.operations)} operations")
    for execution in range(executions):
        got = [simulation.results[output][execution] for output in simulation.plan.outputs]
        wanted = evaluated(graph, execution, input_of, method_of)
        assert list(map(plain, got)) == list(map(plain, wanted))


@settings(max_examples=100)
@given(graph=graphs())
def test_a_member_keeps_nothing_once_an_execution_is_done(graph: Graph) -> None:
    simulation = Simulation(graph, 2, 1, method_of)
    while not simulation.is_done(1):
        for party in range(simulation.parties):
            simulation.turn(party, input_of, 1)
    assert not any(value is not None for member in simulation._members for value in member._registers)
