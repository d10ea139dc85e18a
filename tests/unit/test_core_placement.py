"""Placement groups: their lives, their pools in the node's account, and any order of events against a simple model."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actorflow.core import events as ev
from actorflow.core.events import ActorId, GroupId, JobId, QueueId, WorkerId
from actorflow.core.placement import (
    Group,
    GroupState,
    PlacementGroups,
    Release,
    Reserve,
    in_pool,
    why_never_reserved,
)
from actorflow.core.resources import ResourceSet
from actorflow.core.scheduler import Scheduler
from actorflow.core.where import matches, parsed, why_not_here
from actorflow.errors import PlacementGroupError

TOTAL = ResourceSet.of(CPU=4, GPU=2)
JOB = JobId(1)
EVENTS_AT_MOST = 1000  # that follow from one: what goes on for ever is a fault of the decisions
ONE_CPU, TWO_CPUS = ResourceSet.of(CPU=1), ResourceSet.of(CPU=2)


def group(number: int, *bundles: ResourceSet, strategy: str = "PACK", name: str = "") -> Group:
    return Group(GroupId(number), JOB, strategy, bundles, name, "space")


# -- lives


def test_a_groups_life() -> None:
    groups = PlacementGroups(TOTAL)
    made = group(1, ONE_CPU, TWO_CPUS, name="team")
    assert groups.created(made) == [Reserve(made)]
    assert groups.named("space", "team") is made
    groups.reserved(made.id)
    assert made.state.name == "CREATED"
    assert groups.removed(made.id, "done") == [Release(made)]
    assert groups.removed(made.id, "again") == []
    assert groups.named("space", "team") is None
    groups.reserved(made.id)  # it came too late
    assert made.state.name == "REMOVED"
    with pytest.raises(PlacementGroupError, match="was removed: done"):
        groups.inside(made.id, 0, ONE_CPU)
    groups.validate()


def test_a_name_is_one_living_groups() -> None:
    groups = PlacementGroups(TOTAL)
    groups.created(group(1, ONE_CPU, name="team"))
    with pytest.raises(PlacementGroupError, match="has that name already"):
        groups.created(group(2, ONE_CPU, name="team"))
    groups.validate()
    assert [made.id for made in groups] == [1]
    groups.removed(GroupId(1), "done")
    assert groups.created(group(2, ONE_CPU, name="team"))


def test_groups_end_with_their_job_unless_detached() -> None:
    groups = PlacementGroups(TOTAL)
    own, detached = group(1, ONE_CPU), group(2, ONE_CPU)
    detached.detached = True
    for made in (own, detached):
        groups.created(made)
    assert groups.job_ended(JobId(2)) == []
    assert groups.job_ended(JOB) == [Release(own)]
    assert detached.state is GroupState.PENDING


@pytest.mark.parametrize(
    ("strategy", "bundles", "why"),
    [
        ("PACK", [{"CPU": 4}], None),
        ("SPREAD", [{"CPU": 2}, {"CPU": 2}], None),
        ("STRICT_PACK", [{"CPU": 3}, {"CPU": 2}], "1 CPU missing"),
        ("STRICT_SPREAD", [{"CPU": 1}], None),
        ("STRICT_SPREAD", [{"CPU": 1}, {"CPU": 1}], "needs 2 nodes"),
        ("PACK", [{"GPU": 0.5}, {"GPU": 1}, {"GPU": 0.5}], None),
        ("PACK", [{"GPU": 0.6}, {"GPU": 0.6}, {"GPU": 0.6}], "do not fit on the 2 devices"),
    ],
)
def test_what_can_never_be_reserved(strategy: str, bundles: list[dict[str, float]], why: str | None) -> None:
    found = why_never_reserved(strategy, [ResourceSet.from_amounts(bundle) for bundle in bundles], TOTAL)
    assert (found is None) == (why is None)
    assert why is None or why in str(found)


def test_what_a_call_takes_in_a_group() -> None:
    groups = PlacementGroups(TOTAL)
    groups.created(group(3, ONE_CPU, ResourceSet.of(CPU=2, GPU=0.5)))
    inside = groups.inside(GroupId(3), 1, ResourceSet.of(CPU=2, GPU=0.5))
    assert inside.group == 3
    assert inside.gpus == 5_000
    assert dict(inside.cpus) == {"CPU@group 3": 20_000, "CPU@group 3.1": 20_000}
    assert dict(groups.inside(GroupId(3), -1, ONE_CPU).units) == {"CPU@group 3": 10_000}
    assert dict(groups.inside(GroupId(3), 0, ResourceSet()).units) == {
        "bundle@group 3": 1,
        "bundle@group 3.0": 1,
    }
    assert inside.own_units == {"CPU": 20_000, "GPU": 5_000}
    for index, shape, why in (
        (0, TWO_CPUS, "bundle 0 does not"),
        (-1, ResourceSet.of(CPU=3), "no bundle"),
        (2, ONE_CPU, "none of index 2"),
    ):
        with pytest.raises(PlacementGroupError, match=why):
            groups.inside(GroupId(3), index, shape)
    with pytest.raises(PlacementGroupError, match="there is none of that id"):
        groups.inside(GroupId(9), 0, ONE_CPU)


# -- where else


def test_labels() -> None:
    labels = {"zone": "a"}
    for text, right in (
        ("a", True),
        ("!a", False),
        ("in(a, b)", True),
        ("!in(a,b)", False),
        ("!in(c)", True),
    ):
        assert (why_not_here({"selector": [["zone", text]]}, "n", labels) is None) == right, text
    assert parsed("zone", "!in(a, b)") == ("zone", "!in", ("a", "b"))
    assert matches(None, "!in", ("a",))
    assert matches(None, "!exists", ())
    assert not matches(None, "exists", ())
    assert why_not_here({"node": ["n", False]}, "n", {}) is None
    assert why_not_here({"node": ["m", True]}, "n", {}) is None
    assert "only node n" in str(why_not_here({"node": ["m", False]}, "n", {}))


# -- in the node's account


class Groups(RuleBasedStateMachine):
    """Groups, actors in and beside them, and removals in any order: nothing is lent twice, all of it comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(TOTAL)
        self.now_s = 0.0
        self.made = self.workers = 0
        self.reserved: set[int] = set()
        self.alive: dict[int, tuple[ResourceSet, ...]] = {}  # groups that are not removed
        self.removed: dict[int, tuple[ResourceSet, ...]] = {}  # that still may have users
        self.actors: dict[int, tuple[int, WorkerId | None]] = {}  # group (0: none) and worker
        self.tell(ev.JobStarted(JOB))

    def tell(self, event: ev.Event) -> None:
        self.now_s += 0.1
        todo = [event]
        steps = 0
        while todo:
            steps += 1
            assert steps < EVENTS_AT_MOST, todo
            for effect in self.scheduler.handle(todo.pop(0), self.now_s):
                if isinstance(effect, ev.GroupReserved):
                    assert effect.group in self.alive
                    assert effect.group not in self.reserved
                    self.reserved.add(effect.group)
                elif isinstance(effect, ev.StartWorkers):
                    for _ in range(effect.count):
                        self.workers += 1
                        todo.append(ev.WorkerReady(WorkerId(self.workers)))
                elif isinstance(effect, ev.HostActor):
                    owner = self.actors[effect.actor][0]
                    assert not owner or owner in self.reserved
                    self.actors[effect.actor] = owner, effect.worker
                    todo.append(ev.ActorStarted(effect.actor))
                elif isinstance(effect, ev.SetAllowed):
                    todo.append(ev.QueueObserved(effect.queue, 0, 0, effect.allowed, 0, 0))
                elif isinstance(effect, ev.StopWorker) and effect.worker not in self._hosts():
                    todo.append(ev.WorkerGone(effect.worker))

    def _hosts(self) -> set[WorkerId]:
        return {worker for _, worker in self.actors.values() if worker is not None}

    @rule(
        bundles=st.lists(
            st.sampled_from([ONE_CPU, TWO_CPUS, ResourceSet.of(GPU=0.5)]), min_size=1, max_size=2
        )
    )
    def make_group(self, bundles: list[ResourceSet]) -> None:
        self.made += 1
        self.alive[self.made] = tuple(bundles)
        self.tell(ev.GroupRequested(GroupId(self.made), JOB, tuple(bundles)))

    @rule(cpus=st.sampled_from([0, 1, 2]), gpus=st.sampled_from([0, 0.5, 1]))
    def make_actor(self, cpus: float, gpus: float) -> None:
        self._request(0, ResourceSet.of(CPU=cpus, GPU=gpus))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def make_member(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(sorted(self.alive)))
        index = data.draw(st.integers(-1, len(self.alive[owner]) - 1))
        self._request(owner, in_pool(GroupId(owner), index, self.alive[owner][max(index, 0)]))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def open_queue(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(sorted(self.alive)))
        shape = in_pool(GroupId(owner), 0, self.alive[owner][0])
        self.made += 1
        queue = QueueId(self.made)
        self.tell(ev.QueueOpened(queue, JOB, shape))
        self.tell(ev.QueueClosed(queue))

    def _request(self, owner: int, shape: ResourceSet) -> None:
        self.made += 1
        self.actors[self.made] = owner, None
        self.tell(ev.ActorRequested(ActorId(self.made), JOB, shape, shape))

    @precondition(lambda self: self.actors)
    @rule(data=st.data())
    def end_actor(self, data: st.DataObject) -> None:
        self._end(data.draw(st.sampled_from(sorted(self.actors))))

    def _end(self, actor: int) -> None:
        _, worker = self.actors.pop(actor)
        if worker is None:
            self.tell(ev.ActorGone(ActorId(actor)))
        else:
            self.tell(ev.WorkerGone(worker))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def remove_group(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(sorted(self.alive)))
        self.removed[owner] = self.alive.pop(owner)
        self.tell(ev.GroupReleased(GroupId(owner)))

    @rule()
    def tick(self) -> None:
        self.tell(ev.Tick())

    @invariant()
    def books_are_right(self) -> None:
        self.scheduler.validate()

    def teardown(self) -> None:
        for owner in list(self.alive):
            self.tell(ev.GroupReleased(GroupId(owner)))
        for actor in list(self.actors):
            self._end(actor)
        self.tell(ev.Tick())
        self.scheduler.validate()
        assert self.scheduler.available == self.scheduler.total == {"CPU": 4.0, "GPU": 2.0}


TestGroups = Groups.TestCase
TestGroups.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
