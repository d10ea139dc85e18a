"""Drivers that die before they have attached, and nodes that are stopped: nothing stays, and who waits is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import wait_until
from tests.system.drivers import MARK, ROOT, RUN_DEADLINE_S, Driver, marked, new_mark

STOPPED_DEADLINE_S = 30.0

mark = pytest.fixture(new_mark)

# Stops its node, and lets it go on once somebody has said that it does not answer.
STOPPED = r"""
import json, logging, os, signal
import actorflow as af

class Handler(logging.Handler):
    def emit(self, record):
        print(json.dumps({"log": record.getMessage()}), flush=True)
        os.kill(node, signal.SIGCONT)

@af.remote
def f():
    return 1

af.init(num_cpus=1)
node = af.nodes()[0]["NodePid"]
logging.getLogger("actorflow").addHandler(Handler())
logging.getLogger("actorflow").propagate = False
print(json.dumps({"family": [node]}), flush=True)
os.kill(node, signal.SIGSTOP)
assert af.get(f.remote()) == 1
"""

# Makes what a driver makes before it attaches, and dies: having said nothing, or all that a driver says first.
UNATTACHED = r"""
import json, os, signal, socket, subprocess, sys
from actorflow.wire import framing, messages

ours, theirs = socket.socketpair()
subprocess.Popen(
    [sys.executable, "-m", "actorflow.node", "--driver-fd", str(theirs.fileno()), "--num-cpus", "1"],
    pass_fds=[theirs.fileno()], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
)
if sys.stdin.readline() == "say all\n":
    hello = messages.Hello(messages.WIRE_VERSION, os.getuid(), os.getpid(), messages.Role.DRIVER)
    start = messages.JobStart("", (), "/", "test", False)
    ours.sendall(framing.encode(hello) + framing.encode(start))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("order", ["say nothing", "say all"])
def test_driver_is_killed_before_it_has_attached(mark: str, order: str) -> None:
    environment = {**os.environ, MARK: mark, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", UNATTACHED],
        env=environment,
        input=order + "\n",
        text=True,
        timeout=RUN_DEADLINE_S,
    )
    assert done.returncode == -signal.SIGKILL  # and that nothing is left is looked at by `mark`


def test_driver_is_killed_while_its_node_is_stopped(mark: str) -> None:
    driver = Driver(mark, ACTORFLOW_SHUTDOWN_GRACE_S="0.1")
    node = driver.node
    node.suspend()
    driver.process.kill()
    driver.end()
    wait_until(lambda: not marked(mark), STOPPED_DEADLINE_S, "the zygote has ended everything, the node too")


def test_a_node_that_is_stopped_is_named_to_who_waits_for_it(mark: str) -> None:
    driver = Driver(mark, STOPPED)
    said = driver.hear()["log"]
    assert said.startswith(f"the node (pid {driver.family[0]}, stopped) has not answered for ")
    assert driver.end() == ""
