"""Helpers beside the core of the API: pools and queues of actors, and how values travel.

`queue`, `multiprocessing`, `executor` and `joblib` are modules to import by name.
"""

from actorflow.client.cluster import list_named_actors
from actorflow.util.actor_pool import ActorPool
from actorflow.util.helpers import as_completed, map_unordered
from actorflow.util.serialization import inspect_serializability
from actorflow.wire.pickling import deregister_serializer, register_serializer

__all__ = [
    "ActorPool",
    "as_completed",
    "map_unordered",
    "list_named_actors",
    "register_serializer",
    "deregister_serializer",
    "inspect_serializability",
]
