"""Actors under the module name that Ray programs import: `from actorflow.actor import ActorHandle`."""

from actorflow.client.actor_class import ActorClass, method
from actorflow.client.handles import ActorHandle, ActorMethod
from actorflow.worker.context import exit_actor

__all__ = ["ActorClass", "ActorHandle", "ActorMethod", "exit_actor", "method"]
