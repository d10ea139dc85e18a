"""Short graphs, and the kinds of actors that tests wire them of."""

from __future__ import annotations

from typing import Any

import pytest

from actorflow.dag import CompiledGraph, InputNode
from tests.system.graph_bodies import AsyncStepper, Stepper, Threaded

KINDS = pytest.mark.parametrize("kind", [Stepper, AsyncStepper, Threaded], ids=["sync", "async", "threaded"])
BUSY_S = 20.0  # a machine that has much else to do takes no longer


def one_step(actor: Any, method: str, **options: Any) -> CompiledGraph:
    with InputNode() as inp:
        return getattr(actor, method).bind(inp).experimental_compile(**options)  # type: ignore[no-any-return]


def chain(*methods: Any, **options: Any) -> CompiledGraph:
    with InputNode() as inp:
        value: Any = inp
        for method in methods:
            value = method.bind(value)
        return value.experimental_compile(**options)  # type: ignore[no-any-return]


def added(actor: Any, **options: Any) -> Any:
    """A graph of one actor that adds 1."""
    with InputNode() as number:
        return actor.add.bind(number).experimental_compile(**options)
