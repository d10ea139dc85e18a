"""Queue: a first-in, first-out queue that any process of the node can put to and get from.

An async actor holds the items. Who waits, waits there: a getter takes its place in line when its call arrives. A wait
that is given up here (a cancelled `await`, Ctrl-C) is withdrawn there, and an item that was on its way back goes to the
head of the queue again: nothing is lost.
"""

from __future__ import annotations

import asyncio
import math
import os
import queue as standard
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from actorflow.client import cluster, objects
from actorflow.client.decorator import remote
from actorflow.client.handles import ActorHandle
from actorflow.client.refs import ObjectRef

WAITS_AT_ONCE = 100_000  # calls that may wait in the actor; beyond it a getter would keep putters out


class Empty(standard.Empty):
    """The queue had no item, or not enough of them."""


class Full(standard.Full):
    """The queue had no room."""


class Queue:
    """A queue in an actor of its own. It can be passed to tasks and actors.

    `maxsize`: items that fit; 0 or less: any number. `actor_options`: options of the actor; by default it takes no
    CPU. The queue lives as long as a copy of this object does, unless shutdown() ends it earlier. An item that was
    handed to a process which dies before it reads it is lost with that process.
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        _check_whole("maxsize", maxsize)
        if not isinstance(actor_options, dict | None):
            raise TypeError(f"actor_options must be a dict, not {actor_options!r}")
        self.maxsize = maxsize
        made: Any = _QueueActor
        self.actor: ActorHandle = made.options(**(actor_options or {})).remote(maxsize)

    def __len__(self) -> int:
        return self.qsize()

    def qsize(self) -> int:
        """How many items there are."""
        return int(objects.get(self.actor.qsize.remote()))

    size = qsize

    def empty(self) -> bool:
        """Whether there is no item."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether there is no room for another item."""
        return 0 < self.maxsize <= self.qsize()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Adds an item; waits for room where `block`, up to `timeout` seconds. Raises Full, ValueError."""
        wait_s, ticket = _waiting(block, timeout)
        ref = self.actor.put.remote(item, wait_s, ticket)
        _check_put(self._answer(ref, ticket))

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """As put, in the running loop. When it is cancelled, the item is either there or not."""
        wait_s, ticket = _waiting(block, timeout)
        ref = self.actor.put.remote(item, wait_s, ticket)
        _check_put(await self._answer_async(ref, ticket))

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Takes the oldest item; waits for one where `block`, up to `timeout` seconds. Raises Empty, ValueError."""
        wait_s, ticket = _waiting(block, timeout)
        ref = self.actor.get.remote(wait_s, ticket)
        return _item(self._answer(ref, ticket))

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """As get, in the running loop. When it is cancelled, no item is lost."""
        wait_s, ticket = _waiting(block, timeout)
        ref = self.actor.get.remote(wait_s, ticket)
        return _item(await self._answer_async(ref, ticket))

    def put_nowait(self, item: Any) -> None:
        """put(item, block=False). Raises Full."""
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        """get(block=False). Raises Empty."""
        return self.get(block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Adds all items, in their order and with one call, or none: Full where they do not all fit."""
        if not isinstance(items, Iterable):
            raise TypeError(f"items must be iterable, not {type(items).__name__}")
        if not objects.get(self.actor.put_batch.remote(list(items))):
            raise Full("the items do not all fit into the queue")

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Takes the oldest `num_items` items with one call, or none: Empty where there are fewer."""
        _check_whole("num_items", num_items)
        if num_items < 0:
            raise ValueError(f"num_items={num_items} must not be negative")
        items = objects.get(self.actor.get_batch.remote(num_items))
        if items is None:
            raise Empty(f"the queue has fewer than {num_items} items")
        return list(items)

    def shutdown(self, force: bool = False, grace_period_s: float = 5) -> None:
        """Ends the queue; whoever waits in it, or uses it later, gets ActorDiedError. Its items are dropped.

        Without `force` the calls that were made here before are let in first, for up to `grace_period_s` seconds.
        """
        if not force:
            objects.wait([self.actor.qsize.remote()], timeout=grace_period_s)
        cluster.kill(self.actor)

    def _answer(self, ref: ObjectRef[Any], ticket: bytes) -> Any:
        try:
            return objects.get(ref)
        except (KeyboardInterrupt, SystemExit):
            self.actor.withdraw.remote(ticket, [ref])
            raise

    async def _answer_async(self, ref: ObjectRef[Any], ticket: bytes) -> Any:
        try:
            return await ref
        except asyncio.CancelledError:
            self.actor.withdraw.remote(ticket, [ref])
            raise


def _check_whole(name: str, value: Any) -> None:
    """TypeError where it is no whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")


def _waiting(block: bool, timeout: float | None) -> tuple[float | None, bytes]:
    """How long the actor lets a call wait (None: for ever), and the ticket by which the wait can be withdrawn."""
    if timeout is not None and block:
        objects.check_timeout(timeout)
    return (timeout if block else 0), os.urandom(16)


def _check_put(has_room: bool) -> None:
    if not has_room:
        raise Full("the queue is full")


def _item(items: list[Any]) -> Any:
    if not items:
        raise Empty("the queue is empty")
    return items[0]


@remote(num_cpus=0, max_concurrency=WAITS_AT_ONCE)
class _QueueActor:
    """The items, and the places of those that wait for room or for items, in their order of arrival.

    Between two calls there is either no item or no waiting getter, and either no room or no waiting putter. A place
    is a future; whoever makes it done (an item or room, the time, a withdrawal) takes it out of its line. Only that of
    a call that was cancelled is done, and in its line, until the call has its turn.
    """

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._items: deque[Any] = deque()
        self._putters: dict[asyncio.Future[Any], Any] = {}  # place -> its item
        self._getters: dict[asyncio.Future[Any], None] = {}
        self._by_ticket: dict[bytes, Callable[[], bool]] = {}  # how to give up each wait; False: it has ended

    async def qsize(self) -> int:
        return len(self._items)

    async def put(self, item: Any, timeout: float | None, ticket: bytes) -> bool:
        """Whether there was room for the item in time."""
        place = asyncio.get_running_loop().create_future()
        self._putters[place] = item
        return bool(await self._outcome(place, self._putters, timeout, ticket))

    async def get(self, timeout: float | None, ticket: bytes) -> list[Any]:
        """[the oldest item], or [] where none came in time."""
        place = asyncio.get_running_loop().create_future()
        self._getters[place] = None
        try:
            return list(await self._outcome(place, self._getters, timeout, ticket) or [])
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._give_back(place.result() or [])
            raise

    async def put_batch(self, items: list[Any]) -> bool:
        if len(items) > self._room():
            return False
        self._items += items
        self._settle()
        return True

    async def get_batch(self, count: int) -> list[Any] | None:
        if count > len(self._items):
            return None
        items = [self._items.popleft() for _ in range(count)]
        self._settle()
        return items

    async def withdraw(self, ticket: bytes, answer: list[ObjectRef[Any]]) -> None:
        """Ends a wait whose caller has left; what was on its way to the caller comes back."""
        give_up = self._by_ticket.get(ticket)
        if give_up is not None and give_up():
            return
        found = await answer[0]
        if isinstance(found, list):
            self._give_back(found)

    async def _outcome(
        self,
        place: asyncio.Future[Any],
        line: dict[asyncio.Future[Any], Any],
        timeout: float | None,
        ticket: bytes,
    ) -> Any:
        """What the place gets; None where it is given up."""

        def give_up() -> bool:
            if place.done():
                return False
            line.pop(place, None)
            place.set_result(None)
            return True

        self._settle()
        if timeout == 0:
            give_up()
        if place.done():
            return place.result()
        self._by_ticket[ticket] = give_up
        timer = None if timeout is None else asyncio.get_running_loop().call_later(timeout, give_up)
        try:
            return await place
        finally:
            line.pop(place, None)
            del self._by_ticket[ticket]
            if timer is not None:
                timer.cancel()

    def _settle(self) -> None:
        """Lets in items that fit, and hands out items that are waited for."""
        while True:
            if self._putters and self._room() > 0:
                place = next(iter(self._putters))
                item = self._putters.pop(place)
                if not place.cancelled():
                    self._items.append(item)
                    place.set_result(True)
            elif self._getters and self._items:
                place = next(iter(self._getters))
                del self._getters[place]
                if not place.cancelled():
                    place.set_result([self._items.popleft()])
            else:
                return

    def _room(self) -> float:
        return self._maxsize - len(self._items) if self._maxsize > 0 else math.inf

    def _give_back(self, items: list[Any]) -> None:
        self._items.extendleft(items)
        self._settle()
