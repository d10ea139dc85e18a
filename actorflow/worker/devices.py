"""Which GPUs this worker's user code sees: those of the share that the node gave it."""

from __future__ import annotations

import os
from collections.abc import Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"


class Devices:
    """CUDA_VISIBLE_DEVICES of this process, from one order to the next."""

    def __init__(self) -> None:
        self._inherited = os.environ.get(VISIBLE)
        self._shown = False

    def show(self, share: Sequence[tuple[int, int]]) -> list[str]:
        """Shows the devices of a share of (device, ten-thousandths); without one, what the node was started with.

        Returns the names of those of the share. The node counts its devices from 0: the first that it sees itself,
        which may not be the machine's first.
        """
        if share:
            self._shown = True
            all_visible = self._inherited.split(",") if self._inherited else []
            names = [all_visible[device] if device < len(all_visible) else str(device) for device, _ in share]
            os.environ[VISIBLE] = ",".join(names)
            return names
        if self._shown:
            self._shown = False
            if self._inherited is not None:
                os.environ[VISIBLE] = self._inherited
            else:
                del os.environ[VISIBLE]
        return []
