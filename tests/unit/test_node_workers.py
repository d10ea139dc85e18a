"""How the node learns that its workers have ended, and which of them count as failed starts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from actorflow.core.events import WorkerId
from actorflow.errors import Death, DeathKind
from actorflow.node.workers import BUSY_STATUS_WAIT_S, STATUS_WAIT_S, YOUNG_S, Worker, Workers

JOB: Any = object()


class Later:
    """A loop's clock that is moved by hand."""

    def __init__(self) -> None:
        self.waits: list[tuple[float, Callable[[], object]]] = []

    def call_later(self, delay_s: float, call: Callable[..., object], *args: Any) -> None:
        self.waits.append((delay_s, functools.partial(call, *args)))

    def run_next(self) -> float:
        delay_s, call = self.waits.pop(0)
        call()
        return delay_s


class Deaths:
    """A listener that keeps how workers ended."""

    def __init__(self) -> None:
        self.told: list[Death] = []

    def worker_gone(self, worker: Worker, death: Death) -> None:
        self.told.append(death)


@pytest.mark.parametrize(("can_report", "more_s"), [(True, BUSY_STATUS_WAIT_S), (False, 0.0)])
def test_how_a_worker_ended_is_waited_for_as_long_as_the_zygote_may_tell(
    can_report: bool, more_s: float
) -> None:
    loop, deaths = Later(), Deaths()
    link: Any = SimpleNamespace(can_report=lambda: can_report)
    anything: Any = None
    workers = Workers(loop, anything, link, "ab12", deaths)  # type: ignore[arg-type] # doubles
    for slot in (1, 2):
        worker = Worker(WorkerId(slot), slot, 1, anything)
        workers._workers[worker.id] = workers._by_process[slot, 1] = worker
        workers._ended(worker)
    assert loop.run_next() == STATUS_WAIT_S
    workers.exited(1, 1, 9)  # killed by signal 9
    assert [death.signal for death in deaths.told] == [9]
    assert loop.run_next() == STATUS_WAIT_S
    assert [loop.run_next(), loop.run_next()] == [more_s, more_s]
    assert [death.detail for death in deaths.told] == ["", "its status is not known"]


@pytest.mark.parametrize(
    ("job", "unread", "age_s", "sentence", "unborn"),
    [
        (None, 0, 0.9 * YOUNG_S, None, True),
        (None, 0, 1.1 * YOUNG_S, None, False),
        (JOB, 1, 1.1 * YOUNG_S, None, True),
        (JOB, 0, 0.0, None, False),
        (JOB, 1, 0.0, Death(DeathKind.JOB_ENDED), False),
    ],
)
def test_a_worker_that_could_not_begin(
    job: Any, unread: int, age_s: float, sentence: Death | None, unborn: bool
) -> None:
    now_s = 100.0
    loop: Any = SimpleNamespace(time=lambda: now_s)
    store: Any = SimpleNamespace(facts=lambda name: SimpleNamespace(depth=unread))
    commands: Any = SimpleNamespace(mailbox=SimpleNamespace(name=(64, 1)))
    anything: Any = None
    workers = Workers(loop, store, anything, "ab12", anything)
    worker = Worker(WorkerId(1), 1, 1, commands)
    worker.job, worker.born_s, worker.sentence = job, now_s - age_s, sentence
    assert workers.is_unborn(worker) is unborn
