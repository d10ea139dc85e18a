"""The scheduler, event by event: what it asks for when a queue fills, a job ends, a worker dies, an actor is made."""

from __future__ import annotations

from typing import TypeVar

import pytest

from actorflow.core import events as ev
from actorflow.core.events import ActorId, JobId, QueueId, WorkerId
from actorflow.core.policy import Policy
from actorflow.core.resources import ResourceSet
from actorflow.core.scheduler import Scheduler
from actorflow.errors import InternalError

E = TypeVar("E")
A, B = JobId(1), JobId(2)
ONE_CPU, NOTHING = ResourceSet.of(CPU=1), ResourceSet()


class Node:
    """A scheduler that is told things by hand. Each answer is checked for being consistent."""

    def __init__(self, fresh: int = 0, idle: int = 0, workers: int = 0, **total: float) -> None:
        policy = Policy(fresh_workers=fresh, idle_workers=idle)
        self.scheduler = Scheduler(ResourceSet.from_amounts(total), policy)
        self.now_s = 0.0
        self.workers = 0
        self.tell(ev.JobStarted(A))
        self.tell(ev.JobStarted(B))
        self.ready(workers)

    def tell(self, event: ev.Event, after_s: float = 0.0) -> list[ev.Effect]:
        self.now_s += after_s
        effects = self.scheduler.handle(event, self.now_s)
        self.scheduler.validate()
        return effects

    def ready(self, count: int) -> list[ev.Effect]:
        effects: list[ev.Effect] = []
        for _ in range(count):
            self.workers += 1
            effects += self.tell(ev.WorkerReady(WorkerId(self.workers)))
        return effects

    def open(self, queue: int, job: JobId = A, environment: str = "", **shape: float) -> list[ev.Effect]:
        return self.tell(ev.QueueOpened(QueueId(queue), job, ResourceSet.from_amounts(shape), environment))

    def see(self, queue: int, after_s: float = 0.0, **facts: int) -> list[ev.Effect]:
        numbers = {"depth": 0, "active": 0, "allowed": 0, "readers": 0, "blocked": 0} | facts
        return self.tell(ev.QueueObserved(QueueId(queue), **numbers), after_s)

    def ask(
        self, actor: int, to_place: ResourceSet = ONE_CPU, to_run: ResourceSet = NOTHING
    ) -> list[ev.Effect]:
        return self.tell(ev.ActorRequested(ActorId(actor), A, to_place, to_run))


def of(kind: type[E], effects: list[ev.Effect]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]


# -- one queue
def test_mail_gets_all_that_is_free_and_only_the_readers_it_needs() -> None:
    node = Node(CPU=4, workers=4)
    assert node.open(1, CPU=1) == []
    effects = node.see(1, depth=2)
    assert of(ev.SetAllowed, effects) == [ev.SetAllowed(QueueId(1), 4)]
    assert of(ev.ServeQueue, effects) == [
        ev.ServeQueue(WorkerId(1), QueueId(1), ()),
        ev.ServeQueue(WorkerId(2), QueueId(1), ()),
    ]


def test_while_calls_come_and_go_nothing_is_asked_for() -> None:
    node = Node(CPU=2, workers=2)
    node.open(1, CPU=1)
    node.see(1, depth=1000)
    for depth in range(999, 900, -1):
        assert node.see(1, depth=depth, active=2, allowed=2, readers=2) == []


def test_without_workers_as_many_are_started_as_are_needed() -> None:
    node = Node(CPU=4)
    node.open(1, CPU=1)
    assert of(ev.StartWorkers, node.see(1, depth=3)) == [ev.StartWorkers(3)]
    assert of(ev.StartWorkers, node.see(1, depth=3, allowed=4)) == [], "they are on their way"
    assert of(ev.ServeQueue, node.ready(1)) == [ev.ServeQueue(WorkerId(1), QueueId(1), ())]


def test_failed_starts_are_tried_again_one_at_a_time_and_ever_later() -> None:
    node = Node(CPU=2)
    node.open(1, CPU=1)
    assert of(ev.StartWorkers, node.see(1, depth=2)) == [ev.StartWorkers(2)]
    assert node.tell(ev.WorkersNotStarted(2)) == []
    for delay_s in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0):
        assert of(ev.StartWorkers, node.tell(ev.Tick(), 0.9 * delay_s)) == []
        assert of(ev.StartWorkers, node.tell(ev.Tick(), 0.11 * delay_s)) == [ev.StartWorkers(1)]
        assert len(of(ev.ServeQueue, node.ready(1))) == 1
        assert of(ev.StartWorkers, node.tell(ev.WorkerGone(WorkerId(node.workers), unborn=True))) == []


