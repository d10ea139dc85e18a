"""@af.method(tensor_transport=...): tensors that stay with their actor until somebody takes them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

import actorflow as af
from actorflow.collective import groups, kept, shelf
from actorflow.util import collective
from actorflow.util.collective import CollectiveError
from tests.conftest import wait_until
from tests.system.conftest import stored_bytes

torch: Any = pytest.importorskip("torch")

LARGE = 1 << 20  # elements of float32


class _Holder:
    """Makes tensors that stay with it, and takes those of others."""

    def __init__(self) -> None:
        self.sent = 0
        self.last: Any = None

    @af.method(tensor_transport="gloo")
    def by_gloo(self, length: int, value: float = 1.0) -> Any:
        self.last = torch.full((length,), value)
        return self.last

    @af.method(tensor_transport="auto")
    def by_any(self, length: int) -> Any:
        return torch.ones(length)

    @af.method(tensor_transport="gloo")
    def many(self) -> Any:
        shared = torch.arange(6.0).reshape(2, 3)
        self.last = {
            "name": "many",
            "twice": [shared, shared],
            "turned": torch.arange(6).reshape(2, 3).t(),
            "learned": torch.ones(2, requires_grad=True),
            "none": torch.zeros(0, 4, dtype=torch.int16),
            "number": torch.tensor(2.5, dtype=torch.float64),
            "flags": torch.tensor([True, False]),
            "half": torch.ones(3, dtype=torch.bfloat16),
        }
        return self.last

    @af.method(tensor_transport="gloo")
    def odd(self) -> Any:
        return {
            "shape alone": torch.empty(3, device="meta"),
            "sparse": torch.eye(2).to_sparse(),
            "dense": torch.ones(2),
        }

    @af.method(tensor_transport="gloo")
    def fail(self) -> Any:
        raise LookupError("no tensor today")

    @af.method(tensor_transport="gloo")
    def unpicklable(self) -> Any:
        return [torch.ones(3), threading.Lock()]

    @af.method(tensor_transport="gloo")
    def plain(self, value: Any) -> Any:
        return value

    def total(self, *tensors: Any) -> float:
        return sum(float(tensor.sum()) for tensor in tensors)

    def echo(self, value: Any) -> Any:
        return value

    def is_last(self, value: Any) -> bool:
        return value is self.last

    def get_total(self, refs: list[Any]) -> float:
        return sum(float(af.get(ref).sum()) for ref in refs)

    def exchange(self, other: Any, times: int) -> float:
        """Takes tensors of another actor, again and again, while that one does the same."""
        return sum(float(af.get(other.by_gloo.remote(1000)).sum()) for _ in range(times))

    def kept(self) -> int:
        return kept.count()


Holder: Any = af.remote(num_cpus=0)(_Holder)


@af.remote(num_cpus=0)
class AsyncHolder:
    @af.method(tensor_transport="gloo")
    async def by_gloo(self, length: int) -> Any:
        return torch.ones(length)

    async def total(self, tensor: Any) -> float:
        return float(tensor.sum())


class Trio(NamedTuple):
    """Two actors of one group, and one that is in none."""

    first: Any
    second: Any
    outside: Any


@pytest.fixture(scope="module")
def trio() -> Iterator[Trio]:
    with af.init(num_cpus=4, object_store_memory=256 * 1024 * 1024):
        made = Trio(Holder.remote(), Holder.remote(), Holder.remote())
        collective.create_collective_group([made.first, made.second], backend="gloo", group_name="pair")
        yield made


@pytest.fixture(autouse=True)
def nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the actors keep nothing, and the store is empty."""
    yield
    if "trio" in request.fixturenames:
        actors = request.getfixturevalue("trio")
        wait_until(lambda: not any(af.get([one.kept.remote() for one in actors])), 10, "tensors are freed")
        wait_until(lambda: stored_bytes() == 0, 10, "the store is empty")


def sends_counted(_: Any) -> int:
    communicator: Any = groups.find("pair")
    return int(communicator.sent)


def test_tensors_go_from_actor_to_actor(trio: Trio) -> None:
    def count_sends(_: Any) -> None:
        communicator: Any = groups.find("pair")
        send = communicator.isend
        communicator.sent = 0

        def counted(*args: Any) -> Any:
            communicator.sent += 1
            return send(*args)

        communicator.isend = counted

    af.get(trio.first.__ray_call__.remote(count_sends))
    ref = trio.first.by_gloo.remote(LARGE)
    assert af.get(trio.first.kept.remote()) == 1
    assert stored_bytes() == 0
    assert [af.get(trio.second.total.remote(ref)) for _ in range(2)] == [LARGE, LARGE]
    assert stored_bytes() == 0
    assert af.get(trio.first.__ray_call__.remote(sends_counted)) == 2


