"""The operations of a system with Ray Core's names: Ray itself, and actorflow, measured by the same code."""

import asyncio
import functools
import importlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench import bodies
from bench.systems.base import Operation
from bench.systems.graph_api import GraphOperations
from bench.workloads import BACKLOG_TASK_S, BEGUN_S, DOOMED_CALL_S, FLOOD_CALL_S, FLOOD_PAYLOAD_BYTES


@functools.cache
def _remote(api_name: str, function: Callable[..., Any]) -> Any:
    """Return the remote form of a function, made once in each process."""
    return importlib.import_module(api_name).remote(function)


class Caller:
    """An actor that calls, as the clients of Ray's own benchmark do."""

    def __init__(self, api_name: str, servers: list[Any]) -> None:
        self._api: Any = importlib.import_module(api_name)
        self._task = _remote(api_name, bodies.small_value)
        self._servers = servers

    def run_tasks(self, calls: int) -> None:
        self._api.get([self._task.remote() for _ in range(calls)])

    def call_one_by_one(self, calls: int) -> None:
        for _ in range(calls):
            for server in self._servers:
                self._api.get(server.small_value.remote())


def call_servers(api_name: str, servers: list[Any], calls: int) -> None:
    """Task: call the servers in turn, all calls in flight at once."""
    api: Any = importlib.import_module(api_name)
    api.get([servers[number % len(servers)].small_value.remote() for number in range(calls)])


def parent(api_name: str) -> tuple[int, int]:
    """Task: get one child; returns both pids."""
    api: Any = importlib.import_module(api_name)
    return os.getpid(), api.get(_remote(api_name, bodies.process_id).remote())


def make_refs(api_name: str, count: int) -> list[Any]:
    """Task: an object that holds refs."""
    api: Any = importlib.import_module(api_name)
    return [api.put(1) for _ in range(count)]


