"""Generators that run in workers, and what tests ask about them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import actorflow as af
from actorflow import _hot
from actorflow.shm.store import Store

DEADLINE_S = 30.0


@af.remote
def count(items: int) -> Iterator[int]:
    yield from range(items)


@af.remote
async def count_async(items: int) -> AsyncIterator[int]:
    for item in range(items):
        await asyncio.sleep(0)
        yield item


@af.remote
class Counter:
    def count(self, items: int) -> Iterator[int]:
        yield from range(items)

    @af.method(num_returns="dynamic")
    def gathered(self, items: int) -> Iterator[int]:
        yield from range(items)

    def pid(self) -> int:
        return os.getpid()


@af.remote
class AsyncCounter:
    async def count(self, items: int) -> AsyncIterator[int]:
        for item in range(items):
            await asyncio.sleep(0)
            yield item

    def count_sync(self, items: int) -> Iterator[int]:
        yield from range(items)

    @af.method(num_returns="dynamic")
    async def gathered(self, items: int) -> AsyncIterator[int]:
        for item in range(items):
            yield item


@af.remote(num_cpus=0)
def traced(items: int, path: str) -> Iterator[int]:
    """Appends to a file what becomes of it."""
    with open(path, "a") as trace:
        try:
            for item in range(items):
                print(item, file=trace, flush=True)
                yield item
        except GeneratorExit:
            print("closed", file=trace, flush=True)
            raise


def trace(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def values(refs: Any) -> list[Any]:
    return [af.get(ref) for ref in refs]


def live_blocks() -> int:
    """Blocks of the node that somebody holds."""
    return int(Store(_hot.client_address()).audit().blocks)