def test_the_same_actor_gets_the_very_same_tensor(trio: Trio) -> None:
    ref = trio.first.by_gloo.remote(10)
    assert af.get(trio.first.is_last.remote(ref))
    assert not af.get(trio.second.is_last.remote(ref))


def test_the_driver_gets_them_through_the_object_store(trio: Trio) -> None:
    ref = trio.first.by_gloo.remote(LARGE, 2.0)
    assert torch.equal(af.get(ref), torch.full((LARGE,), 2.0))
    assert torch.equal(af.get([ref, ref])[1], torch.full((LARGE,), 2.0))


async def test_awaiting_them(trio: Trio) -> None:
    assert float((await trio.first.by_gloo.remote(10)).sum()) == 10


def expected() -> dict[str, Any]:
    value: dict[str, Any] = _Holder.many(_Holder())
    return value


@pytest.mark.parametrize("way", ["driver", "gloo"])
def test_values_keep_their_form(trio: Trio, way: str) -> None:
    ref = trio.first.many.remote()
    found, wanted = af.get(ref if way == "driver" else trio.second.echo.remote(ref)), expected()
    assert found.keys() == wanted.keys()
    assert found["name"] == "many"
    assert found["twice"][0] is found["twice"][1]
    for name in wanted.keys() - {"name", "twice"}:
        assert torch.equal(found[name], wanted[name])
        assert found[name].dtype == wanted[name].dtype
        assert found[name].requires_grad == wanted[name].requires_grad


def test_tensors_without_elements_of_their_own_travel_with_the_value(trio: Trio) -> None:
    found = af.get(trio.second.echo.remote(trio.first.odd.remote()), timeout=20)
    assert (found["shape alone"].device.type, found["shape alone"].shape) == ("meta", (3,))
    assert torch.equal(found["sparse"].to_dense(), torch.eye(2))
    assert torch.equal(found["dense"], torch.ones(2))


def test_they_are_freed_with_the_last_ref(trio: Trio) -> None:
    ref = trio.first.by_gloo.remote(LARGE)
    inside = af.put([ref])
    del ref
    assert af.get(trio.first.kept.remote()) == 1
    assert float(af.get(af.get(inside)[0])[0]) == 1.0
    del inside
    wait_until(lambda: af.get(trio.first.kept.remote()) == 0, 10, "the tensor is freed")


def test_a_ref_that_a_call_was_given_keeps_them_until_it_has_run(trio: Trio) -> None:
    total = trio.second.total.remote(trio.first.by_gloo.remote(10), trio.first.by_gloo.remote(20))
    assert af.get(total) == 30


def test_calling_again_and_again_keeps_only_what_is_referred_to(trio: Trio) -> None:
    refs = [trio.first.by_gloo.remote(10) for _ in range(200)][-3:]
    af.get([trio.first.echo.remote(0)])
    wait_until(lambda: af.get(trio.first.kept.remote()) == 3, 10, "197 of 200 are freed")
    assert af.get(trio.second.get_total.remote(refs)) == 30


def test_two_actors_take_from_each_other_at_once(trio: Trio) -> None:
    refs = [trio.first.exchange.remote(trio.outside, 0), trio.second.exchange.remote(trio.outside, 0)]
    assert af.get(refs) == [0, 0]
    ones = [trio.first.by_gloo.remote(1000) for _ in range(20)]
    others = [trio.second.by_gloo.remote(1000) for _ in range(20)]
    totals = [trio.second.get_total.remote(ones), trio.first.get_total.remote(others)]
    assert af.get(totals, timeout=30) == [20_000, 20_000]


def test_results_without_tensors_are_as_ever(trio: Trio) -> None:
    assert af.get(trio.first.plain.remote({"text": "x", "bytes": b"y" * 200_000}))["text"] == "x"
    assert af.get(trio.first.kept.remote()) == 0


def test_a_process_without_torch_stays_without(trio: Trio) -> None:
    class Bare:
        @af.method(tensor_transport="auto")
        def loaded(self) -> bool:
            return "torch" in sys.modules

    assert not af.get(af.remote(Bare).remote().loaded.remote())


def test_refs_inside_results_stay_refs(trio: Trio) -> None:
    inner = af.put("inner")
    found = af.get(trio.first.plain.remote([inner, 3]))
    assert af.get(found[0]) == "inner"


def test_errors_of_the_method_come_to_who_takes(trio: Trio) -> None:
    with pytest.raises(LookupError, match="no tensor today"):
        af.get(trio.second.total.remote(trio.first.fail.remote()))


