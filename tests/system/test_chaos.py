"""Many calls while workers are killed: all settle, none is executed twice without leave, everything is given back."""

from __future__ import annotations

import signal

import pytest

import actorflow as af
from actorflow.errors import Death, DeathKind
from bench import chaos
from tests.conftest import wait_until

pytestmark = pytest.mark.usefixtures("runtime")
DEADLINE_S = 60.0


def test_calls_while_workers_are_killed() -> None:
    report = chaos.run(chaos.Plan(calls=2000, kills=30, pause_s=0.05))
    assert not report.wrong, "\n".join(report.lines())
    assert report.killed >= 25
    assert report.done + report.failed == 4000
    wait_until(
        lambda: af.available_resources() == af.cluster_resources(), DEADLINE_S, "resources are given back"
    )


def test_a_judgement_can_fail() -> None:
    """What the test above looks for would be found."""
    report = chaos.Report()
    sent = [chaos.Sent(number, None, number % 2 == 0) for number in range(4)]
    failed: dict[int, BaseException] = {2: af.WorkerCrashedError(task_name="a", death=_death(), attempt=1)}
    executed = chaos.Counter({0: 3, 1: 2, 2: 1})
    chaos._judge(sent, failed, executed, report)
    assert [text.partition(" ")[2].partition(" ")[0] for text in report.wrong] == ["1", "2", "3"]


def _death() -> Death:
    return Death(DeathKind.SIGNALLED, signal=signal.SIGKILL)
