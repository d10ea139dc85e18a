"""The actors of the node: each from its creation to its death, its name, and what those who call it dead are told.

An actor waits for a process, is hosted by one worker for life, and is dead once that has ended. Its calls go past the
node. Guarantees: each actor's mailbox is closed exactly once, after its process has ended; from then on every call,
also one on its way, gets the same error, which says how the actor died.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Any

from actorflow import _hot
from actorflow.client.waiting import LoopPort
from actorflow.core import events
from actorflow.core.events import ActorId, WorkerId
from actorflow.core.resources import GpuShare, ResourceSet
from actorflow.errors import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorflowError,
    ActorUnschedulableError,
    Death,
    DeathKind,
)
from actorflow.node.coroner import Coroner
from actorflow.node.jobs import Job
from actorflow.node.workers import Worker, Workers
from actorflow.shm.store import Store

REMEMBERED_DEAD = 10_000  # errors of dead actors that late callers can still be told; then a plain one

Name = tuple[int, int]


class ActorState(enum.Enum):
    """Where an actor is in its life."""

    PENDING = "waits for a process"
    HOSTED = "has a process"
    DEAD = "is dead"


class Actor:
    """One actor. `handle`: kept while it is detached. `on_death`: who wants to know, in the loop.

    `last_words`: what its worker said of its end before that, or why the node ends it.
    """

    __slots__ = (
        "description",
        "handle",
        "id",
        "job",
        "last_words",
        "mailbox",
        "name",
        "namespace",
        "on_death",
        "options",
        "state",
        "to_run",
        "worker",
    )

    def __init__(self, actor: ActorId, job: Job, mailbox: _hot.Hold, description: list[Any]) -> None:
        self.id = actor
        self.job = job
        self.mailbox = mailbox
        self.description = description
        self.options: dict[str, Any] = {}
        self.to_run = ResourceSet()
        self.name = ""
        self.namespace = ""
        self.handle: _hot.Hold | None = None
        self.state = ActorState.PENDING
        self.worker: Worker | None = None
        self.last_words: Death | bytes | None = None
        self.on_death: list[Callable[[], object]] = []

    @property
    def title(self) -> str:
        """Its class, with its name if it has one."""
        kind = str(self.description[0])
        return f"{kind} {self.name!r}" if self.name else kind

    @property
    def hex(self) -> str:
        """Its id for people: its mailbox' name."""
        offset, generation = self.mailbox.name
        return f"{offset:012x}{generation:08x}"


