"""A runtime_env as a whole: checked, merged, looked for, applied. What its keys mean is in keys.py.

Travels as its JSON text, the same for equal environments, which is how queues and workers are told apart; "" is the
environment of the driver as it is.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from typing import Any

from actorflow.advice import nearest
from actorflow.errors import RuntimeEnvSetupError
from actorflow.runtime_env.keys import KEYS, LATER

_applied = ""


class RuntimeEnv(dict[str, Any]):
    """A dict of the environment's keys, checked when it is made: env_vars, working_dir, py_modules.

    `env_vars`: texts by name; `${NAME}` stands for the value in the worker before. Libraries that the driver had
    imported when it started the node may have read theirs already. `working_dir`: a directory; workers run there and
    import from it first. `py_modules`: directories of packages and .py files. Paths are of this machine and are used
    where they are. Raises TypeError and ValueError for what cannot be, NotImplementedError for pip, conda and others.
    """

    def __init__(self, **keys: Any) -> None:
        super().__init__(_checked(keys))


@functools.lru_cache(maxsize=256)
def normal(text: str) -> str:
    """The normal form of an environment as JSON. Raises as `RuntimeEnv` does, naming the key."""
    return _text(_checked(json.loads(text))) if text else ""


def merged(outer: str, own: str) -> str:
    """What holds for a call with `own` that is made where `outer` holds: variables add up, other keys are replaced."""
    if not own or not outer:
        return own or outer
    found: dict[str, Any] = json.loads(outer)
    for name, value in json.loads(own).items():
        found[name] = KEYS[name].merged(found[name], value) if name in found else value
    return _text(found)


def missing(text: str) -> str:
    """What of the environment is not there on this machine, or ""."""
    for name, value in json.loads(text).items() if text else ():
        if what := KEYS[name].missing(value):
            return f"{name}: {what}"
    return ""


def require(text: str) -> None:
    """RuntimeEnvSetupError unless all of the environment is there."""
    if what := missing(text):
        raise RuntimeEnvSetupError(runtime_env=shown(text), reason=what)


def apply(text: str) -> None:
    """Has this process have the environment, for life. RuntimeEnvSetupError where that is not possible."""
    global _applied
    _applied = text
    if not text:
        return
    require(text)
    values = json.loads(text)
    try:
        for name, key in KEYS.items():
            if name in values:
                key.apply(values[name])
    except OSError as error:
        raise RuntimeEnvSetupError(runtime_env=shown(text), reason=f"{name}: {error}") from error


def shown(text: str) -> str:
    """The environment as errors show it: of variables the names alone, as values may be secrets."""
    values = json.loads(text) if text else {}
    if "env_vars" in values:
        values["env_vars"] = list(values["env_vars"])
    return json.dumps(values)


def description() -> str:
    """The environment of this process in words, for errors about modules that it does not have."""
    what = f"runtime_env {shown(_applied)}" if _applied else "its driver's import path"
    return f"process {os.getpid()} has {what}, Python {sys.executable}, and runs in {_directory()}"


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "a directory that is gone"


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in given.items():
        if name in LATER:
            raise NotImplementedError(f"runtime_env {name!r} is not there yet: {LATER[name]}")
        if name not in KEYS:
            raise ValueError(_unknown(name))
        try:
            found[name] = KEYS[name].checked(value)
        except (TypeError, ValueError, NotImplementedError) as problem:
            raise type(problem)(f"runtime_env {name!r} {problem}") from None
    return found


def _unknown(name: str) -> str:
    near = nearest(name, [*KEYS, *LATER])
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"there is no runtime_env key {name!r}; {hint}Allowed are {', '.join(KEYS)}"


def _text(values: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in values.items() if value}, sort_keys=True)
