"""Credit: who sends more than an actor reads waits, or is refused."""

from __future__ import annotations

from typing import Any

import pytest

import actorflow as af
from tests.system import bodies

pytestmark = pytest.mark.usefixtures("runtime")


def test_max_pending_calls() -> None:
    gate = bodies.Gate.remote()

    @af.remote(max_pending_calls=5)
    class Slow:
        def work(self, gate: Any) -> None:
            af.get(gate.pass_through.remote())

    slow = Slow.remote()
    refs = [slow.work.remote(gate)]
    af.get(gate.arrived.remote(1))
    refs += [slow.work.remote(gate) for _ in range(5)]
    with pytest.raises(af.PendingCallsLimitExceeded, match="5"):
        slow.work.remote(gate)
    af.get(gate.open.remote())
    af.get(refs)


def test_a_driver_that_floods_an_actor_is_held_back(
    runtime: af.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "lane_credit", 16)
    counter = bodies.Counter.remote()
    refs, depths = [], []
    for _ in range(2000):
        refs.append(counter.add.remote())
        depths.append(counter._actor_door.target.facts()["depth"])
    assert max(depths) <= 16
    assert af.get(refs) == list(range(1, 2001))


def test_a_call_that_floods_an_actor_is_refused(runtime: af.Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits inside a call keeps others waiting: two actors could flood each other and both wait for ever."""
    monkeypatch.setattr(runtime, "lane_credit", 16)
    gate = bodies.Gate.remote()

    @af.remote
    class Slow:
        def work(self, gate: Any) -> None:
            af.get(gate.pass_through.remote())

    @af.remote
    def flood(slow: Any, gate: Any) -> int:
        refs = [slow.work.remote(gate)]
        af.get(gate.arrived.remote(1))
        try:
            while True:
                refs.append(slow.work.remote(gate))
        except af.PendingCallsLimitExceeded:
            af.get(gate.open.remote())
        return len(af.get(refs))

    assert af.get(flood.remote(Slow.remote(), gate)) == 17
