"""How actors come to a process: what they hold and when, in which order, and who may pass whom."""

from __future__ import annotations

from actorflow.core import events as ev
from actorflow.core.events import ActorId, QueueId, WorkerId
from actorflow.core.policy import Policy
from actorflow.core.resources import ResourceSet
from tests.unit.test_core_scheduler import NOTHING, ONE_CPU, Node, of


def test_an_actor_gets_a_fresh_worker_and_keeps_what_it_runs_with() -> None:
    node = Node(CPU=2, GPU=1, workers=1)
    effects = node.ask(1, ONE_CPU, ResourceSet.of(GPU=0.5))
    assert of(ev.HostActor, effects) == [ev.HostActor(WorkerId(1), ActorId(1), ((0, 5_000),))]
    assert node.scheduler.available == {"CPU": 1.0, "GPU": 0.5}
    node.tell(ev.ActorStarted(ActorId(1)))
    assert node.scheduler.available == {"CPU": 2.0, "GPU": 0.5}
    node.tell(ev.WorkerGone(WorkerId(1)))
    assert node.scheduler.available == {"CPU": 2.0, "GPU": 1.0}


def test_an_actor_that_can_never_be_placed_is_reported_and_forgotten() -> None:
    node = Node(CPU=2, workers=1)
    (report,) = node.ask(1, ONE_CPU, ResourceSet.of(CPU=3, GPU=1))
    assert isinstance(report, ev.ReportActorInfeasible)
    assert "1 CPU, 1 GPU missing" in report.why
    assert node.tell(ev.ActorGone(ActorId(1))) == []


def test_an_actor_takes_the_place_of_the_next_call_that_ends() -> None:
    node = Node(CPU=1, workers=2)
    node.open(1, CPU=1)
    node.see(1, depth=50)
    busy = {"depth": 49, "active": 1, "allowed": 1, "readers": 1}
    node.see(1, **busy)
    effects = node.ask(7) + node.see(1, **busy)
    assert of(ev.SetAllowed, effects) == [ev.SetAllowed(QueueId(1), 0)]
    (leave,) = of(ev.LeaveQueue, effects)
    node.tell(ev.WorkerLeftQueue(leave.worker))
    effects = node.see(1, depth=49)
    assert of(ev.HostActor, effects) == [ev.HostActor(WorkerId(2), ActorId(7), ())]
    effects = node.tell(ev.ActorStarted(ActorId(7)))
    assert of(ev.SetAllowed, effects) == [ev.SetAllowed(QueueId(1), 1)], (
        "it runs with nothing: the call goes on"
    )


def test_actors_are_placed_in_the_order_in_which_they_came() -> None:
    node = Node(CPU=1, workers=4)
    for actor in (1, 2, 3):
        node.ask(actor)
    hosted = []
    for actor in (1, 2):
        hosted += of(ev.HostActor, node.tell(ev.ActorStarted(ActorId(actor))))
    assert [host.actor for host in hosted] == [ActorId(2), ActorId(3)]


def test_one_that_waits_for_all_cpus_is_not_passed_by_those_that_keep_some() -> None:
    node = Node(CPU=2, workers=9)
    node.open(1, CPU=1)
    node.see(1, depth=9)
    node.see(1, depth=9, active=2, allowed=2, readers=2)
    node.ask(1, NOTHING, ResourceSet.of(CPU=2))
    node.ask(2, NOTHING, ONE_CPU)
    assert of(ev.HostActor, node.see(1, depth=9, active=1, allowed=1, readers=1)) == []
    assert [h.actor for h in of(ev.HostActor, node.see(1, depth=9, readers=0))] == [ActorId(1)]


def test_one_that_waits_for_other_actors_is_passed_a_limited_number_of_times() -> None:
    node = Node(CPU=40, workers=60)
    node.ask(1, NOTHING, ResourceSet.of(CPU=20))
    node.tell(ev.ActorStarted(ActorId(1)))
    assert node.ask(2, NOTHING, ResourceSet.of(CPU=30)) == []
    passed = [actor for actor in range(3, 23) if of(ev.HostActor, node.ask(actor, NOTHING, ONE_CPU))]
    assert len(passed) == Policy.for_node(ONE_CPU).bypass_limit
    assert of(ev.HostActor, node.ask(99, ONE_CPU, NOTHING)), "one that keeps nothing takes nothing from it"


def test_the_end_of_an_actor() -> None:
    node = Node(CPU=1, workers=2)
    node.ask(1, ONE_CPU, ONE_CPU)
    node.ask(2)
    assert node.tell(ev.ActorGone(ActorId(2))) == [], "it had no process yet"
    effects = node.tell(ev.ActorGone(ActorId(1)))
    assert effects == [ev.StopWorker(WorkerId(1), force=False)]
    assert node.scheduler.available == {"CPU": 0.0}, "until its process is gone"
    node.tell(ev.WorkerGone(WorkerId(1)))
    assert node.scheduler.available == {"CPU": 1.0}
