"""af.exit_actor: how user code ends the actor that it is part of."""

from __future__ import annotations

from typing import NoReturn

from actorflow.client import handles
from actorflow.worker.settling import ExitActor


def exit_actor() -> NoReturn:
    """Ends this actor after the call: that call and those that wait get ActorDiedError.

    RuntimeError outside of an actor. In a threaded or async actor the calls that run are awaited first.
    """
    if not handles.is_actor():
        raise RuntimeError("exit_actor() is for methods of actors: this process hosts none")
    raise ExitActor
