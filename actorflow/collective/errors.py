"""What can be wrong with a collective group, and the lack of torch."""

from __future__ import annotations

import importlib
from typing import Any

from actorflow.errors import ActorflowError


class CollectiveError(ActorflowError):
    """A group is not there, was not formed, or has broken: a member died, left, or asked for something else.

    A broken group stays broken: destroy it, and make another one of those that live. `rank`: of this process, None
    where it is no member.
    """

    _template = "{e._what}: {e.reason}"
    group: str
    reason: str
    rank: int | None = None

    @property
    def _what(self) -> str:
        """What the message is about: a tensor may find no group at all."""
        return f"collective group {self.group!r}" if self.group else "no collective group"


class CollectiveTimeoutError(CollectiveError, TimeoutError):
    """What the others were to do did not come within the group's timeout. The group is broken then."""


def require_torch() -> Any:
    """The module torch. ImportError that says what to install."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise ImportError(
            f"collective groups and tensor transports need torch ({error}): pip install 'actorflow[torch]'"
        ) from error
