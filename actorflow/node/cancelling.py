"""Ends calls that run: tells their workers to look at the wish in the call's cell, or kills them.

A signal may come at a moment where user code cannot be interrupted, so it is sent again, often for half a second and
then ever more rarely, until the code has been told or the call is over. It says only "look": a worker that runs
something else by then finds nothing.
"""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass

from actorflow import _hot
from actorflow.errors import DeathKind
from actorflow.node.workers import Worker, Workers

SIGNAL = signal.SIGURG  # what ignores it is not harmed by it
FIRST_PAUSE_S = 0.01
EAGER_LOOKS = 50  # with this pause: code that mostly calls the runtime can be interrupted only now and then
LONGEST_PAUSE_S = 1.0

Name = tuple[int, int]


@dataclass(slots=True)
class Wish:
    """That a call end. `error`: what it gets; `child_error`: what calls made within it get, if it is killed."""

    call: _hot.Hold
    wish: int
    error: bytes
    child_error: bytes
    force: bool
    pause_s: float = FIRST_PAUSE_S
    looks: int = 0


class Cancellations:
    """The wishes for calls that run: one for each call, so no more than calls that are running."""

    def __init__(self, loop: asyncio.AbstractEventLoop, workers: Workers) -> None:
        self._loop = loop
        self._workers = workers
        self._wishes: dict[Name, Wish] = {}
        self._killed: dict[tuple[int, int], list[Wish]] = {}  # by process

    def ask(self, wish: Wish) -> None:
        """Has the call end, if it is still running or was queued again."""
        there = self._wishes.get(wish.call.name)
        if there is None:
            self._wishes[wish.call.name] = wish
            self._look(wish)
        elif wish.force and not there.force:
            there.force = True
            there.wish |= wish.wish
            self._grant(there)

    def worker_gone(self, worker: Worker) -> None:
        """A worker has ended, and is not settled yet: what it was killed for is cancelled."""
        process = (worker.slot, worker.epoch)
        for wish in self._killed.pop(process, ()):
            self._wishes.pop(wish.call.name, None)
            call = _hot.call_of(_reference(wish.call))
            if call is not None and _hot.settle_killed(call, *process, wish.error):
                self._end_children(wish)

    def _look(self, wish: Wish) -> None:
        if self._wishes.get(wish.call.name) is wish and not self._grant(wish):
            self._loop.call_later(wish.pause_s, self._look, wish)
            wish.looks += 1
            if wish.looks > EAGER_LOOKS:
                wish.pause_s = min(2 * wish.pause_s, LONGEST_PAUSE_S)

    def _grant(self, wish: Wish) -> bool:
        """Does what can be done now; whether that was all."""
        outcome, *process, told = _hot.cancel(_reference(wish.call), wish.wish, wish.error)
        if outcome != _hot.CANCEL_STARTED:
            self._wishes.pop(wish.call.name, None)
            return True
        slot, epoch = process
        worker = self._workers.find((slot, epoch))
        if worker is None:
            return False
        if wish.force and worker.queue is not None:
            self._kill(worker, wish)
            return True
        if told:
            self._wishes.pop(wish.call.name, None)
            return True
        if worker.watch is not None:
            worker.watch.send(SIGNAL)
        return False

    def _kill(self, worker: Worker, wish: Wish) -> None:
        killed_for = self._killed.setdefault((worker.slot, worker.epoch), [])
        if not any(there is wish for there in killed_for):
            killed_for.append(wish)
        self._workers.kill(worker, self._workers.death(worker, DeathKind.KILLED, "by af.cancel(force=True)"))

    def _end_children(self, wish: Wish) -> None:
        if wish.wish & _hot.CANCEL_CHILDREN:
            for child in _hot.children(wish.call.name):
                self.ask(Wish(child, wish.wish, wish.child_error, wish.child_error, force=True))


def _reference(call: _hot.Hold) -> _hot.Reference:
    assert isinstance(call, _hot.Reference)
    return call
