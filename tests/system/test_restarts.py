"""Actors whose process dies come back as often as they may, with their mailbox; no call is run twice without leave."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import actorflow as af
from tests.conftest import wait_until
from tests.system.bodies import Gate

pytestmark = pytest.mark.usefixtures("runtime")
DEADLINE_S = 30.0


@pytest.fixture
def notes() -> Iterator[Path]:
    """A directory in which each attempt leaves a file."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def note(path: Path, what: str = "") -> int:
    """Notes an attempt; returns how many there were before."""
    before = len(list(path.iterdir()))
    (path / f"{before}{what}").touch()
    return before


@af.remote
class Mortal:
    """Counts its calls, and dies when told to."""

    def __init__(self, start: int = 0, births: Path | None = None) -> None:
        self.count = start
        self.births = 0 if births is None else note(births)

    def add(self, amount: int = 1) -> int:
        self.count += amount
        return self.count

    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def die_at_first(self, path: Path, times: int = 1) -> int:
        before = note(path)
        if before < times:
            os.kill(os.getpid(), signal.SIGKILL)
        return before

    def note(self, path: Path, what: str) -> int:
        return note(path, what)

    def wait(self, gate: Any) -> int:
        passed: int = af.get(gate.pass_through.remote())
        return passed

    @af.method(max_task_retries=1)
    def may_twice(self, path: Path, times: int) -> int:
        return self.die_at_first(path, times)

    @af.method(max_task_retries=3, retry_exceptions=[KeyError])
    def raise_at_first(self, path: Path, times: int) -> int:
        before = note(path)
        if before < times:
            raise KeyError(before)
        return before

    def raise_plainly(self, path: Path, times: int) -> int:
        return int(Mortal.cls.raise_at_first(self, path, times))

    def leave(self) -> None:
        af.exit_actor()


@af.remote
class AsyncMortal:
    """Many calls at once; dies in one of them."""

    async def pass_through(self, gate: Any, path: Path, what: int) -> int:
        note(path, f"-{what}")
        await gate.pass_through.remote()
        return what

    async def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@af.remote
class Unborn:
    """Its constructor kills its process, or raises."""

    def __init__(self, path: Path, deaths: int, error: str = "") -> None:
        before = note(path)
        if error:
            raise ValueError(error)
        if before < deaths:
            os.kill(os.getpid(), signal.SIGKILL)

    def hello(self) -> str:
        return "hello"


def test_unread_calls_go_on_and_the_constructor_runs_again(notes: Path) -> None:
    start = af.put(10)
    actor = Mortal.options(max_restarts=1).remote(start, notes)
    assert af.get(actor.add.remote()) == 11
    dying = actor.die.remote()
    rest = [actor.add.remote() for _ in range(20)]
    with pytest.raises(af.ActorUnavailableError) as caught:
        af.get(dying, timeout=DEADLINE_S)
    assert caught.value.task_name == "Mortal.die"
    assert caught.value.death.signal == signal.SIGKILL
    assert af.get(rest, timeout=DEADLINE_S) == list(range(11, 31))
    assert len(list(notes.iterdir())) == 2


def test_without_restarts_left_it_is_dead(notes: Path) -> None:
    actor = Mortal.options(max_restarts=2).remote(0, notes)
    for _ in range(2):
        with pytest.raises(af.ActorUnavailableError):
            af.get(actor.die.remote(), timeout=DEADLINE_S)
    last, after = actor.die.remote(), actor.add.remote()
    for ref in (last, after, actor.add.remote()):
        with pytest.raises(af.ActorDiedError, match="SIGKILL"):
            af.get(ref, timeout=DEADLINE_S)
    assert len(list(notes.iterdir())) == 3


def test_started_calls_come_back_first_and_in_order(notes: Path) -> None:
    (notes / "calls").mkdir()
    actor = Mortal.options(max_restarts=-1, max_task_retries=-1).remote()
    refs = [actor.note.remote(notes / "calls", f"-{i}") for i in range(3)]
    refs.append(actor.die_at_first.remote(notes, 3))
    refs += [actor.note.remote(notes / "calls", f"-{i}") for i in range(3, 6)]
    assert af.get(refs, timeout=DEADLINE_S) == [0, 1, 2, 3, 3, 4, 5]
    assert {path.name for path in (notes / "calls").iterdir()} == {f"{i}-{i}" for i in range(6)}


def test_no_call_is_run_twice_without_leave(notes: Path) -> None:
    actor = Mortal.options(max_restarts=-1).remote()
    with pytest.raises(af.ActorUnavailableError):
        af.get(actor.die_at_first.remote(notes), timeout=DEADLINE_S)
    assert af.get(actor.add.remote(), timeout=DEADLINE_S) == 1
    assert len(list(notes.iterdir())) == 1


def test_a_method_has_retries_of_its_own(notes: Path) -> None:
    actor = Mortal.options(max_restarts=-1).remote()
    assert af.get(actor.may_twice.remote(notes, 1), timeout=DEADLINE_S) == 1
    for path in notes.iterdir():
        path.unlink()
    with pytest.raises(af.ActorUnavailableError):
        af.get(actor.may_twice.remote(notes, 2), timeout=DEADLINE_S)
    for path in notes.iterdir():
        path.unlink()
    assert af.get(actor.may_twice.options(max_task_retries=2).remote(notes, 2), timeout=DEADLINE_S) == 2


def test_exceptions_of_methods_are_retried_without_a_restart(notes: Path) -> None:
    actor = Mortal.remote()
    pid = af.get(actor.pid.remote())
    assert af.get(actor.raise_at_first.remote(notes, 3), timeout=DEADLINE_S) == 3
    for path in notes.iterdir():
        path.unlink()
    with pytest.raises(KeyError):
        af.get(actor.raise_at_first.options(retry_exceptions=False).remote(notes, 1))
    assert af.get(actor.pid.remote()) == pid