def test_a_worker_that_has_worked_ends_the_series_of_failed_starts() -> None:
    node = Node(CPU=2)
    node.open(1, CPU=1)
    node.see(1, depth=2)
    node.tell(ev.WorkersNotStarted(2))
    assert of(ev.StartWorkers, node.tell(ev.Tick(), 0.06)) == [ev.StartWorkers(1)]
    node.ready(1)
    node.tell(ev.WorkerLeftQueue(WorkerId(1)))
    assert node.tell(ev.WorkersNotStarted(1)) is not None
    assert of(ev.StartWorkers, node.tell(ev.Tick(), 0.06)) == [ev.StartWorkers(1)]


def test_a_worker_that_has_run_enough_is_ended_and_replaced_like_any_other() -> None:
    node = Node(CPU=2, workers=1)
    node.open(1, CPU=1)
    node.see(1, depth=3)
    effects = node.tell(ev.WorkerLeftQueue(WorkerId(1), worn_out=True))
    assert of(ev.StopWorker, effects) == [ev.StopWorker(WorkerId(1), force=False)]
    assert of(ev.StartWorkers, effects)
    node.tell(ev.WorkerGone(WorkerId(1)))
    assert len(of(ev.ServeQueue, node.ready(1))) == 1


def test_what_can_never_run_is_reported_once_and_never_served() -> None:
    node = Node(CPU=2, workers=1)
    (report,) = node.open(1, CPU=3)
    assert isinstance(report, ev.ReportQueueInfeasible)
    assert "1 CPU missing" in report.why
    assert node.see(1, depth=5) == []


def test_resources_of_no_one_are_not_lent() -> None:
    node = Node(CPU=1, workers=1)
    (report,) = node.open(1, CPU=1, disk=1)
    assert isinstance(report, ev.ReportQueueInfeasible)
    assert "1 disk missing" in report.why


def test_calls_that_take_nothing_are_limited_by_processes() -> None:
    node = Node(CPU=1)
    node.open(1)
    effects = node.see(1, depth=10_000)
    assert of(ev.SetAllowed, effects) == [
        ev.SetAllowed(QueueId(1), Policy(fresh_workers=0, idle_workers=0).parallel_limit)
    ]


def test_facts_that_are_older_than_a_raise_do_not_undo_it() -> None:
    node = Node(CPU=4, workers=4)
    node.open(1, CPU=1)
    node.see(1, depth=9)
    effects = node.see(1, depth=9, allowed=0)
    assert effects == [ev.SetAllowed(QueueId(1), 4)], "said again: writing it twice does no harm"
    node.open(2, B, CPU=1)
    assert of(ev.SetAllowed, node.see(2, depth=1)) != [ev.SetAllowed(QueueId(2), 4)]


def test_a_memory_that_allows_more_than_was_lent_is_believed_and_lowered() -> None:
    node = Node(CPU=2, workers=2)
    node.open(1, CPU=1)
    node.open(2, B, CPU=1)
    node.see(1, depth=1)
    node.see(1, allowed=2, readers=1)
    node.see(2, depth=1)
    node.see(1, allowed=1, readers=1)
    facts = ev.QueueObserved(QueueId(1), depth=0, active=2, allowed=2, readers=2, blocked=0)
    assert of(ev.SetAllowed, node.scheduler.handle(facts, node.now_s)) == [ev.SetAllowed(QueueId(1), 1)]
    assert of(ev.SetAllowed, node.scheduler.handle(facts, node.now_s)) == [], "not while it cannot be lowered"
    node.see(1, active=1, allowed=1, readers=2)


# -- blocked readers
def test_blocked_readers_are_replaced_at_once_up_to_two_for_each_unit() -> None:
    node = Node(CPU=2, workers=9)
    node.open(1, CPU=1)
    assert len(of(ev.ServeQueue, node.see(1, depth=50))) == 2
    effects = node.see(1, depth=50, allowed=2, readers=2, blocked=2)
    assert len(of(ev.ServeQueue, effects)) == 2
    effects = node.see(1, depth=48, allowed=2, readers=4, blocked=4)
    assert of(ev.ServeQueue, effects) == [], "those may be awake already"
    assert len(of(ev.LookAt, effects)) == 1


