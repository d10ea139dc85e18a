"""Random graphs over actors of all kinds in real processes: the values of ordinary calls, and no standing still."""

from __future__ import annotations

import random
from typing import Any

import pytest

import actorflow as af
from actorflow.dag import InputNode, MultiOutputNode
from tests.system.graph_bodies import AsyncStepper, Stepper, Threaded
from tests.system.graph_wiring import BUSY_S

pytestmark = pytest.mark.usefixtures("runtime")

GRAPHS = 6
ROUNDS = 5


def random_end(dice: random.Random, actors: list[Any]) -> MultiOutputNode:
    """Up to eight operations, each of which takes up to three values of those before; all are outputs."""
    with InputNode() as inp:
        nodes: list[Any] = [inp]
        for _ in range(dice.randint(1, 8)):
            taken = [dice.choice(nodes) for _ in range(dice.randint(1, 3))]
            nodes.append(dice.choice(actors).join.bind(*taken))
        return MultiOutputNode(nodes[1:])


@pytest.mark.parametrize("seed", range(3))
def test_random_graphs_on_the_same_actors(seed: int) -> None:
    dice = random.Random(seed)
    actors = [dice.choice([Stepper, AsyncStepper, Threaded]).remote() for _ in range(4)]
    graphs = []
    for _ in range(GRAPHS):
        end = random_end(dice, actors)
        inflight = dice.randint(1, 5)
        graphs.append((end.experimental_compile(max_inflight_executions=inflight), inflight))
        wanted = [af.get(end.execute(number)) for number in range(inflight)]
        for _ in range(ROUNDS):
            begun = [graphs[-1][0].execute(number) for number in range(inflight)]
            assert [af.get(refs, timeout=BUSY_S) for refs in begun] == wanted
    begun_in_all = [[graph.execute(number) for number in range(inflight)] for graph, inflight in graphs]
    for begun in begun_in_all:
        for refs in begun:
            af.get(refs, timeout=BUSY_S)
    for graph, _ in graphs:
        graph.teardown()