@pytest.fixture
def unknown_to_workers(monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    """An exception of a module that this process alone has."""
    module = types.ModuleType("only_here")
    kind = type("Strange", (Exception,), {"__module__": "only_here"})
    vars(module)["Strange"] = kind
    monkeypatch.setitem(sys.modules, "only_here", module)
    return kind


@pytest.mark.parametrize(("kinds", "runs"), [([KeyError], 3), ([OSError, LookupError], 3), ([OSError], 1)])
def test_a_call_of_a_method_says_on_which_exceptions_it_is_retried(
    notes: Path, kinds: list[type[Exception]], runs: int
) -> None:
    actor = Mortal.remote()
    method = actor.raise_plainly.options(max_task_retries=2, retry_exceptions=kinds)
    with pytest.raises(KeyError) as caught:
        af.get(method.remote(notes, 9), timeout=DEADLINE_S)
    assert len(list(notes.iterdir())) == runs
    assert isinstance(caught.value, af.TaskError)
    assert caught.value.attempt == runs


def test_types_that_the_actor_cannot_load_are_no_reason_to_retry(
    notes: Path, unknown_to_workers: type[Exception]
) -> None:
    actor = Mortal.remote()
    method = actor.raise_plainly.options(max_task_retries=2, retry_exceptions=[unknown_to_workers])
    with pytest.raises(KeyError) as caught:
        af.get(method.remote(notes, 9), timeout=DEADLINE_S)
    assert "only_here" in "".join(caught.value.__notes__)
    assert af.get(actor.raise_plainly.remote(notes, 1), timeout=DEADLINE_S) == 1


def test_async_calls_that_ran_are_retried(notes: Path) -> None:
    gate = Gate.remote()
    actor = AsyncMortal.options(max_restarts=1, max_task_retries=1).remote()
    refs = [actor.pass_through.remote(gate, notes, i) for i in range(5)]
    wait_until(lambda: len(list(notes.iterdir())) == 5, DEADLINE_S, "all run")
    with pytest.raises((af.ActorUnavailableError, af.ActorDiedError)):
        af.get(actor.die.options(max_task_retries=0).remote(), timeout=DEADLINE_S)
    wait_until(lambda: len(list(notes.iterdir())) == 10, DEADLINE_S, "all run again")
    af.get(gate.open.remote())
    assert af.get(refs, timeout=DEADLINE_S) == list(range(5))


def test_a_constructor_whose_process_dies_is_run_again(notes: Path) -> None:
    actor = Unborn.options(max_restarts=2).remote(notes, 2)
    assert af.get(actor.hello.remote(), timeout=DEADLINE_S) == "hello"
    assert len(list(notes.iterdir())) == 3


def test_a_constructor_that_always_dies_ends_the_actor(notes: Path) -> None:
    actor = Unborn.options(max_restarts=2).remote(notes, 9)
    with pytest.raises(af.ActorDiedError, match="SIGKILL"):
        af.get(actor.hello.remote(), timeout=DEADLINE_S)
    assert len(list(notes.iterdir())) == 3


def test_a_constructor_that_raises_is_not_run_again(notes: Path) -> None:
    actor = Unborn.options(max_restarts=-1).remote(notes, 0, "no")
    with pytest.raises(af.ActorDiedError) as caught:
        af.get(actor.hello.remote(), timeout=DEADLINE_S)
    assert isinstance(caught.value.cause, ValueError)
    assert len(list(notes.iterdir())) == 1


def test_exit_actor_ends_for_good(notes: Path) -> None:
    actor = Mortal.options(max_restarts=-1, max_task_retries=-1).remote(0, notes)
    with pytest.raises(af.ActorDiedError, match="exit_actor"):
        af.get(actor.leave.remote(), timeout=DEADLINE_S)
    with pytest.raises(af.ActorDiedError, match="exit_actor"):
        af.get(actor.add.remote(), timeout=DEADLINE_S)
    assert len(list(notes.iterdir())) == 1


def test_kill_with_and_without_a_restart(notes: Path) -> None:
    actor = Mortal.options(max_restarts=-1).remote(0, notes)
    first = af.get(actor.pid.remote())
    af.kill(actor, no_restart=False)
    second = af.get(actor.pid.remote(), timeout=DEADLINE_S)
    assert second != first
    af.kill(actor)
    with pytest.raises(af.ActorDiedError, match=f"killed on request.*pid {second}"):
        af.get(actor.pid.remote(), timeout=DEADLINE_S)
    assert len(list(notes.iterdir())) == 2


def test_kill_that_allows_a_restart_where_none_is_left() -> None:
    actor = Mortal.remote()
    af.get(actor.pid.remote())
    af.kill(actor, no_restart=False)
    with pytest.raises(af.ActorDiedError, match="killed on request"):
        af.get(actor.pid.remote(), timeout=DEADLINE_S)


def test_a_restart_keeps_name_and_handles(notes: Path) -> None:
    actor = Mortal.options(max_restarts=1, name="phoenix").remote()
    with pytest.raises(af.ActorUnavailableError):
        af.get(actor.die.remote(), timeout=DEADLINE_S)
    assert af.get(af.get_actor("phoenix").add.remote(), timeout=DEADLINE_S) == 1


def test_an_actor_that_nobody_wants_any_more_does_not_come_back(notes: Path) -> None:
    actor = Mortal.options(max_restarts=-1).remote(0, notes)
    dying = actor.die.remote()
    del actor
    with pytest.raises(af.ActorError):
        af.get(dying, timeout=DEADLINE_S)
