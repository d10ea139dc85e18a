"""Named and detached actors over several drivers of one node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import actorflow as af
from tests.conftest import wait_until
from tests.system import bodies

ROOT = Path(__file__).parents[2]
DEADLINE_S = 30.0


@pytest.fixture
def address() -> Iterator[str]:
    """A node that several drivers share."""
    with subprocess.Popen(
        [sys.executable, "-m", "actorflow.node", "--listen", "--num-cpus", "2"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as node:
        assert node.stdout is not None
        yield node.stdout.readline().strip()
        node.terminate()
        node.wait(DEADLINE_S)


def driver(address: str, script: str) -> subprocess.Popen[str]:
    """A driver that runs `script` on the node, in the namespace "shared"."""
    return subprocess.Popen(
        [sys.executable, "-c", f"import actorflow as af\naf.init(namespace='shared')\n{script}"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "ACTORFLOW_ADDRESS": address},
        stdout=subprocess.PIPE,
        text=True,
    )


def said_by(process: subprocess.Popen[str]) -> Any:
    """What a driver printed, as JSON, once it has ended well."""
    with process:
        said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    return json.loads(said)


RACE = """
import json

@af.remote(num_cpus=0)
class Counter:
    def __init__(self):
        self.count = 0
    def add(self):
        self.count += 1
        return self.count

counter = Counter.options(name="one", lifetime="detached", get_if_exists=True).remote()
print(json.dumps(af.get([counter.add.remote() for _ in range(10)])))
"""


def test_drivers_that_make_the_same_actor_at_once_get_one(address: str) -> None:
    processes = [driver(address, RACE) for _ in range(4)]
    counts = sorted(count for process in processes for count in said_by(process))
    assert counts == list(range(1, 41))


EXCLUSIVE = """
import json
from tests.system.bodies import Counter

try:
    actor = Counter.options(name="one", lifetime="detached").remote()
    said = "made"
except af.ActorAlreadyExistsError:
    said = "exists"
print(json.dumps(said))
"""


def test_a_name_is_taken_by_one_of_several_drivers(address: str) -> None:
    processes = [driver(address, EXCLUSIVE) for _ in range(3)]
    assert sorted(said_by(process) for process in processes) == ["exists", "exists", "made"]


MAKER = """
from tests.system.bodies import Starter
starter = Starter.options(name="starter", lifetime="detached").remote()
assert af.get(starter.run_task.remote(1)) == 1
starter.keep_child.remote()
print(af.get(starter.child_total.remote()))
"""

USER = """
import json
starter = af.get_actor("starter")
found = [af.get(starter.run_task.remote(5)), af.get(starter.child_total.remote())]
found.append(af.util.list_named_actors())
found.append(af.util.list_named_actors(all_namespaces=True))
af.kill(starter)
found.append(af.util.list_named_actors())
print(json.dumps(found))
"""


def test_a_detached_actor_works_on_after_its_driver(address: str) -> None:
    """Its tasks, and the actors that it made, are those of a job of its own."""
    assert said_by(driver(address, MAKER)) == 1
    found = said_by(driver(address, USER))
    assert found == [5, 2, ["starter"], [{"name": "starter", "namespace": "shared"}], []]
    with af.init(address=address, namespace="shared"):

        def state() -> Any:
            return af.client.runtime.require().ask("state")[0]

        wait_until(
            lambda: not state()["actors"] and len(state()["jobs"]) == 1, DEADLINE_S, "all has ended with it"
        )


@pytest.mark.usefixtures("runtime")
def test_names_are_listed_and_near_ones_suggested() -> None:
    actors = [bodies.Counter.options(name=name).remote() for name in ("walter", "anna")]
    other = bodies.Counter.options(name="anna", namespace="elsewhere").remote()
    af.get([actor.__ready__() for actor in [*actors, other]])
    assert af.util.list_named_actors() == ["anna", "walter"]
    assert {"name": "anna", "namespace": "elsewhere"} in af.util.list_named_actors(all_namespaces=True)
    with pytest.raises(ValueError, match="did you mean 'walter'"):
        af.get_actor("wolter")
    with pytest.raises(ValueError, match="or 'elsewhere/anna'"):
        af.get_actor("anna", namespace="nowhere")


@af.remote(num_cpus=0)
class Loop:
    """On a loop, where Counter is not."""

    async def add(self) -> int:
        return 1


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("kind", [bodies.Counter, bodies.Counter.options(max_concurrency=2), Loop])
@pytest.mark.parametrize("get_if_exists", [False, True])
def test_a_name_is_free_again_when_the_last_handle_has_gone(kind: Any, get_if_exists: bool) -> None:
    kind = kind.options(name="again", get_if_exists=get_if_exists)
    for _ in range(10):
        actor = kind.remote()
        assert af.get(actor.add.remote()) == 1
        del actor


@pytest.mark.usefixtures("runtime")
def test_a_name_is_kept_while_a_last_call_runs() -> None:
    gate = bodies.Gate.remote()

    @af.remote(num_cpus=0)
    class Slow:
        def work(self, gate: Any) -> int:
            return int(af.get(gate.pass_through.remote()))

    last = Slow.options(name="slow").remote().work.remote(gate)
    af.get(gate.arrived.remote(1))
    with pytest.raises(af.ActorAlreadyExistsError):
        Slow.options(name="slow").remote()
    af.get(gate.open.remote())
    assert af.get(last) == 1
    assert af.get(Slow.options(name="slow").remote().work.remote(gate)) == 2
