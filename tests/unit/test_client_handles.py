"""Handles and methods without a node: numbers, doors, pickling, errors of calls, deadlock of own calls."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from actorflow import _hot, errors
from actorflow.client import blocking, handles, runtime
from actorflow.client.actor_class import ActorClass, actor_methods, method
from actorflow.client.handles import ActorHandle, Description
from actorflow.options import ActorOptions

MIB = 1 << 20
DESCRIPTION = Description("Thing", ("first", "second"), (1, 2))


@pytest.fixture(autouse=True)
def segment() -> Iterator[None]:
    runtime.configure()
    _hot.create(os.urandom(16), 16, 64 * MIB, MIB, MIB, 0)
    yield
    blocking.forbid(None)
    handles._own_mailbox = None
    handles._forget_doors()
    _hot.detach()


def handle(description: Description = DESCRIPTION, credit: int = 100) -> ActorHandle:
    mailbox = _hot.make_mailbox(_hot.ORDERED, 0, credit)
    return ActorHandle(_hot.make_actor(mailbox), mailbox, description)


def mailbox_of(thing: ActorHandle) -> _hot.Hold:
    return thing._actor_door.target.mailbox


def taken(thing: ActorHandle) -> _hot.Call:
    call = _hot.take_nowait(mailbox_of(thing))
    assert call is not None
    return call


def test_a_call_carries_the_methods_number_and_returns() -> None:
    thing = handle()
    ref = thing.first.remote(1, two=2)
    call = taken(thing)
    assert (call.method, call.returns, call.arguments()) == (1, 1, ((1,), {"two": 2}))
    call.complete("done")
    assert ref.result() == "done"
    first, second = thing.second()
    taken(thing).complete_many(["a", "b"])
    assert (first.result(), second.result()) == ("a", "b")
    assert thing.second.options(num_returns=0).remote() is None
    thing.__ready__()
    assert [taken(thing).method for _ in range(2)] == [2, handles.READY]


def test_methods_are_made_once_and_do_not_hold_their_handle() -> None:
    thing = handle()
    assert thing.first is thing.first
    kept = thing.first
    del thing
    assert kept.remote() is not None


def test_missing_methods() -> None:
    with pytest.raises(AttributeError, match=r"no method 'frist'.*'first'"):
        _ = handle().frist
    with pytest.raises(AttributeError, match="it has none"):
        _ = handle(Description("Empty", (), ())).anything


def test_one_door_for_a_mailbox() -> None:
    thing = handle()
    again: Any = pickle.loads(pickle.dumps(thing))
    assert again == thing
    assert again._actor_door is thing._actor_door
    assert handle()._actor_door is not thing._actor_door


def test_a_packed_handle_is_counted() -> None:
    place, thing = handle(), handle()
    place.first.remote([thing], other={"thing": thing})
    mailbox = mailbox_of(thing)
    del thing
    (things,), others = taken(place).arguments()
    assert things[0] == others["other"]["thing"]
    assert mailbox_of(things[0]) == mailbox
    assert not _hot.Target(mailbox).facts()["abandoned"]


def test_out_of_credit() -> None:
    thing = handle(credit=3)
    waits = handles.ActorMethod(thing._actor_hold, thing._actor_door, "Thing.first", 1, 1, 0)
    waits._block, waits._limit = False, 3
    for _ in range(3):
        waits.remote()
    with pytest.raises(errors.PendingCallsLimitExceeded, match=r"calls to Thing\.first"):
        waits.remote()


def test_pending_calls_are_those_without_a_result() -> None:
    thing = handle(Description("Thing", ("first", "second"), (1, 2), 3))
    kept = thing.first.remote()
    thing.second.options(num_returns=0).remote()
    thing.second.options(num_returns="streaming").remote()
    running = taken(thing)
    for refused in (thing.first, thing.second):
        with pytest.raises(errors.PendingCallsLimitExceeded, match=r"3 calls to Thing\.\w+ are pending"):
            refused.remote()
    running.complete(1)
    assert kept.result() == 1
    assert len(thing.second.remote()) == 2, "one has ended"
    with pytest.raises(errors.PendingCallsLimitExceeded):
        thing.first.remote()


def test_a_call_that_cannot_be_made_is_not_pending() -> None:
    thing = handle(Description("Thing", ("first", "second"), (1, 2), 1))
    for _ in range(3):
        with pytest.raises(TypeError, match="argument 0"):
            thing.first.remote(threading.Lock())
    thing.first.remote()


def test_results_are_not_kept_for_the_count() -> None:
    thing = handle(Description("Thing", ("first", "second"), (1, 2), 2))
    for number in range(200):
        reference = thing.first.remote()
        taken(thing).complete(number)
        name = reference.name
        del reference
        with pytest.raises(_hot.StaleError):
            _hot.hold(name, "cell")


def test_own_calls_are_a_deadlock_for_the_thread_that_answers_them() -> None:
    thing, other, answers = handle(), handle(), True
    handles.become_actor(mailbox_of(thing))
    assert handles.is_actor()
    handles.forbid_own_calls(lambda: answers, "it answers itself")
    own, foreign = thing.first.remote(), other.first.remote()
    with pytest.raises(errors.DeadlockError, match=r"Thing\.first.*it answers itself"):
        blocking.get_one(own)
    with pytest.raises(errors.DeadlockError):
        blocking.wait_some([own, foreign], 2, None)
    taken(other).complete(1)
    assert blocking.wait_some([own, foreign], 1, None) == ([foreign], [own])
    answers = False
    with pytest.raises(errors.GetTimeoutError):
        blocking.get_one(own, 0.001)
    taken(thing).complete(2)
    assert blocking.get_one(own) == 2


def test_the_methods_of_a_class() -> None:
    class Base:
        def inherited(self) -> None: ...

    class Thing(Base):
        constant = 3

        class Inner: ...

        def __init__(self) -> None: ...
        def __call__(self) -> None: ...
        def __eq__(self, other: object) -> bool:
            return True

        def method(self) -> None: ...
        @staticmethod
        def static() -> None: ...

    assert list(actor_methods(Thing)) == ["__call__", "inherited", "method", "static"]


def test_classes_say_what_they_are() -> None:
    class Plain:
        @method(num_returns=3)
        def three(self) -> None: ...

    class Async(Plain):
        async def method(self) -> None: ...

    plain, threads = (
        ActorClass(Plain, ActorOptions()),
        ActorClass(Plain, ActorOptions(max_concurrency=4)),
    )
    assert (plain._max_concurrency(), plain._mailbox_flags()) == (1, _hot.ORDERED)
    assert (threads._max_concurrency(), threads._mailbox_flags()) == (4, 0)
    coroutines = ActorClass(Async, ActorOptions(max_pending_calls=7))
    assert (coroutines._max_concurrency(), coroutines._mailbox_flags()) == (1000, 0)
    assert coroutines._description() == Description("Async", ("method", "three"), (1, 3), 7, (), (0, 0))
    assert Description.of(coroutines._description().plain()) == coroutines._description()
    with pytest.raises(NotImplementedError, match="runtime_env 'pip'"):
        plain.options(runtime_env={"pip": ["numpy"]})
