"""Calls that wait for each other: one of them gets a DeadlockError, and what only takes long does not."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

import actorflow as af
from tests.system.bodies import Gate

pytestmark = pytest.mark.usefixtures("runtime")
DEADLINE_S = 30.0
LONG_S = 0.35  # several looks


@af.remote(num_cpus=0)
class Peer:
    """Calls others, and waits for them."""

    def meet(self, *others: Any) -> None:
        self.others = others

    def echo(self, value: Any = None) -> Any:
        return value

    def call_back(self) -> Any:
        """As part of a call of the other's, which waits for it."""
        return af.get(self.others[0].echo.remote(1))

    def call_forth(self) -> Any:
        return af.get(self.others[0].call_back.remote())

    def call_all(self, gate: Any) -> Any:
        """Once all have begun."""
        af.get(gate.pass_through.remote())
        return af.get([other.echo.remote(index) for index, other in enumerate(self.others)])

    def wait_for_all(self, gate: Any) -> Any:
        af.get(gate.pass_through.remote())
        refs = [other.echo.remote(index) for index, other in enumerate(self.others)]
        return len(af.wait(refs, num_returns=len(refs))[0])

    def give_up(self, gate: Any) -> str:
        af.get(gate.pass_through.remote())
        try:
            af.get(self.others[0].echo.remote(), timeout=LONG_S)
        except af.GetTimeoutError:
            return "gave up"
        return "answered"

    def call_through_a_task(self) -> Any:
        return af.get(call_echo.remote(self.others[0]))

    def call_with_what_never_comes(self) -> Any:
        never = self.others[0].call_back.remote()
        return af.get(self.others[0].echo.remote(never))

    def hear_signals(self) -> None:
        """From now on, fifty times a second."""
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)

    def take_long(self) -> str:
        time.sleep(LONG_S)  # what is computed
        return "done"

    def ask_who_takes_long(self) -> Any:
        return af.get(self.others[0].take_long.remote())

    def go_on(self) -> Any:
        """Calls who will wait for this actor, and is there for it a little later."""
        ref = self.others[0].call_back.remote()
        time.sleep(LONG_S)
        self.kept = [ref]
        return "went on"


@af.remote(num_cpus=0)
def call_echo(peer: Any) -> Any:
    return af.get(peer.echo.remote(2))


def peers(count: int) -> list[Any]:
    """Each knows the one after it, the last the first."""
    made = [Peer.remote() for _ in range(count)]
    af.get([peer.meet.remote(made[(index + 1) % count]) for index, peer in enumerate(made)])
    return made


def end(actors: list[Any]) -> None:
    """They refer to each other: none would end by itself."""
    for actor in actors:
        assert af.get(actor.echo.remote("alive"), timeout=DEADLINE_S) == "alive"
        af.kill(actor)


def test_a_call_back_to_who_waits() -> None:
    first, second = peers(2)
    with pytest.raises(af.DeadlockError, match=r"Peer\.echo"):
        af.get(first.call_forth.remote(), timeout=DEADLINE_S)
    end([first, second])


def test_signals_that_come_all_the_time_hide_no_circle() -> None:
    first, second = peers(2)
    af.get([actor.hear_signals.remote() for actor in (first, second)])
    with pytest.raises(af.DeadlockError, match=r"Peer\.echo"):
        af.get(first.call_forth.remote(), timeout=DEADLINE_S)
    end([first, second])


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("method", ["call_all", "wait_for_all"])
def test_actors_in_a_circle(count: int, method: str) -> None:
    gate, actors = Gate.remote(), peers(count)
    refs = [getattr(actor, method).remote(gate) for actor in actors]
    af.get(gate.arrived.remote(count))
    af.get(gate.open.remote())
    ended: list[str] = []
    for ref in refs:
        try:
            af.get(ref, timeout=DEADLINE_S)
        except af.DeadlockError:
            ended.append("deadlock")
    assert ended == ["deadlock"], "one of them is enough"
    end(actors)


def test_a_circle_through_a_task_and_through_an_argument() -> None:
    first, second = peers(2)
    af.get(first.meet.remote(first))
    with pytest.raises(af.DeadlockError):
        af.get(first.call_through_a_task.remote(), timeout=DEADLINE_S)
    af.get(first.meet.remote(second))
    with pytest.raises(af.DeadlockError):
        af.get(first.call_with_what_never_comes.remote(), timeout=DEADLINE_S)
    end([first, second])


def test_who_waits_with_a_limit_is_in_no_circle() -> None:
    gate, (first, second) = Gate.remote(), peers(2)
    refs = [first.give_up.remote(gate), second.call_all.remote(gate)]
    af.get(gate.arrived.remote(2))
    af.get(gate.open.remote())
    assert af.get(refs, timeout=DEADLINE_S) == ["gave up", [0]]
    end([first, second])


def test_what_takes_long_is_no_circle() -> None:
    first, second, third = peers(3)
    refs = [first.ask_who_takes_long.remote(), second.ask_who_takes_long.remote(), third.take_long.remote()]
    assert af.get(refs, timeout=DEADLINE_S) == ["done"] * 3
    assert af.get(first.go_on.remote(), timeout=DEADLINE_S) == "went on"
    end([first, second, third])
