"""The node: wires its parts together, and decides what follows when a driver, a worker or the zygote ends.

One event loop, one thread. It runs no user code and unpickles nothing of users.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from actorflow import _hot, config
from actorflow.client.waiting import LoopPort
from actorflow.core import events
from actorflow.core.actors import ActorState
from actorflow.core.events import JobId
from actorflow.core.policy import Policy
from actorflow.core.resources import ResourceSet
from actorflow.core.scheduler import Scheduler
from actorflow.errors import Death, DeathKind
from actorflow.node.actors import Actor, Actors, Ending
from actorflow.node.cancelling import Cancellations
from actorflow.node.clients import Clients, Driver
from actorflow.node.control import Control
from actorflow.node.coroner import Coroner
from actorflow.node.disks import open_disks
from actorflow.node.forks import Forks
from actorflow.node.groups import Groups
from actorflow.node.jobs import Job, Show
from actorflow.node.lineage import Rebuilder
from actorflow.node.log import warn
from actorflow.node.memory import MemoryMonitor
from actorflow.node.orphans import end_descendants
from actorflow.node.output import Output
from actorflow.node.scheduling import Scheduling
from actorflow.node.spiller import Spiller
from actorflow.node.workers import Worker, Workers
from actorflow.node.zygote_link import ZygoteLink
from actorflow.shm.lineage import LineageStore
from actorflow.shm.spill import SpillStore
from actorflow.shm.store import Store
from actorflow.shm.titles import Titles
from actorflow.wire import messages

ZYGOTE_END_S = 2.0  # it asks nobody, so only one that is stopped takes as long
LAST_LINES_S = 1.0  # for a driver that is busy to take what was printed last


class Node:
    """A running node. `private`: it ends with its driver."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        node_id: bytes,
        memfd: int,
        total: ResourceSet,
        labels: dict[str, str],
        private: bool,
        zygote: tuple[int, int, socket.socket],
        titles: Titles,
    ) -> None:
        settings = config.current()
        self.node_id = node_id.hex()
        self.labels = labels
        self.jobs: dict[JobId, Job] = {}
        self._loop = loop
        self._private = private
        self._job_count = 0
        self._fork_jobs: dict[tuple[int, int], Job] = {}
        self.timeline: deque[list[Any]] = deque(maxlen=settings.timeline_events)
        self._stop_asked: asyncio.Future[str] = loop.create_future()
        self._workers_gone = asyncio.Event()
        self.store = Store(_hot.client_address())
        self._port = LoopPort(loop)
        self._zygote = ZygoteLink(loop, *zygote, self.stop)
        self._coroner = Coroner(loop, self.store, self.node_id, settings.stopped_holder_s)
        self._clients = Clients(loop, self.store, memfd, self)
        self._output = Output(loop, titles)
        self.forks = Forks(loop, self.store, self._fork_gone)
        self.workers = Workers(loop, self.store, self._zygote, self.node_id, self)
        self.actors = Actors(self.store, self.workers, self._coroner, self.node_id, self.tell, self._port)
        self.scheduler = Scheduler(total, Policy.for_node(total, idle_worker_s=settings.idle_worker_s))
        self.scheduling = Scheduling(loop, self._port, self.store, self.scheduler, self.workers, self.actors)
        self.groups = Groups(total, self.node_id, self.scheduling, self.actors, self._coroner, self.tell)
        self.control = Control(self._coroner.encode)
        self.cancellations = Cancellations(loop, self.workers)
        self._memory = MemoryMonitor(
            loop,
            self.store,
            self.workers,
            lambda worker: any(actor.worker is worker for actor in self.actors),
            threshold=settings.memory_threshold,
            limit_bytes=settings.memory_limit_bytes,
        )
        disks = open_disks(settings.spill_directories, self.node_id)
        lineage = LineageStore(_hot.client_address())
        rebuilder = Rebuilder(loop, self._port, lineage, settings.lineage_budget_bytes, self._coroner.encode)
        spill = SpillStore(_hot.client_address())
        self._spiller = Spiller(loop, self._port, self.store, spill, disks, rebuilder)

    # -- life

    def take(self, driver: socket.socket) -> None:
        """Serves the driver of a private node."""
        self._begin()
        self._clients.take(driver)

    def listen(self, address: str) -> None:
        """Serves every driver that comes to an abstract address."""
        self._begin()
        self._clients.listen(address)

    def _begin(self) -> None:
        self._zygote.listen(self.workers)
        self._port.listen(self.control.mailbox, self.control.serve)
        self._spiller.start()
        _hot.publish_node_mailbox(self.control.mailbox)

    async def run(self) -> str:
        """Serves until the node is to end, and ends everything that it runs; returns why."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.stop, f"the node was told to stop ({number.name})")
        self.scheduling.start()
        self._coroner.start()
        self._memory.start()
        self.forks.start()
        reason = await self._stop_asked
        await self._end(reason)
        return reason

    def stop(self, reason: str) -> None:
        """Has the node end, with all that it runs. The first reason counts."""
        if not self._stop_asked.done():
            self._stop_asked.set_result(reason)

    async def _end(self, reason: str) -> None:
        """Ends everything: first what can end by itself, then the rest by force."""
        self._coroner.stop()
        self._spiller.stop()
        self._memory.stop()
        self.forks.stop()
        self._clients.say_goodbye(reason)
        _hot.stop_node()
        await self._end_workers()
        await self._zygote.end(ZYGOTE_END_S)
        end_descendants()
        self._output.close()
        await self._clients.wait_written(LAST_LINES_S)
        self._clients.close()

    async def _end_workers(self) -> None:
        """Lets idle workers end by themselves for a while; those that run user code are killed by the zygote."""
        for worker in self.workers:
            if self.workers.is_busy(worker):
                self.workers.kill(worker, self.workers.death(worker, DeathKind.NODE_DIED))
            else:
                self.store.rouse(worker.commands.mailbox.name)
        self.scheduling.stop()
        self.actors.rouse_all()
        if self.workers and self._zygote.is_alive:
            try:
                async with asyncio.timeout(config.current().shutdown_grace_s):
                    await self._workers_gone.wait()
            except TimeoutError:
                return

    # -- what its parts tell each other

    def tell(self, event: events.Event) -> None:
        """Hands an event to the scheduler."""
        if not self._stop_asked.done():
            self.scheduling.tell(event)

    # -- drivers

    def attached(self, driver: Driver, start: messages.JobStart) -> int:
        """A driver has come: its job begins."""
        return self._begin_job(start, driver.pid, driver.print).id

    def _begin_job(self, start: messages.JobStart, driver_pid: int, show: Show | None) -> Job:
        self._job_count += 1
        job = Job(JobId(self._job_count), start, driver_pid, show)
        self.jobs[job.id] = job
        self.tell(events.JobStarted(job.id))
        return job

    def begin_own_job(self, maker: Job) -> Job:
        """The job of a detached actor: what it starts lives as long as it does, not as long as its maker's driver."""
        facts: dict[str, Any] = maker.description
        start = messages.JobStart(
            maker.namespace, tuple(facts["sys_path"]), facts["cwd"], facts["driver"], facts["log_to_driver"]
        )
        return self._begin_job(start, maker.driver_pid, maker.print)

    def end_with(self, job: Job, actor: Actor) -> None:
        """Has a detached actor's own job end with it."""
        how = f"its actor {actor.title} has ended"
        if actor.state is ActorState.DEAD:
            self.end_job(job.id, how)
        else:
            actor.on_death.append(lambda: self.end_job(job.id, how))

    def after_death(self, actor: Actor, limit_s: float, then: Callable[[], None]) -> None:
        """Does `then` once: when the actor is dead, or after `limit_s` seconds."""
        waiting = [then]

        def end_wait() -> None:
            if waiting:
                timer.cancel()
                waiting.pop()()

        timer = self._loop.call_later(limit_s, end_wait)
        actor.on_death.append(end_wait)

    def left(self, driver: Driver, how: str) -> None:
        """A driver is no more: its job ends, and a private node with it."""
        what = f"its driver (pid {driver.pid}) is gone: {how}"
        if self._stop_asked.done():
            return
        if self._private:
            self.stop(what)
            return
        self.end_job(JobId(driver.job), what)
        driver.end_output()

    def end_job(self, job_id: JobId, what: str) -> None:
        """Ends a job with all that runs for it. `what`: why, for those who wait."""
        job = self.jobs.pop(job_id, None)
        if job is not None and not self._stop_asked.done():
            self._output.end_job(job)
            job.has_ended = True
            death = Death(DeathKind.JOB_ENDED, node_id=self.node_id, detail=what)
            self.groups.end_job(job.id)
            self.scheduling.end_job(job, self._coroner.task_error(death))
            self.actors.end_job(job, what)

    def gone(self, driver: Driver) -> None:
        """A driver uses the memory no more."""
        death = Death(DeathKind.EXITED, pid=driver.pid, node_id=self.node_id)
        self._settle(driver.slot, driver.epoch, self._coroner.task_error(death))

    def deserted(self) -> None:
        """The driver of a private node has ended, perhaps before it had attached."""
        self.stop("its driver is gone")

    # -- workers

    def worker_born(self, worker: Worker, output: list[int]) -> None:
        """A worker's process is there; `output`: from where its standard output and error are read."""
        self._output.follow(worker, *output)

    def worker_ready(self, worker: Worker) -> None:
        """A worker waits for its first order."""
        self.tell(events.WorkerReady(worker.id))

    def worker_failed(self) -> None:
        """A worker could not be forked."""
        self.tell(events.WorkersNotStarted(1))

    def worker_gone(self, worker: Worker, death: Death) -> None:
        """A worker's process has ended: what it had begun is run again or fails, and so is its actor."""
        self.cancellations.worker_gone(worker)
        self._output.finish(worker)
        if not self.workers:
            self._workers_gone.set()
        if self._stop_asked.done():
            return
        unborn = self.workers.is_unborn(worker)
        if unborn:
            warn(f"a worker ended before it had done anything: {death}")
        ending = self.actors.process_ended(worker, death)
        if ending is None:
            self._coroner.settle_tasks(worker.slot, worker.epoch, death)
            self.tell(events.WorkerGone(worker.id, unborn))
        else:
            self.tell(events.WorkerGone(worker.id, unborn))
            self._settle_actor(worker, ending)

    def _settle_actor(self, worker: Worker, ending: Ending) -> None:
        def then() -> None:
            if not self._stop_asked.done():
                self.actors.settled(ending)

        if ending.retry:
            self._coroner.settle_each(worker.slot, worker.epoch, ending.error_of, then)
        else:
            self._coroner.settle(worker.slot, worker.epoch, ending.error_of(None), retry=False, then=then)

    def name_task(self, function: tuple[int, int], name: str) -> None:
        """Calls of that function are called so in errors."""
        self._coroner.name_task(function, name)

    def name_of(self, code: tuple[int, int], method: int) -> str | None:
        """What people call that code: a function, by its cell, or a method of the actor of that mailbox."""
        actor = self.actors.of_name(code)
        return self._coroner.name_of(code) if actor is None else actor.name_of(method)

    def _fork_gone(self, slot: int, epoch: int, pid: int) -> None:
        """A process that user code forked has ended."""
        death = Death(DeathKind.EXITED, pid=pid, node_id=self.node_id)
        self._fork_jobs.pop((slot, epoch), None)
        self._settle(slot, epoch, self._coroner.task_error(death))

    def _settle(self, slot: int, epoch: int, error: bytes) -> None:
        if not self._stop_asked.done():
            self._coroner.settle(slot, epoch, error)

    def job_of(self, process: tuple[int, int]) -> Job | None:
        """The job for which (slot, epoch) works: a driver, a worker, or what one of these forked."""
        worker = self.workers.find(process)
        if worker is not None:
            return worker.job
        facts = self.store.slot(process[0])
        if facts.epoch != process[1]:
            return None
        return self._fork_jobs.get(process) or self.jobs.get(JobId(facts.job))

    def forked(self, process: tuple[int, int]) -> None:
        """A process that user code forked says that it is there. It works for the job of the one that forked it."""
        parent = self.forks.announced(*process)
        if parent is not None:
            job = self.job_of((parent, self.store.slot(parent).epoch))
            if job is not None:
                self._fork_jobs[process] = job
