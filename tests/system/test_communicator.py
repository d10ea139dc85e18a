"""The conformance suite of communicators: gloo's, one of a user's own, and NCCL's where there are GPUs.

Results are checked against torch in this process. The actors and
their groups are made once; only tests that break a group have one of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

import actorflow as af
from actorflow.util import collective
from actorflow.util.collective import CollectiveError, CollectiveTimeoutError, ReduceOp

torch: Any = pytest.importorskip("torch")
bodies: Any = pytest.importorskip("tests.system.collective_bodies")

LARGEST = 4
QUICK_MS = 700
_names = (f"group-{number}" for number in itertools.count())


class Group(NamedTuple):
    """A group of actors, and how to run something in all of them."""

    name: str
    actors: list[Any]
    size: int

    def begin(self, body: Callable[..., Any], *args: Any) -> list[Any]:
        return [actor.run.remote(self.name, body, *args) for actor in self.actors]

    def each(self, body: Callable[..., Any], *args: Any) -> list[Any]:
        """What the body gives in each rank."""
        values: list[Any] = af.get(self.begin(body, *args), timeout=60)
        return values


@pytest.fixture(scope="module")
def node() -> Iterator[af.Runtime]:
    """A node of this module's own: the actors live longer than a test."""
    with af.init(num_cpus=4, object_store_memory=64 * 1024 * 1024) as runtime:
        yield runtime


def backend_of(name: str) -> Any:
    return {"gloo": "gloo", "nccl": "nccl", "user": bodies.counting}[name]


def gpus_missing(size: int) -> bool:
    return not collective.nccl_available() or torch.cuda.device_count() < size


class Actors:
    """The members, made when first asked for; those that a test has killed are replaced."""

    def __init__(self) -> None:
        self._made: dict[str, list[Any]] = {}

    def take(self, implementation: str, count: int) -> list[Any]:
        made = self._made.setdefault("gpu" if implementation == "nccl" else "cpu", [])
        options = {"num_gpus": 1} if implementation == "nccl" else {"num_cpus": 0}
        while len(made) < count:
            made.append(bodies.Member.options(**options).remote())
        return made[:count]

    def give_up(self, actor: Any) -> None:
        for made in self._made.values():
            if actor in made:
                made.remove(actor)


@pytest.fixture(scope="module")
def actors(node: af.Runtime) -> Actors:
    return Actors()


needs_two_gpus = [pytest.mark.gpu, pytest.mark.skipif(gpus_missing(2), reason="needs 2 GPUs")]


@pytest.fixture(
    scope="module",
    params=[("gloo", 2), ("gloo", 3), ("user", 4), pytest.param(("nccl", 2), marks=needs_two_gpus)],
    ids=lambda case: f"{case[0]}-{case[1]}",
)
def group(actors: Actors, request: pytest.FixtureRequest) -> Iterator[Group]:
    """A group that the tests share: none of them breaks it."""
    made = formed(actors, *request.param)
    yield made
    collective.destroy_collective_group(made.name)


def formed(actors: Actors, implementation: str, size: int, timeout_ms: int = 30_000) -> Group:
    name, members = next(_names), actors.take(implementation, size)
    collective.create_collective_group(
        members, backend=backend_of(implementation), group_name=name, gloo_timeout=timeout_ms
    )
    return Group(name, members, size)


OPS_OF = {
    dtype: [
        op
        for op in ReduceOp
        if not (op is ReduceOp.AVERAGE and "int" in dtype)
        and not (op not in (ReduceOp.SUM, ReduceOp.AVERAGE) and "complex" in dtype)
    ]
    for dtype in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "complex64")
}


def test_allreduce(group: Group) -> None:
    for dtype, ops in OPS_OF.items():
        for op in ops:
            expected = bodies.reduced(group.size, dtype, op)
            for found in group.each(bodies.allreduce, dtype, op):
                assert found.dtype == expected.dtype
                torch.testing.assert_close(found, expected)


def test_reduce(group: Group) -> None:
    for root in range(group.size):
        for op in ReduceOp:
            found = group.each(bodies.reduce, root, op)[root]
            torch.testing.assert_close(found, bodies.reduced(group.size, "float64", op))


def test_broadcast(group: Group) -> None:
    for root, dtype in zip(itertools.cycle(range(group.size)), bodies.MOVED_DTYPES, strict=False):
        expected = bodies.values(root, dtype)
        assert all(torch.equal(found, expected) for found in group.each(bodies.broadcast, root, dtype))


def test_allgather(group: Group) -> None:
    for dtype in bodies.MOVED_DTYPES:
        expected = [bodies.values(rank, dtype) for rank in range(group.size)]
        for found in group.each(bodies.allgather, dtype):
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_reducescatter(group: Group) -> None:
    for op in ReduceOp:
        for rank, found in enumerate(group.each(bodies.reducescatter, op)):
            parts = torch.stack([bodies.values(other + rank, "float64") for other in range(group.size)])
            expected = {
                ReduceOp.SUM: parts.sum(0),
                ReduceOp.PRODUCT: parts.prod(0),
                ReduceOp.MIN: parts.amin(0),
                ReduceOp.MAX: parts.amax(0),
                ReduceOp.AVERAGE: parts.mean(0),
            }[op]
            torch.testing.assert_close(found, expected)


