"""xoscar: actors only, asynchronous only. Rows about tasks and objects are left out."""

import asyncio
import socket
from typing import Any

import xoscar

from bench import bodies
from bench.systems.base import Operation, System


class Server(xoscar.Actor):  # type: ignore[misc] # xoscar has no types
    """An actor that answers at once; a plain method, as the other systems' actor has."""

    def small_value(self) -> bytes:
        return bodies.SMALL


class AsyncServer(xoscar.Actor):  # type: ignore[misc] # xoscar has no types
    """The same with a coroutine method."""

    async def small_value(self) -> bytes:
        return bodies.SMALL


class Caller(xoscar.Actor):  # type: ignore[misc] # xoscar has no types
    """An actor that calls another."""

    def __init__(self, server: Any) -> None:
        super().__init__()
        self._server = server

    async def call_at_once(self, calls: int) -> None:
        await asyncio.gather(*(self._server.small_value() for _ in range(calls)))


class XoscarSystem(System):
    """A pool of as many processes as workers; its main process is the driver."""

    def __init__(self, name: str, cpus: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name, cpus, loop)
        self._pool: Any = None
        self._processes: list[str] = []
        self._made = 0

    def start(self) -> None:
        self.loop.run_until_complete(self._start())

    async def _start(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self._pool = await xoscar.create_actor_pool(f"127.0.0.1:{port}", n_process=self.cpus)
        self._processes = list(self._pool.sub_processes)
        server = await self._actor(Server)
        await server.small_value()
        await xoscar.destroy_actor(server)

    def stop(self) -> None:
        self.loop.run_until_complete(self._pool.stop())

    async def _actor(self, kind: type, *arguments: Any) -> Any:
        """Make an actor in the next of the pool's processes."""
        self._made += 1
        address = self._processes[self._made % len(self._processes)]
        return await xoscar.create_actor(kind, *arguments, address=address, uid=f"actor{self._made}")

    def _close(self, *actors: Any) -> None:
        self.loop.run_until_complete(_destroy(list(actors)))

    def actor_call(self) -> Operation:
        server = self.loop.run_until_complete(self._actor(Server))
        return Operation(lambda: server.small_value(), is_async=True, close=lambda: self._close(server))

    def actor_call_await(self) -> Operation:
        return self.actor_call()

    def actor_burst(self, calls: int) -> Operation:
        return self._burst(Server, calls)

    def async_actor_burst(self, calls: int) -> Operation:
        return self._burst(AsyncServer, calls)

    def _burst(self, kind: type, calls: int) -> Operation:
        server = self.loop.run_until_complete(self._actor(kind))

        async def call() -> None:
            await asyncio.gather(*(server.small_value() for _ in range(calls)))

        return Operation(call, is_async=True, close=lambda: self._close(server))

    def actor_callers(self, callers: int, calls: int) -> Operation:
        actors = self.loop.run_until_complete(self._make_callers(callers))

        async def call() -> None:
            await asyncio.gather(*(caller.call_at_once(calls) for caller in actors[1:]))

        return Operation(call, is_async=True, close=lambda: self._close(*actors))

    async def _make_callers(self, count: int) -> list[Any]:
        """Return a server and its callers, which live in other processes where there are others."""
        server = await self._actor(Server)
        others = [address for address in self._processes if address != server.address] or self._processes
        callers = []
        for number in range(count):
            address = others[number % len(others)]
            callers.append(await xoscar.create_actor(Caller, server, address=address, uid=f"caller{number}"))
        return [server, *callers]

    def make_actors(self, count: int) -> Operation:
        async def make() -> list[Any]:
            servers = [await self._actor(Server) for _ in range(count)]
            await asyncio.gather(*(server.small_value() for server in servers))
            return servers

        return Operation(make, is_async=True, after=_destroy)


async def _destroy(actors: list[Any]) -> None:
    for actor in actors:
        await xoscar.destroy_actor(actor)
