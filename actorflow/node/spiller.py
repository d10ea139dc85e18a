"""Spills idle objects when the store is full, and brings back what is wanted.

Who lacks room, or a value that lies on disk, rings (ext/core/spill.h); how much is to go is decided by
`actorflow.core.spilling`. Bytes are moved by threads, everything else is done in the node's loop.
Who reads values in the order in which they were written finds the next one read ahead, if there is room at once.
Guarantees: an object whose bytes could not be written stays in memory; one that could not be read stays on disk, and
whoever waits is told (of one that was only read ahead nobody is). Every spilled value that is freed gives its place on
disk back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from actorflow import _hot, config
from actorflow.client.waiting import LoopPort
from actorflow.core.spilling import Pressure, ReadAhead
from actorflow.node.disks import Disks, Place
from actorflow.node.lineage import Rebuilder
from actorflow.node.log import warn
from actorflow.shm.spill import Candidate, Failure, Pins, SpillStore
from actorflow.shm.store import Store

LOOK_S = 0.1  # while somebody waits, or bytes are moved
IDLE_LOOK_S = 1.0  # while something is spilled: what a lost ring costs at most
ROOM_LOOK_S = 0.02
WRITERS_PER_DISK = 2  # one sums up while the other writes
READERS = 4
DISK_PAUSE_S = 1.0  # after a failure: to a full disk nothing is written for so long
LEAST_BYTES = 64 * 1024  # smaller ones free less than the block that stands for them is worth


class Spiller:
    """The node's own.

    Invariants: `_places` has exactly the spilled values whose blocks were not given back; `_ahead` has those of
    `_restoring` that nobody has asked for.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        port: LoopPort,
        store: Store,
        spill: SpillStore,
        disks: Disks,
        rebuilder: Rebuilder,
    ) -> None:
        settings = config.current()
        self._loop = loop
        self._port = port
        self._store = store
        self._spill = spill
        self._disks = disks
        self._rebuilder = rebuilder
        self._wait_s = settings.store_wait_s
        self._pressure = Pressure(store.segment().object_bytes, settings.spill_ahead_fraction)
        self._writers = max(1, len(disks)) * WRITERS_PER_DISK
        self._threads = ThreadPoolExecutor(self._writers + READERS, thread_name_prefix="spill")
        self._reading = asyncio.Semaphore(READERS)
        self._places: dict[int, Place] = {}
        self._read_ahead = ReadAhead()
        self._restoring: dict[int, asyncio.Task[None]] = {}
        self._ahead: set[int] = set()
        self._room_made = asyncio.Event()
        self._candidates: list[Candidate] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._writing = 0
        self._leaving_bytes = 0
        self._paused_until_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._mailbox: _hot.Hold | None = None
        self._is_stopped = False
        self.spilled_bytes = self.restored_bytes = 0

    # -- life

    def start(self) -> None:
        """Begins to serve those who ring."""
        self._mailbox = _hot.make_mailbox(_hot.ORDERED, 0, 1)
        self._port.listen(self._mailbox, self._look)
        self._spill.open(self._mailbox.name, self._wait_s)
        self._rebuilder.start(
            self._bring_back, lambda spilled: self._spill.not_restored(spilled, Failure.NO_ROOM)
        )

    def stop(self) -> None:
        """Spills and brings back nothing more; the files end."""
        self._is_stopped = True
        self._rebuilder.stop()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._disks.close()

    # -- looks

    def _look(self) -> None:
        """Takes what was asked for and given back, and goes on with it."""
        if self._is_stopped:
            return
        for spilled in self._spill.returned():
            self._forget(spilled)
        for spilled in self._spill.asked():
            self._begin_asked(spilled)
        wanted_bytes = self._spill.room_wanted()
        if wanted_bytes:
            self._ask(wanted_bytes)
        self._rebuilder.look()
        self._pump()
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        is_on = self._pressure.is_on(self._loop.time())
        if not is_on:
            self._spill.room_quiet()
        if is_on or self._tasks:
            self._timer = self._loop.call_later(LOOK_S, self._look)
        elif self._places:
            self._timer = self._loop.call_later(IDLE_LOOK_S, self._look)

    def _ask(self, wanted_bytes: int) -> None:
        used_bytes = self._store.segment().object_bytes_used
        self._pressure.ask(self._loop.time(), wanted_bytes, used_bytes, self._leaving_bytes)
        if self._loop.time() < self._paused_until_s:
            self._spill.failed(self._disks.path, self._disks.free_bytes())

    def _forget(self, spilled: int) -> None:
        """A spilled value is no more: freed, or back in memory."""
        place = self._places.pop(spilled, None)
        self._read_ahead.forget(spilled)
        self._spill.free(spilled)
        if place is not None:
            self._threads.submit(place.disk.free, place.where)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            warn(f"spilling: {task.exception()!r}")
        self._look()

    # -- writing

    def _pump(self) -> None:
        """Begins to write as much as is wanted and the threads take; lets go of what is on disk already."""
        now_s = self._loop.time()
        if not self._disks:
            return
        if now_s < self._paused_until_s:
            self._drop_written(now_s)
            return
        while self._writing < self._writers and self._is_more_wanted(now_s):
            pins = self._next_idle()
            if pins is None:
                return
            if pins.is_written:
                self._commit_written(pins)
                continue
            self._writing += 1
            self._leaving_bytes += pins.bytes
            self._begin(self._write(pins))

    def _is_more_wanted(self, now_s: float) -> bool:
        used_bytes = self._store.segment().object_bytes_used
        return self._pressure.excess_bytes(now_s, used_bytes, self._leaving_bytes) > 0

    def _drop_written(self, now_s: float) -> None:
        """While nothing can be written: room is made by what was brought back and lies on disk still."""
        if not self._is_more_wanted(now_s):
            return
        for candidate in self._spill.pick(LEAST_BYTES, written=True):
            pins = self._spill.begin(candidate)
            if pins is not None:
                self._commit_written(pins)
            if not self._is_more_wanted(now_s):
                return

    def _commit_written(self, pins: Pins) -> None:
        if self._spill.commit(pins) is None:
            self._spill.abort(pins)
        self._ring()

    def _ring(self) -> None:
        """There may be room: for clients, and for what is to be brought back."""
        self._spill.room_ring()
        self._room_made.set()

    def _next_idle(self) -> Pins | None:
        """The idle object that was not used for longest, held."""
        for _ in range(2):
            while self._candidates:
                pins = self._spill.begin(self._candidates.pop(0))
                if pins is not None:
                    return pins
            self._candidates = self._spill.pick(LEAST_BYTES)
        return None

    async def _write(self, pins: Pins) -> None:
        place = None
        try:
            place = await self._loop.run_in_executor(self._threads, self._disks.write, pins)
        except OSError as error:
            self._fail(error)
        finally:
            self._writing -= 1
            self._leaving_bytes -= pins.bytes
            if not self._is_stopped:
                self._written(pins, place)

    def _written(self, pins: Pins, place: Place | None) -> None:
        spilled = self._spill.commit(pins) if place is not None else None
        if spilled is None:
            self._spill.abort(pins)
            if place is not None:
                self._threads.submit(place.disk.free, place.where)
        elif place is not None:
            self._places[spilled] = place
            self._read_ahead.written(spilled)
            self.spilled_bytes += pins.bytes
        self._ring()

    def _fail(self, error: OSError) -> None:
        """Nothing can be written: who waits for room is told, and nothing is tried for a moment."""
        if self._loop.time() >= self._paused_until_s:
            warn(f"cannot spill objects to {self._disks.path}: {error.strerror or error}")
        self._paused_until_s = self._loop.time() + DISK_PAUSE_S
        self._spill.failed(self._disks.path, self._disks.free_bytes())

    # -- reading

    def _begin_asked(self, spilled: int) -> None:
        """Brings back what somebody wants, and what is likely to be wanted next."""
        self._begin_restoring(spilled)
        for following in self._read_ahead.asked(spilled):
            if following not in self._restoring:
                self._begin_restoring(following)
                self._ahead.add(following)

    def _begin_restoring(self, spilled: int) -> None:
        self._ahead.discard(spilled)
        if spilled in self._places and spilled not in self._restoring:
            self._restoring[spilled] = self._begin(self._restore(spilled, self._places[spilled]))

    async def _bring_back(self, spilled: int) -> None:
        """Until a value that its caller holds has been read, made again, or is known to be lost."""
        self._begin_restoring(spilled)
        if spilled in self._restoring:
            await asyncio.wait({self._restoring[spilled]})

    async def _restore(self, spilled: int, place: Place) -> None:
        try:
            async with self._reading:
                told = await self._read(spilled, place)
            if told is not None:
                await told
        finally:
            del self._restoring[spilled]
            self._ahead.discard(spilled)

    async def _read(self, spilled: int, place: Place) -> asyncio.Future[None] | None:
        """Of a value that is lost: what is done once who waits has been told so, or has it."""
        with contextlib.suppress(LookupError):
            pins = await self._room_for(spilled, place)
            if pins is None:
                if spilled not in self._ahead:
                    self._spill.not_restored(spilled, Failure.NO_ROOM)
                return None
            problem = await self._fill(pins, place)
            if self._is_stopped:
                return None
            if problem is None:
                self.restored_bytes += pins.bytes
                self._spill.restored(spilled, pins)
                return None
            try:  # of one that nobody waits for nothing is said: who wants it finds that out
                return None if spilled in self._ahead else self._rebuilder.lost(spilled, problem)
            finally:
                self._spill.abort(pins)
        return None

    async def _room_for(self, spilled: int, place: Place) -> Pins | None:
        """A new object for a spilled value, once there is room; None: there is none. LookupError: it is not needed."""
        deadline_s = self._loop.time() + max(self._wait_s, IDLE_LOOK_S)
        while True:
            if self._places.get(spilled) is not place:  # freed; the block may stand for another by now
                raise LookupError(spilled)
            pins = self._spill.restore(spilled)
            if pins is not None or self._loop.time() > deadline_s:
                return pins
            await self._make_room(self._spill.size_bytes(spilled))
            if spilled in self._ahead:
                deadline_s = 0.0

    async def _make_room(self, size_bytes: int) -> None:
        """Until there may be some, a moment at most: what clients free rings nobody here."""
        self._room_made.clear()
        self._ask(size_bytes)
        self._pump()
        self._set_timer()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROOM_LOOK_S):
                await self._room_made.wait()

    async def _fill(self, pins: Pins, place: Place) -> str | None:
        """What is wrong with its file, or None."""
        try:
            found = await self._loop.run_in_executor(self._threads, place.disk.read, place.where, pins)
        except OSError as error:
            return f"its file {place.name} cannot be read: {error.strerror or error}"
        return None if found == place.sum else f"its file {place.name} has other bytes than were written"
