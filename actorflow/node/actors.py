"""The actors of the node: does what their life asks for, and tells those who call a dead one how it died.

What an actor's life is, is decided in core/actors.py; here are its mailbox and its process. An actor's calls go past
the node. Guarantees: each actor's mailbox is closed exactly once, after its last process has ended; from then on every
call, also one on its way, gets the same error, which says how the actor died. An actor never has two processes, and the
next one reads the mailbox only once what the last one left is settled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from actorflow import _hot
from actorflow.client.handles import method_and_group
from actorflow.client.waiting import LoopPort
from actorflow.core import events
from actorflow.core.actors import (
    ActorEffect,
    ActorLives,
    ActorRecord,
    ActorState,
    CancelPlace,
    CloseActor,
    PlaceActor,
)
from actorflow.core.events import ActorId, WorkerId
from actorflow.core.resources import GpuShare, ResourceSet
from actorflow.errors import ActorUnavailableError, Death, DeathKind, InternalError
from actorflow.node.coroner import Coroner
from actorflow.node.jobs import Job
from actorflow.node.workers import Worker, Workers
from actorflow.shm.store import Doomed, Store

Name = tuple[int, int]


class Actor:
    """One actor. `handle`: kept while it is detached. `on_death`: who wants to know of its death, in the loop;
    `on_process_end`: of the end of the process that it has now.

    `words`: what its worker said of its end before that (ERROR bytes), which names `held`; `error`: what callers of
    the dead one get.
    """

    __slots__ = (
        "description",
        "error",
        "handle",
        "held",
        "id",
        "job",
        "mailbox",
        "name",
        "namespace",
        "on_death",
        "on_process_end",
        "options",
        "record",
        "to_place",
        "to_run",
        "words",
        "worker",
    )

    def __init__(
        self,
        actor: ActorId,
        job: Job,
        mailbox: _hot.Hold,
        description: list[Any],
        options: dict[str, Any],
        to_place: ResourceSet,
        to_run: ResourceSet,
    ) -> None:
        self.id = actor
        self.job = job
        self.mailbox = mailbox
        self.description = description
        self.options = options
        self.to_place = to_place
        self.to_run = to_run
        self.name: str = options.get("name") or ""
        self.namespace: str = options.get("namespace") or job.namespace
        self.handle: _hot.Hold | None = None
        self.worker: Worker | None = None
        self.words: bytes | None = None
        self.held: Sequence[_hot.Hold] = ()
        self.error: bytes | None = None
        self.on_death: list[Callable[[], object]] = []
        self.on_process_end: list[Callable[[], object]] = []
        offset, generation = mailbox.name
        self.record = ActorRecord(
            actor,
            job.id,
            title=f"{description[0]} {self.name!r}" if self.name else str(description[0]),
            hex=f"{offset:012x}{generation:08x}",  # its id for people: its mailbox' name
            detached=options.get("lifetime") == "detached",
            max_restarts=options.get("max_restarts", 0),
        )

    @property
    def title(self) -> str:
        """Its class, with its name if it has one."""
        return self.record.title

    @property
    def hex(self) -> str:
        """Its id for people."""
        return self.record.hex

    def name_of(self, method: int) -> str:
        """What people call its method of that number; 0: its constructor, or that it is ready."""
        name, methods, number = self.description[0], self.description[1], method_and_group(method)[0]
        return f"{name}.{methods[number - 1]}" if 0 < number <= len(methods) else str(name)

    @property
    def state(self) -> ActorState:
        """Where it is in its life."""
        return self.record.state


class Ending(NamedTuple):
    """The end of an actor's process: what follows, once it is settled.

    `error_of`: what a call that it had started gets, if it is not run again, which `retry` allows; of None: any other.
    """

    actor: Actor
    effects: list[ActorEffect]
    retry: bool
    error_of: Callable[[Doomed | None], bytes]


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
        self._lives = ActorLives(node_id)
        self._actors: dict[ActorId, Actor] = {}
        self._by_mailbox: dict[Name, Actor] = {}
        self._by_worker: dict[WorkerId, Actor] = {}

    def __iter__(self) -> Iterator[Actor]:
        return iter(list(self._actors.values()))

    def validate(self) -> None:
        """InternalError where the tables disagree with each other or with the actors' lives."""
        self._lives.validate()
        for actor in self._actors.values():
            hosts = self._by_worker.get(actor.worker.id) if actor.worker is not None else actor
            if hosts is not actor or self._by_mailbox.get(actor.mailbox.name) is not actor:
                raise InternalError(reason=f"actor {actor.hex} is not where its tables say")
        if any(
            actor.worker is None or actor.worker.id != worker for worker, actor in self._by_worker.items()
        ):
            raise InternalError(reason="a worker hosts an actor that does not know of it")

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
        why_never: str | None = None,
    ) -> Actor:
        """Takes on an actor and asks for a process, unless it never can have one. ActorAlreadyExistsError: its name
        is taken."""
        self._made += 1
        actor = Actor(ActorId(self._made), job, mailbox, description, options, to_place, to_run)
        effects = self._lives.created(actor.record, actor.namespace, actor.name)
        if actor.record.detached:
            actor.handle = handle
        self._actors[actor.id] = self._by_mailbox[mailbox.name] = actor
        self._perform(effects if why_never is None else self._lives.unschedulable(actor.id, why_never))
        return actor

    def host(self, actor_id: ActorId, worker_id: WorkerId, gpus: GpuShare) -> None:
        """Gives the actor its process."""
        actor, worker = self._actors.get(actor_id), self._workers.get(worker_id)
        if actor is None or worker is None:
            return
        actor.worker = worker
        self._by_worker[worker.id] = actor
        worker.job = actor.job
        order = {
            "do": "host",
            "job": actor.job.description,
            "environment": actor.options.get("environment", ""),
            "gpus": gpus,
            "resources": actor.to_run.own_units,
            "group": actor.options.get("group"),
            "actor": {
                "id": actor.hex,
                "class": actor.description,
                "options": actor.options,
                "restarts": actor.record.restarts,
            },
        }
        taken = self._workers.command(worker, order, [actor.mailbox])
        self._port.add_done_callback(taken, lambda _: self._taken(actor, worker))
        self._perform(self._lives.placed(actor.id, worker.pid))

    def _taken(self, actor: Actor, worker: Worker) -> None:
        """The worker is about to run the constructor."""
        if actor.worker is worker:
            self._tell(events.ActorStarted(actor.id))

    def initialised(self, worker: Worker) -> None:
        """The constructor has returned."""
        actor = self._by_worker.get(worker.id)
        if actor is not None:
            self._perform(self._lives.initialised(actor.id))

    def infeasible(self, actor_id: ActorId, why: str) -> None:
        """The scheduler has forgotten an actor that can never run here."""
        self._perform(self._lives.unschedulable(actor_id, why))

    def rouse_all(self) -> None:
        """Wakes every actor that waits for calls, so that each sees that the node is stopping."""
        for actor in self:
            self._store.rouse(actor.mailbox.name)

    # -- being asked

    def of_name(self, mailbox: Name) -> Actor | None:
        """The actor whose mailbox has that name."""
        return self._by_mailbox.get(mailbox)

    def of_mailbox(self, mailbox: _hot.Hold) -> Actor | None:
        """The actor with that mailbox, unless it is dead and gone."""
        return self._by_mailbox.get(mailbox.name)

    def named(self, namespace: str, name: str) -> Actor | None:
        """The living actor of that name."""
        found = self._lives.names.find(namespace, name)
        return None if found is None else self._actors[found]

    def ending(self, namespace: str, name: str) -> Actor | None:
        """The actor of that name where it is about to end by itself: no handle of it is left, and no unread call."""
        actor = self.named(namespace, name)
        if actor is None:
            return None
        facts = self._store.facts(actor.mailbox.name)
        return actor if facts.abandoned and not facts.depth else None

    # -- to death

    def worker_ends(
        self, worker: Worker, kind: DeathKind, words: bytes, held: Sequence[_hot.Hold] = ()
    ) -> None:
        """The worker says why its actor ends for good, and what those who call it get (ERROR bytes, naming `held`)."""
        actor = self._by_worker.get(worker.id)
        if actor is None or actor.state is ActorState.DEAD:
            return
        actor.words, actor.held = words, held
        if kind is DeathKind.INIT_RAISED:
            self._perform(self._lives.init_raised(actor.id, Death(kind, node_id=self._node_id), None))
        elif kind is DeathKind.EXIT_REQUESTED:
            self._perform(self._lives.exit_requested(actor.id))
        else:
            self._perform(self._lives.handles_gone(actor.id))

    def kill(self, actor: Actor, by: str, no_restart: bool, then: Callable[[], object]) -> None:
        """Ends the actor's process, whatever it is doing, and the actor unless it may be restarted.

        `then`: told once the process has ended, and the actor is dead if it is to be.
        """
        effects = self._lives.killed(actor.id, by, no_restart)
        if actor.worker is None:
            self._perform(effects)
            then()
            return
        actor.on_process_end.append(then)
        self._perform(effects)
        if not effects and actor.state is ActorState.DEAD:  # it was about to end by itself
            self._end_process(actor)

    def process_ended(self, worker: Worker, death: Death) -> Ending | None:
        """A worker's process has ended. None: it was no actor; else `settled` is to follow."""
        actor = self._by_worker.pop(worker.id, None)
        if actor is None:
            return None
        death = actor.record.sentence or death
        actor.worker = None
        effects = self._lives.process_ended(actor.id, death)
        for effect in effects:
            if isinstance(effect, CloseActor):
                actor.error = self._coroner.encode(effect.error)
        if actor.state is ActorState.DEAD:
            return Ending(actor, effects, False, lambda _: actor.error or b"")
        return Ending(actor, effects, True, lambda doomed: self._unavailable(actor, death, doomed))

    def settled(self, ending: Ending) -> None:
        """What a process had left is settled: its actor gets another one, or is dead."""
        actor = ending.actor
        if actor.state is ActorState.DEAD:
            self._bury(actor)
        elif not self._drop_if_abandoned(actor):
            self._perform(ending.effects)
        told, actor.on_process_end = actor.on_process_end, []
        for tell in told:
            tell()

    def end_job(self, job: Job, how: str) -> None:
        """Ends the job's actors, those that are detached excepted."""
        self._perform(self._lives.job_ended(job.id, how))

    def drop_abandoned(self) -> None:
        """Ends actors that wait for a process while nobody can want them any more."""
        for actor in self:
            if actor.worker is None and actor.state in (ActorState.PENDING, ActorState.RESTARTING):
                self._drop_if_abandoned(actor)

    def _drop_if_abandoned(self, actor: Actor) -> bool:
        facts = self._store.facts(actor.mailbox.name)
        if facts.abandoned and not facts.depth:
            self._perform(self._lives.handles_gone(actor.id))
        return actor.state is ActorState.DEAD

    def _unavailable(self, actor: Actor, death: Death, doomed: Doomed | None) -> bytes:
        number = 0 if doomed is None else method_and_group(doomed.method)[0]
        method = actor.description[1][number - 1] if number else "__ready__"
        error = ActorUnavailableError(
            actor_name=actor.title,
            actor_id=actor.hex,
            task_name=f"{actor.description[0]}.{method}",
            death=death,
        )
        return self._coroner.encode(error, 1 if doomed is None else doomed.attempt)

    # -- effects

    def _perform(self, effects: Iterable[ActorEffect]) -> None:
        closed = []
        for effect in effects:
            actor = self._actors[effect.actor]
            if isinstance(effect, PlaceActor):
                self._tell(events.ActorRequested(actor.id, actor.job.id, actor.to_place, actor.to_run))
            elif isinstance(effect, CloseActor):
                actor.error = actor.words or self._coroner.encode(effect.error)
                closed.append(actor)
            elif isinstance(effect, CancelPlace):
                self._tell(events.ActorGone(actor.id))
            elif effect.force:
                self._end_process(actor)
        for actor in closed:
            if actor.worker is None:  # else once that has ended
                self._bury(actor)

    def _end_process(self, actor: Actor) -> None:
        record = actor.record
        sentence = record.sentence or getattr(record.error, "death", None)
        if actor.worker is not None:
            pid = actor.worker.pid
            death = sentence or Death(DeathKind.KILLED, node_id=self._node_id)
            self._workers.kill(actor.worker, replace(death, pid=pid))

    def _bury(self, actor: Actor) -> None:
        if self._actors.pop(actor.id, None) is None:
            return
        del self._by_mailbox[actor.mailbox.name]
        self._coroner.close(actor.mailbox, actor.error or b"", actor.held)
        for tell in actor.on_death:
            tell()