class CoreApiSystem(GraphOperations):
    """A system whose module has remote, get, put, wait and kill."""

    def __init__(self, name: str, cpus: int, loop: asyncio.AbstractEventLoop, api_name: str) -> None:
        super().__init__(name, cpus, loop)
        self.api_name = api_name
        self.api: Any = importlib.import_module(api_name)
        self._small_value = self.api.remote(bodies.small_value)
        self._server_class = self.api.remote(num_cpus=0)(bodies.Server)
        self._caller_class = self.api.remote(num_cpus=0)(Caller)

    def first_result(self) -> None:
        self.api.get(self._small_value.remote())

    def _servers(self, count: int) -> list[Any]:
        servers = [self._server_class.remote() for _ in range(count)]
        self.api.get([server.small_value.remote() for server in servers])
        return servers

    def _callers(self, count: int, servers: list[list[Any]]) -> list[Any]:
        return [self._caller_class.remote(self.api_name, servers[number]) for number in range(count)]

    def actor_call(self) -> Operation:
        (server,) = self._servers(1)
        get = self.api.get
        return Operation(lambda: get(server.small_value.remote()), close=lambda: self._kill([server]))

    def actor_call_await(self) -> Operation:
        (server,) = self._servers(1)
        return Operation(
            lambda: server.small_value.remote(), is_async=True, close=lambda: self._kill([server])
        )

    def actor_burst(self, calls: int) -> Operation:
        (server,) = self._servers(1)
        get = self.api.get
        return Operation(
            lambda: get([server.small_value.remote() for _ in range(calls)]),
            close=lambda: self._kill([server]),
        )

    def async_actor_burst(self, calls: int) -> Operation:
        server = self.api.remote(num_cpus=0)(bodies.AsyncServer).remote()
        get = self.api.get
        return Operation(
            lambda: get([server.small_value.remote() for _ in range(calls)]),
            close=lambda: self._kill([server]),
        )

    def actor_callers(self, callers: int, calls: int) -> Operation:
        servers = self._servers(max(1, (os.cpu_count() or 1) // 2))
        task = self.api.remote(call_servers)
        return Operation(
            lambda: self.api.get([task.remote(self.api_name, servers, calls) for _ in range(callers)]),
            close=lambda: self._kill(servers),
        )

    def actor_pairs(self, pairs: int, calls: int) -> Operation:
        servers = self._servers(pairs)
        callers = self._callers(pairs, [[server] for server in servers])
        return Operation(
            lambda: self.api.get([caller.call_one_by_one.remote(calls) for caller in callers]),
            close=lambda: self._kill([*callers, *servers]),
        )

    def task(self) -> Operation:
        get, task = self.api.get, self._small_value
        return Operation(lambda: get(task.remote()))

    def task_burst(self, calls: int) -> Operation:
        get, task = self.api.get, self._small_value
        return Operation(lambda: get([task.remote() for _ in range(calls)]))

    def task_callers(self, callers: int, calls: int) -> Operation:
        actors = self._callers(callers, [[]] * callers)
        return Operation(
            lambda: self.api.get([actor.run_tasks.remote(calls) for actor in actors]),
            close=lambda: self._kill(actors),
        )

    def put_small(self) -> Operation:
        put = self.api.put
        return Operation(lambda: put(0))

    def get_small(self) -> Operation:
        get, ref = self.api.get, self.api.put(0)
        return Operation(lambda: get(ref))

    def put_array(self, size_bytes: int) -> Operation:
        put, array = self.api.put, bodies.make_array(size_bytes)
        return Operation(lambda: put(array))

    def get_array(self, size_bytes: int) -> Operation:
        get, ref = self.api.get, self.api.put(bodies.make_array(size_bytes))
        return Operation(lambda: get(ref))

    def task_with_array(self, size_bytes: int) -> Operation:
        get, ref = self.api.get, self.api.put(bodies.make_array(size_bytes))
        task = self.api.remote(bodies.array_length)
        return Operation(lambda: get(task.remote(ref)))

    def wait_each(self, calls: int) -> Operation:
        def wait_one_by_one() -> None:
            refs = [self._small_value.remote() for _ in range(calls)]
            for number in range(calls):
                # One look fetches them all: see the comment in Ray's own benchmark.
                _, refs = self.api.wait(refs, fetch_local=number == 0)

        return Operation(wait_one_by_one)

    def stream(self, items: int) -> Operation:
        get, task = self.api.get, self.api.remote(num_returns="streaming")(bodies.small_values)

        def read() -> None:
            for ref in task.remote(items):
                get(ref)

        return Operation(read)

    def get_nested_refs(self, count: int) -> Operation:
        ref = self.api.remote(make_refs).remote(self.api_name, count)
        return Operation(lambda: self.api.get(ref))

    def make_actors(self, count: int) -> Operation:
        return Operation(lambda: self._servers(count), after=self._kill)

    def hold_actors(self, count: int) -> Operation:
        return Operation(lambda: self._servers(count))

    def death_notice(self) -> Operation:
        def kill_and_wait() -> float:
            (server,) = self._servers(1)
            pid = self.api.get(server.process_id.remote())
            ref = server.work.remote(b"", DOOMED_CALL_S)
            time.sleep(BEGUN_S)
            begin = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            try:
                self.api.get(ref)
            except Exception:
                return time.perf_counter() - begin
            raise RuntimeError("the call of a killed actor has returned")

        return Operation(kill_and_wait)

    def nested_tasks(self, count: int) -> Operation:
        task = self.api.remote(parent)

        def count_workers() -> int:
            pids = self.api.get([task.remote(self.api_name) for _ in range(count)])
            return len({pid for pair in pids for pid in pair})

        return Operation(count_workers)

    def backlog(self, tasks: int) -> Operation:
        task = self.api.remote(bodies.sleep)

        def submit() -> tuple[Callable[[], bool], Callable[[], None]]:
            refs = [task.remote(BACKLOG_TASK_S) for _ in range(tasks)]
            return (
                lambda: not self.api.wait(refs, num_returns=tasks, timeout=0)[1],
                lambda: self.api.get(refs),
            )

        return Operation(submit)

    def flood(self, calls: int) -> Operation:
        (server,) = self._servers(1)
        payload = np.random.default_rng(0).bytes(FLOOD_PAYLOAD_BYTES)

        def submit() -> None:
            for _ in range(calls):
                server.work.remote(payload, FLOOD_CALL_S)

        return Operation(submit, close=lambda: self._kill([server]))
