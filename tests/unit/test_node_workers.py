"""Which workers that have ended count as failed starts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from actorflow.core.events import WorkerId
from actorflow.errors import Death, DeathKind
from actorflow.node.workers import YOUNG_S, Worker, Workers

JOB: Any = object()


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
