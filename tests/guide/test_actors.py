"""Ray Core's ideas about actors, as small programs of a port."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import pytest

import actorflow as ray
from actorflow.actor import ActorHandle
from tests.conftest import wait_until
from tests.system import bodies

DEADLINE_S = 30.0

pytestmark = pytest.mark.usefixtures("runtime")


@ray.remote
class Account:
    def __init__(self, balance: int = 0) -> None:
        self.balance = balance

    def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    @ray.method(num_returns=2)
    def split(self) -> tuple[int, int]:
        return self.balance // 2, self.balance - self.balance // 2

    def close(self) -> None:
        ray.actor.exit_actor()


def test_an_actor_keeps_its_state() -> None:
    account = Account.remote(100)
    assert isinstance(account, ActorHandle)
    assert ray.get([account.deposit.remote(1) for _ in range(5)]) == [101, 102, 103, 104, 105]
    half, rest = account.split.remote()
    assert ray.get([half, rest]) == [52, 53]


def test_handles_can_be_passed_to_tasks() -> None:
    @ray.remote
    def pay_in(account: Any, amounts: list[int]) -> None:
        ray.get([account.deposit.remote(amount) for amount in amounts])

    account = Account.remote()
    ray.get([pay_in.remote(account, [1, 2, 3]) for _ in range(4)])
    assert ray.get(account.deposit.remote(0)) == 24


def test_named_actors_are_found_by_their_name() -> None:
    made = Account.options(name="savings").remote(7)
    assert ray.get(ray.get_actor("savings").deposit.remote(0)) == 7
    assert "savings" in ray.util.list_named_actors()
    same = Account.options(name="savings", get_if_exists=True).remote()
    assert same == made
    with pytest.raises(ValueError, match="savings"):
        Account.options(name="savings").remote()
    with pytest.raises(ValueError, match="no actor"):
        ray.get_actor("saving")


def test_a_detached_actor_outlives_its_handles() -> None:
    Account.options(name="kept", lifetime="detached").remote(1)
    again = ray.get_actor("kept")
    assert ray.get(again.deposit.remote(1)) == 2
    ray.kill(again)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(again.deposit.remote(1))


def test_an_actor_ends_with_its_last_handle() -> None:
    counter = bodies.Counter.remote()
    pid = ray.get(counter.pid.remote())
    del counter
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), DEADLINE_S, "the actor's process ends")


def test_an_actor_can_end_itself() -> None:
    account = Account.remote()
    account.close.remote()
    with pytest.raises(ray.exceptions.ActorDiedError, match="exit_actor"):
        ray.get(account.deposit.remote(1))


def test_async_actors_run_many_calls_at_once() -> None:
    @ray.remote
    class Room:
        def __init__(self) -> None:
            self.present = 0
            self.full = asyncio.Event()

        async def enter(self) -> int:
            self.present += 1
            if self.present == 10:
                self.full.set()
            await self.full.wait()
            return self.present

    room = Room.remote()
    assert ray.get([room.enter.remote() for _ in range(10)]) == [10] * 10


def test_refs_are_awaited_in_coroutines() -> None:
    async def main() -> list[int]:
        account = Account.remote()
        return list(await asyncio.gather(*(account.deposit.remote(1) for _ in range(3))))

    assert asyncio.run(main()) == [1, 2, 3]


def test_threaded_actors() -> None:
    @ray.remote(max_concurrency=3)
    class Threads:
        def __init__(self) -> None:
            self.barrier = threading.Barrier(3)

        def meet(self) -> int:
            self.barrier.wait(DEADLINE_S)
            return threading.get_ident()

    threads = Threads.remote()
    assert len(set(ray.get([threads.meet.remote() for _ in range(3)]))) == 3


def test_concurrency_groups_keep_slow_calls_from_the_others() -> None:
    @ray.remote(concurrency_groups={"slow": 1, "quick": 1})
    class Service:
        def __init__(self) -> None:
            self.go = asyncio.Event()

        @ray.method(concurrency_group="slow")
        async def work(self) -> str:
            await self.go.wait()
            return "done"

        @ray.method(concurrency_group="quick")
        async def finish(self) -> None:
            self.go.set()

    service = Service.remote()
    work = [service.work.remote() for _ in range(3)]
    ray.get(service.finish.remote())
    assert ray.get(work) == ["done"] * 3


def test_a_pool_of_actors() -> None:
    pool = ray.util.ActorPool([Account.remote() for _ in range(2)])
    results = pool.map(lambda account, amount: account.deposit.remote(amount), [1] * 6)
    assert sum(results) >= 6


def test_too_many_waiting_calls_are_refused() -> None:
    gate = bodies.Gate.remote()
    account = Account.options(max_pending_calls=2).remote()
    amount = gate.pass_through.remote()
    deposits = [account.deposit.remote(amount) for _ in range(2)]
    with pytest.raises(ray.exceptions.PendingCallsLimitExceeded):
        account.deposit.remote(amount)
    ray.get(gate.open.remote())
    assert ray.get(deposits) == [1, 2]


def test_methods_are_inherited() -> None:
    class Base:
        def hello(self) -> str:
            return f"hello from {self.name()}"

        def name(self) -> str:
            return "base"

    @ray.remote
    class Child(Base):
        def name(self) -> str:
            return "child"

    assert ray.get(Child.remote().hello.remote()) == "hello from child"
