"""Runtime environments: what may be asked for, what holds where several meet, and what errors show of them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import actorflow as af
from actorflow.client import calls
from actorflow.options import TaskOptions
from actorflow.runtime_env import environment
from actorflow.runtime_env.keys import KEYS, LATER, ModuleFinder


def normal(**keys: Any) -> dict[str, Any]:
    """The normal form that a task with that environment has."""
    text = calls.environment_of(TaskOptions(runtime_env=keys))
    found: dict[str, Any] = json.loads(text) if text else {}
    return found


def test_paths_become_absolute_and_what_is_empty_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert normal(working_dir=".", py_modules=["./pack", Path("one.py")], env_vars={}) == {
        "working_dir": str(tmp_path),
        "py_modules": [str(tmp_path / "pack"), str(tmp_path / "one.py")],
    }
    assert normal() == {}
    assert af.RuntimeEnv(working_dir=".") == {"working_dir": str(tmp_path)}


@pytest.mark.parametrize(
    ("keys", "error", "text"),
    [
        ({"env_var": {}}, ValueError, "no runtime_env key 'env_var'; did you mean 'env_vars'"),
        ({"env_vars": ["A"]}, TypeError, "'env_vars' must be a dict of texts"),
        ({"env_vars": {"A": 1}}, TypeError, r"'env_vars' \['A'\] must be a text, not 1 \(int\)"),
        ({"env_vars": {"A=": "1"}}, ValueError, r"\['A='\] cannot be a variable"),
        ({"env_vars": {"A": "\0"}}, ValueError, r"\['A'\] cannot be a variable"),
        ({"working_dir": 3}, TypeError, "'working_dir' must be the path of a directory"),
        ({"working_dir": ""}, ValueError, "'working_dir' must be the path of a directory"),
        (
            {"working_dir": "s3://bucket/x"},
            NotImplementedError,
            "'working_dir' is not there yet for archives",
        ),
        ({"py_modules": "pack"}, TypeError, "'py_modules' must be a list of paths"),
        ({"py_modules": ["a-b"]}, ValueError, "'a-b', which is no name of a module"),
        ({"py_modules": ["x/pack", "y/pack"]}, ValueError, "two modules 'pack'"),
        ({"py_modules": ["one.whl"]}, NotImplementedError, "'py_modules' is not there yet for archives"),
        *(({name: "x"}, NotImplementedError, f"'{name}' is not there yet: ") for name in LATER),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(
    keys: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        normal(**keys)
    with pytest.raises(error, match=text):
        af.RuntimeEnv(**keys)


def test_variables_add_up_and_other_keys_are_replaced() -> None:
    outer = json.dumps({"env_vars": {"A": "1", "B": "1"}, "working_dir": "/one"})
    own = json.dumps({"env_vars": {"B": "2"}, "working_dir": "/two", "py_modules": ["/pack"]})
    assert json.loads(environment.merged(outer, own)) == {
        "env_vars": {"A": "1", "B": "2"},
        "working_dir": "/two",
        "py_modules": ["/pack"],
    }
    assert environment.merged(outer, "") == outer
    assert environment.merged("", own) == own
    assert environment.merged(outer, '{"working_dir": "/x"}') == environment.merged(
        environment.merged(outer, '{"working_dir": "/y"}'), '{"working_dir": "/x"}'
    )


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "one.py").touch()
    there = json.dumps(
        {"working_dir": str(tmp_path), "py_modules": [str(tmp_path), str(tmp_path / "one.py")]}
    )
    assert environment.missing(there) == ""
    assert environment.missing("") == ""
    for keys in ({"working_dir": str(tmp_path / "one.py")}, {"py_modules": [str(tmp_path / "two.py")]}):
        (name,) = keys
        with pytest.raises(af.RuntimeEnvSetupError, match=f"{name}: there is no "):
            environment.require(json.dumps(keys))


def test_errors_show_no_values_of_variables(tmp_path: Path) -> None:
    text = json.dumps({"env_vars": {"TOKEN": "secret"}, "working_dir": str(tmp_path / "gone")})
    with pytest.raises(af.RuntimeEnvSetupError) as raised:
        environment.require(text)
    assert "TOKEN" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "its driver's import path" in environment.description()


def test_modules_are_found_by_their_own_names_alone(tmp_path: Path) -> None:
    for path in ("pack/__init__.py", "pack/inner.py", "spaces/part.py", "one.py", "beside.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("VALUE = 1\n")
    finder = ModuleFinder(
        {
            name: str(tmp_path / path)
            for name, path in {"pack": "pack", "spaces": "spaces", "one": "one.py"}.items()
        }
    )
    package, spaces, one = (finder.find_spec(name) for name in ("pack", "spaces", "one"))
    assert package is not None
    assert package.submodule_search_locations == [str(tmp_path / "pack")]
    assert spaces is not None
    assert spaces.submodule_search_locations == [str(tmp_path / "spaces")]
    assert one is not None
    assert one.origin == str(tmp_path / "one.py")
    assert finder.find_spec("beside") is None
    assert finder.find_spec("pack.inner") is None


def test_variables_may_name_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEFORE", "old")
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("AFTER", "PYTHONPATH"):
        monkeypatch.setenv(name, "")
    KEYS["env_vars"].apply(
        {"AFTER": "${BEFORE}:${NEVER_SET}new", "BEFORE": "x", "PYTHONPATH": "/first:/second"}
    )
    assert os.environ["AFTER"] == "old:new"
    assert sys.path[:2] == ["/first", "/second"]