def test_send_and_receive(group: Group) -> None:
    for dtype in bodies.MOVED_DTYPES:
        for rank, found in enumerate(group.each(bodies.ring, dtype, (3, 5))):
            assert torch.equal(found, bodies.values((rank - 1) % group.size, dtype))


def test_large_tensors(group: Group) -> None:
    shape = (1 << 20,)
    for rank, found in enumerate(group.each(bodies.ring, "float32", shape)):
        assert torch.equal(found, bodies.values((rank - 1) % group.size, "float32", shape))


def test_tags_are_apart_and_each_in_order(group: Group) -> None:
    assert group.each(bodies.tags)[1] == [8.0, 7.0, 8.0]


def test_tensors_that_are_not_one_piece(group: Group) -> None:
    whole = [bodies.values(rank, "float32", (4, 6)) for rank in range(group.size)]
    summed = torch.stack([part[::2] for part in whole]).sum(0)
    expected = whole[0].clone()
    expected[::2] = summed
    for rows, columns in group.each(bodies.apart):
        assert torch.equal(columns, expected.t()[1::2])
        assert torch.equal(rows[:, 0::2], summed[:, 0::2])  # the other columns were overwritten by rank 0's


def test_tensors_of_few_elements(group: Group) -> None:
    assert group.each(bodies.small) == [[(0, 3), (), (1,)]] * group.size


def test_wrong_arguments_are_refused_and_break_nothing(group: Group) -> None:
    for found in group.each(bodies.wrong):
        assert set(found[:-1]) == {"TypeError", "ValueError"}
        assert found[-1] == str(float(group.size))


def test_threads_that_send_do_not_disturb_collectives(group: Group) -> None:
    assert group.each(bodies.at_once) == [(20_000.0 * group.size, 190.0)] * group.size


def test_operations_are_begun_before_others_have_ended(group: Group) -> None:
    assert group.each(bodies.begun) == [[0, 1, 2, *[0] * group.size]] * group.size


def test_a_receive_that_nobody_answers_holds_up_nothing(group: Group) -> None:
    found = group.each(bodies.unanswered)
    if found == [None] * group.size:
        pytest.skip("this one does not promise it")
    assert found == [[float(group.size), 3.0]] * group.size


def test_the_default_group_is_left_to_the_user(group: Group) -> None:
    assert group.each(bodies.use_of_default_group) == [False] * group.size


@pytest.mark.parametrize(
    ("implementation", "operations"),
    [
        ("gloo", ["allreduce", "allreduce"]),
        ("gloo", ["recv", "send"]),
        ("gloo", ["barrier", "barrier"]),
        ("user", ["allgather", "allgather"]),
        pytest.param("nccl", ["allreduce"], marks=needs_two_gpus),
    ],
)
def test_a_death_ends_the_waits_of_all(actors: Actors, implementation: str, operations: list[str]) -> None:
    dying, *others = actors.take(implementation, 1 + len(operations))
    group = formed(actors, implementation, 1 + len(operations))
    waiting = [
        actor.run.remote(group.name, bodies.one, operation)
        for actor, operation in zip(others, operations, strict=True)
    ]
    af.kill(dying)
    actors.give_up(dying)
    for ref in waiting:
        with pytest.raises(CollectiveError) as caught:
            af.get(ref, timeout=20)
        assert not isinstance(caught.value, CollectiveTimeoutError)
    for ref in [actor.run.remote(group.name, bodies.one, "barrier") for actor in others]:
        with pytest.raises(CollectiveError, match=r"rank 0 died|failed"):
            af.get(ref, timeout=20)
    collective.destroy_collective_group(group.name)


@pytest.mark.parametrize("implementation", ["gloo", "user", pytest.param("nccl", marks=needs_two_gpus)])
def test_a_member_that_leaves_ends_the_waits_of_the_others(actors: Actors, implementation: str) -> None:
    group = formed(actors, implementation, 2)
    waiting = group.actors[1].run.remote(group.name, bodies.one, "recv")
    group.actors[0].__ray_call__.remote(lambda _: collective.destroy_collective_group(group.name))
    with pytest.raises(CollectiveError, match="left"):
        af.get(waiting, timeout=20)
    collective.destroy_collective_group(group.name)


@pytest.mark.parametrize("implementation", ["gloo", "user"])
def test_another_thread_can_end_a_wait(actors: Actors, implementation: str) -> None:
    group = formed(actors, implementation, 2)
    with pytest.raises(CollectiveError, match="that is enough"):
        af.get(group.actors[1].run.remote(group.name, bodies.aborted), timeout=20)
    collective.destroy_collective_group(group.name)


@pytest.mark.parametrize(
    ("implementation", "operation"),
    [
        ("gloo", "allreduce"),
        ("gloo", "recv"),
        ("gloo", "barrier"),
        ("user", "broadcast"),
        pytest.param("nccl", "allreduce", marks=needs_two_gpus),
    ],
)
def test_who_does_not_come_is_waited_for_no_longer_than_said(
    actors: Actors, implementation: str, operation: str
) -> None:
    group = formed(actors, implementation, 2, QUICK_MS)
    with pytest.raises(CollectiveTimeoutError, match=r"did not end within 0\.7 s"):
        af.get(group.actors[1].run.remote(group.name, bodies.one, operation), timeout=20)
    with pytest.raises(CollectiveTimeoutError):
        af.get(group.actors[1].run.remote(group.name, bodies.one, "barrier"), timeout=20)
    collective.destroy_collective_group(group.name)