class Actors:
    """All actors. `tell` hands an event to the scheduler."""

    def __init__(
        self,
        store: Store,
        workers: Workers,
        coroner: Coroner,
        node_id: str,
        tell: Callable[[events.Event], object],
        port: LoopPort,
    ) -> None:
        self._store = store
        self._workers = workers
        self._coroner = coroner
        self._node_id = node_id
        self._tell = tell
        self._port = port
        self._made = 0
        self._actors: dict[ActorId, Actor] = {}
        self._by_mailbox: dict[Name, Actor] = {}
        self._by_name: dict[tuple[str, str], Actor] = {}
        self._by_worker: dict[WorkerId, Actor] = {}
        self._errors: dict[Name, bytes] = {}

    def __iter__(self) -> Iterator[Actor]:
        return iter(list(self._actors.values()))

    # -- from birth

    def create(
        self,
        job: Job,
        handle: _hot.Hold,
        mailbox: _hot.Hold,
        description: list[Any],
        options: dict[str, Any],
        to_place: ResourceSet,
        to_run: ResourceSet,
    ) -> Actor:
        """Takes on an actor and asks for a process. ActorAlreadyExistsError: its name is taken."""
        self._made += 1
        actor = Actor(ActorId(self._made), job, mailbox, description)
        actor.options = options
        actor.to_run = to_run
        actor.name = options.get("name") or ""
        actor.namespace = options.get("namespace") or job.namespace
        if actor.name:
            if (actor.namespace, actor.name) in self._by_name:
                raise ActorAlreadyExistsError(actor_name=actor.name, namespace=actor.namespace)
            self._by_name[actor.namespace, actor.name] = actor
        if options.get("lifetime") == "detached":
            actor.handle = handle
        self._actors[actor.id] = self._by_mailbox[mailbox.name] = actor
        self._tell(events.ActorRequested(actor.id, job.id, to_place, to_run))
        return actor

    def host(self, actor_id: ActorId, worker_id: WorkerId, gpus: GpuShare) -> None:
        """Gives the actor its process."""
        actor, worker = self._actors.get(actor_id), self._workers.get(worker_id)
        if actor is None or worker is None:
            return
        actor.state, actor.worker = ActorState.HOSTED, worker
        self._by_worker[worker.id] = actor
        worker.job = actor.job
        order = {
            "do": "host",
            "job": actor.job.description,
            "environment": actor.options.get("environment", ""),
            "gpus": gpus,
            "resources": dict(actor.to_run.units),
            "actor": {"id": actor.hex, "class": actor.description, "options": actor.options},
        }
        taken = self._workers.command(worker, order, [actor.mailbox])
        self._port.add_done_callback(taken, lambda _: self._taken(actor))

    def _taken(self, actor: Actor) -> None:
        """The worker is about to run the constructor."""
        if actor.state is ActorState.HOSTED:
            self._tell(events.ActorStarted(actor.id))

    def infeasible(self, actor_id: ActorId, why: str) -> None:
        """The scheduler has forgotten an actor that can never run here."""
        actor = self._actors.get(actor_id)
        if actor is not None:
            error = ActorUnschedulableError(actor_name=actor.title, actor_id=actor.hex, reason=why)
            self._bury(actor, self._coroner.encode(error))

    def rouse_all(self) -> None:
        """Wakes every actor that waits for calls, so that each sees that the node is stopping."""
        for actor in self:
            self._store.rouse(actor.mailbox.name)

    # -- being asked

    def of_mailbox(self, mailbox: _hot.Hold) -> Actor | None:
        """The living actor with that mailbox."""
        return self._by_mailbox.get(mailbox.name)

    def named(self, namespace: str, name: str) -> Actor | None:
        """The living actor of that name."""
        return self._by_name.get((namespace, name))

    def error_of(self, mailbox: _hot.Hold) -> bytes:
        """What calls to a dead actor get."""
        error = self._errors.get(mailbox.name)
        if error is None:
            offset, generation = mailbox.name
            death = Death(DeathKind.EXITED, node_id=self._node_id, detail="too long ago to know how")
            hex_name = f"{offset:012x}{generation:08x}"
            error = self._coroner.encode(ActorDiedError(actor_name="actor", actor_id=hex_name, death=death))
        return error

    # -- to death

    def say_last_words(self, worker: Worker, words: Death | bytes) -> None:
        """The worker says why its actor ends: a death, or the whole error (ERROR bytes) that callers get."""
        actor = self._by_worker.get(worker.id)
        if actor is not None:
            actor.last_words = words

    def kill(self, actor: Actor, kind: DeathKind, detail: str = "") -> None:
        """Ends the actor, whatever it is doing."""
        pid = actor.worker.pid if actor.worker is not None else None
        death = Death(kind, pid=pid, node_id=self._node_id, detail=detail)
        if actor.worker is not None:
            actor.last_words = death
            self._workers.kill(actor.worker, death)
        else:
            self._tell(events.ActorGone(actor.id))
            self._bury(actor, self._died(actor, death))

    def error_on_death(self, worker: Worker, death: Death) -> bytes | None:
        """What the calls that a dead worker had started get, if it was an actor."""
        actor = self._by_worker.get(worker.id)
        if actor is None:
            return None
        if isinstance(actor.last_words, bytes):
            return actor.last_words
        return self._died(actor, actor.last_words or death)

    def worker_gone(self, worker: Worker, error: bytes) -> None:
        """The worker's process has ended and its slot is settled: its actor is dead."""
        actor = self._by_worker.pop(worker.id, None)
        if actor is not None:
            self._bury(actor, error)

    def end_job(self, job: Job, how: str) -> None:
        """Ends the job's actors, those that are detached excepted."""
        for actor in self:
            if actor.job is job and actor.handle is None:
                self.kill(actor, DeathKind.JOB_ENDED, how)

    def drop_abandoned(self) -> None:
        """Ends actors that still wait for a process while nobody can want them any more."""
        for actor in self:
            if actor.state is ActorState.PENDING:
                facts = self._store.facts(actor.mailbox.name)
                if facts.abandoned and not facts.depth:
                    self.kill(actor, DeathKind.NO_HANDLES)

    def _died(self, actor: Actor, death: Death) -> bytes:
        error: ActorflowError = ActorDiedError(actor_name=actor.title, actor_id=actor.hex, death=death)
        return self._coroner.encode(error)

    def _bury(self, actor: Actor, error: bytes) -> None:
        if actor.state is ActorState.DEAD:
            return
        actor.state = ActorState.DEAD
        del self._actors[actor.id], self._by_mailbox[actor.mailbox.name]
        if actor.name:
            del self._by_name[actor.namespace, actor.name]
        self._store.close(actor.mailbox.name, error)
        while len(self._errors) >= REMEMBERED_DEAD:
            del self._errors[next(iter(self._errors))]
        self._errors[actor.mailbox.name] = error
        for tell in actor.on_death:
            tell()
