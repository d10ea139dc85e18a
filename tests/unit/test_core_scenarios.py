"""Whole workloads on the model of a node: how soon calls start, how many workers there are, how jobs share.

Times are the model's. What is asserted is what follows from the rules, with room for the order of messages.
"""

from __future__ import annotations

import pytest

from actorflow.core import events as ev
from actorflow.core.resources import ResourceSet
from tests.unit.test_core_node_model import SimulatedNode, SimulatedQueue, Work, all_done

ONE_CPU, NOTHING = ResourceSet.of(CPU=1), ResourceSet()


def done(works: list[Work]) -> int:
    return sum(work.done_s is not None for work in works)


def nested(queue: SimulatedQueue, levels: int) -> Work:
    """A call that waits for one that waits for one..."""
    work = Work(0.0001)
    for _ in range(levels):
        work = Work(0.0001, [(queue, work)], 0.0001)
    return work


@pytest.mark.parametrize("seed", range(10))
def test_500_parents_that_each_wait_for_one_child_need_8_workers(seed: int) -> None:
    node = SimulatedNode(seed, CPU=4)
    queue = node.queue(node.job(), CPU=1)
    node.run_for(0.05)
    begin_s = node.now_s
    works = [node.push(queue, Work(0.0005, [(queue, Work(0.0005))], 0.0002)) for _ in range(500)]
    node.run(all_done(works), 10.0)
    assert node.most_workers <= 8
    assert node.now_s - begin_s < 2 * 500 * 0.0012 / 4
    assert node.events < 200, "the node has a part in less than one call of five"


@pytest.mark.parametrize("seed", range(10))
def test_a_second_driver_gets_the_next_cpu(seed: int) -> None:
    node = SimulatedNode(seed, CPU=4)
    first, second = node.queue(node.job(), CPU=1), node.queue(node.job(), CPU=1)
    backlog = node.calls(first, 500, 0.05)
    node.run_for(0.333)
    begin_s = node.now_s
    work = node.push(second, Work(0.001))
    node.run(all_done([work]), 5.0)
    assert work.started_s is not None
    assert work.started_s - begin_s < 0.06, (
        "the call of the first that was asked to make room, and some messages"
    )
    node.run(all_done(backlog), 20.0)
    assert node.now_s < 500 * 0.05 / 4 + 0.2, "the first lost no more than it gave"


@pytest.mark.parametrize("gap_s", [0.003, 0.02, 0.05, 0.15])
def test_its_calls_come_one_by_one_through_the_backlog(gap_s: float) -> None:
    node = SimulatedNode(CPU=4)
    first, second = node.queue(node.job(), CPU=1), node.queue(node.job(), CPU=1)
    node.calls(first, 500, 0.05)
    node.run_for(0.333)
    for _ in range(12):
        begin_s = node.now_s
        work = node.push(second, Work(0.0005))
        node.run(all_done([work]), 1.0)
        assert node.now_s - begin_s < 0.06
        node.run_for(gap_s)


def test_parents_of_another_shape_than_their_children_do_not_fill_the_machine_with_workers() -> None:
    node = SimulatedNode(CPU=4)
    job = node.job()
    parents, children = node.queue(job, CPU=1), node.queue(job, CPU=0.5)
    works = [node.push(parents, Work(0.0005, [(children, Work(0.005))], 0.0002)) for _ in range(500)]
    begin_s = node.now_s
    node.run(all_done(works), 10.0)
    assert node.most_workers <= 24
    assert node.now_s - begin_s < 3 * 500 * 0.005 / 8


@pytest.mark.parametrize("cpus", [1, 4])
def test_deeply_nested_calls_come_to_an_end(cpus: int) -> None:
    node = SimulatedNode(CPU=cpus)
    queue = node.queue(node.job(), CPU=1)
    work = node.push(queue, nested(queue, 20))
    node.run(all_done([work]), 1.0)
    assert node.most_workers <= 20 + 1 + cpus


@pytest.mark.parametrize(("cpus", "jobs"), [(4, 2), (4, 4), (6, 3), (1, 3), (2, 5)])
def test_jobs_come_to_the_same(cpus: int, jobs: int) -> None:
    node = SimulatedNode(CPU=cpus)
    queues = [node.queue(node.job(), CPU=1) for _ in range(jobs)]
    works = [node.calls(queue, 2000, 0.005) for queue in queues]
    node.run_for(2.0)
    counts = [done(of) for of in works]
    assert min(counts) > 0.6 * max(counts)
    assert sum(counts) > 0.8 * cpus * 2.0 / 0.005, "and the machine is kept busy"


def test_a_job_gains_nothing_by_more_queues() -> None:
    node = SimulatedNode(CPU=4)
    one, many = node.job(), node.job()
    alone = node.calls(node.queue(one, CPU=1), 2000, 0.005)
    others = [node.calls(node.queue(many, CPU=1), 2000, 0.005) for _ in range(4)]
    node.run_for(2.0)
    together = sum(done(works) for works in others)
    assert 0.7 < done(alone) / together < 1.4
    assert min(done(works) for works in others) > 0


