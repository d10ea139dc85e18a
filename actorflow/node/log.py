"""What the node says on standard error: one line each, marked as the node's."""

from __future__ import annotations

import os
import sys


def warn(text: str) -> None:
    """Writes a line for the user. Never raises: the driver's terminal may be gone."""
    try:
        sys.stderr.write(f"actorflow node (pid {os.getpid()}): {text}\n")
        sys.stderr.flush()
    except OSError:
        pass
