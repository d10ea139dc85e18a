"""Drivers in processes of their own, with a mark in their environment that everything below them inherits.

So what is left of one is found also when it has changed its parent, its process group or its session.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import wait_until

ROOT = Path(__file__).resolve().parents[2]
MARK = "ACTORFLOW_TEST_MARK"
END_DEADLINE_S = 30.0
RUN_DEADLINE_S = 60.0

# Says what it has started in one line of JSON, then waits for a task that never ends, or does what it is told.
DRIVER = r"""
import json, os, signal, subprocess, sys
import actorflow as af
from actorflow import errors

@af.remote(num_cpus=0, max_retries=0)
def busy():
    while True:
        pass

@af.remote(num_cpus=0)
class Parent:
    def bear(self):
        child = os.fork()
        if not child:
            signal.pause()
        reader, writer = os.pipe()
        if not os.fork():
            os.setsid()
            daemon = os.fork()
            if daemon:
                os.write(writer, str(daemon).encode())
                os._exit(0)
            signal.pause()
        daemon = int(os.read(reader, 100))
        program = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        return [os.getpid(), child, daemon, program.pid]

    def pid(self):
        return os.getpid()

    def wait(self):
        signal.pause()

def say(**facts):
    print(json.dumps(facts), flush=True)

def wait_for(ref):
    try:
        af.get(ref)
    except errors.ActorflowError as error:
        say(error=type(error).__name__, text=str(error))

runtime = af.init(num_cpus=2)
parent = Parent.remote()
family = af.get(parent.bear.remote())
endless = busy.remote()
say(family=family)
order = sys.stdin.readline().strip()
if order == "shut down":
    af.shutdown()
    say(done=True)
    sys.stdin.readline()
elif order == "raise":
    raise LookupError("on purpose")
elif order == "wait":
    wait_for(endless)
elif order == "wait for actor":
    wait_for(parent.wait.remote())
    wait_for(parent.pid.remote())
    say(again=af.get(Parent.remote().pid.remote()))
"""


def marked(mark: str) -> list[psutil.Process]:
    """The processes that carry the mark and have not ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


_drivers: list[Driver] = []  # of the test that runs


class Driver:
    """A driver in its own process. `family`: pids of the actor's process and of what that has started."""

    def __init__(self, mark: str, script: str = DRIVER, **environment: str) -> None:
        kept = {name: value for name, value in os.environ.items() if name != "ACTORFLOW_ADDRESS"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            env={**kept, **environment, MARK: mark, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        _drivers.append(self)
        self.family: list[int] = self.hear()["family"]

    def hear(self) -> dict[str, Any]:
        """The next line that the driver says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            pytest.fail(f"the driver said nothing:\n{self.process.communicate()[1]}")
        facts: dict[str, Any] = json.loads(line)
        return facts

    def tell(self, order: str) -> None:
        """Gives the driver an order."""
        assert self.process.stdin is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()

    def end(self) -> str:
        """Waits for the driver's end; returns what it said on standard error."""
        return self.process.communicate(timeout=RUN_DEADLINE_S)[1]

    @property
    def node(self) -> psutil.Process:
        """Its private node."""
        (node,) = psutil.Process(self.process.pid).children()
        return node

    @property
    def zygote(self) -> psutil.Process:
        """That node's zygote."""
        (zygote,) = self.node.children()
        return zygote


def new_mark() -> Iterator[str]:
    """Fixture: a mark for processes; at the end of the test none that has it may be left."""
    mark = secrets.token_hex(8)
    _drivers.clear()
    yield mark
    for driver in _drivers:
        if driver.process.returncode is None:  # the test has failed
            driver.process.kill()
            driver.process.communicate()
    try:
        wait_until(lambda: not marked(mark), END_DEADLINE_S, "every process has ended")
    except TimeoutError:
        left = [f"{process.pid} {process.cmdline()}" for process in marked(mark)]
        for process in marked(mark):
            process.kill()
        pytest.fail("left behind: " + "\n".join(left), pytrace=False)