def test_more_come_only_when_nothing_has_moved() -> None:
    node = Node(CPU=2, workers=9)
    node.open(1, CPU=1)
    node.see(1, depth=50)
    node.see(1, depth=50, allowed=2, readers=2, blocked=2)
    stuck = {"allowed": 2, "readers": 4, "blocked": 4}
    node.see(1, depth=48, **stuck)
    assert of(ev.ServeQueue, node.see(1, 0.0125, depth=47, **stuck)) == []
    assert len(of(ev.ServeQueue, node.see(1, 0.0125, depth=47, **stuck))) == 2


# -- sharing
def test_a_queue_without_mail_gives_back_at_once_what_another_needs() -> None:
    node = Node(CPU=2, workers=4)
    node.open(1, CPU=1)
    node.open(2, CPU=1)
    node.see(1, depth=1)
    node.see(1, allowed=2, readers=1)
    assert of(ev.SetAllowed, node.see(2, depth=1)) == [ev.SetAllowed(QueueId(1), 1)]
    effects = node.see(1, allowed=1, readers=1)
    assert of(ev.SetAllowed, effects) == [ev.SetAllowed(QueueId(2), 1)]
    assert len(of(ev.ServeQueue, effects)) == 1


def test_another_job_gets_the_next_unit_that_falls_free() -> None:
    node = Node(CPU=4, workers=5)
    node.open(1, A, CPU=1)
    node.open(2, B, CPU=1)
    node.see(1, depth=500)
    node.see(1, depth=496, active=4, allowed=4, readers=4)
    assert of(ev.SetAllowed, node.see(2, depth=1)) == [ev.SetAllowed(QueueId(1), 3)]
    effects = node.see(1, depth=496, active=4, allowed=4, readers=4)
    (leave,) = of(ev.LeaveQueue, effects)
    effects = node.tell(ev.WorkerLeftQueue(leave.worker), 0.02)
    assert of(ev.SetAllowed, effects) == [ev.SetAllowed(QueueId(1), 3)]
    effects = node.see(1, depth=496, active=3, allowed=3, readers=3)
    assert of(ev.SetAllowed, effects) == [ev.SetAllowed(QueueId(2), 1)]
    assert of(ev.ServeQueue, effects) == [ev.ServeQueue(WorkerId(5), QueueId(2), ())], (
        "a worker of no other job"
    )


def test_a_reader_that_takes_long_to_leave_is_joined_by_others() -> None:
    node = Node(CPU=4, workers=5)
    node.open(1, A, CPU=1)
    node.open(2, B, CPU=1)
    node.see(1, depth=500)
    busy = {"depth": 496, "active": 4, "allowed": 4, "readers": 4}
    node.see(1, **busy)
    node.see(2, depth=1)
    asked = [len(of(ev.LeaveQueue, node.see(1, **busy)))]
    asked += [len(of(ev.LeaveQueue, node.see(1, 0.0125, **busy))) for _ in range(3)]
    assert asked == [1, 2, 1, 0], "twice as many each time, until all are asked"


def test_two_jobs_come_to_equal_shares_and_stay_there() -> None:
    node = Node(CPU=4, workers=9)
    node.open(1, A, CPU=1)
    node.open(2, B, CPU=1)
    node.see(1, depth=500)
    node.see(1, depth=500, active=4, allowed=4, readers=4)
    node.see(2, depth=500)
    node.see(1, depth=500, active=2, allowed=2, readers=4)
    assert of(ev.SetAllowed, node.see(2, depth=500, active=1, allowed=1, readers=1)) in (
        [],
        [ev.SetAllowed(QueueId(2), 2)],
    )
    for _ in range(9):
        effects = node.see(1, 0.02, depth=500, active=2, allowed=2, readers=4)
        effects += node.see(2, 0.02, depth=500, active=2, allowed=2, readers=2)
        assert of(ev.SetAllowed, effects) == []


def test_more_than_one_kind_of_resource_counts_by_the_largest_share() -> None:
    node = Node(CPU=8, memory=4, workers=8)
    node.open(1, A, CPU=1, memory=1)
    node.open(2, B, CPU=1)
    node.see(2, depth=500)
    node.see(2, depth=500, active=8, allowed=8, readers=8)
    effects = node.see(1, depth=500)
    (lowered,) = of(ev.SetAllowed, effects)
    assert lowered == ev.SetAllowed(QueueId(2), 6), "a third of 4 would weigh more than what is left of 8"


