"""The zygote: a warm, single-threaded process that forks the workers, reaps them, and ends all of them with itself.

Theory: it is forked from the node before that starts its loop, so all is imported and frozen, and nothing runs. Its
loop is in C (ext/hot_zygote.c): it waits in one poll for orders, for SIGCHLD, and for the node's death, and writes no
page that the workers share with it.
Guarantees: each forked worker is reported once as forked and once as exited; when the node ends, however it does,
every process below the zygote is killed, also what user code forked or daemonized, and then the zygote exits. A node
that outlives its driver for long is killed.

Records on the socket, one a packet. ORDER: slot, epoch, command mailbox (offset, generation). REPORT: kind, slot,
epoch, process id, and errno or wait status; FORKED comes with the worker's pidfd, and with the ends to read of the
pipes that are its standard output and error.
"""

from __future__ import annotations

import contextlib
import enum
import faulthandler
import gc
import importlib
import os
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from actorflow import _hot, config
from actorflow.errors import NodeDiedError
from actorflow.node.orphans import end_descendants
from actorflow.shm.kernel import become_subreaper
from actorflow.shm.titles import Titles

ORDER = struct.Struct("=IIQII")
REPORT = struct.Struct("=IIIii")
FORKED_DESCRIPTORS = 3
NODE_END_S = 5.0  # beyond what workers may take: a node that has not ended by then is stopped, or hangs

WORKER_MODULE = (
    "actorflow.worker.main"  # by name: node and worker are of one layer, neither imports the other
)

Run = Callable[[int, int, int, tuple[int, int], int], NoReturn]


class Report(enum.IntEnum):
    """What a report says."""

    FORKED = 1
    NOT_FORKED = 2
    EXITED = 3


def worker_entry() -> Callable[[Titles], Run]:
    """Imports what workers run, so that none of them has to, and returns what makes the beginning of a worker."""
    prepared: Callable[[Titles], Run] = importlib.import_module(WORKER_MODULE).prepared
    return prepared


def fork_zygote(
    run: Run, memfd: int, node_pidfd: int, driver_pidfd: int | None, foreign: list[int]
) -> tuple[int, int, socket.socket]:
    """Forks the zygote; returns its process id, its pidfd, and the node's end of its socket.

    `driver_pidfd`: of the driver that the node belongs to; `foreign`: descriptors that are the node's alone.
    """
    node_end, zygote_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    gc.collect()
    gc.freeze()
    _hot.trim_memory()
    pid = os.fork()
    if pid == 0:
        node_end.close()
        for descriptor in foreign:
            os.close(descriptor)
        _run_and_exit(lambda: _serve(zygote_end, run, memfd, node_pidfd, driver_pidfd))
    zygote_end.close()
    return pid, os.pidfd_open(pid), node_end


def _run_and_exit(body: Callable[[], object]) -> NoReturn:
    """Runs the life of a forked process, which must not return into its parent's frames."""
    code = 1
    try:
        body()
        code = 0
    except SystemExit as request:
        code = request.code if isinstance(request.code, int) else int(request.code is not None)
    except (_hot.NodeGoneError, NodeDiedError):
        pass  # whoever waits is told; what was running cannot help it
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # user code may have closed it, or put anything there
                stream.flush()
        os._exit(code)


def _serve(node: socket.socket, run: Run, memfd: int, node_pidfd: int, driver_pidfd: int | None) -> None:
    """The life of the zygote, and from the fork on that of each worker."""
    os.setpgid(0, 0)  # a terminal's Ctrl-C is the driver's, or the node's
    become_subreaper()
    faulthandler.enable()  # workers inherit it: a crash in C code says where
    driver = -1 if driver_pidfd is None else driver_pidfd
    order = _hot.serve_zygote(
        node.fileno(), node_pidfd, driver, config.current().shutdown_grace_s + NODE_END_S
    )
    if order is None:
        end_descendants()
        return
    node.detach()  # closed already
    if driver_pidfd is not None:
        os.close(driver_pidfd)
    slot, epoch, commands = order
    run(memfd, slot, epoch, commands, node_pidfd)
