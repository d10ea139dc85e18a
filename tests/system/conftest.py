"""A runtime for the tests of one module, and a check that each test leaves its node as it found it.

tests/conftest.py looks at this process and what is below it; here it is the node's memory and actors, and the tasks
of event loops. A test that fails is not looked at, and makes no other fail: what its frames hold is let go of, and the
next one is measured by what it finds.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import traceback
from collections.abc import Callable, Generator, Iterator
from typing import Any

import psutil
import pytest
import uvloop

import actorflow as af
from actorflow import _hot
from actorflow.client import runtime as runtimes
from actorflow.client import waiting
from actorflow.shm.store import Store
from tests.conftest import facts, wait_until

# A forked child that was killed before its first instruction keeps its holds for 30 s.
CLEAN_DEADLINE_S = 45.0
STORE_BYTES = 256 * 1024 * 1024
HAS_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Notes which tests have failed, for the fixtures that they used."""
    report = yield
    item.stash[HAS_FAILED] = report.failed
    if report.failed:
        let_go_of_failure()
    return report


def let_go_of_failure() -> None:
    """Frees what the frames of a failed test hold: pytest keeps them for a debugger until the next one runs."""
    error = sys.__dict__.pop("last_value", None)
    for name in ("last_type", "last_traceback", "last_exc"):
        sys.__dict__.pop(name, None)
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()


@pytest.fixture(scope="session", autouse=True)
def loop_of_uvloop() -> None:
    """libuv opens a pipe for signals with the first loop that runs, and keeps it for the life of the process."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.sleep(0))


@pytest.fixture(scope="module")
def runtime() -> Iterator[af.Runtime]:
    """A private node with four CPUs and two GPUs, for a module's tests; its books are checked at the end."""
    with af.init(num_cpus=4, num_gpus=2, object_store_memory=STORE_BYTES) as started:
        yield started
        gc.collect()
        audit = Store(_hot.client_address()).audit()
        assert audit.clean, audit


def node_state() -> dict[str, Any]:
    """What the node says of its jobs, workers and actors."""
    current = runtimes.current()
    assert current is not None
    state: dict[str, Any] = current.ask("state")[0]
    return state


def living_actors() -> set[str]:
    """The actors of the node, by their ids."""
    return {actor["id"] for actor in node_state()["actors"]}


def stored_bytes() -> int:
    """What lies in the object store of the node."""
    return Store(_hot.client_address()).segment().object_bytes_used


def unfinished_tasks() -> list[asyncio.Task[Any]]:
    """Tasks of any loop of this process that have not ended, but for those that run just now."""
    # By type(): isinstance also asks the objects themselves, and those of some libraries warn when they are asked.
    tasks = [item for item in gc.get_objects() if issubclass(type(item), asyncio.Task)]
    return [task for task in tasks if not task.done() and not task.get_loop().is_closed()]


def own_facts() -> dict[str, set[str]]:
    """What tests/conftest.py compares, without the processes of the node, which keeps idle workers ready."""
    found = facts()
    current = runtimes.current()
    if current is not None and current._connection is not None:
        node = psutil.Process(current._connection.node_pid)
        of_node = {process.pid for process in [node, *node.children(recursive=True)]}
        found["processes"] = {text for text in found["processes"] if int(text.split()[0]) not in of_node}
    return found


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Instead of the check for all tests, one that lets the node of a module's runtime have its workers."""
    gc.collect()
    before = own_facts()

    def left() -> dict[str, set[str]]:
        try:
            now = own_facts()
        except psutil.NoSuchProcess:
            return {"processes": {"one that is ending"}}
        return {kind: rest for kind in now if (rest := now[kind] - before[kind])}

    yield
    if request.node.stash.get(HAS_FAILED, False):
        return
    gc.collect()
    try:
        wait_until(lambda: not left(), CLEAN_DEADLINE_S, "clean after the test")
    except TimeoutError:
        pytest.fail(f"left behind: {left()}", pytrace=False)


@pytest.fixture(autouse=True)
def clean_node(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves objects, actors, waits or asyncio tasks behind."""
    known = set(map(id, unfinished_tasks()))
    if "runtime" not in request.fixturenames:
        yield
        return
    before, actors = stored_bytes(), living_actors()
    yield
    if request.node.stash.get(HAS_FAILED, False):
        return
    gc.collect()
    checks: dict[str, Callable[[], bool]] = {
        "the store holds no more than before": lambda: stored_bytes() <= before,
        "no actor lives": lambda: living_actors() <= actors,
        "nothing is waited for in a loop": lambda: not any(port._waiting for port in waiting._ports.values()),
        "no asyncio task is left": lambda: not [task for task in unfinished_tasks() if id(task) not in known],
    }
    for what, holds in checks.items():
        try:
            wait_until(holds, CLEAN_DEADLINE_S, what)
        except TimeoutError as error:
            pytest.fail(f"after the test: {error}; {node_state()}", pytrace=False)
