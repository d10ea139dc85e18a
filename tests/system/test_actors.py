"""Actors: order, kinds (sync, threads, async), handles that travel, names, and every way to end."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import threading
from typing import Any

import pytest

import actorflow as af
from actorflow import _hot
from actorflow.errors import DeathKind
from tests.conftest import wait_until
from tests.system import bodies

DEADLINE_S = 30.0

pytestmark = pytest.mark.usefixtures("runtime")


def test_state_is_kept_and_calls_run_in_order() -> None:
    counter = bodies.Counter.remote(5)
    assert af.get([counter.add.remote() for _ in range(200)]) == list(range(6, 206))
    assert af.get(counter.add(number=10)) == 215


def test_each_actor_is_a_process_of_its_own() -> None:
    counters = [bodies.Counter.remote() for _ in range(3)]
    pids = af.get([counter.pid.remote() for counter in counters])
    assert len({*pids, os.getpid()}) == 4
    assert pids == af.get([counter.pid.remote() for counter in counters])


def test_a_sync_actor_keeps_the_order_where_an_argument_is_not_ready() -> None:
    gate, counter = bodies.Gate.remote(), bodies.Counter.remote()
    counter.note.remote(gate.pass_through.remote())
    for value in ("second", "third"):
        counter.note.remote(value)
    notes = counter.notes.remote()
    assert af.wait([notes], timeout=0.05) == ([], [notes])
    af.get(gate.open.remote())
    assert af.get(notes) == [1, "second", "third"]


def test_order_holds_over_handles_that_live_for_one_call() -> None:
    counter = bodies.Counter.remote()
    for number in range(100):
        pickle.loads(pickle.dumps(counter)).note.remote(number)
    assert af.get(counter.notes.remote()) == list(range(100))


def test_constructor_arguments_that_are_refs_become_values() -> None:
    assert af.get(bodies.Counter.remote(bodies.echo.remote(41)).add.remote()) == 42


def test_a_handle_is_there_at_once_and_ready_when_the_constructor_is() -> None:
    gate = bodies.Gate.remote()

    @af.remote
    class Slow:
        def __init__(self, gate: Any) -> None:
            af.get(gate.pass_through.remote())

    slow = Slow.remote(gate)
    ready = slow.__ready__()
    assert af.wait([ready], timeout=0.05) == ([], [ready])
    af.get(gate.open.remote())
    assert af.get(ready) is None


def test_threads_run_calls_at_once() -> None:
    @af.remote(max_concurrency=4)
    class Meeting:
        def __init__(self) -> None:
            self.barrier = threading.Barrier(4)

        def attend(self) -> str:
            self.barrier.wait(DEADLINE_S)
            return threading.current_thread().name

    meeting = Meeting.remote()
    assert len(set(af.get([meeting.attend.remote() for _ in range(4)]))) == 4


def test_async_methods_run_at_once_up_to_the_limit() -> None:
    @af.remote(max_concurrency=3)
    class Limited:
        def __init__(self) -> None:
            self.inside = self.most = 0
            self.go = asyncio.Event()

        async def enter(self) -> int:
            self.inside += 1
            self.most = max(self.most, self.inside)
            if self.inside == 3:
                self.go.set()
            await self.go.wait()
            self.inside -= 1
            return self.most

    limited = Limited.remote()
    assert max(af.get([limited.enter.remote() for _ in range(12)])) == 3


def test_async_actors_start_what_is_ready() -> None:
    gate = bodies.Gate.remote()

    @af.remote
    class Echo:
        async def echo(self, value: Any) -> Any:
            return value

    echo = Echo.remote()
    late = echo.echo.remote(gate.pass_through.remote())
    assert af.get(echo.echo.remote("now")) == "now"
    assert af.wait([late], timeout=0) == ([], [late])
    af.get(gate.open.remote())
    assert af.get(late) == 1


def test_plain_methods_of_async_actors_and_their_loop() -> None:
    @af.remote
    class Mixed:
        async def loop_name(self) -> str:
            return type(asyncio.get_running_loop()).__module__

        def plain(self) -> int:
            return 3

    mixed = Mixed.remote()
    assert af.get([mixed.plain.remote(), mixed.loop_name.remote()]) == [3, "uvloop"]


def test_actors_call_each_other_at_once() -> None:
    @af.remote
    class Peer:
        def meet(self, other: Any) -> None:
            self.other = other

        async def ping(self, turns: int) -> int:
            return 0 if turns == 0 else 1 + await self.other.ping.remote(turns - 1)

    first, second = Peer.remote(), Peer.remote()
    af.get([first.meet.remote(second), second.meet.remote(first)])
    assert af.get([first.ping.remote(20), second.ping.remote(20)]) == [20, 20]
    af.kill(first)  # each holds the other
    af.kill(second)


def test_sync_actors_call_others_from_inside() -> None:
    @af.remote
    class Front:
        def __init__(self, counter: Any) -> None:
            self.counter = counter

        def add(self, number: int) -> int:
            return int(af.get(self.counter.add.remote(number)))

    counter = bodies.Counter.remote()
    fronts = [Front.remote(counter) for _ in range(3)]
    assert sorted(af.get([front.add.remote(1) for front in fronts])) == [1, 2, 3]


def test_a_call_to_itself_is_a_deadlock_that_is_named() -> None:
    @af.remote
    class Loop:
        def meet(self, me: Any) -> None:
            self.me = me

        def call_itself(self) -> Any:
            return af.get(self.me.plain.remote())

        def wait_for_itself(self) -> Any:
            return af.wait([self.me.plain.remote(), bodies.echo.remote(1)], num_returns=2)

        def wait_for_either(self) -> Any:
            done, _ = af.wait([self.me.plain.remote(), bodies.echo.remote(1)], num_returns=1)
            return af.get(done[0])

        def plain(self) -> int:
            return 1

    loop = Loop.remote()
    af.get(loop.meet.remote(loop))
    for method in (loop.call_itself, loop.wait_for_itself):
        with pytest.raises(af.DeadlockError, match=r"Loop\.plain"):
            af.get(method.remote())
    assert af.get(loop.wait_for_either.remote()) == 1
    assert af.get(loop.plain.remote()) == 1
    af.kill(loop)


def test_an_async_actor_may_await_itself_but_not_block_on_itself() -> None:
    @af.remote
    class Loop:
        def meet(self, me: Any) -> None:
            self.me = me

        async def awaits(self) -> int:
            return int(await self.me.plain.remote())

        async def blocks(self) -> Any:
            return af.get(self.me.plain.remote())

        async def blocks_in_thread(self) -> Any:
            return await asyncio.to_thread(af.get, self.me.plain.remote())

        async def plain(self) -> int:
            return 1

    loop = Loop.remote()
    af.get(loop.meet.remote(loop))
    assert af.get([loop.awaits.remote(), loop.blocks_in_thread.remote()]) == [1, 1]
    with pytest.raises(af.DeadlockError, match="loop"):
        af.get(loop.blocks.remote())
    af.kill(loop)


def test_handles_travel_nested_and_are_equal() -> None:
    counter = bodies.Counter.remote()

    @af.remote
    def use(given: dict[str, list[Any]]) -> Any:
        (handle,) = given["handles"]
        af.get(handle.add.remote(5))
        return handle

    returned = af.get(use.remote({"handles": [counter]}))
    assert returned == counter
    assert hash(returned) == hash(counter)
    assert returned != bodies.Counter.remote()
    assert af.get(returned.add.remote()) == 6
    assert af.get(af.get(af.put([counter]))[0].add.remote()) == 7
    assert af.get(copy.copy(counter).add.remote()) == 8


def test_an_actor_ends_with_its_last_handle() -> None:
    counter = bodies.Counter.remote()
    pid = af.get(counter.pid.remote())
    boxed = af.put({"counter": counter})
    del counter
    assert af.get(af.get(boxed)["counter"].pid.remote()) == pid
    del boxed
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), DEADLINE_S, "the actor's process ended")


def test_calls_that_were_made_run_although_the_handle_is_gone() -> None:
    refs = [bodies.Counter.remote(number).add.remote() for number in range(3)]
    assert af.get(refs) == [1, 2, 3]


def test_a_method_that_is_kept_keeps_its_actor() -> None:
    add = bodies.Counter.remote().add
    assert af.get([add.remote() for _ in range(3)]) == [1, 2, 3]


def test_method_options_and_several_returns() -> None:
    @af.remote
    class Splitter:
        @af.method(num_returns=2)
        def two(self) -> tuple[int, int]:
            return 1, 2

        def one(self) -> Any:
            return "a", "b", "c"

    splitter = Splitter.remote()
    assert af.get(splitter.two.remote()) == [1, 2]
    assert af.get(splitter.one.options(num_returns=3).remote()) == ["a", "b", "c"]
    assert splitter.one.options(num_returns=0).remote() is None


def test_inherited_static_and_class_methods() -> None:
    class Base:
        def inherited(self) -> str:
            return "base"

    @af.remote
    class Derived(Base):
        kind = "derived"

        @classmethod
        def of_class(cls) -> str:
            return cls.kind

        @staticmethod
        def static() -> str:
            return "static"

        def _private(self) -> str:
            return "private"

        def __call__(self) -> str:
            return "called"

    actor = Derived.remote()
    calls = [actor.inherited, actor.of_class, actor.static, actor._private, actor.__call__]
    assert af.get([call.remote() for call in calls]) == ["base", "derived", "static", "private", "called"]


def test_an_actor_class_can_be_inherited_from() -> None:
    class Double(bodies.Counter):  # stands for the plain class
        def add(self, number: int = 1) -> int:
            return int(super().add(2 * number))

    assert af.get(af.remote(Double).remote(1).add.remote(2)) == 5


def test_a_missing_method_names_the_nearest() -> None:
    counter = bodies.Counter.remote()
    with pytest.raises(AttributeError, match=r"'ad'.*did you mean 'add'"):
        _ = counter.ad
    with pytest.raises(AttributeError, match="it has"):
        _ = counter.zzz
    assert "add" in dir(counter)


def test_errors_of_methods_leave_the_actor_alive() -> None:
    counter = bodies.Counter.remote()
    with pytest.raises(LookupError, match="nothing"):
        af.get(counter.fail.remote("nothing"))
    assert af.get(counter.add.remote()) == 1


def test_kill() -> None:
    counter = bodies.Counter.remote()
    af.get(counter.__ready__())
    af.kill(counter)
    for _ in range(2):
        with pytest.raises(af.ActorDiedError, match="killed on request") as caught:
            af.get(counter.add.remote())
        assert caught.value.death.kind is DeathKind.KILLED
    af.kill(counter)
    with pytest.raises(TypeError, match="handle"):
        af.kill("counter")  # type: ignore[arg-type]


def test_kill_ends_what_runs_and_what_waits() -> None:
    gate = bodies.Gate.remote()

    @af.remote
    class Stuck:
        def stick(self, gate: Any) -> None:
            af.get(gate.pass_through.remote())

    stuck = Stuck.remote()
    refs = [stuck.stick.remote(gate) for _ in range(3)]
    af.get(gate.arrived.remote(1))
    af.kill(stuck)
    for ref in refs:
        with pytest.raises(af.ActorDiedError, match="killed"):
            af.get(ref)
    af.get(gate.open.remote())


def test_a_constructor_that_raises_is_the_death_of_the_actor() -> None:
    @af.remote
    class Broken:
        def __init__(self) -> None:
            raise KeyError("no key")

        def method(self) -> None: ...

    broken = Broken.remote()
    for ref in (broken.method.remote(), broken.__ready__()):
        with pytest.raises(af.ActorDiedError, match="constructor raised") as caught:
            af.get(ref)
        assert isinstance(caught.value.cause, KeyError)
        assert "no key" in str(caught.value)
    wait_until(lambda: _is_dead(broken), DEADLINE_S, "the actor's mailbox is closed")
    with pytest.raises(af.ActorDiedError, match="no key"):
        af.get(broken.method.remote())


def _is_dead(handle: af.ActorHandle) -> bool:
    return bool(_hot.Target(handle._actor_door.target.mailbox).facts()["closed"])


def test_wrong_constructor_arguments_are_told_with_the_first_call() -> None:
    with pytest.raises(af.ActorDiedError, match="unexpected keyword"):
        af.get(bodies.Counter.remote(beginning=1).add.remote())


def test_a_process_that_ends_by_itself() -> None:
    @af.remote
    class Fragile:
        def end(self) -> None:
            os._exit(3)

    fragile = Fragile.remote()
    with pytest.raises(af.ActorDiedError, match="exit code 3"):
        af.get(fragile.end.remote())


@pytest.mark.parametrize("options", [{}, {"max_concurrency": 2}], ids=["sync", "threads"])
def test_exit_actor(options: dict[str, Any]) -> None:
    @af.remote(num_cpus=0, **options)
    class Leaver:
        def leave(self) -> None:
            af.exit_actor()

    leaver = Leaver.remote()
    ref = leaver.leave.remote()
    with pytest.raises(af.ActorDiedError, match="exit_actor") as caught:
        af.get(ref)
    assert caught.value.death.kind is DeathKind.EXIT_REQUESTED


def test_exit_actor_of_an_async_actor() -> None:
    @af.remote
    class Leaver:
        async def leave(self) -> None:
            af.exit_actor()

    with pytest.raises(af.ActorDiedError, match="exit_actor"):
        af.get(Leaver.remote().leave.remote())


def test_exit_actor_is_for_actors() -> None:
    with pytest.raises(RuntimeError, match="hosts none"):
        af.exit_actor()


class Leaving:
    def leave(self, code: object) -> None:
        raise SystemExit(code)

    def here(self) -> bool:
        return True


class LeavingLoop(Leaving):
    async def leave_soon(self, code: object) -> None:
        await asyncio.sleep(0)
        self.leave(code)


@pytest.mark.parametrize(("code", "shown"), [(4, 4), (0, 0), (None, 0), ("a reason", 1)], ids=str)
def test_sys_exit_in_a_method_ends_the_actors_process(code: object, shown: int) -> None:
    plain, loop = af.remote(Leaving), af.remote(LeavingLoop)
    for actor, name in [
        (plain.remote(), "leave"),
        (plain.options(max_concurrency=2).remote(), "leave"),
        (loop.remote(), "leave"),
        (loop.remote(), "leave_soon"),
    ]:
        with pytest.raises(af.ActorDiedError, match=f"exit code {shown}"):
            af.get(getattr(actor, name).remote(code))
    restarted = plain.options(max_restarts=1).remote()
    with pytest.raises(af.ActorUnavailableError, match=f"exit code {shown}"):
        af.get(restarted.leave.remote(code))
    assert af.get(restarted.here.remote())


def test_named_actors() -> None:
    counter = bodies.Counter.options(name="the one").remote(1)
    same = af.get_actor("the one")
    assert same == counter
    assert af.get(same.add.remote()) == 2
    with pytest.raises(af.ActorAlreadyExistsError, match="the one"):
        bodies.Counter.options(name="the one").remote()
    again = bodies.Counter.options(name="the one", get_if_exists=True).remote()
    assert af.get(again.add.remote()) == 3
    with pytest.raises(ValueError, match="no actor named 'other'"):
        af.get_actor("other")
    del counter, again
    wait_until(
        lambda: _named("the one") is None, DEADLINE_S, "the name is free: get_actor's handle holds nothing"
    )


def _named(name: str) -> af.ActorHandle | None:
    try:
        return af.get_actor(name)
    except ValueError:
        return None


def test_detached_actors_outlive_their_handles() -> None:
    bodies.Counter.options(name="stays", lifetime="detached").remote(10)
    stays = af.get_actor("stays")
    assert af.get(stays.add.remote()) == 11
    af.kill(stays)


def test_repr() -> None:
    counter = bodies.Counter.remote()
    assert repr(counter).startswith("ActorHandle(Counter, ")
    assert repr(counter.add) == "ActorMethod(Counter.add)"
    assert "<code>Counter</code>" in counter._repr_html_()
    assert repr(bodies.Counter) == "ActorClass(Counter)"
