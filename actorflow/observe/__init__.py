"""Looking at what runs and has run."""

from actorflow.observe.objects import list_objects

__all__ = ["list_objects"]
