"""What every test shares: Hypothesis without deadlines, waiting for a condition, and what a process holds.

A system test must leave the test process as it found it; tests/system/conftest.py compares `facts()` for that.
"""

from __future__ import annotations

import gc
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import hypothesis
import psutil
import pytest

LOOK_S = 0.02
SEEDS = "0:100"
PROGRAMS = "0:4"

# The machine may be busy: how long an example takes says nothing about it.
hypothesis.settings.register_profile("actorflow", deadline=None, print_blob=True)
hypothesis.settings.load_profile("actorflow")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--seeds`, `--programs`: which of the simulations, and of the random programs, run."""
    for option, default, what in (("--seeds", SEEDS, "simulations"), ("--programs", PROGRAMS, "programs")):
        parser.addoption(option, default=default, metavar="FIRST:END", help=f"{what} to run ({default})")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for a `simulated_seed` or a `program_seed` runs once for each."""
    for fixture, option in (("simulated_seed", "--seeds"), ("program_seed", "--programs")):
        if fixture in metafunc.fixturenames:
            first, end = metafunc.config.getoption(option).split(":")
            metafunc.parametrize(fixture, range(int(first), int(end)))


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> None:
    """What lives before a module's tests is left out of their many collections: half a second each at the end."""
    gc.collect()
    gc.freeze()


def wait_until(condition: Callable[[], bool], deadline_s: float, what: str) -> None:
    """Returns once `condition()` holds; TimeoutError naming `what` after `deadline_s` seconds."""
    end = time.monotonic() + deadline_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline_s:g} s: {what}")
        pause.wait(LOOK_S)


def descendants() -> set[psutil.Process]:
    """Processes below this one that have not ended; those of this Python's own multiprocessing excepted."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if "multiprocessing.resource_tracker" not in command:
            found.add(process)
    return found


def title(process: psutil.Process) -> str:
    """Its pid and name; "" of one that has ended meanwhile."""
    try:
        return f"{process.pid} {process.name()}"
    except psutil.NoSuchProcess:
        return ""


def open_files() -> set[str]:
    """What the file descriptors of this process refer to, each with its number."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:
            continue  # the one that listed the folder
    return found


def segments() -> set[str]:
    """Memory of deleted or nameless files that this process maps."""
    mapped = Path("/proc/self/maps").read_text()
    return set(re.findall(r"/(?:memfd:|dev/shm/)\S+.*", mapped))


def facts() -> dict[str, set[str]]:
    """What a test may not leave behind, by kind."""
    return {
        "processes": set(filter(None, map(title, descendants()))),
        "files": open_files(),
        "segments": segments(),
        "threads": {thread.name for thread in threading.enumerate()},
    }
