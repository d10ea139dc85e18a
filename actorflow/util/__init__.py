"""Helpers beside the core of the API: how values travel."""

from actorflow.util.serialization import inspect_serializability
from actorflow.wire.pickling import deregister_serializer, register_serializer

__all__ = ["register_serializer", "deregister_serializer", "inspect_serializability"]
