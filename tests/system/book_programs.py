"""Random programs that pass references about, in this process and in others; and what must be true after each.

A program is made of one seed. What it does depends on nothing else; how far its calls have come when the next step is
taken depends on the machine, so a seed that has failed may have to be run a few times.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import pickle
import random
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import actorflow as af
from actorflow import _hot
from actorflow.client import runtime as runtimes
from actorflow.shm.store import Role, Store
from tests.conftest import wait_until
from tests.system import keepers
from tests.system.census import take_census

DEADLINE_S = 40.0
ANSWER_S = 20.0
SIZES_BYTES = (10, 3_000, 60_000, 150_000, 2_000_000)
LARGE_BYTES = 100 * 1024
# What killing and cancelling may bring upon a call.
EXPECTED = (
    keepers.RoughError,
    af.TaskCancelledError,
    af.WorkerCrashedError,
    af.ActorDiedError,
    af.ActorUnavailableError,
)
KINDS = {1: "cells", 3: "objects", 8: "actors", 13: "spilled"}  # ext/core/af.h
VALUE_KINDS = (3, 13)


@contextlib.contextmanager
def expected() -> Iterator[None]:
    """Lets errors of those kinds pass."""
    with contextlib.suppress(*EXPECTED):
        yield


class Program:
    """One driver that does at random what drivers do."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.numbers = iter(range(seed * 1000, (seed + 1) * 1000000))
        self.refs: list[Any] = []
        self.views: list[Any] = []
        self.actors: list[Any] = []
        self.streams: list[Any] = []
        self.futures: list[Any] = []
        self.done: list[str] = []
        self.gate = keepers.Gate.remote()

    def run(self) -> None:
        """Some steps."""
        steps = [self.put, self.put, self.task, self.task, self.task, self.produce, self.look, self.look]
        steps += [self.make_actor, self.ask_actor, self.ask_actor, self.adopt, self.read_stream, self.hang]
        steps += [self.cancel, self.kill_worker, self.kill_actor, self.drop, self.drop, self.drop_actor]
        steps += [self.wait, self.await_some, self.await_future, self.pickle, self.through]
        for _ in range(self.random.randint(5, 40)):
            step = self.random.choice(steps)
            self.done.append(step.__name__)
            with expected():
                step()

    # -- choices

    def number(self) -> int:
        return next(self.numbers)

    def size_bytes(self) -> int:
        return self.random.choice(SIZES_BYTES)

    def some_refs(self, most: int) -> list[Any]:
        return self.random.sample(self.refs, min(len(self.refs), self.random.randint(0, most)))

    def box(self) -> list[Any]:
        """Refs, and now and then an array beside them."""
        box = self.some_refs(3)
        if self.random.random() < 0.3:
            box.append(keepers.array(self.number(), self.size_bytes()))
        return box

    # -- values and tasks

    def put(self) -> None:
        self.refs.append(af.put(self.box()))

    def task(self) -> None:
        body = self.random.choice([keepers.identity, keepers.keep, keepers.see, keepers.fork, keepers.fail])
        self.refs.append(body.options(max_retries=self.random.choice([0, 0, 2])).remote(self.argument()))
        if self.random.random() < 0.3:
            self.refs.append(keepers.nest.remote(self.box(), self.random.randint(0, 2)))
        if self.random.random() < 0.2:
            self.refs += keepers.split.remote(self.box())

    def argument(self) -> Any:
        """A box, mostly as it is, else by its ref."""
        return self.box() if self.random.random() < 0.7 else af.put(self.box())

    def produce(self) -> None:
        call = keepers.produce.options(max_retries=self.random.choice([0, 2]))
        self.refs.append(call.remote(self.number(), self.random.randint(1, 4), self.size_bytes()))

    def hang(self) -> None:
        self.refs.append(keepers.hang.remote(self.gate, self.box()))

    def read_stream(self) -> None:
        made = keepers.stream.remote(self.box(), self.number(), self.random.randint(0, 6))
        for _ in range(self.random.randint(0, 4)):
            with contextlib.suppress(StopIteration):
                self.refs.append(next(made))
        if self.random.random() < 0.3:
            self.streams.append(made)

    # -- actors

    def make_actor(self) -> None:
        kind = self.random.choice([keepers.Keeper, keepers.Keeper, keepers.AsyncKeeper])
        options: dict[str, Any] = {"max_restarts": self.random.choice([0, 1])}
        options["max_task_retries"] = self.random.choice([0, options["max_restarts"]])
        if kind is keepers.Keeper and self.random.random() < 0.3:
            options["max_concurrency"] = 2
        self.actors.append(kind.options(**options).remote(self.box()))

    def ask_actor(self) -> None:
        if not self.actors:
            return
        actor = self.random.choice(self.actors)
        method = self.random.choice(["keep", "give", "drop", "call", "see", "make", "fail", "leave"])
        if method == "leave" and self.random.random() < 0.7:
            return
        arguments: list[Any] = [self.box()] if method in ("keep", "call", "fail") else []
        if method == "give":
            arguments.append(2)
        self.refs.append(getattr(actor, method).remote(*arguments))

    def adopt(self) -> None:
        """Only those made before: handles in a circle keep each other alive."""
        if len(self.actors) > 1:
            younger = self.random.randint(1, len(self.actors) - 1)
            older = self.actors[self.random.randint(0, younger - 1)]
            self.refs.append(self.actors[younger].adopt.remote(older))

    def through(self) -> None:
        if self.actors:
            self.refs.append(keepers.through.remote(self.random.choice(self.actors), self.box()))

    # -- looks

    def look(self) -> None:
        for ref in self.some_refs(2):
            try:
                value = af.get(ref, timeout=0.01)
            except af.GetTimeoutError:
                continue
            except keepers.RoughError as error:
                self.views.append(error)
                value = error.args[0]
            keepers.check(value)
            self.views.append(value)
            self.refs += keepers.refs_of(value)[:2]

    def wait(self) -> None:
        refs = list(dict.fromkeys(self.some_refs(5)))
        if refs:
            af.wait(
                refs, num_returns=self.random.randint(1, len(refs)), timeout=self.random.choice([0, 0.02])
            )

    def await_some(self) -> None:
        asyncio.run(self._await(self.some_refs(4)))

    async def _await(self, refs: list[Any]) -> None:
        for ref in refs:
            ref.add_done_callback(_ignore)
        with contextlib.suppress(TimeoutError), expected():
            async with asyncio.timeout(0.02):
                for ref in refs:
                    self.views.append(await ref)

    def await_future(self) -> None:
        for ref in self.some_refs(1):
            future = ref.future()
            if self.random.random() < 0.5:
                self.futures.append(future)

    def pickle(self) -> None:
        for ref in self.some_refs(1):
            self.refs.append(pickle.loads(pickle.dumps(ref)))

    # -- ends

    def cancel(self) -> None:
        for ref in self.some_refs(2):
            with contextlib.suppress(ValueError, TypeError):
                af.cancel(ref, force=self.random.random() < 0.3, recursive=self.random.random() < 0.7)

    def kill_worker(self) -> None:
        workers = [slot.pid for slot in Store(_hot.client_address()).slots(Role.WORKER) if slot.pid]
        if workers and self.random.random() < 0.5:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(workers), signal.SIGKILL)

    def kill_actor(self) -> None:
        if self.actors and self.random.random() < 0.4:
            af.kill(self.random.choice(self.actors), no_restart=self.random.random() < 0.7)

    def drop(self) -> None:
        for kept in (self.refs, self.views, self.streams, self.futures):
            self.random.shuffle(kept)
            del kept[self.random.randint(0, len(kept)) :]

    def drop_actor(self) -> None:
        if self.actors:
            del self.actors[self.random.randrange(len(self.actors))]

    # -- the end

    def settle(self) -> None:
        """Everything that was asked for has an answer, which is what it may be."""
        self.gate.open.remote()
        for ref in self.refs:
            with expected():
                keepers.check(af.get(ref, timeout=DEADLINE_S))
        for made in self.streams:
            with contextlib.suppress(StopIteration), expected():
                while True:
                    self.refs.append(next(made))

    def drop_all(self) -> None:
        """This process keeps nothing."""
        for kept in (self.refs, self.views, self.streams, self.futures, self.actors):
            kept.clear()
        self.gate = None
        gc.collect()


