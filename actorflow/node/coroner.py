"""Settles what dead processes leave in shared memory, and ends those that hold up others.

The work is the core's (ext/core/coroner.h); here is when it is done, and what those who wait are told.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from actorflow import _hot
from actorflow.errors import ActorflowError, Death, OutOfMemoryError, WorkerCrashedError
from actorflow.node.log import warn
from actorflow.node.pidfds import open_pidfd
from actorflow.shm.store import Doomed, Name, SlotState, Store
from actorflow.wire.failures import encode_error

LOOK_S = 1.0
AGAIN_S = 0.1
TRIM_LOOKS = 10
KEPT_SPANS = 64  # free message memory that keeps its pages: 4 MiB, a burst of calls
KEPT_NAMES = 10_000  # functions that jobs have exported; beyond that the oldest are called "task"


class Coroner:
    """The node's own: it alone settles slots."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, store: Store, node_id: str, stopped_holder_s: float
    ) -> None:
        self._loop = loop
        self._store = store
        self._node_id = node_id
        self._limit_s = stopped_holder_s
        self._timer: asyncio.TimerHandle | None = None
        self._recount_owed = False
        self._looks = 0
        self._task_names: dict[Name, str] = {}

    # -- the dead

    def settle(
        self,
        slot: int,
        epoch: int,
        error: bytes,
        *,
        retry: bool = True,
        then: Callable[[], object] = lambda: None,
    ) -> None:
        """Settles the slot of an ended process, unless it left in order; its started calls get `error`.

        `retry`: those that have retries left are run again instead. `then`: what follows once all is settled.
        """
        facts = self._store.slot(slot)
        if facts.epoch != epoch or facts.state is SlotState.FREE:
            then()
            return
        if facts.state is SlotState.RESERVED:
            self._store.unreserve(slot, epoch)
            then()
            return
        settlement = self._store.settle(slot, epoch, error, retry=retry)
        if settlement is None:
            again = functools.partial(self.settle, slot, epoch, error, retry=retry, then=then)
            self._loop.call_later(AGAIN_S, again)
            return
        self._recount_owed |= settlement.recount_owed
        if settlement.repaired:
            warn(f"process {facts.pid} died inside an operation; {settlement.repaired} counts were repaired")
        then()

    def settle_each(
        self,
        slot: int,
        epoch: int,
        error_of: Callable[[Doomed | None], bytes],
        then: Callable[[], object] = lambda: None,
    ) -> None:
        """As `settle` with retries: each call that is not run again gets an error of its own, others that of None."""
        facts = self._store.slot(slot)
        if facts.epoch == epoch and facts.state is SlotState.LIVE:
            while doomed := self._store.doomed(slot, epoch):
                failed = [self._store.fail(slot, epoch, call.call, error_of(call)) for call in doomed]
                if not any(failed):
                    break
        self.settle(slot, epoch, error_of(None), then=then)

    def settle_tasks(self, slot: int, epoch: int, death: Death) -> None:
        """Settles a worker of tasks: errors have the task's name and attempt."""

        def error_of(doomed: Doomed | None) -> bytes:
            if doomed is None:
                return self.task_error(death)
            return self.task_error(death, self._task_names.get(doomed.function, "task"), doomed.attempt)

        self.settle_each(slot, epoch, error_of)

    def close(self, mailbox: _hot.Hold, error: bytes, held: Sequence[_hot.Hold] = ()) -> None:
        """Closes a mailbox, as Store.close, with `held` for `named`: now, or as soon as there is memory for it."""
        if not self._store.close(mailbox.name, error, [hold.name for hold in held]):
            self._loop.call_later(AGAIN_S, self.close, mailbox, error, held)

    def name_task(self, function: Name, name: str) -> None:
        """Calls of that function are called so in errors."""
        while len(self._task_names) >= KEPT_NAMES:
            del self._task_names[next(iter(self._task_names))]
        self._task_names[function] = name

    def name_of(self, function: Name) -> str | None:
        """What calls of that function are called; None: it is not known."""
        return self._task_names.get(function)

    def task_error(self, death: Death, name: str = "task", attempt: int = 1) -> bytes:
        """What the tasks that a worker had started get."""
        if death.memory is not None:
            facts = vars(death.memory)
            return self.encode(OutOfMemoryError(task_name=name, node_id=self._node_id, **facts), attempt)
        return self.encode(WorkerCrashedError(task_name=name, death=death, attempt=attempt), attempt)

    def encode(self, error: ActorflowError, attempt: int = 1) -> bytes:
        """An error of the node's own as ERROR bytes."""
        return encode_error(error, name="node", node_id=self._node_id, pid=os.getpid(), attempt=attempt)

    # -- those that hold up others

    def start(self) -> None:
        """Begins to look, once a second, for locks that are held for too long and for what is still to be done."""
        self._timer = self._loop.call_later(LOOK_S, self._look)

    def stop(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self.start()  # first: whatever fails here is tried again
        slot = self._store.overdue(self._limit_s)
        if slot is not None:
            self._end_holder(slot)
        if self._recount_owed:
            self._recount_owed = not self._store.audit(repair=True).consistent
        self._looks += 1
        if self._looks % TRIM_LOOKS == 0:
            self._store.trim(KEPT_SPANS)

    def _end_holder(self, slot: int) -> None:
        """Kills the process of a slot: it was stopped, or is stuck, while it held a lock that others need."""
        facts = self._store.slot(slot)
        if facts.state is not SlotState.LIVE or facts.pid == os.getpid():
            return
        warn(
            f"process {facts.pid} ({_command(facts.pid)}) has held a lock of the shared memory for over "
            f"{self._limit_s:g} s (is it stopped?): it is killed"
        )
        pidfd = open_pidfd(facts.pid)
        if pidfd is not None:
            if self._store.slot(slot) == facts:  # else it has ended meanwhile, and its number is another's
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


def _command(pid: int) -> str:
    try:
        return Path("/proc", str(pid), "comm").read_text().strip()
    except OSError:
        return "unknown"
