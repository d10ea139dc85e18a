"""`python -m actorflow.node`: the node's start, in the one order that works; see arguments.py for the command line.

Everything is imported first and the memory segment made, then memory is frozen and the zygote forked from it, and only
then does the event loop begin: a process that has run a loop or a thread cannot be forked from safely.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import socket
import sys

import uvloop

from actorflow import _hot, config
from actorflow.core.resources import CPU, GPU, ResourceSet
from actorflow.node import machine
from actorflow.node.arguments import Arguments, UsageError, parse
from actorflow.node.log import warn
from actorflow.node.requests import Requests
from actorflow.node.server import Node
from actorflow.node.zygote import fork_zygote, worker_entry
from actorflow.shm.kernel import become_subreaper, missing_features
from actorflow.shm.process import fill_standard_descriptors
from actorflow.shm.titles import Titles
from actorflow.wire import auth, framing, messages

NODE_ID_BYTES = 16
MEMORY = "memory"


def main() -> int:
    """Runs a node until it is to end; returns the exit code."""
    try:
        arguments = parse(sys.argv[1:])
    except UsageError as error:
        sys.stderr.write(f"actorflow.node: {error}\n")
        return 2
    _close_inherited(arguments.driver_fd)
    driver = socket.socket(fileno=arguments.driver_fd) if arguments.driver_fd is not None else None
    missing = missing_features()
    if missing:
        return _refuse(
            driver, f"this system lacks, or forbids, what actorflow is built on: {', '.join(missing)}"
        )
    try:
        return _serve(arguments, driver)
    except (OSError, ValueError) as error:
        return _refuse(driver, f"the node could not start: {error}")


def _close_inherited(driver_fd: int | None) -> None:
    """Leaves standard output and error, and the driver's socket; whoever started this may have left more open."""
    kept = 3 if driver_fd is None else driver_fd
    os.closerange(3, kept)
    os.closerange(kept + (driver_fd is not None), os.sysconf("SC_OPEN_MAX"))
    fill_standard_descriptors()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _refuse(driver: socket.socket | None, text: str) -> int:
    """Says why there is no node: to the driver that waits for it, or to the terminal."""
    if driver is None:
        warn(text)
    else:
        with contextlib.suppress(OSError):
            driver.sendall(framing.encode(messages.Refuse("start", text)))
    return 1


def _serve(arguments: Arguments, driver: socket.socket | None) -> int:
    settings = config.current()
    entry = worker_entry()
    for module in arguments.preload:
        importlib.import_module(module)
    node_id = os.urandom(NODE_ID_BYTES)
    store_bytes = arguments.object_store_bytes
    if store_bytes is None:
        store_bytes = int(machine.memory_bytes() * settings.object_store_fraction)
    try:
        memfd = _hot.create(
            node_id,
            settings.client_slots,
            settings.message_memory_bytes,
            settings.control_reserve_bytes,
            store_bytes,
            settings.spin_us,
        )
    except OSError as error:
        raise ValueError(
            f"this system gives no memory of {store_bytes:,} bytes for objects (object_store_memory) and "
            f"{settings.message_memory_bytes:,} for messages: {error.strerror}"
        ) from None
    become_subreaper()
    # What only the node has: its driver, or where it says its address.
    own = driver.fileno() if driver is not None else _take_stdout()
    titles = Titles(settings.client_slots)
    watched = _driver_pidfd(driver) if driver is not None else None
    zygote = fork_zygote(entry(titles), memfd, os.pidfd_open(os.getpid()), watched, [own])
    if watched is not None:
        os.close(watched)  # the node opens its own, once the driver has attached
    _raise_descriptor_limit()
    loop = uvloop.new_event_loop()
    node = Node(
        loop,
        node_id=node_id,
        memfd=memfd,
        total=_total(arguments),
        labels=arguments.labels,
        private=driver is not None,
        zygote=zygote,
        titles=titles,
    )
    Requests(node)
    if driver is not None:
        node.take(driver)
    else:
        address = f"actorflow/{os.getuid()}/{node_id.hex()}"
        node.listen(address)
        with open(own, "w") as reader:
            reader.write(address + "\n")
    try:
        loop.run_until_complete(node.run())
    finally:
        loop.close()
    return 0


def _driver_pidfd(driver: socket.socket) -> int:
    """Of the process that made the socket. OSError: it has ended."""
    size_bytes = auth.Credentials.SIZE_BYTES
    data = driver.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size_bytes)
    return os.pidfd_open(auth.Credentials.from_bytes(data).pid)


def _raise_descriptor_limit() -> None:
    """The node has one descriptor for each process; workers, forked before this, keep the limit that users expect."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _take_stdout() -> int:
    """Where a shared node says its address: whoever waits for that reads one line, and not what workers print."""
    reader = os.dup(1)
    os.dup2(2, 1)
    return reader


def _total(arguments: Arguments) -> ResourceSet:
    """What the node has: what was said, else what the machine has."""
    amounts: dict[str, float] = dict(arguments.resources)
    amounts[CPU] = machine.cpu_count() if arguments.num_cpus is None else arguments.num_cpus
    amounts[MEMORY] = machine.memory_bytes() if arguments.memory_bytes is None else arguments.memory_bytes
    if arguments.num_gpus is not None:
        amounts[GPU] = arguments.num_gpus
    return ResourceSet.from_amounts(amounts)


if __name__ == "__main__":
    sys.exit(main())
