"""The environment in which calls run: variables, a working directory, modules. See `RuntimeEnv`."""

from actorflow.runtime_env.environment import RuntimeEnv

__all__ = ["RuntimeEnv"]