# -- seats
def test_gpu_calls_have_a_seat_with_devices_for_each_worker() -> None:
    node = Node(CPU=4, GPU=2, workers=5)
    node.open(1, CPU=1, GPU=1)
    effects = node.see(1, depth=5)
    assert of(ev.ServeQueue, effects) == [
        ev.ServeQueue(WorkerId(1), QueueId(1), ((0, 10_000),)),
        ev.ServeQueue(WorkerId(2), QueueId(1), ((1, 10_000),)),
    ]


def test_a_blocked_gpu_call_gives_back_its_cpu_and_keeps_its_device() -> None:
    node = Node(CPU=1, GPU=2, workers=5)
    node.open(1, CPU=1, GPU=1)
    node.open(2, CPU=1, GPU=1)
    node.see(1, depth=1)
    node.see(2, depth=1)
    effects = node.see(1, allowed=1, readers=1, blocked=1)
    effects += node.see(1, allowed=0, readers=1, blocked=1)
    assert of(ev.ServeQueue, effects) == [ev.ServeQueue(WorkerId(2), QueueId(2), ((1, 10_000),))]


def test_a_worker_that_had_a_gpu_serves_nothing_else() -> None:
    node = Node(CPU=2, GPU=1, workers=2)
    node.open(1, CPU=1, GPU=1)
    node.open(2, CPU=1, GPU=0.5)
    node.see(1, depth=1)
    node.see(1, allowed=1, readers=1)
    effects = node.see(2, depth=1)
    assert of(ev.LeaveQueue, effects) == [ev.LeaveQueue(WorkerId(1))]
    effects = node.tell(ev.WorkerLeftQueue(WorkerId(1)))
    assert of(ev.StopWorker, effects) == [ev.StopWorker(WorkerId(1), force=False)]
    assert of(ev.ServeQueue, effects) == [ev.ServeQueue(WorkerId(2), QueueId(2), ((0, 5_000),))]


# -- workers
def test_fresh_workers_are_kept_ahead_but_not_while_calls_wait() -> None:
    node = Node(CPU=2, fresh=2)
    assert of(ev.StartWorkers, node.tell(ev.Tick())) == [], "asked for before"
    node.ready(2)
    node.open(1, CPU=1)
    assert of(ev.StartWorkers, node.see(1, depth=9)) == []
    assert of(ev.StartWorkers, node.see(1, allowed=2, readers=2)) == [ev.StartWorkers(2)]


def test_idle_readers_above_the_floor_end_after_a_while() -> None:
    node = Node(CPU=4, idle=1, workers=4)
    node.open(1, CPU=1)
    node.see(1, depth=4)
    node.see(1, active=4, allowed=4, readers=4)
    node.see(1, allowed=4, readers=4)
    assert of(ev.StopWorker, node.tell(ev.Tick(), 0.5)) == []
    assert of(ev.LookAt, node.tell(ev.Tick(), 0.6)) == [ev.LookAt(QueueId(1), 0.0)]
    node.see(1, allowed=4, readers=4)
    assert of(ev.StopWorker, node.tell(ev.Tick())) == [], "it was busy in that time"
    node.see(1, 1.1, allowed=4, readers=4)
    stopped = of(ev.StopWorker, node.tell(ev.Tick()))
    assert len(stopped) == 3
    assert not any(stop.force for stop in stopped)


def test_fresh_workers_above_the_floor_end_too() -> None:
    node = Node(CPU=1, fresh=1, workers=3)
    assert of(ev.StopWorker, node.tell(ev.Tick(), 0.9)) == []
    assert len(of(ev.StopWorker, node.tell(ev.Tick(), 0.2))) == 2


def test_a_job_with_many_workers_moves_them_between_its_queues() -> None:
    node = Node(CPU=2, workers=4)
    node.open(1, CPU=1)
    node.open(2, CPU=1)
    node.see(1, depth=4)
    node.see(1, depth=4, allowed=2, readers=2, blocked=2)
    node.see(1, allowed=2, readers=4)
    node.see(2, depth=1)
    effects = node.see(1, allowed=1, readers=4)
    (leave,) = of(ev.LeaveQueue, effects)
    assert of(ev.StartWorkers, effects) == []
    effects = node.tell(ev.WorkerLeftQueue(leave.worker))
    assert of(ev.ServeQueue, effects) == [ev.ServeQueue(leave.worker, QueueId(2), ())]


