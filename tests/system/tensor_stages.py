"""What tests of tensors in compiled graphs share: actors to wire, and that nothing is left of their graphs.

Imported by pytest.importorskip: torch is an extra.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import actorflow as af
from actorflow.collective import groups
from tests.conftest import wait_until
from tests.system import collective_bodies as bodies
from tests.system.conftest import stored_bytes

ODD = {
    "sparse": lambda: torch.eye(2).to_sparse(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.quint8),
    "meta": lambda: torch.empty(2, device="meta"),
}


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

    def odd(self, name: str) -> Any:
        return {**ODD, "dense": lambda: torch.ones(2), "square": lambda: torch.ones(2, 2)}[name]()

    def shape(self, tensor: Any) -> Any:
        return tuple(tensor.shape)

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


@pytest.fixture(scope="module")
def stages() -> Iterator[list[Any]]:
    """Four of them, for a module's tests."""
    with af.init(num_cpus=4, object_store_memory=256 * 1024 * 1024):
        yield [Stage.remote() for _ in range(4)]


@pytest.fixture(autouse=True)
def nothing_is_left(stages: list[Any]) -> Iterator[None]:
    """Of any test of a module that has this fixture."""
    yield
    wait_until_left(stages)


def wait_until_left(stages: list[Any]) -> None:
    """Returns once the actors are in no group, and the store is empty."""
    wait_until(lambda: not any(af.get([one.in_groups.remote() for one in stages])), 20, "groups are left")
    wait_until(lambda: stored_bytes() == 0, 20, "the store is empty")


def run_until_it_fails(graph: Any, *args: Any) -> None:
    """A death shows within a few executions."""
    for _ in range(1000):
        af.get(graph.execute(*args), timeout=20)
