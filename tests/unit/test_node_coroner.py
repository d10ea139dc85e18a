"""When the dead are settled, and what becomes of processes that hold up others; the store is played by a double."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from actorflow.errors import Death, DeathKind, WorkerCrashedError
from actorflow.node import coroner
from actorflow.node.coroner import Coroner
from actorflow.shm.store import Audit, Doomed, Name, Role, Settlement, SlotFacts, SlotState
from actorflow.wire.failures import decode_error


class StoreDouble:
    """Says what it was told to say, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.facts: dict[int, SlotFacts] = {}
        self.settlements: list[Settlement | None] = []
        self.closings: list[bool] = []
        self.doomed_calls: list[Doomed] = []
        self.failed: dict[int, bytes] = {}
        self.done_meanwhile: set[int] = set()
        self.holder: int | None = None
        self.is_consistent = True
        self.asked: list[Any] = []

    def add(self, number: int, epoch: int, state: SlotState, pid: int = 0) -> None:
        self.facts[number] = SlotFacts(number, epoch, state, pid, Role.WORKER, 1, None, False, 0, 0, False)

    def slot(self, number: int) -> SlotFacts:
        return self.facts[number]

    def unreserve(self, slot: int, epoch: int) -> None:
        self.asked.append(("unreserve", slot, epoch))

    def settle(self, slot: int, epoch: int, error: bytes, *, retry: bool) -> Settlement | None:
        self.asked.append(("settle", slot, epoch, error, retry))
        return self.settlements.pop(0)

    def close(self, mailbox: Name, error: bytes, named: list[Name]) -> bool:
        self.asked.append(("close", mailbox, error, named))
        return self.closings.pop(0)

    def doomed(self, slot: int, epoch: int) -> list[Doomed]:
        return [doomed for doomed in self.doomed_calls if doomed.call not in self.failed]

    def fail(self, slot: int, epoch: int, call: int, error: bytes) -> bool:
        self.failed[call] = error
        return call not in self.done_meanwhile

    def overdue(self, limit_s: float) -> int | None:
        return self.holder

    def audit(self, *, repair: bool) -> Audit:
        self.asked.append(("audit", repair))
        return Audit(0, 0, 0, 0, 0, 0, 0, 0, self.is_consistent)

    def trim(self, keep_spans: int) -> None:
        self.asked.append(("trim", keep_spans))


