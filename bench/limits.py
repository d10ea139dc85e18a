"""Builds bench/limits.c with cffi, into a folder of its own at run time, and starts processes that echo."""

import ctypes
import importlib.util
import os
import pickle
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cffi import FFI

from bench.bodies import Server

_DECLARATIONS = """
struct limits_queue;
struct limits_end { struct limits_queue *queue; uint32_t sent, received; int sends_on; };
struct limits_queue *limits_queue_create(void);
void limits_queue_destroy(struct limits_queue *queue);
void limits_end_init(struct limits_end *end, struct limits_queue *queue, int is_server);
int limits_send(struct limits_end *end, const void *data, uint32_t size);
uint32_t limits_receive(struct limits_end *end, void *data);
void limits_echo(struct limits_end *end);
double limits_ping(struct limits_end *end, uint32_t round_trips);
struct limits_link;
struct limits_link *limits_links_create(uint32_t count);
void limits_links_destroy(struct limits_link *links, uint32_t count);
void limits_pass(struct limits_link *links, uint32_t index);
double limits_round(struct limits_link *links, uint32_t count, uint32_t begin, uint32_t round_trips, uint32_t size);
void *limits_pages_create(size_t size);
void limits_pages_destroy(void *memory, size_t size);
void limits_copy(void *target, const void *source, size_t size);
"""
_SLOT_DATA_BYTES = 240
_PR_SET_PDEATHSIG = 1
_SMALL_REQUEST = ("small_value", (), None)


def build() -> tuple[Any, Any]:
    """Compile the C code; returns cffi's `ffi` and `lib`. Raises VerificationError without a compiler."""
    builder = FFI()
    builder.cdef(_DECLARATIONS)
    source = Path(__file__).with_name("limits.c").read_text()
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra"]
    builder.set_source("_bench_limits", source, extra_compile_args=flags)
    with tempfile.TemporaryDirectory() as folder:
        library = builder.compile(tmpdir=folder)
        specification = importlib.util.spec_from_file_location("_bench_limits", library)
        assert specification is not None
        assert specification.loader is not None
        module: Any = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
    return module.ffi, module.lib


class Ring:
    """Processes in a ring, this one among them, each of which passes on what it gets."""

    def __init__(self, lib: Any, processes: int) -> None:
        """Fork all others."""
        self._lib = lib
        self._count = processes
        self._sent = 0
        self._links = lib.limits_links_create(processes)
        if not self._links:
            raise MemoryError("no shared memory for the ring")
        self._pids = [self._fork(index) for index in range(1, processes)]

    def _fork(self, index: int) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            self._lib.limits_pass(self._links, index)
        finally:
            os._exit(0)

    def round(self, round_trips: int, size_bytes: int) -> float:
        """Send something round so many times, one after the other; returns the mean seconds."""
        begin, self._sent = self._sent, self._sent + round_trips
        mean_s: float = self._lib.limits_round(self._links, self._count, begin, round_trips, size_bytes)
        return mean_s

    def close(self) -> None:
        """End the other processes."""
        self.round(1, 0)
        for pid in self._pids:
            os.waitpid(pid, 0)
        self._lib.limits_links_destroy(self._links, self._count)


class EchoProcess:
    """A forked process at the other end of a queue, and this process's own end."""

    def __init__(self, ffi: Any, lib: Any, serve: Callable[[Any, Any, Any], None]) -> None:
        """Fork a process that runs `serve(ffi, lib, end)`."""
        self._ffi = ffi
        self._lib = lib
        self._queue = lib.limits_queue_create()
        if not self._queue:
            raise MemoryError("no shared memory for the queue")
        self.end = ffi.new("struct limits_end *")
        lib.limits_end_init(self.end, self._queue, 0)
        self._buffer = ffi.new("unsigned char[]", _SLOT_DATA_BYTES)
        self._pid = os.fork()
        if not self._pid:
            self._serve(serve)

    def _serve(self, serve: Callable[[Any, Any, Any], None]) -> None:
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            end = self._ffi.new("struct limits_end *")
            self._lib.limits_end_init(end, self._queue, 1)
            serve(self._ffi, self._lib, end)
        finally:
            os._exit(0)

    def send_small_call(self) -> None:
        """Pickle a call without arguments and send it."""
        data = pickle.dumps(_SMALL_REQUEST, 5)
        self._lib.limits_send(self.end, data, len(data))

    def receive_reply(self) -> object:
        """Receive a reply and unpickle it."""
        size = self._lib.limits_receive(self.end, self._buffer)
        return pickle.loads(self._ffi.buffer(self._buffer, size))

    def close(self) -> None:
        """End the other process."""
        self._lib.limits_send(self.end, b"", 0)
        os.waitpid(self._pid, 0)
        self._lib.limits_queue_destroy(self._queue)


def echo_in_c(_ffi: Any, lib: Any, end: Any) -> None:
    """Answer in C until an empty request comes."""
    lib.limits_echo(end)


def answer_pickled_calls(ffi: Any, lib: Any, end: Any) -> None:
    """Unpickle each request, call the method, pickle what it returns; until an empty request comes."""
    server = Server()
    buffer = ffi.new("unsigned char[]", _SLOT_DATA_BYTES)
    while size := lib.limits_receive(end, buffer):
        method, arguments, _ = pickle.loads(ffi.buffer(buffer, size))
        data = pickle.dumps(getattr(server, method)(*arguments), 5)
        lib.limits_send(end, data, len(data))
