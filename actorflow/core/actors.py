"""The life of an actor, apart from I/O: from its creation over restarts to its death, and how it died.

    PENDING -- placed --> STARTING -- initialised --> ALIVE
                             |                          |
                             +------ process ends ------+--> RESTARTING -- placed --> STARTING
                             |                          |
                             +--- or ends for good -----+--> DEAD

A new process is asked for only once the old one has ended, so that an actor never has two. Whatever ends an actor for
good closes its mailbox at once, also while its process still runs: the first cause counts, and callers are told it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, replace

from actorflow.core.events import ActorId, JobId
from actorflow.core.names import ActorNames
from actorflow.errors import (
    ActorDiedError,
    ActorError,
    ActorUnschedulableError,
    Death,
    DeathKind,
    InternalError,
)
from actorflow.records import frozen

REMEMBERED_DEAD = 10_000  # causes of death that late callers can still be told


class ActorState(enum.Enum):
    """Where an actor is in its life."""

    PENDING = "waits for its first process"
    STARTING = "its constructor runs"
    ALIVE = "serves calls"
    RESTARTING = "waits for another process"
    DEAD = "will not come back"


_NEXT: dict[ActorState, frozenset[ActorState]] = {
    ActorState.PENDING: frozenset({ActorState.STARTING, ActorState.DEAD}),
    ActorState.STARTING: frozenset({ActorState.ALIVE, ActorState.RESTARTING, ActorState.DEAD}),
    ActorState.ALIVE: frozenset({ActorState.RESTARTING, ActorState.DEAD}),
    ActorState.RESTARTING: frozenset({ActorState.STARTING, ActorState.DEAD}),
    ActorState.DEAD: frozenset(),
}


# -- effects --------------------------------------------------------------------------------------
@frozen
class PlaceActor:
    """Ask the scheduler for a process. `restart`: which one it is, 0 for the first."""

    actor: ActorId
    restart: int


@frozen
class EndProcess:
    """End the actor's process: at once when `force`, else when it has run what it has started."""

    actor: ActorId
    force: bool


@frozen
class CancelPlace:
    """The scheduler need not look for a process any more."""

    actor: ActorId


@frozen
class CloseActor:
    """Close the mailbox: calls in it, and later ones, get this error."""

    actor: ActorId
    error: ActorError


ActorEffect = PlaceActor | EndProcess | CancelPlace | CloseActor


@dataclass(slots=True, eq=False)
class ActorRecord:
    """One actor. `title`: its class, with its name if it has one. `hex`: its id for people."""

    id: ActorId
    job: JobId
    title: str
    hex: str
    detached: bool
    max_restarts: int  # -1: no limit
    state: ActorState = ActorState.PENDING
    restarts: int = 0
    has_process: bool = False
    pid: int | None = None  # of its process, if that is known
    sentence: Death | None = None  # why its process is being ended, to be restarted after that
    error: ActorError | None = None  # what callers of a dead one are told

    @property
    def may_restart(self) -> bool:
        """True if it has a restart left."""
        return self.max_restarts == -1 or self.restarts < self.max_restarts


