"""The scheduler's tunables, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from actorflow.core.resources import ONE, ResourceSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is a matter of taste in the scheduler's decisions. `for_node` gives the defaults of a node."""

    fresh_workers: int  # workers without a job kept forked ahead: a burst of actors finds a process at once
    idle_workers: int  # task workers that are kept however long they are idle
    idle_worker_s: float = 1.0  # a fork costs 2.4 ms and an idle worker 2 MB: a second keeps bursts warm
    patience_s: float = 0.01  # how long to wait for a worker that was asked before another is asked as well
    look_s: float = 0.001  # between two looks at the same queue: a look costs 10 us
    grace_s: float = (
        0.05  # how long what was lent and not yet used is left alone: time to fork a worker for it
    )
    parallel_limit: int = 256  # calls of one queue at once, however little each takes: each needs a process
    worker_limit: int = 4096  # task workers in all: beyond it the machine would have no process ids left
    start_retry_s: float = (
        0.05  # after a worker that could not be started, or died at once; doubles each time
    )
    start_retry_most_s: float = 5.0  # short enough to go on soon once what was wrong is mended
    bypass_limit: int = 16  # actors that may take for life, before an older one, what that one waits for

    @property
    def look_after_s(self) -> float:
        """When to look whether patience was in vain: a little after it is over, as timers may be early."""
        return 1.25 * self.patience_s

    @classmethod
    def for_node(cls, total: ResourceSet, *, idle_worker_s: float = 1.0) -> Policy:
        """The defaults for a node with these resources: as many workers kept as there are CPUs, at least one.

        Half as many again are kept fresh: each costs 1.4 MB, and the next is forked while the last one starts to work.
        """
        cpus = cpus_of(total)
        return cls(fresh_workers=(cpus + 1) // 2, idle_workers=cpus, idle_worker_s=idle_worker_s)


def cpus_of(total: ResourceSet) -> int:
    """Whole CPUs of a node, at least one."""
    return max(1, total.cpu // ONE)
