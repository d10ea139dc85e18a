"""The keys of a runtime_env: what each may be, how it is merged, whether it can be had, and how a worker applies it.

A further key is a further class in `KEYS`. Paths are used where they are: nothing is copied, so a change of a file is
seen by workers that start later.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_REMOTE = re.compile(r"\w[\w+.-]+://")
_ARCHIVES = (".zip", ".whl", ".jar", ".tar.gz", ".tgz")


class Key(Protocol):
    """One key. A value is plain data, as in JSON."""

    def checked(self, value: Any) -> Any:
        """Its normal form. TypeError, ValueError (their text follows the key's name), NotImplementedError."""

    def merged(self, outer: Any, own: Any) -> Any:
        """What holds for a call with `own` in a job or worker with `outer`."""

    def missing(self, value: Any) -> str:
        """What of it is not there, or ""."""

    def apply(self, value: Any) -> None:
        """Has this process have it. Once in its life, before any code of users."""


class EnvironmentVariables:
    """env_vars: texts by name; `${NAME}` in one stands for what NAME is in the worker before."""

    def checked(self, value: Any) -> dict[str, str]:
        if not isinstance(value, dict):
            raise TypeError(f"must be a dict of texts by name, not {value!r} ({type(value).__name__})")
        for name, text in value.items():
            if not isinstance(text, str):
                raise TypeError(f"[{name!r}] must be a text, not {text!r} ({type(text).__name__})")
            if not name or "=" in name or "\0" in name + text:
                raise ValueError(
                    f"[{name!r}] cannot be a variable: no name is empty or has '=', nothing has NUL"
                )
        return value

    def merged(self, outer: dict[str, str], own: dict[str, str]) -> dict[str, str]:
        return {**outer, **own}

    def missing(self, value: dict[str, str]) -> str:
        return ""

    def apply(self, value: dict[str, str]) -> None:
        before = dict(os.environ)
        for name, text in value.items():
            os.environ[name] = _VARIABLE.sub(lambda match: before.get(match[1], ""), text)
        added = os.environ.get("PYTHONPATH", "") if "PYTHONPATH" in value else ""
        sys.path[0:0] = [path for path in added.split(os.pathsep) if path]


class WorkingDirectory:
    """working_dir: a directory of this machine; workers run in it and import from it first."""

    def checked(self, value: Any) -> str:
        return _local_path(value, "a directory")

    def merged(self, outer: str, own: str) -> str:
        return own

    def missing(self, value: str) -> str:
        return "" if os.path.isdir(value) else f"there is no directory {value!r}"

    def apply(self, value: str) -> None:
        os.chdir(value)
        sys.path.insert(0, value)


class Modules:
    """py_modules: packages (directories) and modules (.py files) of this machine, imported by their own names."""

    def checked(self, value: Any) -> list[str]:
        if not isinstance(value, list | tuple):
            raise TypeError(f"must be a list of paths, not {value!r} ({type(value).__name__})")
        paths = [_local_path(item, "a package's directory or a .py file") for item in value]
        names = [_module_name(path) for path in paths]
        for name in names:
            if not name.isidentifier():
                raise ValueError(f"has {name!r}, which is no name of a module")
            if names.count(name) > 1:
                raise ValueError(f"has two modules {name!r}")
        return paths

    def merged(self, outer: list[str], own: list[str]) -> list[str]:
        return own

    def missing(self, value: list[str]) -> str:
        gone = [path for path in value if not os.path.isdir(path) and not _is_module_file(path)]
        return f"there is no package or .py file {gone[0]!r}" if gone else ""

    def apply(self, value: list[str]) -> None:
        sys.meta_path.insert(0, ModuleFinder({_module_name(path): path for path in value}))


class ModuleFinder:
    """Finds top modules by name where they lie, and nothing beside them."""

    def __init__(self, paths: dict[str, str]) -> None:
        self._paths = paths

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The import system's question."""
        place = self._paths.get(name)
        if place is None:
            return None
        if not os.path.isdir(place):
            return importlib.util.spec_from_file_location(name, place)
        start = os.path.join(place, "__init__.py")
        if os.path.exists(start):
            return importlib.util.spec_from_file_location(name, start, submodule_search_locations=[place])
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [place]
        return spec


def _local_path(value: Any, what: str) -> str:
    """An absolute path. It need not exist yet."""
    if not isinstance(value, str):
        raise TypeError(f"must be the path of {what}, not {value!r} ({type(value).__name__})")
    if not value or "\0" in value:
        raise ValueError(f"must be the path of {what}, not {value!r}")
    if _REMOTE.match(value) or value.endswith(_ARCHIVES):
        raise NotImplementedError(
            f"is not there yet for archives and addresses such as {value!r}: give a local path"
        )
    return os.path.abspath(os.path.expanduser(value))


def _module_name(path: str) -> str:
    return os.path.basename(path).removesuffix(".py")


def _is_module_file(path: str) -> bool:
    return path.endswith(".py") and os.path.isfile(path)


KEYS: dict[str, Key] = {  # in the order in which they are applied
    "env_vars": EnvironmentVariables(),
    "py_modules": Modules(),
    "working_dir": WorkingDirectory(),
}

# Keys of Ray's that are not there yet, and what does the same until then.
LATER: dict[str, str] = {
    "pip": "install the packages where the node's Python finds them",
    "uv": "install the packages where the node's Python finds them",
    "conda": "start the node from that environment",
    "container": "start the node in that container",
    "image_uri": "start the node in that container",
    "py_executable": "start the node with that Python",
    "excludes": "nothing is copied from working_dir, so nothing has to be left out",
    "worker_process_setup_hook": "call the function at the beginning of tasks and constructors",
    "nsight": "start the profiler in the task",
    "config": "there is nothing to configure",
}