class Bench:
    """A coroner on a loop, with its double."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.store = StoreDouble()
        self.coroner = Coroner(loop, self.store, "cafe", 5.0)  # type: ignore[arg-type] # a double

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.coroner._look()
            self.coroner.stop()


@pytest.fixture
def bench() -> Iterator[Bench]:
    loop = asyncio.new_event_loop()
    yield Bench(loop)
    loop.close()


def test_who_left_in_order_is_not_settled(bench: Bench) -> None:
    bench.store.add(1, 4, SlotState.FREE)
    bench.coroner.settle(1, 3, b"error")
    bench.store.add(1, 4, SlotState.LIVE)
    bench.coroner.settle(1, 3, b"error")
    assert bench.store.asked == []


def test_who_never_came_is_taken_off_the_list(bench: Bench) -> None:
    bench.store.add(1, 3, SlotState.RESERVED)
    bench.coroner.settle(1, 3, b"error")
    assert bench.store.asked == [("unreserve", 1, 3)]


def test_the_dead_are_settled_with_the_error(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    bench.store.add(1, 3, SlotState.LIVE, 4711)
    bench.store.settlements = [Settlement(1, 0, 0, 0, True, 2, False)]
    bench.coroner.settle(1, 3, b"error")
    assert bench.store.asked == [("settle", 1, 3, b"error", True)]
    assert "process 4711 died inside an operation; 2 counts were repaired" in capfd.readouterr().err
    bench.look()
    assert ("audit", True) not in bench.store.asked


def test_a_mailbox_that_cannot_be_closed_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coroner, "AGAIN_S", 0.0)
    mailbox: Any = SimpleNamespace(name=(64, 1))
    held: Any = SimpleNamespace(name=(128, 1))
    bench.store.closings = [False, True]
    bench.coroner.close(mailbox, b"error", [held])
    assert len(bench.store.asked) == 1
    for _ in range(3):
        bench.loop.run_until_complete(asyncio.sleep(0))
    assert bench.store.asked == [("close", (64, 1), b"error", [(128, 1)])] * 2


def test_what_cannot_be_settled_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coroner, "AGAIN_S", 0.0)
    bench.store.add(1, 3, SlotState.LIVE)
    bench.store.settlements = [None, Settlement(0, 0, 0, 0, False, 0, False)]
    bench.coroner.settle(1, 3, b"error")
    assert len(bench.store.asked) == 1
    for _ in range(3):
        bench.loop.run_until_complete(asyncio.sleep(0))
    assert bench.store.asked == [("settle", 1, 3, b"error", True)] * 2


def test_a_look_that_fails_is_not_the_last(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(limit_s: float) -> int | None:
        raise OSError("no memory for it")

    monkeypatch.setattr(coroner, "LOOK_S", 0.0)
    monkeypatch.setattr(bench.store, "overdue", fail)
    with pytest.raises(OSError, match="no memory"):
        bench.coroner._look()
    looked: list[float] = []
    monkeypatch.setattr(bench.store, "overdue", looked.append)
    for _ in range(3):
        bench.loop.run_until_complete(asyncio.sleep(0))
    bench.coroner.stop()
    assert looked


def test_a_recount_that_is_owed_is_made_until_it_succeeds(bench: Bench) -> None:
    bench.store.add(1, 3, SlotState.LIVE)
    bench.store.settlements = [Settlement(0, 0, 0, 0, True, 0, True)]
    bench.coroner.settle(1, 3, b"error")
    bench.store.asked.clear()
    bench.store.is_consistent = False
    bench.look()
    bench.store.is_consistent = True
    bench.look(2)
    assert bench.store.asked == [("audit", True)] * 2


def test_memory_is_given_back_now_and_then(bench: Bench) -> None:
    bench.look(2 * coroner.TRIM_LOOKS)
    assert bench.store.asked == [("trim", coroner.KEPT_SPANS)] * 2


def test_who_holds_a_lock_for_too_long_is_reported_and_killed(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    with subprocess.Popen(["sleep", "1000"]) as holder:
        os.kill(holder.pid, signal.SIGSTOP)
        bench.store.add(2, 1, SlotState.LIVE, holder.pid)
        bench.store.holder = 2
        bench.look()
        assert holder.wait(30) == -signal.SIGKILL
    said = capfd.readouterr().err
    assert f"process {holder.pid} (" in said
    assert "has held a lock" in said
    assert "over 5 s" in said


def test_a_holder_that_is_settled_by_now_is_left_alone(bench: Bench) -> None:
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        bench.store.add(2, 1, SlotState.FREE, stranger.pid)
        bench.store.holder = 2
        bench.look()
        assert stranger.poll() is None
        stranger.kill()


def test_errors_say_who_died_and_how(bench: Bench) -> None:
    death = Death(DeathKind.SIGNALLED, pid=17, node_id="cafe", signal=9)
    error = decode_error(bench.coroner.task_error(death))
    assert isinstance(error, WorkerCrashedError)
    assert error.death == death
    assert "killed by signal 9 (SIGKILL) (pid 17, node cafe)" in str(error)


def test_each_task_that_is_not_run_again_is_told_its_name_and_attempt(bench: Bench) -> None:
    death = Death(DeathKind.SIGNALLED, pid=17, node_id="cafe", signal=9)
    bench.store.add(1, 3, SlotState.LIVE)
    bench.store.settlements = [Settlement(0, 0, 0, 0, False, 0, False)]
    bench.store.doomed_calls = [Doomed(100, (8, 1), 4, 0), Doomed(200, (9, 1), 1, 0)]
    bench.coroner.name_task((8, 1), "train")
    bench.coroner.settle_tasks(1, 3, death)
    told = [decode_error(bench.store.failed[call]) for call in (100, 200)]
    assert [(error.task_name, error.attempt) for error in told] == [("train", 4), ("task", 1)]  # type: ignore[attr-defined]
    assert bench.store.asked == [("settle", 1, 3, bench.coroner.task_error(death), True)]


def test_calls_that_ended_by_themselves_are_left_to_the_settling(bench: Bench) -> None:
    bench.store.add(1, 3, SlotState.LIVE)
    bench.store.settlements = [Settlement(0, 0, 0, 0, False, 0, False)]
    bench.store.doomed_calls = [Doomed(100, (8, 1), 1, 0)]
    bench.store.done_meanwhile = {100}
    bench.coroner.settle_tasks(1, 3, Death(DeathKind.SIGNALLED, signal=9))
    assert len(bench.store.asked) == 1


def test_names_of_tasks_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coroner, "KEPT_NAMES", 2)
    for number in range(5):
        bench.coroner.name_task((number, 1), str(number))
    assert bench.coroner._task_names == {(3, 1): "3", (4, 1): "4"}
