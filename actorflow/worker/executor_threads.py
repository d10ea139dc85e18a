"""Runs the methods of a threaded actor: up to max_concurrency at once, each in a thread of its own.

Every thread takes calls by itself, so none waits for a dispatcher. A thread is started when one takes a call and no
other is waiting for the next; the threads stay, and of those that wait one is woken by a push. With concurrency groups,
a thread that takes a call whose group is full leaves it to the one that next ends a call of that group, and takes
another. Nothing interrupts a thread: a call that is cancelled while it runs goes on, and its value counts.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

from actorflow import _hot
from actorflow.worker import generators, interrupts, settling
from actorflow.worker.functions import Body
from actorflow.worker.groups import Groups

LOOK_S = 0.1  # how often a thread that waits sees whether another has ended the actor


class ThreadsExecutor:
    """The threads of one actor; the main thread is one of them. `limits`: of the default group and of each other."""

    def __init__(
        self, mailbox: _hot.Hold, resolve: Callable[[_hot.Call], Body], limits: Sequence[int]
    ) -> None:
        self._mailbox = mailbox
        self._resolve = resolve
        self._limit = sum(limits)
        self._groups: Groups[_hot.Call] = Groups(limits)
        self._has_groups = len(limits) > 1
        self._lock = threading.Lock()
        self._facts = _hot.Target(mailbox).facts
        self._threads: list[threading.Thread] = []
        self._waiting = 0
        self._leaving: list[_hot.Call] = []  # asked for the actor's end
        self._is_to_leave = False  # something did

    def serve(self) -> None:
        """Runs calls until the mailbox is abandoned and all that were taken are settled. Raises ExitActor."""
        self._serve()
        for thread in self._threads:
            thread.join()
        if self._is_to_leave:
            self._leaving += self._groups.drain()
            raise settling.ExitActor(self._leaving)

    def leave(self) -> None:
        """Ends the actor: `serve` raises ExitActor once the calls that run have ended."""
        self._is_to_leave = True

    def _serve(self) -> None:
        while self._run_next():
            pass

    def _serve_beside(self) -> None:
        with contextlib.suppress(_hot.NodeGoneError):  # the main thread is told as well
            self._serve()

    def _run_next(self) -> bool:
        with self._lock:
            self._waiting += 1
        try:
            call = _hot.take(self._mailbox, LOOK_S)
        except _hot.ClosedError:
            return False
        finally:
            with self._lock:
                self._waiting -= 1
        if call is None:
            return not self._is_to_leave and not self._facts()["abandoned"]
        if self._has_groups:
            self._run_in_group(call)
        else:
            self._keep_one_waiting()
            self._run(call)
        return not self._is_to_leave

    def _run_in_group(self, call: _hot.Call) -> None:
        """Runs the call, and then those that wait for its place, unless its group is full."""
        group = self._resolve(call).group
        with self._lock:
            if not self._groups.admit(group, call):
                return
        self._keep_one_waiting()
        following: _hot.Call | None = call
        del call  # what it refers to is freed when it has ended, not when the last of its group has
        while following is not None and not self._is_to_leave:
            self._run(following)
            with self._lock:
                following = self._groups.ended(group)
        if following is not None:
            self._leaving.append(following)

    def _keep_one_waiting(self) -> None:
        with self._lock:
            if self._waiting or len(self._threads) + 1 >= self._limit:
                return
            thread = threading.Thread(
                target=self._serve_beside, name=f"actor-{len(self._threads) + 1}", daemon=True
            )
            thread.start()  # under the lock, and first: whoever finds it there may join it
            self._threads.append(thread)

    def _run(self, call: _hot.Call) -> None:
        name, retry_on = "method", None
        try:
            body = self._resolve(call)
            name = body.name
            interrupts.refuse_cancelled(call)
            args, kwargs = call.arguments()
            retry_on = body.retry_on
            value = _value_of(call, body, args, kwargs)
        except settling.ExitActor:
            self._leaving.append(call)
            self._is_to_leave = True
        except BaseException as error:
            settling.fail(call, error, name, retry_on)
        else:
            settling.settle(call, value, name)


def _value_of(call: _hot.Call, body: Body, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the method gives. It has left the call when others can see its result."""
    _hot.enter(call)
    try:
        value = body.function(*args, **kwargs)
        return value if call.returns == 1 else generators.collect(call, value, body.name)
    finally:
        _hot.enter(None)
