"""Refs under the module name that Ray programs import for annotations."""

from actorflow.client.refs import ObjectRef

__all__ = ["ObjectRef"]
