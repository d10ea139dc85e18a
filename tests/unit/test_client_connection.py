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
