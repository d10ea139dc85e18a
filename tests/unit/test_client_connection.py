"""The end of a private node, as the program that started it sees it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from actorflow.client import connection


def test_a_node_that_another_thread_reaps_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    open_pidfd = os.pidfd_open
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:

        def reaped_before(pid: int) -> int:
            process.kill()
            process.wait()
            return open_pidfd(pid)

        monkeypatch.setattr(os, "pidfd_open", reaped_before)
        connection._wait_for_end(process, 1.0)
        assert process.returncode is not None


class BeingReaped(subprocess.Popen[bytes]):
    """A process that another thread has just reaped, and is about to say so: until then `poll` knows nothing."""

    known: int | None = None

    def poll(self) -> int | None:
        self.known = self.known or super().wait()
        self.returncode = None
        return None

    def wait(self, timeout: float | None = None) -> int:
        self.returncode = self.known
        return super().wait(timeout)


def test_a_process_that_another_thread_reaps_has_ended() -> None:
    process = BeingReaped([sys.executable, "-c", "raise SystemExit(3)"])
    connection._wait_for_end(process, 10.0)
    assert process.returncode == 3
