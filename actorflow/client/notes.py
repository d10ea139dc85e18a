"""What a loop's port calls when a reference is done (client/waiting.py): notes that are more than a future."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from actorflow import _hot


class DoneCallback:
    """A callback of `add_done_callback`; `run(note)` has it called in the loop."""

    __slots__ = ("_run", "callback", "context", "reference")

    def __init__(
        self,
        run: Callable[[DoneCallback], None],
        reference: _hot.Reference,
        callback: Callable[[Any], object],
        context: contextvars.Context | None,
    ) -> None:
        self._run = run
        self.reference = reference
        self.callback = callback
        self.context = context

    def __call__(self) -> None:
        self._run(self)


class Countdown:
    """Ends a wait for several references: after `count` of them, or at one that `stop` accepts."""

    __slots__ = ("count", "future", "stop")

    def __init__(self, future: asyncio.Future[None], count: int, stop: Callable[[Any], bool] | None) -> None:
        self.future = future
        self.count = count
        self.stop = stop

    def done(self, reference: _hot.Reference) -> None:
        """One of them is done."""
        self.count -= 1
        if not self.future.done() and (self.count <= 0 or (self.stop is not None and self.stop(reference))):
            self.future.set_result(None)


class Counted:
    """One reference of a countdown."""

    __slots__ = ("countdown", "reference")

    def __init__(self, countdown: Countdown, reference: _hot.Reference) -> None:
        self.countdown = countdown
        self.reference = reference

    def __call__(self) -> None:
        self.countdown.done(self.reference)