def _ignore(_: Any) -> None:
    """A callback that somebody waits with."""


class Books:
    """The node's books beside every process's truth."""

    def __init__(self) -> None:
        self._store = Store(_hot.client_address())
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(keepers.address(_hot.identity()[0]))
        self._socket.settimeout(ANSWER_S)
        self._processors = af.cluster_resources()

    def close(self) -> None:
        self._socket.close()

    def compare(self) -> None:
        """Every process has what its books say."""
        problems: list[str] = []

        def agree() -> bool:
            problems[:] = self._problems()
            return not problems

        try:
            wait_until(agree, DEADLINE_S, "the books agree")
        except TimeoutError:
            raise AssertionError("\n".join(problems)) from None

    def _problems(self) -> list[str]:
        problems = [f"driver: {text}" for text in take_census().differences]
        problems += [text for pid in self._keepers() for text in self._ask(pid, signal.SIGUSR1)]
        audit = self._store.audit()
        if not audit.clean:
            problems.append(f"the audit: {audit}")
        try:
            runtimes.require().ask("validate")
        except af.InternalError as error:
            problems.append(f"the node: {error}")
        return problems

    def drop_all(self) -> None:
        """Has every worker drop what it kept."""
        for pid in self._keepers():
            self._ask(pid, signal.SIGUSR2)

    def _ask(self, pid: int, number: signal.Signals) -> list[str]:
        try:
            os.kill(pid, number)
            told = json.loads(self._socket.recv(1 << 16))
        except ProcessLookupError:
            return [f"worker {pid} has just ended"]
        except TimeoutError:
            return [f"worker {pid} does not answer"]
        return [f"worker {told[0]}: {text}" for text in told[1]]

    def _keepers(self) -> Iterator[int]:
        """The workers that answer signals."""
        for slot in self._store.slots(Role.WORKER):
            with contextlib.suppress(OSError, StopIteration):
                rows = Path(f"/proc/{slot.pid}/status").read_text().splitlines()
                caught = next(row for row in rows if row.startswith("SigCgt:"))
                if int(caught.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1:
                    yield slot.pid

    def holders(self) -> str:
        """How many values and actors each process holds."""
        rows = []
        for role in Role:
            for slot in self._store.slots(role):
                kinds = Counter(hold.kind for hold in self._store.holds(slot.number))
                held = ", ".join(f"{kinds[kind]} {name}" for kind, name in KINDS.items() if kinds[kind])
                rows.append(f"{role.name} {slot.pid}: {held}")
        return "; ".join(rows)

    def is_empty(self) -> list[str]:
        """What is left although nobody has anything any more."""
        left = []
        used_bytes = self._store.segment().object_bytes_used
        if used_bytes:
            left.append(f"{used_bytes} bytes in the store")
        state = runtimes.require().ask("state")[0]
        left += [f"actor {actor}" for actor in state["actors"]]
        if af.available_resources() != self._processors:
            left.append(f"resources: {af.available_resources()}")
        held = [hold for hold in self._store.holds(0) if hold.kind in VALUE_KINDS]
        left += [f"the node holds {hold}" for hold in held]
        return left


def run(seed: int, books: Books) -> None:
    """A program, and what must hold after it."""
    program = Program(seed)
    program.run()
    program.settle()
    books.compare()
    program.drop_all()
    left: list[str] = []

    def nothing_is_left() -> bool:
        books.drop_all()
        left[:] = books.is_empty()
        return not left

    try:
        wait_until(nothing_is_left, DEADLINE_S, "nothing is left")
    except TimeoutError:
        raise AssertionError(f"left behind: {left}; {books.holders()}; steps: {program.done}") from None
    books.compare()
