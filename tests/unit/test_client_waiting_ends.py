"""The end of a loop's port: with the runtime, from whatever thread that ends, and with the loop."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
from collections.abc import Callable

import pytest
import uvloop

from actorflow import _hot
from actorflow.client import waiting
from actorflow.client.waiting import LoopPort, current_port
from tests.unit.loop_ports import Place, result_of, runner, segment, waiters

__all__ = ["runner", "segment"]


def test_closing_ends_every_wait(runner: asyncio.Runner) -> None:
    async def main() -> None:
        place, port = Place(), current_port()
        task = asyncio.create_task(result_of(place.ask()))
        await waiters(port, 1)
        waiting.close_ports(lambda: RuntimeError("shut down"))
        with pytest.raises(RuntimeError, match="shut down"):
            await task
        port.close()
        with pytest.raises(RuntimeError, match="waits no more"):
            port.add_done_callback(place.ask(), print)
        with pytest.raises(RuntimeError, match="shut down"):
            current_port()
        waiting.open_ports()
        assert current_port() is not port

    runner.run(main())


def test_closing_from_another_thread(runner: asyncio.Runner) -> None:
    async def main() -> None:
        task = asyncio.create_task(result_of(Place().ask()))
        await waiters(current_port(), 1)
        await asyncio.to_thread(waiting.close_ports, lambda: RuntimeError("shut down"))
        with pytest.raises(RuntimeError, match="shut down"):
            await task

    runner.run(main())


def test_a_loop_says_nothing_when_the_runtime_ends_before_its_port(runner: asyncio.Runner) -> None:
    """Another thread closes the ports, which this loop hears of in a later turn, and lets go of the memory."""
    said = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        port = current_port()
        task = asyncio.create_task(result_of(Place().ask()))
        await waiters(port, 1)
        _hot.detach()
        port._turn()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ringer:
            ringer.sendto(b"x", port._socket.getsockname())
        port._look()
        for _ in range(5):
            await asyncio.sleep(0)
        port.close(lambda: RuntimeError("shut down"))
        with pytest.raises(RuntimeError, match="shut down"):
            await task

    runner.run(main())
    assert not said


def test_a_loop_that_was_busy_while_its_port_was_closed_waits_in_the_next_runtime(
    runner: asyncio.Runner,
) -> None:
    def end_and_begin() -> None:
        waiting.close_ports(lambda: RuntimeError("shut down"))
        waiting.open_ports()

    async def main() -> None:
        place, old = Place(), current_port()
        before = asyncio.create_task(result_of(place.ask()))
        await waiters(old, 1)
        thread = threading.Thread(target=end_and_begin)
        thread.start()
        thread.join()  # the loop has no turn meanwhile
        after = asyncio.create_task(result_of(Place().ask()))
        port = current_port()
        assert port is not old
        await waiters(port, 1)
        with pytest.raises(RuntimeError, match="shut down"):
            await before
        assert current_port() is port
        after.cancel()
        await asyncio.gather(after, return_exceptions=True)

    runner.run(main())
    assert not waiting._ending


def test_a_loop_that_is_closed_while_ports_are_closed_does_no_harm(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closing:
        """A loop that is closed just when it is asked to close its port."""

        has_closed = False

        def is_running(self) -> bool:
            return True

        def is_closed(self) -> bool:
            return self.has_closed

        def call_soon_threadsafe(self, *_: object) -> None:
            self.has_closed = True
            raise RuntimeError("Event loop is closed")

    async def main() -> LoopPort:
        return current_port()

    port, loop = runner.run(main()), Closing()
    monkeypatch.setattr(port, "loop", lambda: loop)
    waiting.close_ports(lambda: RuntimeError("shut down"))
    assert port._closed
    assert not waiting._ending


@pytest.mark.parametrize("make", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_port_ends_with_its_loop(make: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> int:
        place = Place()
        task = asyncio.create_task(result_of(place.ask()))
        await waiters(current_port(), 1)
        place.answer()
        await task
        return current_port()._socket.fileno()

    loop = make()
    descriptor = loop.run_until_complete(main())
    os.fstat(descriptor)
    loop.close()
    del loop
    gc.collect()
    assert not waiting._ports
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_loop_that_was_closed_while_it_waited_is_swept() -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(result_of(Place().ask()))
    loop.run_until_complete(asyncio.sleep(0))
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    assert len(waiting._ports) == 1

    async def main() -> None:
        current_port()

    with asyncio.Runner() as other:
        other.run(main())
        assert [port.loop() for port in waiting._ports.values()] == [other.get_loop()]
