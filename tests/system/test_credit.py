"""Credit: who sends more than an actor reads waits, or is refused."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

import actorflow as af
from tests.system import bodies

pytestmark = pytest.mark.usefixtures("runtime")


@af.remote(max_pending_calls=5)
class Slow:
    def work(self, gate: Any) -> None:
        af.get(gate.pass_through.remote())


@af.remote
def send_until_refused(slow: Any, gate: Any) -> int:
    """How many calls of its own this process could make."""
    refs = []
    with contextlib.suppress(af.PendingCallsLimitExceeded):
        while True:
            refs.append(slow.work.remote(gate))
    af.get(gate.open.remote())
    af.get(refs)
    return len(refs)


def test_the_call_that_runs_is_pending() -> None:
    gate, slow = bodies.Gate.remote(), Slow.remote()
    refs = [slow.work.remote(gate)]
    af.get(gate.arrived.remote(1))
    refs += [slow.work.remote(gate) for _ in range(4)]
    with pytest.raises(af.PendingCallsLimitExceeded, match="5"):
        slow.work.remote(gate)
    af.get(gate.open.remote())
    af.get(refs)
    af.get([slow.work.remote(gate) for _ in range(5)])


def test_all_handles_of_a_process_count_together_and_each_process_for_itself() -> None:
    gate = bodies.Gate.remote()
    slow = Slow.options(name="slow").remote()
    refs = [af.get_actor("slow").work.remote(gate) for _ in range(5)]
    with pytest.raises(af.PendingCallsLimitExceeded):
        slow.work.remote(gate)
    assert af.get(send_until_refused.remote(slow, gate)) == 5
    af.get(refs)


def test_what_waits_for_its_concurrency_group_or_for_arguments_is_pending() -> None:
    @af.remote(max_pending_calls=4, concurrency_groups={"narrow": 1})
    class Grouped:
        @af.method(concurrency_group="narrow")
        async def through(self, gate: Any) -> int:
            passed: int = await gate.pass_through.remote()
            return passed

        async def echo(self, value: Any) -> Any:
            return value

    gate, grouped = bodies.Gate.remote(), Grouped.remote()
    refs = [grouped.through.remote(gate) for _ in range(3)]
    af.get(gate.arrived.remote(1))
    refs.append(grouped.echo.remote(refs[0]))
    with pytest.raises(af.PendingCallsLimitExceeded):
        grouped.echo.remote(1)
    af.get(gate.open.remote())
    assert af.get(refs) == [1, 2, 3, 1]
    assert af.get(grouped.echo.remote(1)) == 1


def test_a_call_that_was_cancelled_is_not_pending() -> None:
    gate, slow = bodies.Gate.remote(), Slow.remote()
    refs = [slow.work.remote(gate) for _ in range(5)]
    af.get(gate.arrived.remote(1))
    af.cancel(refs[2])
    refs[2] = slow.work.remote(gate)
    with pytest.raises(af.PendingCallsLimitExceeded):
        slow.work.remote(gate)
    af.get(gate.open.remote())
    af.get(refs)


def test_calls_of_a_dead_actor_are_not_pending() -> None:
    gate, slow = bodies.Gate.remote(), Slow.remote()
    refs = [slow.work.remote(gate) for _ in range(5)]
    af.kill(slow)
    for ref in [*refs, slow.work.remote(gate)]:
        with pytest.raises(af.ActorDiedError):
            af.get(ref)
    af.get(gate.open.remote())


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
