"""The life of actors: each way from birth to death, restarts, names, and that each end is told once."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from actorflow.core.actors import (
    ActorEffect,
    ActorLives,
    ActorRecord,
    ActorState,
    CancelPlace,
    CloseActor,
    EndProcess,
    PlaceActor,
)
from actorflow.core.events import ActorId, JobId
from actorflow.core.names import ActorNames
from actorflow.errors import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorUnschedulableError,
    Death,
    DeathKind,
    InternalError,
)

ONE = ActorId(1)
CRASH = Death(DeathKind.SIGNALLED, pid=7, node_id="n1", signal=11)


def record(actor: int = 1, job: int = 1, max_restarts: int = 0, detached: bool = False) -> ActorRecord:
    return ActorRecord(ActorId(actor), JobId(job), "Counter", f"{actor:08x}", detached, max_restarts)


def alive(max_restarts: int = 0, detached: bool = False) -> ActorLives:
    lives = ActorLives("n1")
    lives.created(record(max_restarts=max_restarts, detached=detached))
    lives.placed(ONE)
    lives.initialised(ONE)
    return lives


def state(lives: ActorLives) -> ActorState:
    found = lives.get(ONE)
    assert found is not None
    return found.state


def death_told(effects: list[ActorEffect]) -> Death:
    """The death in the one CloseActor among the effects."""
    (closing,) = [effect for effect in effects if isinstance(effect, CloseActor)]
    assert isinstance(closing.error, ActorDiedError)
    return closing.error.death


def test_from_birth_to_serving() -> None:
    lives = ActorLives("n1")
    assert lives.created(record()) == [PlaceActor(ONE, 0)]
    assert state(lives) is ActorState.PENDING
    assert lives.placed(ONE) == []
    assert state(lives) is ActorState.STARTING
    assert lives.initialised(ONE) == []
    assert state(lives) is ActorState.ALIVE


def test_a_crash_without_restarts_is_the_end_and_says_how() -> None:
    lives = alive()
    effects = lives.process_ended(ONE, CRASH)
    assert death_told(effects) == CRASH
    assert "signal 11 (SIGSEGV)" in str(death_told(effects))
    assert state(lives) is ActorState.DEAD


def test_a_crash_with_restarts_asks_for_another_process() -> None:
    lives = alive(max_restarts=1)
    assert lives.process_ended(ONE, CRASH) == [PlaceActor(ONE, 1)]
    assert state(lives) is ActorState.RESTARTING
    lives.placed(ONE)
    assert death_told(lives.process_ended(ONE, CRASH)) == CRASH, "the second one is one too many"


def test_restarts_without_limit() -> None:
    lives = alive(max_restarts=-1)
    for restart in range(1, 50):
        assert lives.process_ended(ONE, CRASH) == [PlaceActor(ONE, restart)]
        lives.placed(ONE)


def test_a_process_that_dies_before_it_takes_the_actor_costs_no_restart() -> None:
    lives = ActorLives("n1")
    lives.created(record())
    assert lives.process_ended(ONE, CRASH) == [PlaceActor(ONE, 0)]
    assert state(lives) is ActorState.PENDING


def test_a_constructor_that_raises_is_not_tried_again() -> None:
    lives = ActorLives("n1")
    lives.created(record(max_restarts=5))
    lives.placed(ONE)
    cause = ValueError("no such port")
    effects = lives.init_raised(ONE, Death(DeathKind.INIT_RAISED, node_id="n1"), cause)
    assert death_told(effects).kind is DeathKind.INIT_RAISED
    assert effects[1] == EndProcess(ONE, force=False)
    closing = effects[0]
    assert isinstance(closing, CloseActor)
    assert "no such port" in str(closing.error)


def test_killed_for_good_while_it_runs() -> None:
    lives = alive(max_restarts=3)
    effects = lives.killed(ONE, "af.kill in job 1", no_restart=True)
    assert death_told(effects).kind is DeathKind.KILLED
    assert "af.kill in job 1" in str(death_told(effects))
    assert effects[1] == EndProcess(ONE, force=True)
    assert lives.process_ended(ONE, CRASH) == [], "the first cause counts"


def test_killed_with_a_restart_waits_for_the_old_process_to_end() -> None:
    lives = alive(max_restarts=1)
    assert lives.killed(ONE, "af.kill", no_restart=False) == [EndProcess(ONE, force=True)]
    assert lives.killed(ONE, "af.kill again", no_restart=False) == []
    assert state(lives) is ActorState.RESTARTING
    assert lives.process_ended(ONE, CRASH) == [PlaceActor(ONE, 1)]


def test_killed_with_leave_to_restart_but_none_left() -> None:
    effects = alive().killed(ONE, "af.kill", no_restart=False)
    assert death_told(effects).kind is DeathKind.KILLED


def test_killed_while_it_waits_for_a_process() -> None:
    lives = ActorLives("n1")
    lives.created(record())
    assert lives.killed(ONE, "af.kill", no_restart=False) == []
    effects = lives.killed(ONE, "af.kill", no_restart=True)
    assert effects[1] == CancelPlace(ONE)
    assert lives.placed(ONE) == [EndProcess(ONE, force=True)], "a worker had taken it meanwhile"


def test_exit_requested() -> None:
    effects = alive(max_restarts=-1).exit_requested(ONE)
    assert death_told(effects).kind is DeathKind.EXIT_REQUESTED
    assert effects[1] == EndProcess(ONE, force=False)


def test_without_handles_it_ends_unless_detached() -> None:
    assert death_told(alive().handles_gone(ONE)).kind is DeathKind.NO_HANDLES
    assert alive(detached=True).handles_gone(ONE) == []


def test_the_end_of_a_job_ends_what_is_not_detached() -> None:
    lives = ActorLives("n1")
    for actor, job, detached in ((1, 1, False), (2, 1, True), (3, 2, False)):
        lives.created(record(actor, job, detached=detached))
    lives.job_ended(JobId(1))
    assert [living.id for living in lives] == [ActorId(2), ActorId(3)]
    lives.node_stopping("the driver was killed")
    assert list(lives) == []
    last = lives.get(ActorId(3))
    assert last is not None
    assert "the driver was killed" in str(last.error)


def test_what_can_never_be_placed_says_what_is_missing() -> None:
    lives = ActorLives("n1")
    lives.created(record())
    (closing,) = lives.unschedulable(ONE, "2 GPU missing")
    assert isinstance(closing, CloseActor)
    assert isinstance(closing.error, ActorUnschedulableError)
    assert "2 GPU missing" in str(closing.error)


def test_impossible_events_are_our_mistake() -> None:
    lives = alive()
    with pytest.raises(InternalError, match="cannot go from ALIVE to STARTING"):
        lives.placed(ONE)
    with pytest.raises(InternalError, match="created twice"):
        lives.created(record())


def test_names() -> None:
    names = ActorNames()
    names.take("default", "counter", ActorId(1))
    names.take("other", "counter", ActorId(2))
    with pytest.raises(ActorAlreadyExistsError, match=r"'counter' exists in namespace 'default'"):
        names.take("default", "counter", ActorId(3))
    assert names.find("default", "counter") == ActorId(1)
    assert names.find("default", "count") is None
    assert names.nearest("default", "countr") == ["counter"]
    assert names.nearest("empty", "counter") == ["default/counter", "other/counter"]
    assert names.nearest("default", "something else") == []
    assert names.listed() == [("default", "counter"), ("other", "counter")]
    names.release(ActorId(1))
    assert names.listed("default") == []
    names.take("default", "counter", ActorId(3))


def test_a_name_taken_twice_leaves_the_second_actor_unmade_and_death_frees_it() -> None:
    lives = ActorLives("n1")
    lives.created(record(1), "default", "counter")
    with pytest.raises(ActorAlreadyExistsError):
        lives.created(record(2), "default", "counter")
    assert lives.get(ActorId(2)) is None
    lives.killed(ONE, "af.kill", no_restart=True)
    lives.created(record(2), "default", "counter")
    assert lives.names.find("default", "counter") == ActorId(2)


class Lives(RuleBasedStateMachine):
    """Any order of events that a node can send, against what each actor's processes and ends may be."""

    def __init__(self) -> None:
        super().__init__()
        self.lives = ActorLives("n1")
        self.made = 0
        self.wanted: set[ActorId] = set()  # a process was asked for and has not come
        self.processes: set[ActorId] = set()
        self.closed: set[ActorId] = set()

    def follow(self, effects: list[ActorEffect]) -> None:
        """Does what a node does, and checks that it can be done."""
        for effect in effects:
            actor = effect.actor
            if isinstance(effect, PlaceActor):
                assert actor not in self.wanted | self.processes, "an actor never has two processes"
                self.wanted.add(actor)
            elif isinstance(effect, CancelPlace):
                self.wanted.discard(actor)
            elif isinstance(effect, EndProcess):
                assert actor in self.processes
            else:
                assert actor not in self.closed, "each end is told once"
                self.closed.add(actor)

    @rule(max_restarts=st.sampled_from([-1, 0, 1]), detached=st.booleans(), name=st.sampled_from(["", "a"]))
    def create(self, max_restarts: int, detached: bool, name: str) -> None:
        new = record(self.made + 1, self.made % 2, max_restarts, detached)
        if name and self.lives.names.find("default", name) is not None:
            with pytest.raises(ActorAlreadyExistsError):
                self.lives.created(new, "default", name)
            return
        self.made += 1
        self.follow(self.lives.created(new, "default", name))

    @rule(data=st.data())
    def placed(self, data: st.DataObject) -> None:
        if self.wanted:
            actor = data.draw(st.sampled_from(sorted(self.wanted)))
            self.wanted.discard(actor)
            self.processes.add(actor)
            self.follow(self.lives.placed(actor))

    @rule(data=st.data())
    def process_ended(self, data: st.DataObject) -> None:
        if self.processes:
            actor = data.draw(st.sampled_from(sorted(self.processes)))
            self.processes.discard(actor)
            self.follow(self.lives.process_ended(actor, CRASH))

    @rule(number=st.integers(1, 8), what=st.sampled_from(["init", "raise", "exit", "handles"]))
    def something_happens(self, number: int, what: str) -> None:
        actor = ActorId(number)
        if what == "init":
            self.follow(self.lives.initialised(actor))
        elif what == "raise":
            self.follow(self.lives.init_raised(actor, CRASH, None))
        elif what == "exit":
            self.follow(self.lives.exit_requested(actor))
        else:
            self.follow(self.lives.handles_gone(actor))

    @rule(number=st.integers(1, 8), no_restart=st.booleans())
    def kill(self, number: int, no_restart: bool) -> None:
        self.follow(self.lives.killed(ActorId(number), "somebody", no_restart))

    @rule(job=st.integers(0, 1))
    def end_job(self, job: int) -> None:
        self.follow(self.lives.job_ended(JobId(job)))

    @invariant()
    def all_is_possible(self) -> None:
        self.lives.validate()
        for living in self.lives:
            has = living.id in self.processes
            assert has == living.has_process
            assert has or living.id in self.wanted, "who lives has a process or waits for one"
        assert self.closed == {ActorId(n) for n in range(1, self.made + 1)} - {one.id for one in self.lives}


TestLives = Lives.TestCase
