"""Ray Core's ideas about failures: what is tried again, what is reported, and how to tell which."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import actorflow as ray

pytestmark = pytest.mark.usefixtures("runtime")


class Unstable(Exception):
    """What the tasks here raise."""


def count_in(folder: Path) -> int:
    """How often this was called with the folder, this call included: files outlive workers."""
    number = len(list(folder.iterdir())) + 1
    (folder / str(number)).touch()
    return number


def test_a_crashed_task_runs_again(tmp_path: Path) -> None:
    @ray.remote(max_retries=2)
    def unlucky() -> int:
        attempt = count_in(tmp_path)
        if attempt < 3:
            os._exit(1)
        return attempt

    assert ray.get(unlucky.remote()) == 3


def test_without_retries_the_crash_is_reported() -> None:
    @ray.remote(max_retries=0)
    def crash() -> None:
        os._exit(9)

    with pytest.raises(ray.exceptions.WorkerCrashedError, match="exit code 9"):
        ray.get(crash.remote())


def test_exceptions_are_retried_only_where_that_was_said(tmp_path: Path) -> None:
    @ray.remote(max_retries=5)
    def fail(folder: Path, tries: int) -> int:
        attempt = count_in(folder)
        if attempt < tries:
            raise Unstable(f"attempt {attempt}")
        return attempt

    once, often = tmp_path / "once", tmp_path / "often"
    once.mkdir()
    often.mkdir()
    with pytest.raises(Unstable, match="attempt 1"):
        ray.get(fail.remote(once, 3))
    assert ray.get(fail.options(retry_exceptions=[Unstable]).remote(often, 3)) == 3


def test_an_error_is_of_its_own_type_and_a_task_error() -> None:
    @ray.remote
    def fail() -> None:
        raise Unstable("as told")

    with pytest.raises(Unstable) as caught:
        ray.get(fail.remote())
    assert isinstance(caught.value, ray.exceptions.RayTaskError)
    assert isinstance(caught.value.cause, Unstable)
    assert "fail" in caught.value.task_name


def test_an_error_passes_through_the_tasks_that_depend_on_it() -> None:
    @ray.remote
    def fail() -> None:
        raise Unstable("at the root")

    @ray.remote
    def use(_: Any) -> None:
        raise AssertionError("never runs")

    with pytest.raises(Unstable, match="at the root"):
        ray.get(use.remote(use.remote(fail.remote())))


def test_a_dead_actor_says_how_it_died() -> None:
    @ray.remote
    class Fragile:
        def crash(self) -> None:
            os._exit(4)

        def ping(self) -> str:
            return "here"

    fragile = Fragile.remote()
    with pytest.raises(ray.exceptions.RayActorError, match="exit code 4"):
        ray.get(fragile.crash.remote())
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(fragile.ping.remote())


def test_a_constructor_that_raises_is_the_cause() -> None:
    @ray.remote
    class Broken:
        def __init__(self) -> None:
            raise Unstable("no database")

        def ping(self) -> None:
            raise AssertionError("never runs")

    with pytest.raises(ray.exceptions.ActorDiedError, match="no database"):
        ray.get(Broken.remote().ping.remote())


def test_a_killed_actor_is_dead() -> None:
    @ray.remote
    class Idle:
        def ping(self) -> str:
            return "here"

    idle = Idle.remote()
    assert ray.get(idle.ping.remote()) == "here"
    ray.kill(idle)
    with pytest.raises(ray.exceptions.RayActorError, match="killed"):
        ray.get(idle.ping.remote())


def test_a_value_is_there_whatever_became_of_the_process_that_put_it() -> None:
    @ray.remote
    class Maker:
        def make(self) -> list[Any]:
            return [ray.put("made by a process that has ended")]

    maker = Maker.remote()
    (inner,) = ray.get(maker.make.remote())
    ray.kill(maker)
    assert ray.get(inner) == "made by a process that has ended"


def test_an_actor_is_restarted_and_its_constructor_runs_again() -> None:
    @ray.remote(max_restarts=1, max_task_retries=-1)
    class Phoenix:
        def __init__(self) -> None:
            self.calls = 0

        def count(self) -> int:
            self.calls += 1
            return self.calls

        def pid(self) -> int:
            return os.getpid()

    phoenix = Phoenix.remote()
    assert ray.get([phoenix.count.remote() for _ in range(3)]) == [1, 2, 3]
    os.kill(ray.get(phoenix.pid.remote()), signal.SIGKILL)
    assert ray.get(phoenix.count.remote()) == 1


def test_a_call_that_may_not_run_twice_tells_that_the_actor_restarts() -> None:
    @ray.remote(max_restarts=-1)
    class Careful:
        def crash(self) -> None:
            os._exit(3)

        def ping(self) -> str:
            return "back"

    careful = Careful.remote()
    with pytest.raises(ray.exceptions.ActorUnavailableError):
        ray.get(careful.crash.remote())
    assert ray.get(careful.ping.remote()) == "back"


def test_an_actor_reads_its_checkpoint_when_it_was_restarted(tmp_path: Path) -> None:
    @ray.remote(max_restarts=-1, max_task_retries=-1)
    class Ledger:
        def __init__(self, file: Path) -> None:
            self.file = file
            restarted = ray.get_runtime_context().was_current_actor_reconstructed
            self.total = int(file.read_text()) if restarted and file.exists() else 0

        def add(self, amount: int) -> int:
            self.total += amount
            self.file.write_text(str(self.total))
            return self.total

        def pid(self) -> int:
            return os.getpid()

    ledger = Ledger.remote(tmp_path / "ledger")
    assert ray.get([ledger.add.remote(amount) for amount in (1, 2, 3)]) == [1, 3, 6]
    os.kill(ray.get(ledger.pid.remote()), signal.SIGKILL)
    assert ray.get(ledger.add.remote(4)) == 10


def test_a_restarted_actor_counts_from_the_start_until_its_restarts_are_used_up() -> None:
    @ray.remote(max_restarts=2, max_task_retries=-1)
    class Mortal:
        def __init__(self) -> None:
            self.calls = 0

        def count(self) -> int:
            if self.calls == 5:
                os._exit(0)
            self.calls += 1
            return self.calls

    mortal = Mortal.remote()
    assert [ray.get(mortal.count.remote()) for _ in range(15)] == [1, 2, 3, 4, 5] * 3
    for _ in range(2):
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(mortal.count.remote())


def test_a_new_actor_takes_over_the_state_of_one_that_died() -> None:
    @ray.remote
    class Worker:
        def __init__(self) -> None:
            self.state = {"done": 0}

        def execute(self, crash: bool) -> None:
            if crash:
                sys.exit(1)
            self.state["done"] += 1

        def checkpoint(self) -> dict[str, int]:
            return self.state

        def restore(self, state: dict[str, int]) -> None:
            self.state = state

    worker = Worker.remote()
    kept = ray.get(worker.checkpoint.remote())
    for crash in (True, False, True, False):
        try:
            ray.get(worker.execute.remote(crash))
            kept = ray.get(worker.checkpoint.remote())
        except ray.exceptions.RayActorError:
            worker = Worker.remote()
            ray.get(worker.restore.remote(kept))
    assert kept == {"done": 2}


def test_an_actor_that_writes_checkpoints_survives_its_own_exits(tmp_path: Path) -> None:
    @ray.remote(max_restarts=-1, max_task_retries=-1)
    class Immortal:
        def __init__(self, file: Path) -> None:
            self.file = file
            self.state = json.loads(file.read_text()) if file.exists() else {}

        def update(self, key: str, value: int) -> None:
            if count_in(self.file.parent / "attempts") % 2:
                sys.exit(1)
            self.state[key] = value
            self.file.write_text(json.dumps(self.state))

        def get(self, key: str) -> int:
            return int(self.state[key])

    (tmp_path / "attempts").mkdir()
    actor = Immortal.remote(tmp_path / "checkpoint.json")
    actor.update.remote("first", 1)
    actor.update.remote("second", 2)
    assert ray.get([actor.get.remote("first"), actor.get.remote("second")]) == [1, 2]


def test_what_a_process_made_outlives_it() -> None:
    """Better: no owner has to live, of results, of put values or of actors that somebody has a handle of."""

    @ray.remote
    class Child:
        def ping(self) -> str:
            return "here"

    @ray.remote
    def answer() -> int:
        return 42

    @ray.remote
    class Parent:
        def make(self) -> Any:
            named = Child.options(name="left behind", lifetime="detached").remote()
            return Child.remote(), named, [answer.remote()], os.getpid()

    parent = Parent.remote()
    child, detached, (result,), pid = ray.get(parent.make.remote())
    os.kill(pid, signal.SIGKILL)
    assert ray.get([child.ping.remote(), detached.ping.remote()]) == ["here", "here"]
    assert ray.get(result) == 42
    ray.kill(detached)


def test_methods_are_tried_again_on_exceptions(tmp_path: Path) -> None:
    @ray.remote(max_task_retries=5)
    class Flaky:
        @ray.method(retry_exceptions=[Unstable])
        def work(self, folder: Path) -> int:
            attempt = count_in(folder)
            if attempt < 3:
                raise Unstable(f"attempt {attempt}")
            return attempt

        def give_up(self, folder: Path) -> None:
            raise Unstable(f"attempt {count_in(folder)}")

    flaky = Flaky.remote()
    assert ray.get(flaky.work.remote(tmp_path)) == 3
    with pytest.raises(Unstable, match="attempt 4"):
        ray.get(flaky.give_up.remote(tmp_path))
    with pytest.raises(Unstable, match="attempt 10"):
        ray.get(flaky.give_up.options(retry_exceptions=True).remote(tmp_path))


class Final(Exception):
    """Nothing can be derived from it."""

    def __init_subclass__(cls, /, *args: Any, **kwargs: Any) -> None:
        raise TypeError("cannot be derived from")


def test_an_exception_that_cannot_be_derived_from_is_the_cause() -> None:
    @ray.remote
    def fail() -> None:
        raise Final("at the end")

    with pytest.raises(ray.exceptions.RayTaskError, match="at the end") as caught:
        ray.get(fail.remote())
    assert isinstance(caught.value.cause, Final)
