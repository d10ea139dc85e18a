"""The worker processes: has the zygote fork them, gives them orders, and sees each of them end.

Guarantees: every worker that was started ends in `on_gone` exactly once, with how it ended. A death is seen by the
worker's pidfd; how it died comes from the zygote, which reaps it. Where the zygote is late, the worker is settled
without that.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import msgpack

from actorflow import _hot
from actorflow.core.events import WorkerId
from actorflow.core.resources import GpuShare
from actorflow.errors import Death, DeathKind
from actorflow.node.jobs import Job, Queue
from actorflow.node.log import warn
from actorflow.node.pidfds import Watch
from actorflow.node.zygote_link import ZygoteLink
from actorflow.shm.store import Role, SlotState, Store, StoreError

STATUS_WAIT_S = 0.015  # the zygote reports within 1 ms; a death is to be settled within 20 ms
BUSY_STATUS_WAIT_S = 0.25  # on a machine so busy that it has not: unless it is stopped, it will
YOUNG_S = 1.0  # a worker that is to end at its start does so in milliseconds
COMMAND_CREDIT = 16  # orders that one worker may have before it: serve, leave, exit, and a few


class Worker:
    """One process. `job`: whose it is, from its first order on. `sentence`: why the node is killing it."""

    __slots__ = (
        "born_s",
        "commands",
        "epoch",
        "gpus",
        "id",
        "job",
        "pid",
        "queue",
        "sentence",
        "slot",
        "watch",
    )

    def __init__(self, worker: WorkerId, slot: int, epoch: int, commands: _hot.Target) -> None:
        self.id = worker
        self.slot = slot
        self.epoch = epoch
        self.commands = commands
        self.job: Job | None = None
        self.queue: Queue | None = None
        self.gpus: GpuShare = ()
        self.pid = 0
        self.born_s = 0.0  # time of the loop
        self.watch: Watch | None = None
        self.sentence: Death | None = None


class Listener(Protocol):
    """Who is told what becomes of the workers."""

    def worker_born(self, worker: Worker, output: list[int]) -> None: ...
    def worker_ready(self, worker: Worker) -> None: ...
    def worker_failed(self) -> None: ...
    def worker_gone(self, worker: Worker, death: Death) -> None: ...


class Workers:
    """All workers of the node."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        store: Store,
        link: ZygoteLink,
        node_id: str,
        listener: Listener,
    ) -> None:
        self._loop = loop
        self._store = store
        self._link = link
        self._node_id = node_id
        self._listener = listener
        self._started = 0
        self._workers: dict[WorkerId, Worker] = {}
        self._by_process: dict[tuple[int, int], Worker] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._workers.values()))

    def __len__(self) -> int:
        return len(self._workers)

    def get(self, worker_id: WorkerId) -> Worker | None:
        """The worker of that number, if it is there."""
        return self._workers.get(worker_id)

    def find(self, process: tuple[int, int]) -> Worker | None:
        """The worker of a (slot, epoch), if it is one."""
        return self._by_process.get(process)

    # -- orders

    def start(self, count: int) -> int:
        """Has the zygote fork `count` workers; returns for how many there was room."""
        for started in range(count):
            try:
                slot, epoch = self._store.reserve(Role.WORKER, 0)
            except StoreError as error:
                warn(f"no more workers: {error}")
                return started
            commands = _hot.Target(_hot.make_mailbox(_hot.ORDERED, 0, COMMAND_CREDIT))
            self._started += 1
            worker = Worker(WorkerId(self._started), slot, epoch, commands)
            self._workers[worker.id] = self._by_process[slot, epoch] = worker
            self._link.fork(slot, epoch, commands.mailbox.name)
        return count

    def serve(self, worker_id: WorkerId, queue: Queue, gpus: GpuShare) -> None:
        """Lets the worker read a queue."""
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.job, worker.queue, worker.gpus = queue.job, queue, gpus
            order = {
                "do": "serve",
                "job": queue.job.description,
                "environment": queue.environment,
                "gpus": gpus,
                "resources": queue.shape.own_units,
                "group": queue.group,
            }
            self.command(worker, order, [queue.mailbox])

    def ask_to_leave(self, worker_id: WorkerId) -> None:
        """Has the worker leave its queue once it executes nothing."""
        worker = self._workers.get(worker_id)
        if worker is not None and worker.queue is not None:
            self._store.ask_to_leave(worker.slot, worker.epoch)
            self._store.rouse(worker.queue.mailbox.name)

    def stop(self, worker_id: WorkerId, force: bool) -> None:
        """Ends the worker: at once, or once it executes nothing."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return
        if force:
            self.kill(worker, self.death(worker, DeathKind.JOB_ENDED))
        else:
            self.ask_to_leave(worker_id)
            self.command(worker, {"do": "exit"})

    def command(self, worker: Worker, order: dict[str, Any], references: Sequence[_hot.Hold] = ()) -> Any:
        """Puts an order into the worker's command mailbox; returns the reference that is done once it took it."""
        return worker.commands.call_raw(msgpack.packb(order), references)

    def kill(self, worker: Worker, sentence: Death) -> None:
        """Ends the worker with SIGKILL; its process group follows it. The first sentence counts."""
        worker.sentence = worker.sentence or sentence
        if worker.watch is not None:
            worker.watch.kill()

    def left(self, worker: Worker) -> None:
        """The worker says that it reads no queue any more."""
        worker.queue, worker.gpus = None, ()

    def death(self, worker: Worker, kind: DeathKind, detail: str = "") -> Death:
        """A death of this worker's process."""
        return Death(kind, pid=worker.pid, node_id=self._node_id, detail=detail)

    # -- what the zygote says

    def forked(self, slot: int, epoch: int, pid: int, descriptors: list[int]) -> None:
        """The worker's process is there."""
        worker = self._by_process.get((slot, epoch))
        if worker is None:
            for descriptor in descriptors:
                os.close(descriptor)
            return
        pidfd, *output = descriptors
        worker.pid, worker.born_s = pid, self._loop.time()
        self._listener.worker_born(worker, output)
        worker.watch = Watch(self._loop, pidfd, lambda: self._ended(worker))
        if worker.sentence is not None:
            worker.watch.kill()
        self._listener.worker_ready(worker)

    def not_forked(self, slot: int, epoch: int, why: str) -> None:
        """The system refused a process."""
        worker = self._by_process.pop((slot, epoch), None)
        if worker is not None:
            warn(f"a worker could not be forked: {why}")
            del self._workers[worker.id]
            self._store.unreserve(slot, epoch)
            self._listener.worker_failed()

    def exited(self, slot: int, epoch: int, status: int) -> None:
        """The zygote has reaped the worker: its wait status."""
        worker = self._by_process.get((slot, epoch))
        if worker is not None:
            self._gone(worker, self._death_of(worker, status))

    # -- the end

    def _ended(self, worker: Worker) -> None:
        """The pidfd says so; the zygote is about to say how."""
        self._loop.call_later(STATUS_WAIT_S, self._unreported, worker)

    def _unreported(self, worker: Worker) -> None:
        """The zygote has had its time to say how, if it has not done so."""
        if worker.id not in self._workers:
            return
        wait_s = BUSY_STATUS_WAIT_S if self._link.can_report() else 0.0
        self._loop.call_later(wait_s, self._gone, worker, self._death_of(worker, None))

    def _death_of(self, worker: Worker, status: int | None) -> Death:
        if worker.sentence is not None:
            return worker.sentence
        if status is None:
            return self.death(worker, DeathKind.EXITED, "its status is not known")
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            return Death(DeathKind.SIGNALLED, pid=worker.pid, node_id=self._node_id, signal=-code)
        return Death(DeathKind.EXITED, pid=worker.pid, node_id=self._node_id, exit_code=code)

    def _gone(self, worker: Worker, death: Death) -> None:
        if self._workers.pop(worker.id, None) is None:
            return
        del self._by_process[worker.slot, worker.epoch]
        if worker.watch is not None:
            worker.watch.close()
        self._listener.worker_gone(worker, death)

    def is_unborn(self, worker: Worker) -> bool:
        """Whether a worker that has ended, and the node has not killed, could not even begin.

        It left an order unread, or had no order and was young: one that has been idle for longer was fine until then.
        """
        if worker.sentence is not None:
            return False
        if self._store.facts(worker.commands.mailbox.name).depth > 0:
            return True
        return worker.job is None and self._loop.time() - worker.born_s < YOUNG_S

    def is_busy(self, worker: Worker) -> bool:
        """Whether user code runs in the worker's main thread now."""
        facts = self._store.slot(worker.slot)
        is_its = facts.epoch == worker.epoch and facts.state is SlotState.LIVE
        return is_its and (facts.running != 0 or facts.stepping)
