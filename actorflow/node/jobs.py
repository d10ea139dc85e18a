"""What the node keeps of each driver's job: its queues by shape, and what its workers are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actorflow import _hot
from actorflow.core.events import JobId, QueueId
from actorflow.core.resources import ResourceSet
from actorflow.wire.messages import JobStart, Output, OutputLost

# What each call takes, whether calls are coroutines, their environment, and `Queue.group`.
QueueKey = tuple[ResourceSet, bool, str, Any]
Show = Callable[[Output | OutputLost], bool]


class Queue:
    """One task queue: the calls of one job that take `shape` and run in `environment`.

    `why_never`: why it is never served, or "". `group`: (placement group, bundle index, whether it captures children)
    where its calls are to run, or None.
    """

    __slots__ = ("environment", "group", "id", "job", "last_depth", "mailbox", "shape", "why_never")

    def __init__(
        self,
        queue: QueueId,
        job: Job,
        shape: ResourceSet,
        environment: str,
        mailbox: _hot.Hold,
        group: Any = None,
    ) -> None:
        self.group = group
        self.why_never = ""
        self.id = queue
        self.job = job
        self.shape = shape
        self.environment = environment
        self.mailbox = mailbox
        self.last_depth = 0  # as last observed: whether it is worth a look every 100 ms


class Job:
    """A driver's work. `description` is what its workers are told.

    `print`: sends the driver what they print, as long as it is there; False where it does not keep up.
    """

    __slots__ = ("description", "driver_pid", "has_ended", "id", "lost_lines", "namespace", "print", "queues")

    def __init__(self, job: JobId, start: JobStart, driver_pid: int, show: Show | None) -> None:
        self.id = job
        self.namespace = start.namespace or f"anonymous-{job}"  # of this job alone
        self.driver_pid = driver_pid
        self.description = {
            "id": int(job),
            "namespace": self.namespace,
            "sys_path": start.sys_path,
            "cwd": start.cwd,
            "driver": start.driver,
            "log_to_driver": start.log_to_driver,
        }
        self.print = show
        self.lost_lines = 0  # that it was not told of yet
        self.queues: dict[QueueKey, Queue] = {}
        self.has_ended = False
