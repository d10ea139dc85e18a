"""Tasks, actors and shared objects: plain functions and classes that run in other processes of the machine.

What not every program needs is imported at its first use (PEP 562): it would cost memory in each driver and worker.
`cloudpickle` is the package, where Ray programs look for it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from actorflow import util
from actorflow.client import aio
from actorflow.client.actor_class import ActorClass, method
from actorflow.client.aio import as_completed, gather
from actorflow.client.cancelling import cancel
from actorflow.client.cluster import available_resources, cluster_resources, get_actor, kill, nodes
from actorflow.client.context import RuntimeContext, get_gpu_ids, get_runtime_context
from actorflow.client.decorator import remote
from actorflow.client.generators import DynamicObjectRefGenerator, ObjectRefGenerator
from actorflow.client.handles import ActorHandle, ActorMethod
from actorflow.client.objects import get, put, wait
from actorflow.client.refs import ObjectRef
from actorflow.client.remote_function import RemoteFunction
from actorflow.client.runtime import Runtime, init, is_initialized, shutdown
from actorflow.errors import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorError,
    ActorflowError,
    ActorUnavailableError,
    ActorUnschedulableError,
    AuthenticationError,
    DeadlockError,
    DeserializationError,
    GetTimeoutError,
    InternalError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    PendingCallsLimitExceeded,
    PlacementGroupError,
    ProtocolError,
    RuntimeEnvSetupError,
    TaskCancelledError,
    TaskError,
    TaskTimeoutError,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from actorflow.runtime_env import RuntimeEnv

if TYPE_CHECKING:
    from actorflow import actor, dag, exceptions, experimental, remote_function, runtime_context, types
    from actorflow.observe.timeline import timeline
    from actorflow.worker.context import exit_actor

__version__ = "0.1.0"

__all__ = [
    # start and stop
    "init",
    "shutdown",
    "is_initialized",
    "Runtime",
    "RuntimeEnv",
    # tasks and actors
    "remote",
    "method",
    "kill",
    "cancel",
    "exit_actor",
    "get_actor",
    "RemoteFunction",
    "ActorClass",
    "ActorHandle",
    "ActorMethod",
    # objects
    "put",
    "get",
    "wait",
    "gather",
    "as_completed",
    "aio",
    "ObjectRef",
    "ObjectRefGenerator",
    "DynamicObjectRefGenerator",
    "util",
    # compiled graphs
    "dag",
    # modules under Ray's names
    "actor",
    "exceptions",
    "experimental",
    "remote_function",
    "runtime_context",
    "types",
    # looking inside
    "nodes",
    "cluster_resources",
    "available_resources",
    "timeline",
    "get_runtime_context",
    "get_gpu_ids",
    "RuntimeContext",
    # errors
    "ActorflowError",
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorError",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "AuthenticationError",
    "DeadlockError",
    "DeserializationError",
    "GetTimeoutError",
    "InternalError",
    "NodeDiedError",
    "ObjectLostError",
    "ObjectStoreFullError",
    "OutOfDiskError",
    "OutOfMemoryError",
    "PendingCallsLimitExceeded",
    "PlacementGroupError",
    "ProtocolError",
    "RuntimeEnvSetupError",
    "TaskCancelledError",
    "TaskError",
    "TaskTimeoutError",
    "TaskUnschedulableError",
    "WorkerCrashedError",
]


_AT_FIRST_USE = {  # name -> module
    "actor": "actorflow.actor",
    "cloudpickle": "cloudpickle",
    "dag": "actorflow.dag",
    "exceptions": "actorflow.exceptions",
    "exit_actor": "actorflow.worker.context",
    "experimental": "actorflow.experimental",
    "remote_function": "actorflow.remote_function",
    "runtime_context": "actorflow.runtime_context",
    "timeline": "actorflow.observe.timeline",
    "types": "actorflow.types",
}


def __getattr__(name: str) -> Any:
    if name not in _AT_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_AT_FIRST_USE[name])
    return getattr(module, name, module)
