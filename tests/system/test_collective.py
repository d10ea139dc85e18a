"""af.util.collective: how groups are formed, named, refused and left; what its operations take."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import actorflow as af
from actorflow.collective import forming, rendezvous
from actorflow.util import collective
from actorflow.util.collective import CollectiveError, CollectiveTimeoutError, ReduceOp
from tests.conftest import wait_until
from tests.system.conftest import node_state

torch: Any = pytest.importorskip("torch")
bodies: Any = pytest.importorskip("tests.system.collective_bodies")

_names = (f"named-{number}" for number in itertools.count())


def not_a_communicator(_: collective.Setup) -> Any:
    return 3


@af.remote(num_cpus=0)
class AsyncMember:
    """A member whose loop goes on while it joins."""

    async def hello(self) -> str:
        return "hello"

    async def total(self, name: str) -> float:
        tensor = torch.ones(3)
        collective.allreduce(tensor, name)
        return float(tensor.sum())


@pytest.fixture(scope="module")
def members() -> Iterator[list[Any]]:
    with af.init(num_cpus=4, object_store_memory=64 * 1024 * 1024):
        # torch's libuv opens a pipe for signals with its first loop, and keeps it for the life of the process.
        collective.init_collective_group(1, 0, "gloo", "first")
        collective.destroy_collective_group("first")
        yield [bodies.Member.remote() for _ in range(3)]


@pytest.fixture
def name() -> str:
    return next(_names)


@pytest.fixture
def pair(members: list[Any], name: str) -> Iterator[list[Any]]:
    """Two members of a group of that name, made from outside."""
    collective.create_collective_group(members[:2], 2, [0, 1], "gloo", name)
    yield members[:2]
    collective.destroy_collective_group(name)


def meetings() -> list[str]:
    """Actors in which members of named groups meet."""
    return [str(actor) for actor in node_state()["actors"] if "Rendezvous" in str(actor)]


def test_members_find_each_other_by_the_name_of_their_group(members: list[Any], name: str) -> None:
    joined = [member.join.remote(3, rank, name) for rank, member in enumerate(members)]
    assert af.get(joined) == [0, 1, 2]
    assert af.get([member.run.remote(name, lambda group: group.size) for member in members]) == [3, 3, 3]
    wait_until(lambda: not meetings(), 10, "nobody meets any more")
    for member in members:
        af.get(member.__ray_call__.remote(lambda _: collective.destroy_collective_group(name)))


def test_a_group_can_be_formed_again_at_once(members: list[Any], name: str) -> None:
    def again(_: Any, rank: int) -> float:
        total = 0.0
        for _ in range(5):
            collective.init_collective_group(3, rank, "gloo", name)
            tensor = torch.ones(1)
            collective.allreduce(tensor, name)
            total += float(tensor)
            collective.barrier(name)
            collective.destroy_collective_group(name)
        return total

    refs = [member.__ray_call__.remote(again, rank) for rank, member in enumerate(members)]
    assert af.get(refs, timeout=60) == [15.0] * 3


def test_the_driver_can_be_a_member(members: list[Any], name: str) -> None:
    joined = members[0].join.remote(2, 1, name)
    collective.init_collective_group(2, 0, "gloo", name)
    assert af.get(joined) == 1
    assert (collective.get_rank(name), collective.get_collective_group_size(name)) == (0, 2)
    sending = members[0].run.remote(name, bodies.one, "send")
    tensor = torch.zeros(100_000)
    collective.recv(tensor, 1, name)
    assert float(tensor.sum()) == 100_000
    af.get(sending)
    collective.destroy_collective_group(name)
    af.get(members[0].__ray_call__.remote(lambda _: collective.destroy_collective_group(name)))


def test_ranks_are_as_given(members: list[Any], name: str) -> None:
    collective.create_collective_group(members, 3, [2, 0, 1], "torch_gloo", name)
    assert af.get([member.run.remote(name, lambda group: group.rank) for member in members]) == [2, 0, 1]
    collective.destroy_collective_group(name)


def test_async_actors_join_and_go_on_meanwhile(members: list[Any], name: str) -> None:
    actors = [AsyncMember.remote(), AsyncMember.remote()]
    collective.create_collective_group(actors, group_name=name, backend="gloo")
    assert af.get([actor.total.remote(name) for actor in actors]) == [6.0, 6.0]
    other = next(_names)
    joining = actors[0].__ray_call__.remote(
        forming._enter, other, 0, 2, "gloo", rendezvous.for_members("x"), 0.8
    )
    assert af.get(actors[0].hello.remote()) == "hello"
    assert not joining.is_done()
    with pytest.raises(CollectiveTimeoutError, match=r"rank 1 did not join within 0\.\d+ s"):
        af.get(joining)


def test_numpy_arrays_are_worked_on_in_place(pair: list[Any], name: str) -> None:
    def reduce(_: Any, rank: int) -> tuple[Any, Any]:
        array = np.arange(6, dtype=np.float32).reshape(2, 3) * (rank + 1)
        collective.allreduce(array, name, ReduceOp.MAX)
        gathered = [np.zeros(2), np.zeros(2)]
        collective.allgather(gathered, np.full(2, float(rank)), name)
        return array, gathered

    for array, gathered in af.get(
        [actor.__ray_call__.remote(reduce, rank) for rank, actor in enumerate(pair)]
    ):
        assert np.array_equal(array, np.arange(6).reshape(2, 3) * 2)
        assert [float(part[0]) for part in gathered] == [0.0, 1.0]


def test_read_only_arrays_are_sent_and_not_received_into(pair: list[Any], name: str) -> None:
    def work(_: Any, rank: int, array: Any) -> str:
        if rank == 0:
            collective.send(array, 1, name)
            return "sent"
        found = np.zeros_like(array)
        collective.recv(found, 0, name)
        try:
            collective.recv(array, 0, name)
        except ValueError as error:
            return f"{found.sum():g} {error}"
        return "received"

    array = af.put(np.ones(100_000))
    refs = [actor.__ray_call__.remote(work, rank, array) for rank, actor in enumerate(pair)]
    sent, refused = af.get(refs)
    assert sent == "sent"
    assert refused.startswith("100000 this array is read-only")


def test_reduce_and_broadcast_have_roots(pair: list[Any], name: str) -> None:
    def work(_: Any, rank: int) -> list[float]:
        summed, spread = torch.ones(1), torch.full((1,), float(rank))
        collective.reduce(summed, 1, name)
        collective.broadcast(spread, 1, name)
        own = torch.zeros(1)
        collective.reducescatter(own, [torch.ones(1), torch.full((1,), 2.0)], name)
        return [float(summed), float(spread), float(own)]

    found = af.get([actor.__ray_call__.remote(work, rank) for rank, actor in enumerate(pair)])
    assert found[1] == [2.0, 1.0, 4.0]
    assert found[0][1:] == [1.0, 2.0]


# -- what is refused


def test_who_is_no_member_is_told_so(members: list[Any], name: str) -> None:
    assert collective.get_rank(name) == collective.get_collective_group_size(name) == -1
    assert not collective.is_group_initialized(name)
    with pytest.raises(CollectiveError, match=r"no member of it.*create_collective_group") as caught:
        collective.allreduce(torch.ones(1), name)
    assert (caught.value.group, caught.value.rank) == (name, None)
    collective.destroy_collective_group(name)


def test_a_member_cannot_join_twice(pair: list[Any], name: str) -> None:
    with pytest.raises(CollectiveError, match="a member already"):
        af.get(pair[0].join.remote(2, 0, name))


def test_a_second_group_of_a_name_is_refused_and_the_first_goes_on(pair: list[Any], name: str) -> None:
    with pytest.raises(CollectiveError, match="a member already"):
        collective.create_collective_group(pair, backend="gloo", group_name=name)
    af.get([member.run.remote(name, bodies.one, "allreduce") for member in pair], timeout=20)


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"world_size": 0, "rank": 0}, ValueError, "world_size must be at least 1"),
        ({"world_size": "2", "rank": 0}, TypeError, "world_size must be a whole number"),
        ({"world_size": 2, "rank": 2}, ValueError, "rank must be from 0 to world_size - 1 = 1"),
        ({"world_size": 2, "rank": None}, TypeError, "rank must be a whole number"),
        (
            {"world_size": 2, "rank": 0, "backend": "mpi"},
            ValueError,
            "backend must be 'auto', 'gloo', 'nccl'",
        ),
        ({"world_size": 2, "rank": 0, "backend": 3}, TypeError, "backend must be"),
        ({"world_size": 2, "rank": 0, "group_name": ""}, ValueError, "group_name must not be empty"),
        ({"world_size": 2, "rank": 0, "group_name": 1}, TypeError, "group_name must be a text"),
        ({"world_size": 2, "rank": 0, "gloo_timeout": 0}, ValueError, "gloo_timeout must be above 0"),
        ({"world_size": 2, "rank": 0, "gloo_timeout": "1"}, TypeError, "gloo_timeout must be a number"),
    ],
)
def test_wrong_arguments_of_init(
    members: list[Any], arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        collective.init_collective_group(**arguments)


def test_wrong_arguments_of_create(members: list[Any]) -> None:
    create: Any = collective.create_collective_group
    for arguments, kind in (
        ((members[0],), TypeError),
        (([],), ValueError),
        (([members[0], "actor"],), TypeError),
        (([members[0], members[0]],), ValueError),
        ((members, 2), ValueError),
        ((members, 3, [0, 1, 1]), ValueError),
    ):
        with pytest.raises(kind):
            create(*arguments)


def test_wrong_arguments_of_operations(pair: list[Any], name: str) -> None:
    def work(_: Any) -> list[str]:
        tensor: Any = torch.ones(1)
        operation: Any = "sum"
        calls: tuple[Callable[[], None], ...] = (
            lambda: collective.allreduce(tensor, name, operation),
            lambda: collective.allgather(tensor, tensor, name),
            lambda: collective.allreduce([1, 2], name),
        )
        kinds = []
        for call in calls:
            try:
                call()
            except TypeError as error:
                kinds.append(str(error))
        return kinds

    assert len(af.get(pair[0].__ray_call__.remote(work))) == 3


def test_nccl_without_a_gpu_says_what_to_use(members: list[Any], name: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert collective.gloo_available()
    assert not collective.nccl_available()
    with pytest.raises(CollectiveError, match="sees no GPU; use gloo"):
        collective.create_collective_group(members, backend="nccl", group_name=name)


def test_without_torch_the_error_says_what_to_install(members: list[Any], name: str) -> None:
    def hide(_: Any) -> None:
        import sys

        sys.modules["torch"] = None  # type: ignore[assignment] # as if it were not installed

    bare = AsyncMember.remote()
    af.get(bare.__ray_call__.remote(hide))
    with pytest.raises(ImportError, match=r"pip install 'actorflow\[torch\]'"):
        collective.create_collective_group([bare, members[0]], group_name=name)
    assert af.get(members[0].__ray_call__.remote(lambda _: collective.is_group_initialized(name))) is False


def test_a_backend_must_make_communicators(members: list[Any], name: str) -> None:
    with pytest.raises(TypeError, match="which is no Communicator"):
        collective.create_collective_group(members[:1], backend=not_a_communicator, group_name=name)


def test_what_makes_communicators_need_be_no_function(members: list[Any], name: str) -> None:
    backend = functools.partial(bodies.counting)
    collective.create_collective_group(members[:2], backend=backend, group_name=name)
    assert af.get([member.run.remote(name, bodies.one, "allreduce") for member in members[:2]]) == [None] * 2
    collective.destroy_collective_group(name)


# -- members that do not come


def test_a_group_with_a_dead_actor_is_not_formed(members: list[Any], name: str) -> None:
    dead = bodies.Member.remote()
    af.get(dead.__ready__())
    af.kill(dead)
    with pytest.raises(af.ActorDiedError):
        collective.create_collective_group([members[0], dead, members[1]], group_name=name, backend="gloo")
    assert af.get(members[0].__ray_call__.remote(lambda _: collective.is_group_initialized(name))) is False


def test_an_actor_that_dies_while_it_joins(members: list[Any], name: str) -> None:
    def die(_: Any) -> None:
        import os

        os._exit(3)

    dying = bodies.Member.remote()
    dying.__ray_call__.remote(die)
    with pytest.raises(af.ActorDiedError):
        collective.create_collective_group([members[0], dying], group_name=name, backend="gloo")


def test_members_that_ask_for_different_groups(members: list[Any], name: str) -> None:
    refs = [members[0].join.remote(2, 0, name), members[1].join.remote(3, 1, name)]
    for ref in refs:
        with pytest.raises(CollectiveError, match="joined with size"):
            af.get(ref, timeout=20)


def test_two_members_of_one_rank(members: list[Any], name: str) -> None:
    for ref in [member.join.remote(3, 0, name) for member in members[:2]]:
        with pytest.raises(CollectiveError, match="two processes joined as rank 0"):
            af.get(ref, timeout=20)


def test_who_does_not_come_is_named(members: list[Any], name: str) -> None:
    refs = [members[rank].join.remote(4, rank, name, 700) for rank in (0, 2)]
    for ref in refs:
        with pytest.raises(CollectiveTimeoutError, match=r"rank 1, 3 did not join"):
            af.get(ref, timeout=20)
