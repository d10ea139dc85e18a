"""Concurrency groups of actors: limits of their own, for methods and for single calls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import actorflow as af
from actorflow.errors import ActorDiedError
from tests.conftest import wait_until
from tests.system import bodies

pytestmark = pytest.mark.usefixtures("runtime")

DEADLINE_S = 30.0


@af.remote(num_cpus=0, concurrency_groups={"io": 2, "disk": 1})
class Threads:
    @af.method(concurrency_group="io")
    def io(self, gate: Any) -> int:
        number: int = af.get(gate.pass_through.remote())
        return number

    def plain(self, value: int = 0) -> int:
        return value

    def leave(self) -> None:
        af.exit_actor()


@af.remote(num_cpus=0, concurrency_groups={"io": 2, "disk": 1}, max_concurrency=1)
class Coroutines:
    def __init__(self) -> None:
        self.running = self.most = 0

    @af.method(concurrency_group="io")
    async def io(self, gate: Any) -> int:
        self.running += 1
        self.most = max(self.most, self.running)
        number: int = await gate.pass_through.remote()
        self.running -= 1
        return number

    async def plain(self, value: int = 0) -> int:
        await asyncio.sleep(0)
        return value

    def sync(self, value: int = 0) -> int:
        return value

    def most_at_once(self) -> int:
        return self.most

    async def leave(self) -> None:
        af.exit_actor()


KINDS = [Threads, Coroutines]


@pytest.mark.parametrize("kind", KINDS, ids=["threads", "async"])
def test_a_full_group_holds_no_other_back(kind: Any) -> None:
    gate, actor = bodies.Gate.remote(), kind.remote()
    refs = [actor.io.remote(gate) for _ in range(6)]
    assert af.get(gate.arrived.remote(2)) == 2
    assert af.get([actor.plain.remote(n) for n in range(20)]) == list(range(20))
    assert af.get(gate.arrived.remote(2)) == 2  # the others wait for a place
    af.get(gate.open.remote())
    assert sorted(af.get(refs)) == list(range(1, 7))


def test_the_limit_of_a_group_holds() -> None:
    gate, actor = bodies.Gate.remote(), Coroutines.remote()
    refs = [actor.io.remote(gate) for _ in range(50)]
    af.get(gate.open.remote())
    af.get(refs)
    assert af.get(actor.most_at_once.remote()) == 2


@pytest.mark.parametrize("kind", KINDS, ids=["threads", "async"])
def test_a_call_in_another_group_than_its_method(kind: Any) -> None:
    gate, actor = bodies.Gate.remote(), kind.remote()
    refs = [actor.io.options(concurrency_group="disk").remote(gate) for _ in range(2)]
    assert af.get(gate.arrived.remote(1)) == 1
    refs += [actor.io.remote(gate) for _ in range(2)]
    assert af.get(gate.arrived.remote(3)) == 3
    af.get(gate.open.remote())
    assert sorted(af.get(refs)) == [1, 2, 3, 4]


def test_plain_methods_of_an_async_actor_wait_for_their_group() -> None:
    gate, actor = bodies.Gate.remote(), Coroutines.remote()
    refs = [actor.io.options(concurrency_group="disk").remote(gate)]
    af.get(gate.arrived.remote(1))
    waiting = [actor.sync.options(concurrency_group="disk").remote(n) for n in range(2000)]
    assert af.get(actor.sync.remote(5)) == 5
    assert af.wait(waiting, timeout=0)[0] == []
    af.get(gate.open.remote())
    assert af.get(waiting) == list(range(2000))
    af.get(refs)


@pytest.mark.parametrize("kind", KINDS, ids=["threads", "async"])
def test_calls_that_wait_for_their_group_run_although_the_handle_is_gone(kind: Any) -> None:
    gate, actor = bodies.Gate.remote(), kind.remote()
    refs = [actor.io.remote(gate) for _ in range(5)]
    af.get(gate.arrived.remote(2))
    del actor
    af.get(gate.open.remote())
    assert sorted(af.get(refs)) == list(range(1, 6))


@pytest.mark.parametrize("kind", KINDS, ids=["threads", "async"])
def test_calls_that_wait_for_the_only_place_run_although_the_handle_is_gone(kind: Any) -> None:
    """Between one's end and the next one's start nothing runs."""
    gate, actor = bodies.Gate.remote(), kind.remote()
    refs = [actor.io.options(concurrency_group="disk").remote(gate) for _ in range(3)]
    af.get(gate.arrived.remote(1))
    del actor
    af.get(gate.open.remote())
    assert sorted(af.get(refs, timeout=DEADLINE_S)) == [1, 2, 3]


@pytest.mark.parametrize("kind", KINDS, ids=["threads", "async"])
def test_calls_that_wait_for_their_group_are_told_of_the_end(kind: Any) -> None:
    gate, actor = bodies.Gate.remote(), kind.remote()
    refs = [actor.io.remote(gate) for _ in range(5)]
    af.get(gate.arrived.remote(2))
    left = actor.leave.remote()
    wait_until(
        lambda: not af.wait([actor.plain.remote()], timeout=1)[0], DEADLINE_S, "it takes no call any more"
    )
    af.get(gate.open.remote())
    with pytest.raises(ActorDiedError):
        af.get(left, timeout=DEADLINE_S)
    assert sorted(af.get(refs[:2])) == [1, 2]
    for ref in refs[2:]:
        with pytest.raises(ActorDiedError):
            af.get(ref, timeout=DEADLINE_S)


def test_groups_that_there_are_not() -> None:
    actor = Threads.remote()
    with pytest.raises(ValueError, match=r"no group 'dusk': did you mean 'disk'\?"):
        actor.io.options(concurrency_group="dusk")

    class Wrong:
        @af.method(concurrency_group="discs")
        def work(self) -> None: ...

    with pytest.raises(ValueError, match=r"'work'.*no group 'discs': did you mean 'disk'\?"):
        af.remote(Wrong).options(concurrency_groups={"disk": 1}).remote()
    with pytest.raises(ValueError, match="it has none"):
        af.remote(Wrong).remote()
