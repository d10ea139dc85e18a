"""What the scheduler is told and what it asks for: plain frozen data.

Events come in by `Scheduler.handle`, with the time. The node performs the returned effects in their order before the
next event, and answers every `SetAllowed` and `LookAt` with a `QueueObserved` of that queue, read after it was done.
"""

from __future__ import annotations

from typing import NewType

from actorflow.core.resources import GpuShare, ResourceSet
from actorflow.records import frozen

JobId = NewType("JobId", int)
QueueId = NewType("QueueId", int)
WorkerId = NewType("WorkerId", int)
ActorId = NewType("ActorId", int)
GroupId = NewType("GroupId", int)  # of a placement group, from 1


# -- events ----------------------------------------------------------------------------------------
@frozen
class JobStarted:
    """A driver has attached."""

    job: JobId


@frozen
class JobEnded:
    """The driver is gone: its task workers are to be killed. The job's queues are closed by this."""

    job: JobId


@frozen
class QueueOpened:
    """A task queue was made; each of its calls takes `shape` while it executes.

    `environment`: a worker that has served a queue serves only others of the same.
    """

    queue: QueueId
    job: JobId
    shape: ResourceSet
    environment: str = ""


@frozen
class QueueClosed:
    """Nothing will be pushed to the queue any more, and what was in it is settled."""

    queue: QueueId


@frozen
class QueueObserved:
    """Facts read from shared memory, all effects given out before being done. Unknown queues are ignored."""

    queue: QueueId
    depth: int  # unread calls
    active: int  # executing and not blocked
    allowed: int
    readers: int  # workers that have joined and not left
    blocked: int  # of these, waiting inside a call


@frozen
class WorkerReady:
    """A started worker waits for its first order."""

    worker: WorkerId


@frozen
class WorkersNotStarted:
    """So many of the workers asked for by `StartWorkers` could not be made; tried again at a later tick."""

    count: int


@frozen
class WorkerLeftQueue:
    """The worker no longer reads its queue and waits for an order. `worn_out`: it has run enough and is to end."""

    worker: WorkerId
    worn_out: bool = False


@frozen
class WorkerGone:
    """The worker's process has ended and its slot is settled. Ends the hold of an actor that it hosted.

    `unborn`: it ended before it had taken any order.
    """

    worker: WorkerId
    unborn: bool = False


@frozen
class ActorRequested:
    """An actor needs a process: `to_place` to be started, of which it keeps `to_run` for life."""

    actor: ActorId
    job: JobId
    to_place: ResourceSet
    to_run: ResourceSet


@frozen
class ActorStarted:
    """The worker has taken the actor. Send it before the constructor runs: that may wait for other actors."""

    actor: ActorId


@frozen
class ActorGone:
    """The actor needs no process any more. What it holds comes back with its worker's `WorkerGone`."""

    actor: ActorId


@frozen
class GroupRequested:
    """A placement group needs its bundles, all at once. GroupReserved follows when it has them."""

    group: GroupId
    job: JobId
    bundles: tuple[ResourceSet, ...]


@frozen
class GroupReleased:
    """The group is no more, its queues are closed, its actors ended: what it has comes back with the last of them."""

    group: GroupId


@frozen
class Tick:
    """Time has passed; sent about every 100 ms while there is mail, after the look at the queues, and seldom else."""


Event = (
    JobStarted
    | JobEnded
    | QueueOpened
    | QueueClosed
    | QueueObserved
    | WorkerReady
    | WorkersNotStarted
    | WorkerLeftQueue
    | WorkerGone
    | ActorRequested
    | ActorStarted
    | ActorGone
    | GroupRequested
    | GroupReleased
    | Tick
)


# -- effects ---------------------------------------------------------------------------------------
@frozen
class SetAllowed:
    """Write the queue's `allowed`; lowering stops at what is active now. Answer with QueueObserved."""

    queue: QueueId
    allowed: int


@frozen
class LookAt:
    """Read the queue's facts after so many seconds, and answer with QueueObserved. Late only costs time."""

    queue: QueueId
    after_s: float


@frozen
class ServeQueue:
    """Let the worker join the queue, with these GPU devices."""

    worker: WorkerId
    queue: QueueId
    gpus: GpuShare


@frozen
class LeaveQueue:
    """Ask the worker to leave its queue as soon as it executes nothing. WorkerLeftQueue follows."""

    worker: WorkerId


@frozen
class StartWorkers:
    """Fork so many workers. WorkerReady or WorkersNotStarted follows for each."""

    count: int


@frozen
class StopWorker:
    """End the worker: now and with its children when `force`, else when it executes nothing. WorkerGone follows."""

    worker: WorkerId
    force: bool


@frozen
class HostActor:
    """Let the worker become the actor, with these GPU devices. ActorStarted or WorkerGone follows."""

    worker: WorkerId
    actor: ActorId
    gpus: GpuShare


@frozen
class GroupReserved:
    """The placement group has its resources."""

    group: GroupId


@frozen
class ReportQueueInfeasible:
    """Calls in this queue can never run here. The queue stays open and is never served."""

    queue: QueueId
    why: str


@frozen
class ReportActorInfeasible:
    """The actor can never run here. It has been forgotten."""

    actor: ActorId
    why: str


Effect = (
    SetAllowed
    | LookAt
    | ServeQueue
    | LeaveQueue
    | StartWorkers
    | StopWorker
    | HostActor
    | GroupReserved
    | ReportQueueInfeasible
    | ReportActorInfeasible
)
