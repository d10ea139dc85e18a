"""Which process goes when memory runs short, before the kernel chooses; time is passed in.

Newest first, because it has done least; what will be run again before what will not; actors last, because what they
hold is lost. One at a time: memory comes back only once the process is gone.
"""

from __future__ import annotations

from collections.abc import Iterable

from actorflow.core.events import WorkerId
from actorflow.records import frozen

LOOK_S = 0.25
FAR_LOOK_S = 1.0  # where nothing uses up what is left in that time
FASTEST_USE_BYTES_S = 8e9  # all CPUs filling fresh pages
PATIENCE_S = 2.0  # for a killed process to be gone; one that hangs in the kernel keeps its memory


@frozen
class Resident:
    """A worker and what it uses. `since_s`: when what it runs was first seen; `is_retriable`: that is run again."""

    worker: WorkerId
    is_actor: bool
    is_retriable: bool
    since_s: float
    bytes: int


def pause_s(left_bytes: int) -> float:
    """How long nobody has to look while so much memory is left."""
    return min(max(LOOK_S, left_bytes / FASTEST_USE_BYTES_S), FAR_LOOK_S)


def victim(residents: Iterable[Resident]) -> Resident | None:
    """The one to kill: newest retriable task, else newest task, else newest actor; of equals the largest."""
    return min(
        residents,
        key=lambda one: (one.is_actor, not one.is_retriable, -one.since_s, -one.bytes, one.worker),
        default=None,
    )


class MemoryPolicy:
    """When somebody has to go: use above `threshold` of the limit, and nobody is on the way out already."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._leaving: WorkerId | None = None
        self._patient_until_s = 0.0

    def is_short(self, used_bytes: int, limit_bytes: int) -> bool:
        """Whether more is used than may be."""
        return limit_bytes > 0 and used_bytes > self._threshold * limit_bytes

    def choose(
        self, now_s: float, used_bytes: int, limit_bytes: int, residents: list[Resident]
    ) -> Resident | None:
        """Who is to be killed now, or None."""
        if not self.is_short(used_bytes, limit_bytes):
            return None
        is_leaving = any(one.worker == self._leaving for one in residents)
        if is_leaving and now_s < self._patient_until_s:
            return None
        chosen = victim(one for one in residents if one.worker != self._leaving)
        if chosen is not None:
            self._leaving, self._patient_until_s = chosen.worker, now_s + PATIENCE_S
        return chosen
