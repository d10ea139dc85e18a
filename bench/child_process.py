"""The runner's end of a system's process: start it, give it commands, stop and resume it, end it."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench import process_tree
from bench.summary import Summary
from bench.systems import SYSTEMS

STOP_TIME_LIMIT_S = 20.0
_ROOT = Path(__file__).resolve().parent.parent


class ChildFailedError(Exception):
    """A command failed, took too long, or the process ended; the process is of no more use."""


class UnsupportedError(Exception):
    """The system cannot do the workload; the process serves on."""


class ChildProcess:
    """A system in a process of its own (bench.child), with all that it starts.

    Commands and replies are lines of JSON over pipes, one at a time. Everything that the system starts stays
    below this process, in a session of its own, so that it can be stopped, counted and killed as a whole.
    """

    def __init__(self, system: str, cpus: int = 1, attach: str | None = None) -> None:
        self.system = system
        self._folder = tempfile.mkdtemp(prefix="bench")
        self._log = Path(self._folder, "log")
        command = [sys.executable, "-m", "bench.child", system, str(cpus), *([attach] if attach else [])]
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **SYSTEMS[system].environment, "PYTHONPATH": path, "TMPDIR": self._folder},
                start_new_session=True,
            )
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, time_limit_s: float, shared: bool = False) -> None:
        """Start the system's runtime, one to share if `shared`; or attach to one. Raises ChildFailedError."""
        self._request({"do": "start", "shared": shared}, time_limit_s)

    def prepare(self, workload: str, time_limit_s: float) -> None:
        """Make what a workload needs. Raises UnsupportedError, ChildFailedError."""
        self._request({"do": "prepare", "workload": workload}, time_limit_s)

    def run(self, workload: str, time_limit_s: float, calls: int | None = None) -> dict[str, Summary]:
        """Measure one repeat of a prepared workload, or a number of calls of it; returns figures by quantity.

        Raises UnsupportedError, ChildFailedError.
        """
        reply = self._request({"do": "run", "workload": workload, "calls": calls}, time_limit_s)
        return {quantity: Summary(*figures) for quantity, figures in reply["summaries"].items()}

    def finish(self, workload: str, time_limit_s: float) -> None:
        """Free what `prepare` made. Raises ChildFailedError."""
        self._request({"do": "finish", "workload": workload}, time_limit_s)

    def pids(self) -> list[int]:
        """Return the pids of the system's processes, the driver first."""
        return process_tree.descendants(self._process.pid)

    def stop(self) -> None:
        """Stop all of the system's processes (SIGSTOP)."""
        process_tree.stop(self._process.pid)

    def resume(self) -> None:
        """Let them go on."""
        process_tree.resume(self._process.pid)

    def idle_cpu(self, seconds: float) -> float:
        """Watch the system do nothing; returns the CPU seconds used per second by all of its processes."""
        before = process_tree.tree_cpu_s(self._process.pid)
        time.sleep(seconds)
        return process_tree.spent_s(before, process_tree.tree_cpu_s(self._process.pid)) / seconds

    def close(self) -> None:
        """End the system, by its own means within a time limit, then by SIGKILL. Idempotent."""
        if self._process.poll() is None:
            self.resume()
            try:
                self._request({"do": "stop"}, STOP_TIME_LIMIT_S)
                self._process.wait(STOP_TIME_LIMIT_S)
            except (ChildFailedError, subprocess.TimeoutExpired):
                self._process.send_signal(signal.SIGTERM)  # the supervisor kills what is below it, then ends
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _request(self, command: dict[str, Any], time_limit_s: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildFailedError(f"it ended: {self._last_words()}") from None
        reply: dict[str, Any] = json.loads(self._read_line(time_limit_s))
        if reply.get("unsupported"):
            raise UnsupportedError
        if "error" in reply:
            raise ChildFailedError(reply["error"])
        return reply

    def _read_line(self, time_limit_s: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + time_limit_s
        while b"\n" not in self._received:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise ChildFailedError(f"no answer within {time_limit_s:g} s")
            data = os.read(descriptor, 65536)
            if not data:
                raise ChildFailedError(f"it ended: {self._last_words()}")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "without a word"
