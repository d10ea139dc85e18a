"""Wishes at the node: signalled until told, killed with force, forgotten when the call is over."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from actorflow import _hot
from actorflow.node import cancelling
from actorflow.node.cancelling import Cancellations, Wish

PROCESS = (3, 7)
OVER = 2


class FakeLoop:
    """Keeps what is to be called later; tests drive it."""

    def __init__(self) -> None:
        self.later: list[tuple[float, Callable[..., Any], tuple[Any, ...]]] = []

    def call_later(self, delay_s: float, step: Callable[..., Any], *args: Any) -> None:
        self.later.append((delay_s, step, args))

    def run(self) -> float:
        delay_s, step, args = self.later.pop(0)
        step(*args)
        return delay_s


class FakeWatch:
    def __init__(self) -> None:
        self.sent: list[signal.Signals] = []

    def send(self, number: signal.Signals) -> None:
        self.sent.append(number)


class FakeWorker:
    slot, epoch = PROCESS

    def __init__(self) -> None:
        self.queue: Any = object()
        self.watch = FakeWatch()


class FakeWorkers:
    def __init__(self, worker: FakeWorker) -> None:
        self.worker: FakeWorker | None = worker
        self.killed: list[FakeWorker] = []

    def find(self, process: tuple[int, int]) -> FakeWorker | None:
        return self.worker if process == PROCESS else None

    def kill(self, worker: FakeWorker, sentence: Any) -> None:
        self.killed.append(worker)

    def death(self, worker: FakeWorker, kind: Any, detail: str) -> str:
        return detail


class FakeCell:
    def __init__(self, number: int) -> None:
        self.name = (number, 1)


class World:
    """A node's cancellations with nothing real around them. `state`: what the core answers for each call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state: dict[tuple[int, int], tuple[int, int, int, bool]] = {}
        self.settled: list[tuple[tuple[int, int], bytes]] = []
        self.children: dict[tuple[int, int], list[FakeCell]] = {}
        self.loop = FakeLoop()
        self.worker = FakeWorker()
        self.workers = FakeWorkers(self.worker)
        self.cancellations = Cancellations(self.loop, self.workers)  # type: ignore[arg-type]
        monkeypatch.setattr(cancelling, "_reference", lambda call: call)
        monkeypatch.setattr(_hot, "cancel", lambda call, wish, error: self.state[call.name])
        monkeypatch.setattr(_hot, "call_of", lambda call: call)
        monkeypatch.setattr(_hot, "settle_killed", self._settle_killed)
        monkeypatch.setattr(_hot, "children", lambda name: self.children.get(name, []))

    def _settle_killed(self, call: Any, slot: int, epoch: int, error: bytes) -> bool:
        assert (slot, epoch) == PROCESS
        self.settled.append((call.name, error))
        return True

    def runs(self, number: int, *, told: bool = False) -> None:
        self.state[number, 1] = (_hot.CANCEL_STARTED, *PROCESS, told)

    def ask(self, number: int, *, force: bool = False) -> None:
        cell: Any = FakeCell(number)
        self.cancellations.ask(Wish(cell, _hot.CANCEL_CHILDREN, b"error", b"child", force))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_signals_come_often_and_then_ever_more_rarely_until_the_code_was_told(world: World) -> None:
    world.runs(1)
    world.ask(1)
    pauses_s = [world.loop.run() for _ in range(cancelling.EAGER_LOOKS + 8)]
    assert pauses_s == sorted(pauses_s)
    assert set(pauses_s[: cancelling.EAGER_LOOKS]) == {cancelling.FIRST_PAUSE_S}
    assert pauses_s[-1] == cancelling.LONGEST_PAUSE_S
    assert world.worker.watch.sent == [signal.SIGURG] * (len(pauses_s) + 1)
    world.runs(1, told=True)
    world.loop.run()
    assert not world.loop.later
    assert len(world.worker.watch.sent) == len(pauses_s) + 1


def test_a_call_that_is_over_is_forgotten(world: World) -> None:
    world.state[1, 1] = (OVER, 0, 0, False)
    world.ask(1)
    assert not world.loop.later
    world.runs(1)
    world.ask(1)
    assert world.loop.later


def test_a_call_is_signalled_once_however_often_it_is_cancelled(world: World) -> None:
    world.runs(1)
    world.ask(1)
    world.ask(1)
    assert len(world.loop.later) == 1
    assert len(world.worker.watch.sent) == 1


def test_who_has_just_started_it_may_be_no_worker(world: World) -> None:
    world.state[1, 1] = (_hot.CANCEL_STARTED, 9, 9, False)
    world.ask(1)
    assert len(world.loop.later) == 1


def test_force_kills_the_worker_also_when_it_was_told(world: World) -> None:
    world.runs(1, told=True)
    world.ask(1, force=True)
    assert world.workers.killed == [world.worker]
    assert not world.worker.watch.sent
    world.cancellations.worker_gone(world.worker)  # type: ignore[arg-type]
    assert world.settled == [((1, 1), b"error")]


def test_force_after_a_wish_without(world: World) -> None:
    world.runs(1)
    world.ask(1)
    world.ask(1, force=True)
    assert world.workers.killed == [world.worker]
    world.cancellations.worker_gone(world.worker)  # type: ignore[arg-type]
    world.loop.run()
    assert not world.loop.later


def test_force_leaves_an_actor_alive(world: World) -> None:
    world.worker.queue = None
    world.runs(1)
    world.ask(1, force=True)
    assert not world.workers.killed
    assert world.worker.watch.sent == [signal.SIGURG]


def test_the_children_of_what_was_killed_are_cancelled(world: World) -> None:
    world.runs(1)
    world.runs(2)
    world.children[1, 1] = [FakeCell(2)]
    world.ask(1, force=True)
    world.cancellations.worker_gone(world.worker)  # type: ignore[arg-type]
    assert len(world.workers.killed) == 2
    world.cancellations.worker_gone(world.worker)  # type: ignore[arg-type]
    assert world.settled == [((1, 1), b"error"), ((2, 1), b"child")]
