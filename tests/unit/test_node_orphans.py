"""Ending what is below a process: children, their children, daemons in sessions of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# A tree of ten: each of three children has two of its own, one of them a daemon whose parent has ended.
SCRIPT = """
import os, signal
from actorflow.node.orphans import children, end_descendants
from actorflow.shm.kernel import become_subreaper

become_subreaper()
reader, writer = os.pipe()

def alive():
    os.write(writer, b"x")
    signal.pause()

for _ in range(3):
    if not os.fork():
        if not os.fork():
            alive()
        if not os.fork():
            os.setsid()
            if not os.fork():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                alive()
            os._exit(0)
        os.wait()
        alive()
for _ in range(9):
    os.read(reader, 1)
pids = children()
assert len(pids) == 6, pids
end_descendants()
os.close(writer)
assert os.read(reader, 1) == b"", "someone still has the pipe"
assert children() == []
print("done")
"""


def test_all_descendants_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "done\n", done.stderr
