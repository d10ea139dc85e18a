"""A first look: tasks, actors, shared objects, errors and asyncio, in the order in which one meets them.

python examples/quickstart.py
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

import actorflow as af


@af.remote
def square(number: int) -> int:
    return number * number


@af.remote
def add_all(numbers: Iterable[int]) -> int:
    """A task may call tasks; while it waits for them its CPU serves others."""
    return sum(af.get([square.remote(number) for number in numbers]))


@af.remote
def mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean())


@af.remote
def refuse(name: str) -> None:
    raise LookupError(f"no {name} here")


@af.remote
class Counter:
    """Lives in a process of its own; one call runs at a time, in the order of the calls."""

    def __init__(self, start: int = 0) -> None:
        self.total = start

    def add(self, number: int) -> int:
        self.total += number
        return self.total


@af.remote
class Greeter:
    """Has async methods: many calls run at once on one loop."""

    async def greet(self, name: str) -> str:
        await asyncio.sleep(0.01)
        return f"hello {name}"


def tasks() -> None:
    print("squares:", af.get([square.remote(number) for number in range(5)]))
    print("nested:", af.get(add_all.remote(range(5))))
    # A ref as an argument stands for its value: nothing waits here, nothing is copied to this process.
    print("chained:", af.get(square.remote(square.remote(3))))
    refs = [square.remote(number) for number in range(4)]
    done, rest = af.wait(refs, num_returns=1)
    print("waited:", len(done), "done,", len(rest), "perhaps not")


def objects() -> None:
    values = af.put(np.arange(1_000_000, dtype=np.float64))
    print("mean of 8 MB that nobody copied:", af.get(mean.remote(values)))
    view = af.get(values)
    print("what get returns may be read, not written:", view.flags.writeable)


def errors() -> None:
    try:
        af.get(refuse.remote("milk"))
    except LookupError as error:  # its own type ...
        print("caught:", error.args[0])
        print("raised in another process:", isinstance(error, af.TaskError))  # ... that says where


def actors() -> None:
    counter = Counter.remote(start=10)
    print("totals:", af.get([counter.add(number) for number in range(5)]))


async def in_asyncio() -> None:
    """The same calls, awaited; every combinator of asyncio takes refs."""
    greeter = Greeter.remote()
    print("awaited:", await square.remote(7))
    print("gathered:", await asyncio.gather(*(greeter.greet(name) for name in ("Ada", "Grace"))))
    start = time.perf_counter()
    await asyncio.gather(*(greeter.greet(str(number)) for number in range(100)))
    print(f"100 calls of 10 ms each, at once: {(time.perf_counter() - start) * 1000:.0f} ms")


def main() -> None:
    with af.init():
        tasks()
        objects()
        errors()
        actors()
        asyncio.run(in_asyncio())


if __name__ == "__main__":
    main()
