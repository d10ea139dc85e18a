"""Processes that user code forked from a client: each has a slot of its own, which is settled when it ends.

A parent reserves the slot before it forks; the child claims it and announces itself. A child that could not announce
itself is found by a look over the slots, and a slot that no child ever claimed is given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from actorflow.node.pidfds import Watch, open_pidfd
from actorflow.shm.store import Role, SlotFacts, SlotState, Store

LOOK_S = 5.0
CLAIM_S = 30.0  # from fork_prepare to the child's first instruction: more is a fork that failed

Process = tuple[int, int]


class Forks:
    """The node's watch over forked clients. `on_gone(slot, epoch, pid)` runs in the loop when one has ended."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, store: Store, on_gone: Callable[[int, int, int], object]
    ) -> None:
        self._loop = loop
        self._store = store
        self._on_gone = on_gone
        self._watches: dict[Process, Watch] = {}
        self._unclaimed: dict[Process, float] = {}  # reserved -> when it was first seen
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to look over the slots from time to time."""
        self._timer = self._loop.call_later(LOOK_S, self._look)

    def stop(self) -> None:
        """Watches no more."""
        if self._timer is not None:
            self._timer.cancel()
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()

    def announced(self, slot: int, epoch: int) -> int | None:
        """The process of that slot says that it is there. Returns its parent's slot; None: it is no forked client."""
        facts = self._store.slot(slot)
        if facts.epoch != epoch or facts.role is not Role.FORK or facts.state is not SlotState.LIVE:
            return None
        self._watch(facts)
        return facts.parent

    def _watch(self, facts: SlotFacts) -> None:
        process = (facts.number, facts.epoch)
        if process in self._watches:
            return
        pidfd = open_pidfd(facts.pid)
        if pidfd is None:
            self._on_gone(facts.number, facts.epoch, facts.pid)
            return

        def ended() -> None:
            del self._watches[process]
            self._on_gone(facts.number, facts.epoch, facts.pid)

        self._watches[process] = Watch(self._loop, pidfd, ended)

    def _look(self) -> None:
        self.start()  # first: whatever fails here is tried again
        now_s = monotonic()
        seen = {}
        for facts in self._store.slots(Role.FORK):
            process = (facts.number, facts.epoch)
            if facts.state is SlotState.LIVE:
                self._watch(facts)
            elif facts.state is SlotState.RESERVED:
                seen[process] = since_s = self._unclaimed.get(process, now_s)
                if now_s - since_s > CLAIM_S:
                    self._store.unreserve(*process)
        self._unclaimed = seen
