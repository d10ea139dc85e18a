"""What the system says of processes, without the C core: a driver that asks does not have to load it."""

from __future__ import annotations

import os
from pathlib import Path

_STATES = {"R": "running", "S": "sleeping", "D": "waiting for the kernel", "T": "stopped", "Z": "ended"}


def fill_standard_descriptors() -> None:
    """Opens /dev/null where standard input, output or error are closed: else the next file opened is printed to."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def process_state(pid: int) -> str:
    """What the kernel says that a process does: "running", "sleeping", "stopped", ...; "gone" if there is none."""
    try:
        state = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"
    return _STATES.get(state, f"state {state}")