def test_twenty_queues_take_turns_on_two_cpus() -> None:
    node = SimulatedNode(CPU=2)
    job = node.job()
    queues = [node.queue(job, CPU=1) for _ in range(20)]
    works = [node.calls(queue, 50, 0.005) for queue in queues]
    node.run_for(1.0)
    assert min(done(of) for of in works) >= 5
    node.run(all_done([work for of in works for work in of]), 3.0)
    assert node.most_workers <= 24


def test_a_large_shape_is_not_starved_by_a_small_one_and_does_not_starve_it() -> None:
    node = SimulatedNode(CPU=4)
    job = node.job()
    small, large = node.queue(job, CPU=1), node.queue(job, CPU=3)
    smalls = node.calls(small, 1000, 0.02)
    node.run_for(0.1)
    larges = node.calls(large, 20, 0.02)
    node.run(all_done(larges), 2.0)
    assert 0 < done(smalls) < 1000


def test_shapes_in_turn_do_not_trouble_the_node() -> None:
    node = SimulatedNode(CPU=4)
    job = node.job()
    queues = [node.queue(job, CPU=1), node.queue(job, CPU=2)]
    for queue in queues:
        node.run(all_done([node.push(queue, Work(0.0001))]), 1.0)
    before = node.events
    for turn in range(10):
        node.run(all_done([node.push(queues[turn % 2], Work(0.0001))]), 1.0)
    assert node.events - before <= 2, "a look or two at most"


def test_whole_gpus_pieces_of_them_and_two_at_once() -> None:
    node = SimulatedNode(CPU=8, GPU=2)
    first, second = node.job(), node.job()
    wholes = node.calls(node.queue(first, CPU=1, GPU=1), 50, 0.01)
    node.run_for(0.05)
    pieces = node.calls(node.queue(second, CPU=1, GPU=0.5), 50, 0.01)
    node.run_for(0.05)
    pairs = node.calls(node.queue(first, CPU=1, GPU=2), 5, 0.01)
    node.run(all_done(pairs), 0.5)
    assert done(wholes) < 50
    assert done(pieces) < 50
    node.run(all_done(wholes + pieces), 2.0)


def test_a_gpu_call_may_wait_for_one_on_the_other_gpu_and_for_one_without() -> None:
    node = SimulatedNode(CPU=1, GPU=2)
    job = node.job()
    parents, gpus, cpus = (
        node.queue(job, **shape) for shape in ({"CPU": 1, "GPU": 1}, {"GPU": 1}, {"CPU": 1})
    )
    work = node.push(parents, Work(0.001, [(gpus, Work(0.001)), (cpus, Work(0.001))], 0.001))
    node.run(all_done([work]), 0.2)


def test_twenty_actors_are_there_in_no_time() -> None:
    node = SimulatedNode(CPU=2)
    job = node.job()
    node.run_for(0.05)
    begin_s = node.now_s
    for _ in range(20):
        node.actor(job, ONE_CPU, NOTHING)
    node.run(lambda: sum(held == NOTHING for held in node.actors.values()) == 20, 1.0)
    assert node.now_s - begin_s < 0.05


def test_an_actor_does_not_wait_behind_500_calls_of_another_job() -> None:
    node = SimulatedNode(CPU=4)
    node.calls(node.queue(node.job(), CPU=1), 500, 0.05)
    node.run_for(0.333)
    begin_s = node.now_s
    actor = node.actor(node.job(), ONE_CPU, NOTHING)
    node.run(lambda: actor in node.actors, 1.0)
    assert node.now_s - begin_s < 0.06


def test_an_actor_that_wants_every_cpu_gets_them_though_calls_never_end() -> None:
    node = SimulatedNode(CPU=4)
    job = node.job()
    node.calls(node.queue(job, CPU=1), 3000, 0.01)
    node.run_for(0.2)
    actor = node.actor(job, NOTHING, ResourceSet.of(CPU=4))
    node.run(lambda: actor in node.actors, 0.5)


def test_when_all_is_done_only_the_floor_of_workers_is_left() -> None:
    node = SimulatedNode(CPU=2)
    job = node.job()
    queue = node.queue(job, CPU=1)
    node.run(all_done([node.push(queue, nested(queue, 9)) for _ in range(9)]), 5.0)
    assert len(node.workers) > 4
    node.run_for(4.0)
    assert len(node.workers) <= 4, "two idle, two fresh"
    before = node.events
    node.run_for(1.0)
    assert node.events - before <= 14, "ten looks, and hardly a thing to see"


def test_facts_seen_late_cost_nothing_but_time() -> None:
    node = SimulatedNode(CPU=2)
    queue = node.queue(node.job(), CPU=1)
    works = node.calls(queue, 20, 0.01)
    stale = ev.QueueObserved(queue.id, depth=20, active=0, allowed=0, readers=0, blocked=0)
    for _ in range(20):
        node.run_for(0.005)
        node.tell(stale)
    node.run(all_done(works), 1.0)
