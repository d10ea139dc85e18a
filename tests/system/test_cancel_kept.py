"""What a call was given that never runs: whoever keeps its ref keeps nothing of that."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import actorflow as af
from tests.conftest import wait_until
from tests.system.bodies import Counter, Gate, total
from tests.system.conftest import stored_bytes

pytestmark = pytest.mark.usefixtures("runtime")

DEADLINE_S = 20.0
LARGE_BYTES = 2_000_000


def queued(gate: Any, given: list[Any]) -> Any:
    busy = Counter.remote(gate.pass_through.remote())  # its constructor waits
    return busy.note.remote(given)


def waits(gate: Any, given: list[Any]) -> Any:
    return total.remote(gate.pass_through.remote(), given)


def waits_in_order(gate: Any, given: list[Any]) -> Any:
    return Counter.remote().add.remote(gate.pass_through.remote(), given)


@pytest.mark.parametrize("send", [queued, waits, waits_in_order])
def test_a_cancelled_call_keeps_nothing_it_was_given(send: Any) -> None:
    """Were it otherwise, an actor that keeps the ref of a call that was given its handle would never end."""
    keeper, gate, stored = Counter.remote(), Gate.remote(), stored_bytes()
    pid = af.get(keeper.pid.remote())
    given = [keeper, np.zeros(LARGE_BYTES, dtype=np.uint8), af.put(np.zeros(LARGE_BYTES, dtype=np.uint8))]
    ref = send(gate, given)
    af.get(keeper.note.remote([ref]))
    af.cancel(ref)
    with pytest.raises(af.TaskCancelledError):
        af.get(ref)
    del given
    wait_until(lambda: stored_bytes() == stored, DEADLINE_S, "what is large is freed")
    del keeper
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), DEADLINE_S, "the actor ends")
    af.get(gate.open.remote())
