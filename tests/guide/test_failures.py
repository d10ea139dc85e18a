"""Ray Core's ideas about failures: what is tried again, what is reported, and how to tell which."""

from __future__ import annotations

import os
import signal
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
