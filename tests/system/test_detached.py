"""What is detached outlives its driver, on a node that `actorflow start` has started, until that is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import wait_until

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0
NAMESPACE = "import json, os, signal\nimport actorflow as af\naf.init(namespace='shared')\n"


def command(*words: str) -> Any:
    """What `actorflow WORDS --json` says."""
    ended = subprocess.run(
        [sys.executable, "-m", "actorflow.cli", *words, "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    return json.loads(ended.stdout)


@pytest.fixture
def address() -> Iterator[str]:
    """A node started, and stopped, by the command line: no process of it is left."""
    started = command("start", "--num-cpus", "3")
    node = psutil.Process(started["pid"])
    processes: list[psutil.Process] = []
    try:
        yield started["address"]
    finally:
        if node.is_running():
            processes = [node, *node.children(recursive=True)]
            command("stop", started["address"])
    assert len(processes) > 1
    wait_until(lambda: not any(alive(process) for process in processes), DEADLINE_S, "all have ended")


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def driver(address: str, script: str) -> tuple[int, Any]:
    """Exit code of a driver in the namespace "shared", and what it printed, as JSON."""
    ended = subprocess.run(
        [sys.executable, "-c", NAMESPACE + script],
        env={**os.environ, "PYTHONPATH": str(ROOT), "ACTORFLOW_ADDRESS": address},
        stdout=subprocess.PIPE,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return ended.returncode, json.loads(ended.stdout)


MAKER = """
from actorflow.util import placement_group
from actorflow.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from tests.system.bodies import Counter

kept = placement_group([{"CPU": 1}, {"CPU": 1}], name="kept", lifetime="detached")
lost = placement_group([{"CPU": 1}], name="lost")
assert kept.wait(30) and lost.wait(30)

def counter(name, lifetime, group):
    options = {"name": name, "lifetime": lifetime, "num_cpus": 1}
    strategy = PlacementGroupSchedulingStrategy(group)
    return Counter.options(scheduling_strategy=strategy, **options).remote(10)

inside, beside = counter("inside", "detached", kept), counter("beside", None, lost)
outside = Counter.options(name="outside", lifetime="detached", num_cpus=0).remote(20)
print(json.dumps(af.get([one.add.remote() for one in (inside, beside, outside)])), flush=True)
"""

USER = """
import pytest
from actorflow.util import get_placement_group, placement_group_table, remove_placement_group
from actorflow.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from tests.conftest import wait_until
from tests.system.bodies import echo

inside, outside, kept = af.get_actor("inside"), af.get_actor("outside"), get_placement_group("kept")
assert af.get([inside.add.remote(), outside.add.remote()]) == [12, 22]
in_group = PlacementGroupSchedulingStrategy(kept)
assert af.get(echo.options(scheduling_strategy=in_group).remote(5)) == 5
wait_until(lambda: af.available_resources()["CPU"] == 1, 30, "what the other driver had is back")
wait_until(lambda: af.util.list_named_actors() == ["inside", "outside"], 30, "its own actor has ended")
with pytest.raises(ValueError, match="lost"):
    get_placement_group("lost")
remove_placement_group(kept)
with pytest.raises(af.ActorDiedError, match="placement group was removed"):
    af.get(inside.add.remote())
assert af.get(outside.add.remote()) == 23
wait_until(lambda: af.available_resources()["CPU"] == 3, 30, "the group's resources are back")
print(json.dumps("well"))
"""


@pytest.mark.parametrize("ending", ["", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_groups_and_actors_that_are_detached_outlive_their_driver(address: str, ending: str) -> None:
    assert driver(address, MAKER + ending) == (-signal.SIGKILL if ending else 0, [11, 11, 21])
    assert driver(address, USER) == (0, "well")
