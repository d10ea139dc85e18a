"""Environments of calls: who runs where, what children inherit, and what is said when something is not there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import actorflow as af


@af.remote
def look(*names: str) -> tuple[int, str, list[str | None]]:
    return os.getpid(), os.getcwd(), [os.environ.get(name) for name in names]


@af.remote
def value_of(module: str) -> Any:
    return __import__(module, fromlist=["VALUE"]).VALUE


@af.remote
def wait_for(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.01)


@af.remote
class Child:
    def look(self, *names: str) -> tuple[int, str, list[str | None]]:
        return os.getpid(), os.getcwd(), [os.environ.get(name) for name in names]

    def have_looked(self, *names: str) -> list[str | None]:
        own = look.options(runtime_env={"env_vars": {"B": "of the child"}})
        seen: list[str | None] = af.get(look.remote(*names))[2] + af.get(own.remote(*names))[2]
        return seen


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A working directory with a module, a package and a module beside it."""
    for path, value in {
        "work/only_there.py": 1,
        "pack/__init__.py": 2,
        "pack/inner.py": 3,
        "beside.py": 4,
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(f"VALUE = {value}\n")
    return tmp_path


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with af.init(num_cpus=2, runtime_env={"env_vars": {"A": "of the job", "B": "of the job"}}):
        yield


def test_the_jobs_environment_and_a_calls_own(session: None, files: Path) -> None:
    own = look.options(runtime_env={"env_vars": {"B": "own"}, "working_dir": str(files / "work")})
    pids: list[set[int]] = [set(), set()]
    for _ in range(20):
        for which, function in enumerate((look, own)):
            pid, place, values = af.get(function.remote("A", "B"))
            pids[which].add(pid)
            assert values == ["of the job", "own" if which else "of the job"]
            assert (place == str(files / "work")) is bool(which)
    assert not pids[0] & pids[1], "a worker served two environments"
    assert look.local("A")[2] == [None]


def test_what_an_actor_starts_inherits_its_environment(session: None) -> None:
    child = Child.options(runtime_env={"env_vars": {"B": "of the actor", "C": "1"}}).remote()
    assert af.get(child.look.remote("A", "B", "C"))[2] == ["of the job", "of the actor", "1"]
    looked = af.get(child.have_looked.remote("A", "B", "C"))
    assert looked == ["of the job", "of the actor", "1", "of the job", "of the child", "1"]


def test_modules_of_the_working_directory_and_of_their_own(session: None, files: Path) -> None:
    inside = value_of.options(runtime_env={"working_dir": str(files / "work")})
    assert af.get(inside.remote("only_there")) == 1
    modules = value_of.options(runtime_env={"py_modules": [str(files / "pack"), str(files / "beside.py")]})
    assert af.get([modules.remote(name) for name in ("pack", "pack.inner", "beside")]) == [2, 3, 4]


def test_a_module_that_is_missing_names_the_environment(session: None, files: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'only_there'") as raised:
        af.get(value_of.remote("only_there"))
    assert 'has runtime_env {"env_vars": ["A", "B"]}' in str(raised.value)
    alone = value_of.options(runtime_env={"py_modules": [str(files / "pack")]})
    with pytest.raises(ModuleNotFoundError) as raised:
        af.get(alone.remote("beside"))
    assert str(files / "pack") in str(raised.value)


def test_a_function_whose_module_is_missing_names_the_environment(
    session: None, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "late_module.py").write_text("def work():\n    return 1\n")
    monkeypatch.syspath_prepend(str(files))
    import late_module  # type: ignore[import-not-found] # made by this test

    with pytest.raises(af.DeserializationError, match=r"No module named 'late_module' .*has runtime_env"):
        af.get(af.remote(late_module.work).remote())


def test_a_directory_that_is_missing_is_an_error_of_the_call(session: None, files: Path) -> None:
    gone = {"working_dir": str(files / "gone")}
    with pytest.raises(af.RuntimeEnvSetupError, match="working_dir: there is no directory"):
        look.options(runtime_env=gone).remote()
    with pytest.raises(af.RuntimeEnvSetupError, match="working_dir: there is no directory"):
        Child.options(runtime_env=gone).remote()


def test_a_directory_that_goes_between_call_and_start(session: None, files: Path) -> None:
    holding = wait_for.options(num_cpus=2).remote(str(files / "gate"))
    environment = {"working_dir": str(files / "work")}
    task = look.options(runtime_env=environment).remote()
    actor = Child.options(runtime_env=environment).remote()
    call = actor.look.remote()
    (files / "work").rename(files / "gate")
    af.get(holding)
    with pytest.raises(af.RuntimeEnvSetupError, match="working_dir: there is no directory"):
        af.get(task)
    with pytest.raises(af.ActorDiedError, match="working_dir: there is no directory"):
        af.get(call)
    assert af.get(look.remote())


def test_init_refuses_what_is_missing(files: Path) -> None:
    af.shutdown()
    with pytest.raises(ValueError, match=r"af\.init option runtime_env: working_dir: there is no directory"):
        af.init(runtime_env={"working_dir": str(files / "gone")})
    with pytest.raises(NotImplementedError, match="runtime_env 'pip' is not there yet"):
        af.init(runtime_env={"pip": ["numpy"]})
    assert not af.is_initialized()
