"""Helpers beside the core of the API: pools and queues of actors, and how values travel.

What not every program needs is imported at its first use (PEP 562): starting takes a tenth less time. `joblib` is a
module to import by name: it needs joblib.
"""

import importlib
from typing import TYPE_CHECKING, Any

from actorflow.client.cluster import list_named_actors
from actorflow.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from actorflow.wire.pickling import deregister_serializer, register_serializer

if TYPE_CHECKING:
    from actorflow.util import collective, multiprocessing, queue, scheduling_strategies
    from actorflow.util.actor_pool import ActorPool
    from actorflow.util.executor import ActorflowExecutor
    from actorflow.util.helpers import as_completed, map_unordered
    from actorflow.util.serialization import inspect_serializability

__all__ = [
    "PlacementGroup",
    "placement_group",
    "remove_placement_group",
    "get_placement_group",
    "placement_group_table",
    "get_current_placement_group",
    "ActorPool",
    "ActorflowExecutor",
    "queue",
    "collective",
    "multiprocessing",
    "scheduling_strategies",
    "as_completed",
    "map_unordered",
    "list_named_actors",
    "register_serializer",
    "deregister_serializer",
    "inspect_serializability",
]

_AT_FIRST_USE = {  # name -> module
    "ActorPool": "actor_pool",
    "ActorflowExecutor": "executor",
    "queue": "queue",
    "collective": "collective",
    "multiprocessing": "multiprocessing",
    "as_completed": "helpers",
    "map_unordered": "helpers",
    "scheduling_strategies": "scheduling_strategies",
    "inspect_serializability": "serialization",
}


def __getattr__(name: str) -> Any:
    if name not in _AT_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_AT_FIRST_USE[name]}")
    return getattr(module, name, module)
