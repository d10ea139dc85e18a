"""The runtime context under the module name that Ray programs import, mostly for annotations."""

from actorflow.client.context import RuntimeContext, get_runtime_context

__all__ = ["RuntimeContext", "get_runtime_context"]
