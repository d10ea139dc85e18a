"""The machine's own limits as a system: what calls, copies and processes cost without any runtime."""

import gc
import os
import subprocess
import sys

from bench import bodies, limits
from bench.gloo import GlooPair
from bench.systems.base import Operation, System


class LimitSystem(System):
    """Bare queues, memcpy, fork and exec."""

    def start(self) -> None:
        self._ffi, self._lib = limits.build()

    def stop(self) -> None:
        """Nothing outlives its operation."""

    def queue_c(self, round_trips: int) -> Operation:
        echo = limits.EchoProcess(self._ffi, self._lib, limits.echo_in_c)
        return Operation(lambda: self._lib.limits_ping(echo.end, round_trips), close=echo.close)

    def channel_c(self, processes: int, round_trips: int) -> Operation:
        ring = limits.Ring(self._lib, processes)
        return Operation(lambda: ring.round(round_trips, len(bodies.SMALL)), close=ring.close)

    def queue_pickle(self) -> Operation:
        echo = limits.EchoProcess(self._ffi, self._lib, limits.answer_pickled_calls)

        def call() -> object:
            echo.send_small_call()
            return echo.receive_reply()

        return Operation(call, close=echo.close)

    def queue_pickle_burst(self, calls: int) -> Operation:
        echo = limits.EchoProcess(self._ffi, self._lib, limits.answer_pickled_calls)

        def call() -> list[object]:
            for _ in range(calls):
                echo.send_small_call()
            return [echo.receive_reply() for _ in range(calls)]

        return Operation(call, close=echo.close)

    def copy(self, size_bytes: int) -> Operation:
        array = bodies.make_array(size_bytes)
        source = self._ffi.from_buffer(array)
        pages = self._lib.limits_pages_create(size_bytes)
        if not pages:
            raise MemoryError(f"no {size_bytes} bytes of shared memory")
        return Operation(
            lambda: self._lib.limits_copy(pages, source, size_bytes),
            close=lambda: self._lib.limits_pages_destroy(pages, size_bytes),
        )

    def gloo(self, size_bytes: int) -> Operation:
        pair = GlooPair(size_bytes)
        return Operation(pair.send, close=pair.close)

    def fork_warm(self, count: int) -> Operation:
        gc.collect()
        gc.freeze()

        def fork() -> list[int]:
            reader, writer = os.pipe()
            pids = []
            for _ in range(count):
                pid = os.fork()
                if not pid:
                    os.write(writer, bodies.SMALL[:1])
                    os._exit(0)
                pids.append(pid)
            for _ in range(count):
                os.read(reader, 1)
            os.close(reader)
            os.close(writer)
            return pids

        return Operation(fork, after=_reap, close=gc.unfreeze)

    def interpreter_start(self) -> Operation:
        command = [sys.executable, "-c", "import numpy"]
        return Operation(lambda: subprocess.run(command, check=True))


def _reap(pids: list[int]) -> None:
    for pid in pids:
        os.waitpid(pid, 0)
