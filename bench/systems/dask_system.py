"""Dask's distributed: a local cluster of processes with one thread each.

Its actors live several to a worker, its futures are not awaited inside tasks without leaving the thread pool
(worker_client), and what holds futures cannot be a plain result: rows that need otherwise are left out.
"""

import asyncio
import importlib
import os
from collections.abc import Callable
from typing import Any

from bench import bodies
from bench.systems.base import Operation, System
from bench.workloads import BACKLOG_TASK_S

# As Any: its annotations cover a part of it.
distributed: Any = importlib.import_module("distributed")


class Caller:
    """An actor that calls another, one call at a time."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def call_one_by_one(self, calls: int) -> None:
        for _ in range(calls):
            self._server.small_value().result()


def call_servers(servers: list[Any], calls: int) -> None:
    """Task: call the actors in turn, all calls in flight at once."""
    futures = [servers[number % len(servers)].small_value() for number in range(calls)]
    for future in futures:
        future.result()


def run_tasks(calls: int) -> None:
    """Task: run tasks, without occupying a worker's thread meanwhile."""
    with distributed.worker_client() as client:
        client.gather(client.map(bodies.process_id, range(calls), pure=False))


def parent(number: int) -> tuple[int, int]:
    """Task: get one child; returns both pids."""
    with distributed.worker_client() as client:
        return os.getpid(), client.submit(bodies.process_id, number, pure=False).result()


class DaskSystem(System):
    """A LocalCluster and a Client; for awaiting, a second, asynchronous Client on it."""

    def __init__(self, name: str, cpus: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name, cpus, loop)
        self._cluster: Any = None
        self._client: Any = None

    def start(self) -> None:
        self._cluster = distributed.LocalCluster(
            n_workers=self.cpus, threads_per_worker=1, dashboard_address=None
        )
        self._client = distributed.Client(self._cluster)
        self._submit(bodies.small_value).result()

    def attach(self, address: str) -> None:
        self._client = distributed.Client(address)
        self._submit(bodies.small_value).result()

    def address(self) -> str:
        return str(self._cluster.scheduler_address)

    def stop(self) -> None:
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._client.submit(function, *arguments, pure=False)

    def _actor(self, kind: type, *arguments: Any) -> Any:
        return self._client.submit(kind, *arguments, actor=True, pure=False).result()

    def actor_call(self) -> Operation:
        server = self._actor(bodies.Server)
        return Operation(lambda: server.small_value().result())

    def actor_call_await(self) -> Operation:
        client = self.loop.run_until_complete(self._asynchronous_client())
        server = self.loop.run_until_complete(self._asynchronous_actor(client))
        return Operation(
            lambda: server.small_value(),
            is_async=True,
            close=lambda: self.loop.run_until_complete(client.close()),
        )

    async def _asynchronous_client(self) -> Any:
        return await distributed.Client(self.address(), asynchronous=True)

    async def _asynchronous_actor(self, client: Any) -> Any:
        return await client.submit(bodies.Server, actor=True, pure=False)

    def actor_burst(self, calls: int) -> Operation:
        return self._burst(self._actor(bodies.Server), calls)

    def async_actor_burst(self, calls: int) -> Operation:
        return self._burst(self._actor(bodies.AsyncServer), calls)

    def _burst(self, server: Any, calls: int) -> Operation:
        def call() -> None:
            futures = [server.small_value() for _ in range(calls)]
            for future in futures:
                future.result()

        return Operation(call)

    def actor_callers(self, callers: int, calls: int) -> Operation:
        servers = [self._actor(bodies.Server) for _ in range(max(1, (os.cpu_count() or 1) // 2))]
        return Operation(
            lambda: self._client.gather([self._submit(call_servers, servers, calls) for _ in range(callers)])
        )

    def task(self) -> Operation:
        return Operation(lambda: self._submit(bodies.small_value).result())

    def task_burst(self, calls: int) -> Operation:
        numbers = range(calls)
        return Operation(
            lambda: self._client.gather(self._client.map(bodies.process_id, numbers, pure=False))
        )

    def task_callers(self, callers: int, calls: int) -> Operation:
        return Operation(
            lambda: self._client.gather([self._submit(run_tasks, calls) for _ in range(callers)])
        )

    def put_small(self) -> Operation:
        # Without a hash of the content, as for a put elsewhere.
        return Operation(lambda: self._client.scatter(0, hash=False))

    def get_small(self) -> Operation:
        future = self._client.scatter(0, hash=False)
        return Operation(lambda: future.result())

    def put_array(self, size_bytes: int) -> Operation:
        array = bodies.make_array(size_bytes)
        return Operation(lambda: self._client.scatter(array, hash=False))

    def get_array(self, size_bytes: int) -> Operation:
        future = self._client.scatter(bodies.make_array(size_bytes), hash=False)
        return Operation(lambda: future.result())

    def task_with_array(self, size_bytes: int) -> Operation:
        future = self._client.scatter(bodies.make_array(size_bytes), hash=False)
        return Operation(lambda: self._submit(bodies.array_length, future).result())

    def wait_each(self, calls: int) -> Operation:
        def wait_one_by_one() -> None:
            # Its own way to do this; distributed.wait in a loop takes thirty times as long.
            for _ in distributed.as_completed(self._client.map(bodies.process_id, range(calls), pure=False)):
                pass

        return Operation(wait_one_by_one)

    def make_actors(self, count: int) -> Operation:
        def make() -> list[Any]:
            actors = [self._client.submit(bodies.Server, actor=True, pure=False) for _ in range(count)]
            for future in [actor.small_value() for actor in self._client.gather(actors)]:
                future.result()
            return actors

        return Operation(make, after=list.clear)

    def nested_tasks(self, count: int) -> Operation:
        def count_workers() -> int:
            pids = self._client.gather(self._client.map(parent, range(count), pure=False))
            return len({pid for pair in pids for pid in pair})

        return Operation(count_workers)

    def backlog(self, tasks: int) -> Operation:
        def submit() -> tuple[Callable[[], bool], Callable[[], None]]:
            futures = [self._submit(bodies.sleep, BACKLOG_TASK_S) for _ in range(tasks)]
            return lambda: all(future.done() for future in futures), lambda: self._client.gather(futures)

        return Operation(submit)
