"""Tasks and actors that keep, pass on, give back and drop references and views, for random programs.

A process that has run one of them answers two signals: SIGUSR1 with a census of itself, SIGUSR2 once it has dropped all
that it kept. Answers are datagrams to a socket named after the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

import actorflow as af
from actorflow import _hot
from tests.system.census import take_census

Box = list[Any]
"""Refs, and numbered arrays."""

KEPT: list[Any] = []  # by this process


class RoughError(Exception):
    """Raised on purpose; what it was given travels along."""


def array(number: int, size_bytes: int) -> tuple[int, Any]:
    """A value that can be told from others, and from itself when it is spoiled."""
    return number, np.full(size_bytes, number % 251, np.uint8)


def check(value: Any) -> None:
    """Fails where a numbered array is not what was written."""
    if isinstance(value, tuple):
        number, content = value
        assert (content == number % 251).all(), f"array {number} was spoiled"
    elif isinstance(value, list):
        for item in value:
            check(item)


def refs_of(box: Any) -> list[Any]:
    """The refs in a box."""
    return [item for item in box if isinstance(item, af.ObjectRef)] if isinstance(box, list) else []


# -- signals


def address(node_id: bytes) -> bytes:
    """Of the socket that answers go to."""
    return b"\0actorflow-census-" + node_id.hex().encode()


def _drop(_: int, __: Any) -> None:
    KEPT.clear()
    gc.collect()
    _answer([])


def _count(_: int, __: Any) -> None:
    _answer(take_census().differences)


def _answer(differences: list[str]) -> None:
    told = json.dumps([os.getpid(), differences])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller, contextlib.suppress(OSError):
        teller.sendto(told.encode()[:60000], address(_hot.identity()[0]))


def answer_signals() -> None:
    """From now on this process answers; by its main thread."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, _count)
        signal.signal(signal.SIGUSR2, _drop)


# -- tasks


@af.remote(num_cpus=0.5)
def identity(value: Any) -> Any:
    answer_signals()
    check(value)
    return value


@af.remote(num_cpus=0.5)
def keep(box: Box) -> int:
    answer_signals()
    KEPT.append(box)
    return len(KEPT)


@af.remote(num_cpus=0.5)
def see(box: Box) -> int:
    """Keeps views of what the refs stand for, without the refs."""
    answer_signals()
    seen = af.get(refs_of(box))
    check(seen)
    KEPT.append(seen)
    return len(seen)


@af.remote(num_cpus=0.5)
def produce(number: int, count: int, size_bytes: int) -> Box:
    answer_signals()
    return [af.put(array(number + i, size_bytes)) for i in range(count)]


@af.remote(num_cpus=0.5)
def nest(box: Box, depth: int) -> Box:
    """Refs to what children make of the box, some of them awaited here."""
    answer_signals()
    if depth == 0:
        return box
    children = [nest.remote(box, depth - 1), identity.remote(box), af.put(box)]
    af.get(children[depth % 2])
    return children


@af.remote(num_cpus=0.5, num_returns=2)
def split(box: Box) -> tuple[Box, Box]:
    answer_signals()
    return box[::2], box[1::2]


@af.remote(num_cpus=0.5)
def fork(box: Box) -> Box:
    """A forked child reads the refs, drops them, and ends."""
    answer_signals()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            check(af.get(refs_of(box)))
            box.clear()
            KEPT.clear()
        os._exit(0)
    os.waitpid(child, 0)
    return box


@af.remote(num_cpus=0.5)
def fail(box: Box) -> None:
    answer_signals()
    raise RoughError(box)


@af.remote(num_cpus=0.5)
def hang(gate: Any, box: Box) -> Box:
    """Waits for a gate, as long as that lives."""
    answer_signals()
    af.get(gate.pass_through.remote())
    return box


@af.remote(num_cpus=0.5)
def through(handle: Any, box: Box) -> Box:
    """Has an actor keep the box."""
    answer_signals()
    return [handle.keep.remote(box)]


@af.remote(num_cpus=0.5, num_returns="streaming")
def stream(box: Box, number: int, count: int) -> Iterator[Any]:
    answer_signals()
    for i in range(count):
        yield box if i % 2 else array(number + i, 200_000)
    if count > 4:
        raise RoughError(box)


# -- actors


class Keeping:
    """What sync, threaded and async keepers have in common: what is done with a box."""

    def __init__(self, box: Box) -> None:
        answer_signals()
        self.box = list(box)
        self.seen: Any = None
        self.others: list[Any] = []
        self.children: list[Any] = []

    def _keep(self, box: Box) -> int:
        self.box += box
        return len(self.box)

    def _give(self, count: int) -> Box:
        return self.box[-count:]

    def _drop(self) -> None:
        self.box.clear()
        self.seen = None
        self.children.clear()

    def _call(self, box: Box) -> Box:
        self.children += [identity.remote(box), nest.remote(box, 1)]
        return self.children[-2:]

    def _adopt(self, handle: Any) -> Any:
        self.others.append(handle)
        return handle.keep.remote(self.box[-2:])


@af.remote(num_cpus=0)
class Keeper(Keeping):
    """Sync; threaded with max_concurrency."""

    def keep(self, box: Box) -> int:
        return self._keep(box)

    def give(self, count: int) -> Box:
        return self._give(count)

    def drop(self) -> None:
        self._drop()

    def call(self, box: Box) -> Box:
        return self._call(box)

    def adopt(self, handle: Any) -> Any:
        return [self._adopt(handle)]

    def see(self) -> None:
        self.seen = af.get(refs_of(self.box)[-2:])
        check(self.seen)

    def make(self) -> Any:
        child = Keeper.remote(self.box[-1:])
        self.others.append(child)
        return child

    def fail(self, box: Box) -> None:
        raise RoughError(box)

    def leave(self) -> None:
        af.exit_actor()


@af.remote(num_cpus=0)
class AsyncKeeper(Keeping):
    """The same in a loop."""

    async def keep(self, box: Box) -> int:
        return self._keep(box)

    async def give(self, count: int) -> Box:
        return self._give(count)

    async def drop(self) -> None:
        self._drop()

    async def call(self, box: Box) -> Box:
        return self._call(box)

    async def adopt(self, handle: Any) -> Any:
        return [self._adopt(handle)]

    async def see(self) -> None:
        self.seen = [await ref for ref in refs_of(self.box)[-2:]]
        check(self.seen)

    async def make(self) -> Any:
        child = AsyncKeeper.remote(self.box[-1:])
        self.others.append(child)
        return child

    async def fail(self, box: Box) -> None:
        raise RoughError(box)

    async def leave(self) -> None:
        af.exit_actor()


@af.remote(num_cpus=0)
class Gate:
    """Holds back who comes until it is opened."""

    def __init__(self) -> None:
        answer_signals()
        self._open = asyncio.Event()

    async def pass_through(self) -> None:
        await self._open.wait()

    async def open(self) -> None:
        self._open.set()
