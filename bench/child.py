"""The process of one system: `python -m bench.child SYSTEM CPUS [ADDRESS]`, driven by lines of JSON on stdin.

Two processes: a supervisor, which adopts and at the end kills whatever the system leaves behind, and below it
the driver, which uses the system as any program would.
"""

import asyncio
import ctypes
import json
import os
import signal
import sys
import time
import traceback
from dataclasses import astuple
from typing import Any, BinaryIO, NoReturn

import uvloop

from bench import process_tree
from bench.measure import Measurement, time_count
from bench.summary import summarise
from bench.systems import Operation, System, Unsupported, load_system
from bench.workloads import WORKLOADS

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def main(arguments: list[str]) -> NoReturn:
    """Fork the driver; the first process stays as its supervisor."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    driver = os.fork()
    if driver:
        _supervise(driver)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    name, cpus = arguments[0], int(arguments[1])
    address = arguments[2] if len(arguments) > 2 else None
    commands = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a system prints goes to the log
    Driver(name, cpus, address, replies).serve(commands)
    sys.exit(0)


def _supervise(driver: int) -> NoReturn:
    """Reap until the driver has ended, or SIGTERM says so; then kill what is left."""
    for descriptor in (0, 1):
        os.close(descriptor)
    try:
        while os.wait()[0] != driver:
            pass
        sys.exit(0)
    finally:
        process_tree.kill(os.getpid())


class Driver:
    """Carries out commands, one after the other; see ChildProcess for what they are."""

    def __init__(self, name: str, cpus: int, address: str | None, replies: BinaryIO) -> None:
        self._name = name
        self._cpus = cpus
        self._address = address
        self._replies = replies
        self._loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._system: System | None = None
        self._start_s = 0.0
        self._operations: dict[str, Operation] = {}

    def serve(self, commands: BinaryIO) -> None:
        """Answer each command until one says stop, or nobody is there to give any."""
        for line in commands:
            command = json.loads(line)
            try:
                reply = getattr(self, "_" + command.pop("do"))(**command)
            except Unsupported:
                reply = {"unsupported": True}
            except Exception as error:  # whatever a system raises belongs into the table
                traceback.print_exc()
                reply = {
                    "error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                }
            self._replies.write(json.dumps(reply or {}).encode() + b"\n")
            self._replies.flush()
            if reply == {"stopped": True}:
                return

    def _start(self, shared: bool) -> None:
        self._system = load_system(self._name, self._cpus, self._loop)
        begin = time.perf_counter()
        if self._address is not None:
            self._system.attach(self._address)
        elif shared:
            self._system.start_shared()
        else:
            self._system.start()
        self._start_s = time.perf_counter() - begin

    def _started_system(self) -> System:
        if self._system is None:
            raise RuntimeError("no command before start")
        return self._system

    def _prepare(self, workload: str) -> None:
        definition = WORKLOADS[workload]
        self._operations[workload] = self._started_system().operation(
            definition.operation, dict(definition.arguments)
        )

    def _run(self, workload: str, calls: int | None) -> dict[str, Any]:
        operation = self._operations[workload]
        if calls is not None:
            samples = {"time_s": time_count(operation, self._loop, calls)}
        else:
            system, definition = self._started_system(), WORKLOADS[workload]
            samples = Measurement(system, operation, definition, self._loop, self._start_s).run()
        return {"summaries": {quantity: astuple(summarise(values)) for quantity, values in samples.items()}}

    def _finish(self, workload: str) -> None:
        self._operations.pop(workload).close()

    def _stop(self) -> dict[str, Any]:
        if self._system is not None:
            self._system.stop()
        return {"stopped": True}


if __name__ == "__main__":
    main(sys.argv[1:])