def test_a_worker_stays_with_its_job() -> None:
    node = Node(CPU=1, workers=1)
    node.open(1, A, CPU=1)
    node.open(2, B, CPU=1)
    node.see(1, depth=1)
    node.see(1, allowed=1, readers=1)
    node.tell(ev.WorkerLeftQueue(WorkerId(1)))
    node.see(2, depth=1)
    effects = node.see(1)
    assert of(ev.SetAllowed, effects) == [ev.SetAllowed(QueueId(2), 1)]
    assert of(ev.ServeQueue, effects) == []
    assert of(ev.StartWorkers, effects) == [ev.StartWorkers(1)]


def test_what_an_idle_queue_has_goes_to_another_as_soon_as_it_is_seen_to_be_idle() -> None:
    node = Node(CPU=2, workers=2)
    node.open(1, CPU=1)
    node.open(2, CPU=2)
    node.see(1, depth=1)
    node.see(1, depth=1, allowed=2, readers=1)
    effects = node.see(2, 0.0001, depth=1)
    assert ev.LookAt(QueueId(1), 0.0) in effects
    effects = node.see(1, 0.0001, allowed=2, readers=1)
    assert ev.SetAllowed(QueueId(1), 0) in effects, "with no patience for it"


def test_a_dead_reader_is_replaced() -> None:
    node = Node(CPU=1, workers=1)
    node.open(1, CPU=1)
    node.see(1, depth=5)
    effects = node.tell(ev.WorkerGone(WorkerId(1)))
    assert of(ev.StartWorkers, effects) == [ev.StartWorkers(1)]
    assert node.tell(ev.WorkerGone(WorkerId(1))) == []
    assert node.tell(ev.WorkerLeftQueue(WorkerId(1))) == [], "said before it died"


# -- jobs
def test_a_job_that_ends_takes_its_workers_along_and_frees_what_they_held_once_they_are_gone() -> None:
    node = Node(CPU=2, workers=3)
    node.open(1, A, CPU=1)
    node.open(2, B, CPU=1)
    node.see(1, depth=9)
    node.see(1, depth=9, active=2, allowed=2, readers=2)
    effects = node.tell(ev.JobEnded(A))
    assert of(ev.StopWorker, effects) == [ev.StopWorker(WorkerId(n), force=True) for n in (1, 2)]
    assert of(ev.SetAllowed, node.see(2, depth=1)) == []
    node.tell(ev.WorkerGone(WorkerId(1)))
    effects = node.tell(ev.WorkerGone(WorkerId(2)))
    assert of(ev.SetAllowed, effects) == [ev.SetAllowed(QueueId(2), 2)]
    assert node.scheduler.available == {"CPU": 2.0}


def test_a_closed_queue_lets_its_readers_go() -> None:
    node = Node(CPU=1, workers=1)
    node.open(1, CPU=1)
    node.see(1, depth=1)
    node.see(1, allowed=1, readers=1)
    assert of(ev.LeaveQueue, node.tell(ev.QueueClosed(QueueId(1)))) == [ev.LeaveQueue(WorkerId(1))]
    node.tell(ev.WorkerLeftQueue(WorkerId(1)))
    assert node.see(1, depth=1) == [], "facts of a queue that is no more"
    assert node.tell(ev.QueueClosed(QueueId(1))) == []


def test_events_that_cannot_be_are_our_mistake() -> None:
    node = Node(CPU=1, workers=1)
    with pytest.raises(InternalError, match="started twice"):
        node.tell(ev.JobStarted(A))
    with pytest.raises(InternalError, match="job 9 is not running"):
        node.open(1, JobId(9), CPU=1)
    with pytest.raises(InternalError, match="ready twice"):
        node.tell(ev.WorkerReady(WorkerId(1)))


# -- what is free
def test_what_is_available_is_what_no_call_and_no_actor_takes() -> None:
    node = Node(CPU=4, workers=4)
    node.open(1, CPU=1)
    node.see(1, depth=3)
    node.see(1, active=3, allowed=4, readers=3)
    assert node.scheduler.available == {"CPU": 1.0}
    node.ask(1, NOTHING, ONE_CPU)
    node.see(1, active=3, allowed=3, readers=3)
    assert node.scheduler.available == {"CPU": 0.0}
    node.see(1, allowed=3, readers=3)
    assert node.scheduler.available == {"CPU": 3.0}
    assert node.scheduler.total == {"CPU": 4.0}