class ActorLives:
    """All actors of a node. Each event returns what is to be done, in that order; events for the dead do nothing."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self.names = ActorNames()
        self._living: dict[ActorId, ActorRecord] = {}
        self._dead: dict[ActorId, ActorRecord] = {}

    def get(self, actor: ActorId) -> ActorRecord | None:
        """The actor, alive or dead not too long ago."""
        return self._living.get(actor) or self._dead.get(actor)

    def __iter__(self) -> Iterator[ActorRecord]:
        return iter(list(self._living.values()))

    # -- from birth
    def created(self, record: ActorRecord, namespace: str = "", name: str = "") -> list[ActorEffect]:
        """A new actor. ActorAlreadyExistsError: a living one has its name; nothing has changed then."""
        if self.get(record.id) is not None:
            raise InternalError(reason=f"actor {record.hex} was created twice")
        if name:
            self.names.take(namespace, name, record.id)
        self._living[record.id] = record
        return [PlaceActor(record.id, 0)]

    def placed(self, actor: ActorId, pid: int | None = None) -> list[ActorEffect]:
        """A worker has become the actor; its constructor is about to run. `pid`: the worker's, for errors."""
        record = self._living.get(actor)
        if record is None:  # it died on the way to its process
            return [EndProcess(actor, force=True)]
        self._move(record, ActorState.STARTING)
        record.has_process = True
        record.pid = pid
        return []

    def initialised(self, actor: ActorId) -> list[ActorEffect]:
        """Its constructor has returned."""
        record = self._living.get(actor)
        if record is not None and record.state is ActorState.STARTING and record.sentence is None:
            self._move(record, ActorState.ALIVE)
        return []

    # -- to death
    def process_ended(self, actor: ActorId, death: Death) -> list[ActorEffect]:
        """Its process is gone, maybe before it was placed there: a new one, or the end."""
        record = self.get(actor)
        if record is None:
            return []
        record.has_process = False
        record.pid = None
        if record.state is ActorState.DEAD:
            return []
        if record.state in (ActorState.PENDING, ActorState.RESTARTING):
            record.sentence = None
            return [PlaceActor(actor, record.restarts)]
        if not record.may_restart:
            return self._end(record, self._died(record, death), force=False)
        self._begin_restart(record)
        return [PlaceActor(actor, record.restarts)]

    def init_raised(self, actor: ActorId, death: Death, cause: BaseException | None) -> list[ActorEffect]:
        """Its constructor raised: it would again, so it is not restarted."""
        return self._end_if_living(actor, death, force=False, cause=cause)

    def killed(self, actor: ActorId, by: str, no_restart: bool) -> list[ActorEffect]:
        """Somebody kills it. With a restart left and allowed, only its process ends; one without is left to come."""
        record = self._living.get(actor)
        if record is None:
            return []
        death = Death(DeathKind.KILLED, node_id=self._node_id, detail=by)
        if not no_restart and (not record.has_process or record.sentence is not None):
            return []
        if no_restart or not record.may_restart:
            return self._end(record, self._died(record, death), force=True)
        record.sentence = death
        self._begin_restart(record)
        return [EndProcess(actor, force=True)]

    def exit_requested(self, actor: ActorId) -> list[ActorEffect]:
        """It called exit_actor."""
        return self._end_if_living(actor, self._death(DeathKind.EXIT_REQUESTED), force=False)

    def handles_gone(self, actor: ActorId) -> list[ActorEffect]:
        """No handle is left and its mailbox is empty. A detached actor lives on."""
        record = self._living.get(actor)
        if record is None or record.detached:
            return []
        return self._end_if_living(actor, self._death(DeathKind.NO_HANDLES), force=False)

    def job_ended(self, job: JobId, how: str = "") -> list[ActorEffect]:
        """Its driver is gone: those that are not detached end with it."""
        death = self._death(DeathKind.JOB_ENDED, how)
        ending = [record for record in self if record.job == job and not record.detached]
        return [effect for record in ending for effect in self._end_if_living(record.id, death, force=True)]

    def node_stopping(self, reason: str) -> list[ActorEffect]:
        """All end."""
        death = self._death(DeathKind.NODE_DIED, reason)
        return [effect for record in self for effect in self._end_if_living(record.id, death, force=True)]

    def unschedulable(self, actor: ActorId, why: str) -> list[ActorEffect]:
        """What it asks for can never be had; the scheduler has forgotten it."""
        record = self._living.get(actor)
        if record is None:
            return []
        error = ActorUnschedulableError(actor_name=record.title, actor_id=record.hex, reason=why)
        return [effect for effect in self._end(record, error, force=False) if isinstance(effect, CloseActor)]

    # -- steps
    def _move(self, record: ActorRecord, state: ActorState) -> None:
        if state not in _NEXT[record.state]:
            raise InternalError(
                reason=f"actor {record.hex} cannot go from {record.state.name} to {state.name}"
            )
        record.state = state

    def _begin_restart(self, record: ActorRecord) -> None:
        self._move(record, ActorState.RESTARTING)
        record.restarts += 1

    def _end_if_living(
        self, actor: ActorId, death: Death, force: bool, cause: BaseException | None = None
    ) -> list[ActorEffect]:
        record = self._living.get(actor)
        return [] if record is None else self._end(record, self._died(record, death, cause), force)

    def _end(self, record: ActorRecord, error: ActorError, force: bool) -> list[ActorEffect]:
        self._move(record, ActorState.DEAD)
        record.error = error
        self.names.release(record.id)
        del self._living[record.id]
        while len(self._dead) >= REMEMBERED_DEAD:
            del self._dead[next(iter(self._dead))]
        self._dead[record.id] = record
        rest = EndProcess(record.id, force) if record.has_process else CancelPlace(record.id)
        return [CloseActor(record.id, error), rest]

    def _death(self, kind: DeathKind, detail: str = "") -> Death:
        return Death(kind, node_id=self._node_id, detail=detail)

    def _died(self, record: ActorRecord, death: Death, cause: BaseException | None = None) -> ActorError:
        if death.pid is None:
            death = replace(death, pid=record.pid)
        return ActorDiedError(actor_name=record.title, actor_id=record.hex, death=death, cause=cause)

    def validate(self) -> None:
        """Raises InternalError unless each record is possible and each name belongs to a living actor."""
        for record in (*self._living.values(), *self._dead.values()):
            right = {
                ActorState.PENDING: not record.has_process and not record.restarts,
                ActorState.STARTING: record.has_process,
                ActorState.ALIVE: record.has_process and record.sentence is None,
                ActorState.RESTARTING: record.restarts > 0
                and record.has_process == (record.sentence is not None),
                ActorState.DEAD: record.error is not None,
            }[record.state]
            is_dead = record.state is ActorState.DEAD
            if not right or is_dead != (record.id in self._dead) or is_dead == (record.id in self._living):
                raise InternalError(reason=f"an actor that cannot be: {record}")
        for namespace, name in self.names.listed():
            if self.names.find(namespace, name) not in self._living:
                raise InternalError(reason=f"the name {namespace}/{name} belongs to no living actor")
