"""Remote functions under the module name that Ray programs import, mostly for annotations."""

from actorflow.client.remote_function import RemoteFunction

__all__ = ["RemoteFunction"]
