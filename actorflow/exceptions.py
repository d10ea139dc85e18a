"""The errors under the names that Ray programs import: `from actorflow.exceptions import RayTaskError`.

Where the names differ, Ray's is another name for the same class, so `except` works with either.
"""

from actorflow.collective.errors import CollectiveError, CollectiveTimeoutError
from actorflow.errors import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorError,
    ActorflowError,
    ActorUnavailableError,
    ActorUnschedulableError,
    AuthenticationError,
    ChannelError,
    ChannelTimeoutError,
    DeadlockError,
    DeserializationError,
    GetTimeoutError,
    GraphCapacityError,
    InternalError,
    NodeDiedError,
    ObjectFreedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    OwnerDiedError,
    PendingCallsLimitExceeded,
    PlacementGroupError,
    ProtocolError,
    ReconstructionFailedError,
    RuntimeEnvSetupError,
    TaskCancelledError,
    TaskError,
    TaskTimeoutError,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from actorflow.errors import ActorError as RayActorError
from actorflow.errors import ActorflowError as RayError
from actorflow.errors import ChannelError as RayChannelError
from actorflow.errors import ChannelTimeoutError as RayChannelTimeoutError
from actorflow.errors import GraphCapacityError as RayCgraphCapacityExceeded
from actorflow.errors import InternalError as RaySystemError
from actorflow.errors import NodeDiedError as LocalRayletDiedError
from actorflow.errors import PlacementGroupError as ActorPlacementGroupRemoved
from actorflow.errors import PlacementGroupError as TaskPlacementGroupRemoved
from actorflow.errors import ReconstructionFailedError as ObjectReconstructionFailedError
from actorflow.errors import ReconstructionFailedError as ObjectReconstructionFailedLineageEvictedError
from actorflow.errors import ReconstructionFailedError as ObjectReconstructionFailedMaxAttemptsExceededError
from actorflow.errors import TaskError as RayTaskError

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "ActorflowError",
    "AuthenticationError",
    "ChannelError",
    "ChannelTimeoutError",
    "CollectiveError",
    "CollectiveTimeoutError",
    "DeadlockError",
    "DeserializationError",
    "GetTimeoutError",
    "GraphCapacityError",
    "InternalError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "ObjectReconstructionFailedLineageEvictedError",
    "ObjectReconstructionFailedMaxAttemptsExceededError",
    "ObjectStoreFullError",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "PlacementGroupError",
    "RayActorError",
    "RayCgraphCapacityExceeded",
    "RayChannelError",
    "RayChannelTimeoutError",
    "RayError",
    "RaySystemError",
    "RayTaskError",
    "ProtocolError",
    "ReconstructionFailedError",
    "RuntimeEnvSetupError",
    "TaskCancelledError",
    "TaskError",
    "TaskPlacementGroupRemoved",
    "TaskTimeoutError",
    "TaskUnschedulableError",
    "WorkerCrashedError",
]
