"""Awaiting values that lie on disk: a thread of the loop waits until the node has brought one back.

Only what is on disk comes this way. The read itself is the node's; the value is loaded in the loop, as every other is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from actorflow import _hot
from actorflow.client import blocking


class Kept:
    """Keeps the value of a done reference in memory, once it is there, until `release`.

    Not as the result of a future: those are freed when the garbage collector comes by, if ever.
    """

    __slots__ = ("_reference", "_view")

    def __init__(self, reference: _hot.Reference) -> None:
        self._reference: _hot.Reference | None = reference
        self._view: object = None

    def bring_back(self) -> None:
        """Waits until it is there. ObjectLostError, ObjectStoreFullError: it cannot be; NodeDiedError."""
        reference = self._reference
        if reference is None:
            return
        try:
            view = reference.bring_back()
        except _hot.NodeGoneError:
            raise blocking.node_error() from None
        self._view = view if self._reference is not None else None

    def release(self) -> None:
        """It may be spilled again."""
        self._reference = self._view = None


def value_of(reference: _hot.Reference) -> Generator[Any, None, Any]:
    """The value of a done reference (`yield from`); raises its error, or why it cannot be brought back."""
    kept = Kept(reference)
    try:
        yield from asyncio.get_running_loop().run_in_executor(None, kept.bring_back)
        return _hot.Reference.result(reference)
    finally:
        kept.release()
