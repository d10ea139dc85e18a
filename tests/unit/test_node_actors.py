"""What the node does for the lives of actors: processes asked for and ended, mailboxes closed once, errors told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from actorflow.core import events
from actorflow.core.actors import ActorState
from actorflow.core.events import ActorId, JobId, WorkerId
from actorflow.core.resources import ResourceSet
from actorflow.errors import ActorDiedError, ActorUnavailableError, Death, DeathKind
from actorflow.node.actors import Actor, Actors, Ending
from actorflow.node.coroner import Coroner
from actorflow.shm.store import Doomed
from actorflow.wire.failures import decode_error

CRASH = Death(DeathKind.SIGNALLED, pid=7, node_id="cafe", signal=11)
DESCRIPTION = ["Counter", ["add", "die"], [1, 1], 0, [], [0, 0]]


class Bench:
    """The actors of a node, with doubles around them that keep what they were asked for."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.closed: list[tuple[Any, bytes]] = []
        self.killed: list[Death] = []
        self.facts = SimpleNamespace(abandoned=False, depth=0)
        self.workers: dict[int, Any] = {}
        store = SimpleNamespace(close=self.close, facts=lambda name: self.facts)
        workers = SimpleNamespace(
            get=self.workers.get,
            command=lambda *order: order,
            kill=lambda worker, death: self.killed.append(death),
        )
        port = SimpleNamespace(add_done_callback=lambda taken, then: then(taken))
        coroner = Coroner(None, store, "cafe", 5.0)  # type: ignore[arg-type] # doubles
        self.actors = Actors(store, workers, coroner, "cafe", self.told.append, port)  # type: ignore[arg-type]

    def close(self, name: Any, error: bytes, named: Any) -> bool:
        self.closed.append((name, error))
        return True

    def create(self, **options: Any) -> Actor:
        job: Any = SimpleNamespace(id=JobId(1), namespace="here", description={})
        mailbox: Any = SimpleNamespace(name=(64 * (1 + len(self.told)), 1))
        handle: Any = object()
        return self.actors.create(job, handle, mailbox, DESCRIPTION, options, ResourceSet(), ResourceSet())

    def host(self, actor: Actor, number: int = 1) -> Any:
        worker = SimpleNamespace(id=WorkerId(number), pid=1000 + number, job=None)
        self.workers[worker.id] = worker
        self.actors.host(actor.id, worker.id, ())
        self.actors.initialised(worker)  # type: ignore[arg-type] # a double
        return worker

    def end(self, worker: Any, death: Death = CRASH) -> Ending:
        ending = self.actors.process_ended(worker, death)
        assert ending is not None
        return ending

    def requests(self) -> list[ActorId]:
        return [event.actor for event in self.told if isinstance(event, events.ActorRequested)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_name_whose_actor_is_about_to_end(bench: Bench) -> None:
    actor = bench.create(name="one")
    assert bench.actors.ending("here", "two") is None
    assert bench.actors.ending("here", "one") is None
    bench.facts.abandoned, bench.facts.depth = True, 1
    assert bench.actors.ending("here", "one") is None, "it still has something to do"
    bench.facts.depth = 0
    assert bench.actors.ending("here", "one") is actor


def test_a_worker_that_is_no_actor(bench: Bench) -> None:
    worker: Any = SimpleNamespace(id=WorkerId(9))
    assert bench.actors.process_ended(worker, CRASH) is None


def test_the_end_of_an_actor_closes_its_mailbox_once_it_is_settled(bench: Bench) -> None:
    actor = bench.create(name="one")
    ending = bench.end(bench.host(actor))
    assert not ending.retry
    assert bench.closed == []
    bench.actors.settled(ending)
    ((name, error),) = bench.closed
    told = decode_error(error)
    assert name == actor.mailbox.name
    assert isinstance(told, ActorDiedError)
    assert told.death == CRASH
    assert ending.error_of(None) == error
    assert bench.actors.named("here", "one") is None
    assert list(bench.actors) == []


def test_a_restart_is_asked_for_once_the_last_process_is_settled(bench: Bench) -> None:
    actor = bench.create(name="one", max_restarts=1)
    ending = bench.end(bench.host(actor))
    assert ending.retry
    assert bench.requests() == [actor.id]
    bench.actors.settled(ending)
    assert bench.requests() == [actor.id, actor.id]
    assert bench.actors.named("here", "one") is actor
    bench.host(actor, 2)
    assert actor.state is ActorState.ALIVE
    assert bench.closed == []


def test_calls_that_are_not_run_again_are_told_their_method_and_attempt(bench: Bench) -> None:
    ending = bench.end(bench.host(bench.create(max_restarts=1)))
    told = decode_error(ending.error_of(Doomed(640, (0, 0), 3, 2)))
    assert isinstance(told, ActorUnavailableError)
    assert told.task_name == "Counter.die"
    assert told.death == CRASH
    grouped = decode_error(ending.error_of(Doomed(640, (0, 0), 1, 1 | 2 << 10)))
    assert isinstance(grouped, ActorUnavailableError)
    assert grouped.task_name == "Counter.add"


def test_what_the_worker_said_is_what_callers_get(bench: Bench) -> None:
    actor = bench.create(max_restarts=-1)
    worker = bench.host(actor)
    bench.actors.worker_ends(worker, DeathKind.INIT_RAISED, b"the words")
    assert bench.closed == []
    bench.actors.settled(bench.end(worker))
    assert bench.closed == [(actor.mailbox.name, b"the words")]


def test_killing_is_over_once_the_process_has_ended(bench: Bench) -> None:
    actor, over = bench.create(max_restarts=-1), []
    worker = bench.host(actor)
    bench.actors.kill(actor, "by me", no_restart=True, then=lambda: over.append(1))
    (sentence,) = bench.killed
    assert (sentence.kind, sentence.pid, sentence.detail) == (DeathKind.KILLED, worker.pid, "by me")
    assert not over
    ending = bench.end(worker, sentence)
    assert not ending.retry
    bench.actors.settled(ending)
    assert over == [1]
    assert len(bench.closed) == 1


def test_killing_with_a_restart_left_ends_the_process_alone(bench: Bench) -> None:
    actor, over = bench.create(max_restarts=1), []
    worker = bench.host(actor)
    bench.actors.kill(actor, "by me", no_restart=False, then=lambda: over.append(1))
    ending = bench.end(worker, bench.killed[0])
    assert ending.retry
    bench.actors.settled(ending)
    assert over == [1]
    assert bench.requests() == [actor.id, actor.id]


def test_killing_one_that_waits_for_a_process(bench: Bench) -> None:
    actor, over = bench.create(), []
    bench.actors.kill(actor, "by me", no_restart=True, then=lambda: over.append(1))
    assert over == [1]
    assert len(bench.closed) == 1
    assert isinstance(bench.told[-1], events.ActorGone)


def test_nobody_wants_it_back(bench: Bench) -> None:
    ending = bench.end(bench.host(bench.create(max_restarts=-1)))
    bench.facts.abandoned = True
    bench.actors.settled(ending)
    assert len(bench.requests()) == 1
    assert len(bench.closed) == 1


def test_calls_that_are_to_be_run_again_bring_it_back_all_the_same(bench: Bench) -> None:
    ending = bench.end(bench.host(bench.create(max_restarts=-1)))
    bench.facts.abandoned, bench.facts.depth = True, 1
    bench.actors.settled(ending)
    assert len(bench.requests()) == 2


def test_the_end_of_a_job(bench: Bench) -> None:
    plain, detached = bench.create(), bench.create(lifetime="detached")
    bench.host(plain)
    bench.actors.end_job(plain.job, "its driver left")
    (sentence,) = bench.killed
    assert (sentence.kind, sentence.detail) == (DeathKind.JOB_ENDED, "its driver left")
    assert detached.state is ActorState.PENDING
