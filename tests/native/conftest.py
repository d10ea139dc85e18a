"""The C core as a module, compiled once a session."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from .core_build import build
from .core_model import Segment


@pytest.fixture(scope="session")
def core(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return build(tmp_path_factory.mktemp("core"))


@pytest.fixture
def run_machine(core: ModuleType) -> Callable[[Any], None]:
    """Runs a state machine class whose instances make their own Segment from `core`."""
    from hypothesis.stateful import run_state_machine_as_test

    def run(machine: Any) -> None:
        factory: Any = lambda: machine(Segment(core))  # noqa: E731 - a factory may stand for the class
        run_state_machine_as_test(factory)

    return run
