"""What else `af.get` takes besides refs: results that can be read once, of whoever makes them."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any

from actorflow.client import blocking
from actorflow.client.refs import ObjectRef


class ReadOnce:
    """A result that is no block of shared memory that anyone could refer to: it is handed out once, here."""

    __slots__ = ()

    def get(self, timeout: float | None = None) -> Any:
        """The value, waiting for it `timeout` seconds at most; raises its error."""
        raise NotImplementedError


def get_all(items: Sequence[Any], timeout: float | None) -> list[Any]:
    """The values of refs and of results that are read once, in their order, within `timeout` seconds in all."""
    deadline = None if timeout is None else monotonic() + timeout
    values = []
    for item in items:
        left = None if deadline is None else max(0.0, deadline - monotonic())
        values.append(blocking.get_one(item, left) if isinstance(item, ObjectRef) else item.get(left))
    return values