def test_what_cannot_be_pickled_keeps_nothing(trio: Trio) -> None:
    with pytest.raises(TypeError, match=r"\[1\].*lock"):
        af.get(trio.first.unpicklable.remote())


def test_an_actor_outside_the_group_is_told_what_is_missing(trio: Trio) -> None:
    ref = trio.first.by_gloo.remote(10)
    with pytest.raises(CollectiveError, match="no group of that backend in common"):
        af.get(trio.outside.total.remote(ref))
    assert af.get(trio.second.total.remote(ref)) == 10


def test_auto_needs_no_group(trio: Trio) -> None:
    assert af.get(trio.outside.total.remote(trio.first.by_any.remote(LARGE))) == LARGE


def test_tasks_take_them_too(trio: Trio) -> None:
    @af.remote
    def total(tensor: Any) -> float:
        return float(tensor.sum())

    assert af.get(total.remote(trio.first.by_gloo.remote(LARGE))) == LARGE


def test_async_and_threaded_actors(trio: Trio) -> None:
    several = [AsyncHolder.remote(), Holder.options(max_concurrency=4).remote()]
    collective.create_collective_group([*several, trio.first], backend="gloo", group_name="mixed")
    for maker in several:
        refs = [maker.by_gloo.remote(LARGE) for _ in range(4)]
        for taker in (*several, trio.first):
            assert af.get([taker.total.remote(ref) for ref in refs]) == [LARGE] * 4
    collective.destroy_collective_group("mixed")


def test_an_actor_without_handles_lives_until_its_tensors_are_taken(trio: Trio) -> None:
    ref = Holder.remote().by_gloo.remote(5)
    assert float(af.get(ref).sum()) == 5
    assert float(af.get(ref).sum()) == 5


def test_tensors_die_with_their_actor(trio: Trio) -> None:
    actor = Holder.remote()
    ref = actor.by_gloo.remote(10)
    af.get(actor.kept.remote())
    af.kill(actor)
    for taken in (ref, trio.first.total.remote(ref)):
        with pytest.raises(af.ObjectLostError, match="which kept its tensors"):
            af.get(taken)


def test_a_death_while_they_are_asked_for(trio: Trio) -> None:
    def stop_answering(_: Any) -> None:
        def decide(*_: Any) -> Any:
            asked.set()
            threading.Event().wait()

        def die() -> None:
            asked.wait()
            os._exit(3)

        asked = threading.Event()
        own: Any = shelf.own()
        own._decide = decide
        threading.Thread(target=die).start()

    actor = Holder.remote()
    ref = actor.by_gloo.remote(10)
    af.get(actor.__ray_call__.remote(stop_answering))
    with pytest.raises(af.ObjectLostError, match="which kept its tensors"):
        af.get(ref, timeout=20)


def test_a_restarted_actor_has_lost_them(trio: Trio) -> None:
    actor = Holder.options(max_restarts=1).remote()
    ref = actor.by_gloo.remote(10)
    af.get(actor.kept.remote())
    af.kill(actor, no_restart=False)
    wait_until(lambda: af.get(actor.echo.remote(1)) == 1, 20, "it is back")
    with pytest.raises(af.ObjectLostError, match="which kept its tensors"):
        af.get(ref)
    assert float(af.get(actor.by_gloo.remote(4)).sum()) == 4


def test_a_fork_of_the_driver_takes_them_as_well(trio: Trio) -> None:
    ref = trio.first.by_gloo.remote(10)
    af.get(ref)
    child = os.fork()
    if child == 0:
        os._exit(0 if float(af.get(ref).sum()) == 10 else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        (
            {"tensor_transport": "mpi"},
            ValueError,
            "tensor_transport must be 'auto' or 'gloo' or 'nccl' or 'shm'",
        ),
        ({"tensor_transport": 3}, TypeError, "tensor_transport must be"),
        ({"tensor_transport": "gloo", "num_returns": 2}, ValueError, "is for one result"),
        ({"tensor_transport": "gloo", "num_returns": "streaming"}, ValueError, "is for one result"),
    ],
)
def test_wrong_options(options: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        af.method(**options)


def test_generators_keep_nothing() -> None:
    with pytest.raises(ValueError, match="not for generators"):

        @af.method(tensor_transport="gloo")
        def items(self: Any) -> Any:
            yield 1


def test_it_is_no_option_of_a_call(trio: Trio) -> None:
    with pytest.raises(NotImplementedError, match="is for @af"):
        trio.first.by_gloo.options(tensor_transport="gloo")
