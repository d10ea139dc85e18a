"""The zygote: a warm, single-threaded process that forks the workers, reaps them, and ends all of them with itself.

Theory: it is forked from the node before that starts its loop, so all is imported and frozen, and nothing runs. It
waits in one poll for orders, for SIGCHLD, and for the node's death. A child that has ended is first killed as a group
and only then reaped: until it is reaped its process id cannot belong to anyone else, so no stranger can be hit.
Guarantees: each forked worker is reported once as forked and once as exited; when the node ends, however it does,
every process below the zygote is killed, also what user code forked or daemonized, and then the zygote exits.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from actorflow.node.orphans import end_descendants
from actorflow.shm.process import become_subreaper, die_with_parent
from actorflow.wire import framing, messages

WORKER_MODULE = (
    "actorflow.worker.main"  # by name: node and worker are of one layer, neither imports the other
)
_READ_BYTES = 65536

Run = Callable[[int, int, int, tuple[int, int], int], NoReturn]


def worker_entry() -> Run:
    """Imports what workers run, so that none of them has to, and returns what a worker begins with."""
    run: Run = importlib.import_module(WORKER_MODULE).run
    return run


def fork_zygote(run: Run, memfd: int, node_pidfd: int, foreign: int) -> tuple[int, int, socket.socket]:
    """Forks the zygote; returns its process id, its pidfd, and the node's end of its socket.

    `foreign`: a descriptor that is the node's alone.
    """
    node_end, zygote_end = socket.socketpair()
    gc.collect()
    gc.freeze()
    pid = os.fork()
    if pid == 0:
        node_end.close()
        os.close(foreign)
        _run_and_exit(Zygote(zygote_end, run, memfd, node_pidfd).serve)
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
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Zygote:
    """The zygote's process. `_workers`: slot and epoch of each child that is a worker."""

    def __init__(self, node: socket.socket, run: Run, memfd: int, node_pidfd: int) -> None:
        self._node = node
        self._run = run
        self._memfd = memfd
        self._node_pidfd = node_pidfd
        self._frames = framing.Decoder(messages.Fork)
        self._workers: dict[int, tuple[int, int]] = {}
        self._wake, self._woken = socket.socketpair()

    def serve(self) -> None:
        """Serves the node until it is gone, then ends everything below this process."""
        self._settle_in()
        try:
            self._loop()
        except BrokenPipeError:
            pass  # the node went while it was being told something
        finally:
            end_descendants()

    def _settle_in(self) -> None:
        os.setpgid(0, 0)  # a terminal's Ctrl-C is the driver's, or the node's
        become_subreaper()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)

    def _loop(self) -> None:
        poll = select.poll()
        for descriptor in (self._node.fileno(), self._woken.fileno(), self._node_pidfd):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._woken.fileno() in ready:
                self._woken.recv(_READ_BYTES)
                self._reap()
            if self._node_pidfd in ready:
                return
            if self._node.fileno() in ready and not self._take_orders():
                return

    def _take_orders(self) -> bool:
        """Does what the node asks for; False when it is gone."""
        data = self._node.recv(_READ_BYTES)
        for order in self._frames.feed(data):
            self._fork(order)
        return bool(data)

    # -- births

    def _fork(self, order: messages.Fork) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(messages.ForkFailed(order.slot, order.epoch, str(error)))
            return
        if pid == 0:
            _run_and_exit(lambda: self._become_worker(order, parent))
        _own_group(pid)
        self._workers[pid] = (order.slot, order.epoch)
        self._tell(messages.Forked(order.slot, order.epoch, pid), os.pidfd_open(pid))

    def _become_worker(self, order: messages.Fork, parent: int) -> None:
        _own_group(0)
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            return  # it died before it could take this process along
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for end in (self._node, self._wake, self._woken):
            end.close()
        self._run(self._memfd, order.slot, order.epoch, order.commands, self._node_pidfd)

    def _tell(self, message: messages.Message, descriptor: int | None = None) -> None:
        data = framing.encode(message)
        if descriptor is None:
            self._node.sendall(data)
            return
        sent = socket.send_fds(self._node, [data], [descriptor])
        self._node.sendall(data[sent:])
        os.close(descriptor)

    # -- deaths

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            self._bury(ended.si_pid)

    def _bury(self, pid: int) -> None:
        """Ends what is left of a dead child's process group, then reaps it."""
        worker = self._workers.pop(pid, None)
        if worker is not None:
            try:
                os.killpg(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass  # nobody left in it that may be killed
        _, status = os.waitpid(pid, 0)
        if worker is not None:
            self._tell(messages.Exited(*worker, pid, status))


def _own_group(pid: int) -> None:
    """Gives a child (or, 0, this process) a process group of its own; both sides do it, either may be first."""
    try:
        os.setpgid(pid, pid)
    except (PermissionError, ProcessLookupError):
        pass  # it has one already, or has ended
