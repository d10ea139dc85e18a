"""Processes that user code forks: each is found, watched by its pidfd, and told of when it has ended."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Iterator

import pytest

from actorflow import _hot
from actorflow.node import forks
from actorflow.node.forks import Forks
from actorflow.shm.store import Role, SlotState, Store
from tests.conftest import wait_until

MIB = 1 << 20
DEADLINE_S = 30.0


class Family:
    """A node with its watch over forked children, in one process; the children wait until they are killed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.store = Store(_hot.client_address())
        self.gone: list[tuple[int, int, int]] = []
        self.children: set[int] = set()
        self.forks = Forks(loop, self.store, lambda *process: self.gone.append(process))

    def bear(self) -> int:
        """Forks a child that has taken its slot; returns its pid."""
        reader, writer = os.pipe()
        _hot.fork_prepare()
        pid = os.fork()
        if pid == 0:
            _hot.fork_child()
            os.write(writer, b"x")
            while True:
                signal.pause()
        self.children.add(pid)
        _hot.fork_parent()
        assert os.read(reader, 1) == b"x"
        os.close(reader)
        os.close(writer)
        return pid

    def kill(self, pid: int) -> None:
        """Ends a child."""
        self.children.remove(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def slot(self) -> tuple[int, int]:
        """Slot and epoch of the only forked child."""
        (facts,) = self.store.slots(Role.FORK)
        return facts.number, facts.epoch

    def hear_of(self, pid: int) -> None:
        """Turns the loop until the child's death was told."""

        def told() -> bool:
            self.loop.run_until_complete(asyncio.sleep(0))
            return any(process[2] == pid for process in self.gone)

        wait_until(told, DEADLINE_S, "the death is told")


@pytest.fixture
def family() -> Iterator[Family]:
    _hot.create(b"n" * 16, 16, 64 * MIB, MIB, MIB, 0)
    loop = asyncio.new_event_loop()
    family = Family(loop)
    yield family
    for child in list(family.children):
        family.kill(child)
    family.forks.stop()
    loop.close()
    _hot.detach()


def test_an_announced_child_is_watched(family: Family) -> None:
    child = family.bear()
    slot, epoch = family.slot()
    assert family.forks.announced(slot, epoch) == 0, "its parent's slot"
    family.kill(child)
    family.hear_of(child)
    assert family.gone == [(slot, epoch, child)]


def test_a_child_that_died_before_it_was_heard_of(family: Family) -> None:
    child = family.bear()
    slot, epoch = family.slot()
    family.kill(child)
    family.forks.announced(slot, epoch)
    assert family.gone == [(slot, epoch, child)]


def test_what_is_no_forked_child_is_ignored(family: Family) -> None:
    worker, epoch = family.store.reserve(Role.WORKER, 1)
    assert family.forks.announced(worker, epoch) is None
    assert family.forks.announced(0, 1) is None, "the node itself"
    child = family.bear()
    slot, epoch = family.slot()
    assert family.forks.announced(slot, epoch + 1) is None, "a later process of that slot"
    family.kill(child)
    assert family.gone == []


def test_a_child_that_never_announced_itself_is_found(family: Family) -> None:
    child = family.bear()
    family.forks._look()
    family.forks._look()
    family.kill(child)
    family.hear_of(child)
    assert [pid for _, _, pid in family.gone] == [child]


def test_what_a_fork_copied_for_a_child_that_never_came_is_dropped(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = _hot.put(b"held")
    _hot.fork_prepare()
    pid = ctypes.PyDLL(None).fork()  # without Python's hooks, in which the child would take its slot
    if pid == 0:
        os._exit(0)  # before its first look
    _hot.fork_parent()
    os.waitpid(pid, 0)
    slot, _ = family.slot()
    assert held.name in [block.name for block in family.store.holds(slot)]
    monkeypatch.setattr(forks, "CLAIM_S", -1.0)
    family.forks._look()
    assert family.store.slot(slot).state is SlotState.FREE
    assert family.store.holds(slot) == []
    del held
    assert family.store.audit().blocks == 1, "the own hold table"


def test_a_slot_that_no_child_took_is_given_back(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    slot, _ = family.store.reserve(Role.FORK, 1)
    family.forks._look()
    assert family.store.slot(slot).state is SlotState.RESERVED
    monkeypatch.setattr(forks, "CLAIM_S", -1.0)
    family.forks._look()
    assert family.store.slot(slot).state is SlotState.FREE
    assert family.gone == []
