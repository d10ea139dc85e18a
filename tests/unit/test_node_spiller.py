"""Bringing values back: what is read ahead disturbs nobody, and what was freed is not taken for another."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from actorflow import _hot
from actorflow.node.disks import Disks, Place
from actorflow.node.spiller import Spiller

BYTES = 1 << 20
SUM = 7


class FakePins(SimpleNamespace):
    """Of object `block`."""

    block: int
    bytes = BYTES
    is_written = False


class FakeDisk:
    """Keeps nothing. `sum` is what comes back of all that is read."""

    path = "/fake"

    def __init__(self) -> None:
        self.sum = SUM
        self.read_objects: list[int] = []

    def write(self, pins: Any) -> Place:
        return Place(self, pins.block, SUM)

    def read(self, where: int, pins: Any) -> int:
        self.read_objects.append(where)
        return self.sum

    def name(self, where: int) -> str:
        return str(where)

    def free(self, where: int) -> None:
        pass

    def free_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass


class FakeSpillStore:
    """What clients ask for, and what becomes of it. Of an object `n` the spilled value is 100 + n."""

    def __init__(self) -> None:
        self.to_write: list[int] = []
        self.to_restore: list[int] = []
        self.to_forget: list[int] = []
        self.room: list[bool] = []  # whether the next ones who need some find it; all later ones do
        self.back: list[int] = []
        self.refused: list[int] = []

    def open(self, mailbox: Any, wait_s: float) -> None:
        pass

    def returned(self) -> list[int]:
        return [self.to_forget.pop() for _ in self.to_forget[:]]

    def asked(self) -> list[int]:
        return [self.to_restore.pop() for _ in self.to_restore[:]]

    def room_wanted(self) -> int:
        return BYTES if self.to_write else 0

    def room_ring(self) -> None:
        pass

    def room_quiet(self) -> None:
        pass

    def pick(self, least_bytes: int, *, written: bool = False) -> list[int]:
        return [self.to_write.pop(0) for _ in self.to_write[:]]

    def begin(self, candidate: int) -> FakePins:
        return FakePins(block=candidate)

    def commit(self, pins: FakePins) -> int:
        return 100 + pins.block

    def abort(self, pins: FakePins) -> None:
        pass

    def free(self, spilled: int) -> None:
        pass

    def size_bytes(self, spilled: int) -> int:
        return BYTES

    def restore(self, spilled: int) -> FakePins | None:
        return FakePins(block=spilled - 100) if not self.room or self.room.pop(0) else None

    def restored(self, spilled: int, pins: FakePins) -> None:
        self.back.append(spilled)

    def not_restored(self, spilled: int, failure: Any) -> None:
        self.refused.append(spilled)


class House:
    """A spiller among fakes. `look` is what a ring has it do; `lost` what the rebuilder was told of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_hot, "make_mailbox", lambda *_: SimpleNamespace(name=(0, 0)))
        self.spill = FakeSpillStore()
        self.disk = FakeDisk()
        self.lost: list[int] = []
        segment = SimpleNamespace(object_bytes=BYTES, object_bytes_used=BYTES)
        rebuilder = SimpleNamespace(
            start=lambda *_: None, look=lambda: None, stop=lambda: None, lost=self._lost
        )
        self.spiller = Spiller(
            asyncio.get_running_loop(),
            SimpleNamespace(listen=self._listen),  # type: ignore[arg-type]
            SimpleNamespace(segment=lambda: segment),  # type: ignore[arg-type]
            self.spill,  # type: ignore[arg-type]
            Disks([self.disk]),
            rebuilder,  # type: ignore[arg-type]
        )
        self.spiller.start()

    def _listen(self, _: Any, look: Any) -> None:
        self.look = look

    def _lost(self, spilled: int, _: str) -> None:
        self.lost.append(spilled)

    async def spilled(self, count: int) -> None:
        """Objects 0, 1, ... go to disk, in that order."""
        for number in range(count):
            self.spill.to_write = [number]
            self.look()
            await self.settled()

    async def ask(self, spilled: int) -> None:
        """Somebody wants a value back."""
        self.spill.to_restore = [spilled]
        self.look()
        await self.settled()

    async def settled(self) -> None:
        """Until nothing is written or read."""
        while self.spiller._tasks:
            await asyncio.wait(self.spiller._tasks)
            await asyncio.sleep(0)  # what is told of their end


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = House(monkeypatch)
    yield made
    made.spiller.stop()


async def test_the_next_is_read_ahead(house: House) -> None:
    await house.spilled(4)
    await house.ask(101)
    assert sorted(house.spill.back) == [101, 102]


async def test_what_is_read_ahead_finds_room_or_goes_without(house: House) -> None:
    await house.spilled(3)
    house.spill.room = [True, False, False]
    await house.ask(101)
    assert house.spill.back == [101]
    assert house.spill.refused == []


async def test_who_wants_what_is_being_read_ahead_waits_on_for_room(house: House) -> None:
    await house.spilled(3)
    house.spill.room = [True, False, False]
    house.spill.to_restore = [101]
    house.look()
    await house.ask(102)
    assert house.spill.back == [101, 102]


async def test_nobody_is_told_of_a_bad_file_that_was_read_ahead(house: House) -> None:
    await house.spilled(4)
    house.disk.sum += 1
    await house.ask(101)
    assert sorted(house.disk.read_objects) == [1, 2]
    assert house.lost == [101]
    await house.ask(102)
    assert house.lost == [101, 102]


async def test_a_value_that_was_freed_while_it_waited_is_not_taken_for_another(house: House) -> None:
    await house.spilled(1)
    house.spill.room = [False]
    house.spill.to_restore = [100]
    house.look()
    await asyncio.sleep(0)  # now it waits for room
    house.spill.to_forget = [100]
    house.look()
    await house.settled()  # the block may stand for another value by now
    assert house.disk.read_objects == []
    assert house.spill.back == []
