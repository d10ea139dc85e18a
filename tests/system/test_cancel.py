"""Cancelling: what is queued never runs, what runs is interrupted, and nothing else is."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop

import actorflow as af
from tests.conftest import wait_until
from tests.system.bodies import Counter, Gate, echo

pytestmark = pytest.mark.usefixtures("runtime")

LONG_S = 60.0  # far beyond each test's deadline: what is not interrupted fails it
DEADLINE_S = 30.0


@af.remote(num_cpus=0)
class Log:
    """What tasks did, in order."""

    def __init__(self) -> None:
        self._notes: list[Any] = []

    def note(self, value: Any) -> None:
        self._notes.append(value)

    def notes(self) -> list[Any]:
        return self._notes


@af.remote
def sleep_long(log: Any, how: str) -> str:
    try:
        af.get(log.note.remote("began"))  # who reads that may cancel before the answer is here
        if how == "sleep":
            time.sleep(LONG_S)
        elif how == "loop":
            end = time.monotonic() + LONG_S
            while time.monotonic() < end:
                pass
        elif how == "asyncio":
            asyncio.run(asyncio.sleep(LONG_S))
        elif how == "uvloop":
            uvloop.run(asyncio.sleep(LONG_S))
        elif how == "future":
            Gate.remote().pass_through.remote().future().result()
        elif how == "join":
            thread = threading.Thread(target=threading.Event().wait, args=(LONG_S,), daemon=True)
            thread.start()
            thread.join()
        elif how == "get":
            af.get(Gate.remote().pass_through.remote())
        else:
            af.wait([Gate.remote().pass_through.remote()], timeout=LONG_S)
    except KeyboardInterrupt:
        af.get(log.note.remote("interrupted"))
        raise
    finally:
        af.get(log.note.remote("ended"))
    return "slept"


@af.remote
def catch(log: Any) -> str:
    try:
        af.get(log.note.remote("began"))
        time.sleep(LONG_S)
    except KeyboardInterrupt:
        return "caught"
    return "slept"


@af.remote
async def sleep_async(log: Any, value: str = "") -> str:
    try:
        await log.note.remote("began")
        await asyncio.sleep(LONG_S)
    except asyncio.CancelledError:
        await log.note.remote("cancelled")
        if value:
            return value
        raise
    return "slept"


def wait_for_notes(log: Any, *wanted: Any) -> None:
    wait_until(lambda: af.get(log.notes.remote()) == list(wanted), DEADLINE_S, f"notes {wanted}")


def assert_cancelled(ref: Any, name: str, when: str = "while it was running") -> None:
    with pytest.raises(af.TaskCancelledError) as caught:
        af.get(ref, timeout=DEADLINE_S)
    assert caught.value.task_name == name
    assert caught.value.when == when


def wait_all_idle() -> None:
    total = af.cluster_resources()
    wait_until(lambda: af.available_resources() == total, DEADLINE_S, "all resources are free again")


@contextmanager
def full_node() -> Iterator[Any]:
    """Meanwhile nothing that needs a CPU begins."""
    gate = Gate.remote()
    refs = [hold_cpu.remote(gate) for _ in range(4)]
    af.get(gate.arrived.remote(4), timeout=DEADLINE_S)
    yield gate
    af.get(gate.open.remote())
    af.get(refs, timeout=DEADLINE_S)


@af.remote(num_cpus=1)
async def hold_cpu(gate: Any) -> None:
    await gate.pass_through.remote()


# -- queued


def test_a_queued_task_never_runs() -> None:
    log = Log.remote()
    with full_node():
        refs = [sleep_long.remote(log, "sleep") for _ in range(3)]
        for ref in refs:
            af.cancel(ref)
            assert_cancelled(ref, "sleep_long", "before it ran")
    assert af.get(echo.remote(1), timeout=DEADLINE_S) == 1
    assert af.get(log.notes.remote()) == []


def test_a_task_that_waits_for_arguments_never_runs() -> None:
    log, gate = Log.remote(), Gate.remote()
    ref = log.note.remote(gate.pass_through.remote())
    waiting = echo.remote(gate.pass_through.remote())
    follower = echo.remote(waiting)
    af.cancel(waiting)
    af.cancel(ref)
    assert_cancelled(waiting, "echo", "before it ran")
    assert_cancelled(ref, "Log.note", "before it ran")
    with pytest.raises(af.TaskCancelledError):
        af.get(follower, timeout=DEADLINE_S)
    af.get(gate.open.remote())
    assert af.get(log.notes.remote(), timeout=DEADLINE_S) == []


def test_all_refs_of_a_call_are_cancelled_by_any_of_them() -> None:
    gate = Gate.remote()
    for index in range(3):
        refs = echo.options(num_returns=3).remote(gate.pass_through.remote())
        af.cancel(refs[index])
        for ref in refs:
            assert_cancelled(ref, "echo", "before it ran")
    af.get(gate.open.remote())


@af.remote(num_cpus=0)
def cancel_all(refs: list[Any]) -> None:
    for ref in refs:
        af.cancel(ref)


def test_any_process_that_has_a_ref_may_cancel() -> None:
    log, gate = Log.remote(), Gate.remote()
    running, waiting = sleep_long.remote(log, "sleep"), echo.remote(gate.pass_through.remote())
    wait_for_notes(log, "began")
    af.get(cancel_all.remote([running, waiting]), timeout=DEADLINE_S)
    assert_cancelled(running, "sleep_long")
    assert_cancelled(waiting, "echo", "before it ran")
    af.get(gate.open.remote())


def test_what_is_done_stays_as_it_is() -> None:
    ref, held = echo.remote(5), af.put(7)
    assert af.get(ref) == 5
    af.cancel(ref)
    af.cancel(held)
    assert (af.get(ref), af.get(held)) == (5, 7)


def test_wrong_arguments_are_refused() -> None:
    counter = Counter.remote()
    with pytest.raises(TypeError, match="takes an ObjectRef"):
        af.cancel("x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"af\.kill"):
        af.cancel(counter.add.remote(), force=True)


# -- running


@pytest.mark.parametrize("how", ["sleep", "loop", "asyncio", "uvloop", "future", "join", "get", "wait"])
def test_a_running_task_is_interrupted(how: str) -> None:
    log = Log.remote()
    ref = sleep_long.remote(log, how)
    wait_for_notes(log, "began")
    af.cancel(ref)
    assert_cancelled(ref, "sleep_long")
    wait_for_notes(log, "began", "interrupted", "ended")
    wait_all_idle()


def test_a_task_may_catch_it_and_return_a_value() -> None:
    log = Log.remote()
    ref = catch.remote(log)
    wait_for_notes(log, "began")
    af.cancel(ref)
    assert af.get(ref, timeout=DEADLINE_S) == "caught"


def test_a_worker_outlives_the_interrupt() -> None:
    log = Log.remote()
    ref = sleep_long.remote(log, "sleep")
    wait_for_notes(log, "began")
    af.cancel(ref)
    assert_cancelled(ref, "sleep_long")
    assert af.get([echo.remote(number) for number in range(100)], timeout=DEADLINE_S) == list(range(100))


def test_an_async_task_is_cancelled() -> None:
    log = Log.remote()
    ref = sleep_async.remote(log)
    wait_for_notes(log, "began")
    af.cancel(ref)
    assert_cancelled(ref, "sleep_async")
    wait_for_notes(log, "began", "cancelled")
    caught = sleep_async.remote(log, "instead")
    wait_for_notes(log, "began", "cancelled", "began")
    af.cancel(caught)
    assert af.get(caught, timeout=DEADLINE_S) == "instead"


def test_a_cancelled_await_leaves_the_call_alone() -> None:
    gate = Gate.remote()
    ref = gate.pass_through.remote()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ref, 0.01)

    asyncio.run(give_up())
    af.get(gate.open.remote())
    assert af.get(ref, timeout=DEADLINE_S) == 1


# -- actors


@af.remote(num_cpus=0)
class Sleeper:
    def __init__(self) -> None:
        self.calls = 0

    def sleep(self, log: Any) -> None:
        self.calls += 1
        af.get(log.note.remote("began"))
        time.sleep(LONG_S)

    def count(self) -> int:
        return self.calls


def test_a_method_is_interrupted_and_the_actor_lives() -> None:
    log, sleeper = Log.remote(), Sleeper.remote()
    running, queued, last = sleeper.sleep.remote(log), sleeper.sleep.remote(log), sleeper.count.remote()
    wait_for_notes(log, "began")
    af.cancel(queued)
    assert_cancelled(queued, "Sleeper.sleep", "before it ran")
    af.cancel(running)
    assert_cancelled(running, "Sleeper.sleep")
    assert af.get(last, timeout=DEADLINE_S) == 1


def test_a_method_of_an_async_actor_is_cancelled() -> None:
    gate = Gate.remote()
    refs = [gate.pass_through.remote() for _ in range(200)]
    af.get(gate.arrived.remote(200), timeout=DEADLINE_S)
    for ref in refs[::2]:
        af.cancel(ref)
    for ref in refs[::2]:
        assert_cancelled(ref, "Gate.pass_through")
    af.get(gate.open.remote())
    assert af.get(refs[1::2], timeout=DEADLINE_S) == list(range(2, 201, 2))


def test_a_method_in_a_thread_goes_on() -> None:
    gate = Gate.remote()
    running = Waiter.remote().wait.remote(gate)
    af.get(gate.arrived.remote(1), timeout=DEADLINE_S)
    af.cancel(running)
    af.get(gate.open.remote())
    assert af.get(running, timeout=DEADLINE_S) == "waited"


@af.remote(max_concurrency=2, num_cpus=0)
class Waiter:
    def wait(self, gate: Any) -> str:
        af.get(gate.pass_through.remote())
        return "waited"


@af.remote(num_cpus=0, concurrency_groups={"narrow": 1})
class Grouped:
    def __init__(self, log: Any) -> None:
        self._log = log

    @af.method(concurrency_group="narrow")
    async def wait(self, gate: Any, name: str) -> str:
        await self._log.note.remote(name)
        await gate.pass_through.remote()
        return name


def test_a_call_that_waits_in_its_group_ends_at_once() -> None:
    log, gate = Log.remote(), Gate.remote()
    grouped = Grouped.remote(log)
    first, second, third = [grouped.wait.remote(gate, name) for name in ("a", "b", "c")]
    wait_for_notes(log, "a")
    af.cancel(second)
    assert_cancelled(second, "Grouped.wait", "before it ran")
    af.get(gate.open.remote())
    assert af.get([first, third], timeout=DEADLINE_S) == ["a", "c"]
    wait_for_notes(log, "a", "c")


def test_calls_with_options_of_their_own_are_named_like_others() -> None:
    log, gate = Log.remote(), Gate.remote()
    grouped = Grouped.remote(log)
    first = grouped.wait.options(concurrency_group="narrow").remote(gate, "a")
    wait_for_notes(log, "a")
    third = grouped.wait.options(concurrency_group="narrow", retry_exceptions=[KeyError]).remote(gate, "c")
    with pytest.raises(ValueError, match=r"af\.kill"):
        af.cancel(third, force=True)
    af.cancel(third)
    assert_cancelled(third, "Grouped.wait", "before it ran")
    af.get(gate.open.remote())
    assert af.get(first, timeout=DEADLINE_S) == "a"


# -- force


@af.remote
def stubborn(log: Any) -> None:
    af.get(log.note.remote(os.getpid()))
    while True:
        try:
            time.sleep(LONG_S)
        except KeyboardInterrupt:
            pass


def test_force_kills_the_worker_and_nothing_is_tried_again() -> None:
    log = Log.remote()
    ref = stubborn.remote(log)
    wait_until(lambda: len(af.get(log.notes.remote())) == 1, DEADLINE_S, "it runs")
    af.cancel(ref, recursive=False)
    af.cancel(ref, force=True)
    assert_cancelled(ref, "stubborn")
    (pid,) = af.get(log.notes.remote())
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), DEADLINE_S, "the worker has ended")
    wait_all_idle()
    assert af.get(log.notes.remote()) == [pid]


@af.remote(max_retries=3)
def compute_in_c(log: Any) -> None:
    af.get(log.note.remote(os.getpid()))
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 2_000_000_000)


def test_code_in_c_that_looks_for_no_signals_is_ended_by_force() -> None:
    log = Log.remote()
    ref = compute_in_c.remote(log)
    wait_until(lambda: len(af.get(log.notes.remote())) == 1, DEADLINE_S, "it runs")
    af.cancel(ref)
    assert af.wait([ref], timeout=0.2) == ([], [ref])
    af.cancel(ref, force=True)
    assert_cancelled(ref, "compute_in_c")
    wait_all_idle()
    assert len(af.get(log.notes.remote())) == 1


# -- recursive


@af.remote(num_cpus=0)
def parent(log: Any, depth: int, keep: bool) -> None:
    if depth == 0:
        af.get(log.note.remote("leaf"))
        time.sleep(LONG_S)
    child = parent.remote(log, depth - 1, keep)
    if not keep:
        del child
        time.sleep(LONG_S)
    else:
        af.get(child)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_calls_made_within_a_call_are_cancelled_too(keep: bool, force: bool) -> None:
    log = Log.remote()
    ref = parent.remote(log, 3, keep)
    wait_for_notes(log, "leaf")
    af.cancel(ref, force=force)
    assert_cancelled(ref, "parent")
    wait_all_unfinished_end()


@af.remote(num_cpus=0)
def start_one(log: Any) -> Any:
    child = catch.remote(log)
    af.get(log.note.remote([child]))
    time.sleep(LONG_S)


def test_without_recursive_they_go_on() -> None:
    log = Log.remote()
    ref = start_one.remote(log)
    wait_until(lambda: len(af.get(log.notes.remote())) == 2, DEADLINE_S, "both run")
    af.cancel(ref, recursive=False)
    assert_cancelled(ref, "start_one")
    ((child,),) = [note for note in af.get(log.notes.remote()) if note != "began"]
    assert af.wait([child], timeout=0.2) == ([], [child])
    af.cancel(child)
    assert af.get(child, timeout=DEADLINE_S) == "caught"


def wait_all_unfinished_end() -> None:
    """No worker runs user code any more."""
    from actorflow import _hot
    from actorflow.shm.store import Role, Store

    store = Store(_hot.client_address())
    wait_until(
        lambda: not any(slot.running and slot.serving for slot in store.slots(Role.WORKER)),
        DEADLINE_S,
        "no task runs",
    )


# -- limits


def test_an_attempt_that_runs_too_long_is_cancelled() -> None:
    log = Log.remote()
    for call in (
        sleep_long.options(timeout_s=0.2).remote(log, "sleep"),
        sleep_async.options(timeout_s=0.2).remote(log),
    ):
        with pytest.raises(
            af.TaskTimeoutError, match=r"'sleep_(long|async)' was cancelled .*timeout_s=0.2"
        ) as caught:
            af.get(call, timeout=DEADLINE_S)
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.limit_s == 0.2


def test_a_limit_that_is_kept_changes_nothing() -> None:
    limited = echo.options(timeout_s=30)
    assert af.get([limited.remote(number) for number in range(20)]) == list(range(20))
    assert af.get(echo.remote(1)) == 1


@af.remote
def note_and_sleep(log: Any) -> None:
    af.get(log.note.remote("began"))
    time.sleep(LONG_S)


def test_a_limit_is_of_one_attempt() -> None:
    log = Log.remote()
    assert af.get(log.notes.remote()) == []
    options = {"timeout_s": 0.5, "max_retries": 2, "retry_exceptions": [TimeoutError]}
    with pytest.raises(af.TaskTimeoutError):
        af.get(note_and_sleep.options(**options).remote(log), timeout=DEADLINE_S)
    assert af.get(log.notes.remote()) == ["began"] * 3


def test_what_is_cancelled_is_not_tried_again() -> None:
    log = Log.remote()
    ref = note_and_sleep.options(max_retries=2, retry_exceptions=[BaseException]).remote(log)
    wait_for_notes(log, "began")
    af.cancel(ref)
    assert_cancelled(ref, "note_and_sleep")
    wait_all_idle()
    assert af.get(log.notes.remote()) == ["began"]
