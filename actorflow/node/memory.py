"""Watches the node's memory, and ends a worker before the kernel would end whatever it likes.

Who goes is decided by `actorflow.core.memory`. What counts as used is what cannot be had back: page cache does
not. With a limit of the user's own (`memory_limit_bytes`) it is what the workers have for themselves, and the
object store.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

from actorflow.core.events import WorkerId
from actorflow.core.memory import LOOK_S, MemoryPolicy, Resident, pause_s
from actorflow.errors import DeathKind, MemoryFacts
from actorflow.node import machine
from actorflow.node.log import warn
from actorflow.node.workers import Worker, Workers
from actorflow.shm.store import Store


class MemoryMonitor:
    """The node's own. `is_actor` tells which workers host one."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        store: Store,
        workers: Workers,
        is_actor: Callable[[Worker], bool],
        *,
        threshold: float,
        limit_bytes: int,
    ) -> None:
        self._loop = loop
        self._store = store
        self._workers = workers
        self._is_actor = is_actor
        self._policy = MemoryPolicy(threshold)
        self._limit_bytes = limit_bytes
        self._since: dict[WorkerId, tuple[int, float]] = {}  # what it runs, and when that was first seen
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to look."""
        self._look_after(LOOK_S)

    def _look_after(self, pause_s: float) -> None:
        self._timer = self._loop.call_later(pause_s, self._look)

    def stop(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        now_s = self._loop.time()
        own = {worker.id: _own_bytes(worker.pid) for worker in self._workers} if self._limit_bytes else {}
        used_bytes, limit_bytes = self._use(sum(own.values()))
        self._look_after(pause_s(limit_bytes - used_bytes))
        if not self._policy.is_short(2 * used_bytes, limit_bytes):  # far from it: nobody has to be known
            return
        chosen = self._policy.choose(now_s, used_bytes, limit_bytes, self._residents(now_s))
        worker = self._workers.get(chosen.worker) if chosen is not None else None
        if chosen is not None and worker is not None:
            self._kill(worker, MemoryFacts(used_bytes, limit_bytes, chosen.bytes))

    def _use(self, own_bytes: int) -> tuple[int, int]:
        if not self._limit_bytes:
            return machine.memory_use()
        return own_bytes + self._store.segment().object_bytes_used, self._limit_bytes

    def _residents(self, now_s: float) -> list[Resident]:
        """The actors, and the workers that run a task now."""
        residents = []
        before, self._since = self._since, {}
        for worker in self._workers:
            running = self._store.slot(worker.slot).running if worker.pid else 0
            is_actor = self._is_actor(worker)
            if not worker.pid or not (running or is_actor):
                continue
            seen = before.get(worker.id, (0, 0.0))
            self._since[worker.id] = seen if seen[0] == running else (running, now_s)
            is_retriable = bool(running) and self._store.has_retries(running)
            since_s = self._since[worker.id][1]
            residents.append(Resident(worker.id, is_actor, is_retriable, since_s, _own_bytes(worker.pid)))
        return residents

    def _kill(self, worker: Worker, facts: MemoryFacts) -> None:
        warn(f"memory is short: {facts}: worker {worker.pid} is killed")
        death = self._workers.death(worker, DeathKind.OUT_OF_MEMORY, str(facts))
        self._workers.kill(worker, dataclasses.replace(death, memory=facts))


def _own_bytes(pid: int) -> int:
    """What a process has for itself: its resident pages without shared ones."""
    try:
        resident, shared = Path("/proc", str(pid), "statm").read_text().split()[1:3]
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * machine.PAGE_BYTES
