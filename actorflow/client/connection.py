"""The socket between a driver and its node: starting a private node or finding a shared one, attaching, ending.

Nothing of a call goes over it. It carries the handshake (with the memory's descriptor), what workers print, the
node's last words, and by its end tells each side that the other is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import site
import socket
import subprocess
import sys
import threading
from pathlib import Path

from actorflow import _hot, config
from actorflow.client.output import OutputReader
from actorflow.options import LOCAL, InitOptions
from actorflow.shm.process import fill_standard_descriptors
from actorflow.wire import auth, framing, messages

READ_BYTES = 65536
LAST_LINES_S = 1.0  # for the node to send, and for a terminal to take, what was printed last
KILL_AFTER_S = 3.0  # beyond the grace that the node itself gives its workers
LISTENING = 0x10000  # flag of a listening socket in /proc/net/unix (__SO_ACCEPTCON)
UNIX_SOCKETS = Path("/proc/net/unix")

_PRELOADED = ("numpy",)  # costs workers the most to import, where the driver shows that it is used


class Connection:
    """An attachment of this process to a node. `job_id`: the node's number for this driver's job."""

    def __init__(self, sock: socket.socket, process: subprocess.Popen[bytes] | None) -> None:
        self._socket = sock
        self._process = process
        self._decoder: framing.Decoder[messages.Message] = framing.Decoder()
        self._last_words = ""
        self._reading = threading.Lock()  # of the socket and the decoder
        self._output: OutputReader | None = None
        self.job_id = 0
        self.node_pid = 0

    @classmethod
    def open(cls, options: InitOptions, namespace: str) -> Connection:
        """Attaches this process: to the node at the address, or to a private node that it starts.

        Raises ConnectionError (nobody answers, or the node could not start), AuthenticationError, ProtocolError.
        """
        address = options.address or LOCAL
        connection = cls._started(options) if address == LOCAL else cls(_connected(address), None)
        try:
            connection._attach(namespace, options)
            if options.log_to_driver:
                connection._output = OutputReader(connection._socket.fileno(), connection._receive_more)
        except BaseException:
            connection.close()
            raise
        return connection

    @classmethod
    def _started(cls, options: InitOptions) -> Connection:
        fill_standard_descriptors()
        ours, theirs = socket.socketpair()
        output = None if options.log_to_driver else subprocess.DEVNULL
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "actorflow.node", *_words(theirs.fileno(), options)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=_environment(),
            )
        return cls(ours, process)

    # -- the handshake

    def _attach(self, namespace: str, options: InitOptions) -> None:
        self._socket.settimeout(config.current().attach_timeout_s)
        hello = messages.Hello(messages.WIRE_VERSION, os.getuid(), os.getpid(), messages.Role.DRIVER)
        job = messages.JobStart(
            namespace,
            tuple(str(entry) for entry in sys.path),
            os.getcwd(),
            sys.argv[0] or "interactive",
            options.log_to_driver,
        )
        try:
            self._socket.sendall(framing.encode(hello) + framing.encode(job))
            reply, memfd = self._receive()
        except TimeoutError:
            limit_s = config.current().attach_timeout_s
            raise ConnectionError(f"the node did not answer within {limit_s:g} s") from None
        except OSError as error:
            raise ConnectionError(
                f"the node did not attach this process: {self._ending() or error}"
            ) from error
        try:
            welcome = auth.welcomed(reply, self._peer(), os.getuid())
            self._claim(welcome, memfd)
        finally:
            if memfd is not None:
                os.close(memfd)
        self._socket.setblocking(False)

    def _receive(self) -> tuple[messages.Message, int | None]:
        """The node's reply, and the descriptor that came along."""
        memfd: int | None = None
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._socket, READ_BYTES, 1)
            memfd = descriptors[0] if descriptors else memfd
            for message in self._decoder.feed(data):
                return message, memfd
            if not data:
                raise ConnectionError(self._ending() or "it closed the connection")

    def _claim(self, welcome: messages.Welcome, memfd: int | None) -> None:
        """Maps the memory and takes the slot that is reserved."""
        if memfd is None:
            raise ConnectionError("the node sent no memory along with its welcome")
        self.job_id, self.node_pid = welcome.job, welcome.node_pid
        node_pidfd = os.pidfd_open(welcome.node_pid)
        try:
            _hot.attach(memfd, welcome.slot, welcome.epoch, config.current().spin_us, node_pidfd)
        except BaseException:
            os.close(node_pidfd)
            raise

    def _peer(self) -> auth.Credentials:
        data = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, auth.Credentials.SIZE_BYTES)
        return auth.Credentials.from_bytes(data)

    # -- what the node says later

    def _receive_more(self) -> list[messages.Message] | None:
        """What has come since; None at the end of the connection."""
        with self._reading, contextlib.suppress(OSError, framing.RemoteProtocolError):
            try:
                while data := self._socket.recv(READ_BYTES):
                    if found := list(self._decoder.feed(data)):
                        self._hear(found)
                        return found
            except BlockingIOError:
                return []
        return None

    def _hear(self, found: list[messages.Message]) -> None:
        for message in found:
            if isinstance(message, messages.Shutdown):
                self._last_words = message.reason

    # -- the end

    def death(self) -> str:
        """How the node ended, as far as it can be known."""
        while found := self._receive_more():
            if self._output is not None:
                self._output.print(found)
        return self._last_words or self._ending() or f"its process (pid {self.node_pid}) has ended"

    def _ending(self) -> str:
        """How the process of a private node ended, or nothing."""
        if self._process is None:
            return ""
        _wait_for_end(self._process, KILL_AFTER_S)
        code, who = self._process.returncode, f"the node process (pid {self._process.pid})"
        if code is None:
            return ""
        return f"{who} exited with code {code}" if code >= 0 else f"{who} was killed by {_signal_name(-code)}"

    def close(self) -> None:
        """Says goodbye. Returns when a private node has ended, with all that it ran, and what that printed is shown."""
        with contextlib.suppress(OSError):
            self._socket.sendall(framing.encode(messages.Shutdown("the driver has shut down")))
        if self._process is not None:
            _wait_for_end(self._process, config.current().shutdown_grace_s + KILL_AFTER_S)
            if self._process.returncode is None:
                self._process.kill()
                self._process.wait()
        if self._output is not None:
            self._output.wait_end(LAST_LINES_S)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._output is not None:
            self._output.wait_end(LAST_LINES_S)
        self._socket.close()

    def forget(self) -> None:
        """In a forked child: the connection, its reader and the node are the parent's."""
        self._output = None
        self._socket.close()


def _wait_for_end(process: subprocess.Popen[bytes], limit_s: float) -> None:
    """Waits until a child has ended and reaps it; Popen.wait with a timeout would look only every 50 ms.

    Other threads may do the same: while one of them reaps it, `poll` says that nothing is known.
    """
    if process.poll() is not None:
        return
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:  # it was reaped since
        process.wait()
        return
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        has_ended = bool(poll.poll(limit_s * 1000))
    finally:
        os.close(pidfd)
    if has_ended:
        process.wait()


def _environment() -> dict[str, str]:
    """The environment of a private node, which has to find this package where it is not installed, too."""
    variables = dict(os.environ)
    root = str(Path(__file__).parents[2])
    if root not in site.getsitepackages():
        path = variables.get("PYTHONPATH", "")
        variables["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [path])])
    return variables


def _words(descriptor: int, options: InitOptions) -> list[str]:
    """The command line of a private node."""
    words = ["--driver-fd", str(descriptor)]
    given = {
        "--num-cpus": options.num_cpus,
        "--num-gpus": options.num_gpus,
        "--memory": options.memory,
        "--object-store-memory": options.object_store_memory,
        "--resources": json.dumps(dict(options.resources)) if options.resources else None,
        "--labels": json.dumps(dict(options.labels)) if options.labels else None,
    }
    for name, value in given.items():
        if value is not None:
            words += [name, str(value)]
    for name in _PRELOADED:
        if name in sys.modules:
            words += ["--preload", name]
    return words


def _connected(address: str) -> socket.socket:
    """A connection to the shared node at `address`: its name, or "auto" for the one that is there."""
    name = address
    if address == "auto":
        found = shared_nodes(UNIX_SOCKETS.read_text(), os.getuid())
        if not found:
            raise ConnectionError(
                'no node runs here: start one with "actorflow start", or leave the address out'
            )
        name = found[-1]
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(b"\0" + name.encode())
    except OSError as error:
        sock.close()
        raise ConnectionError(
            f'no node answers at {address!r} ({error.strerror}); allowed are "auto" and what "actorflow start" prints'
        ) from error
    return sock


def shared_nodes(text: str, uid: int) -> list[str]:
    """The names of the nodes of user `uid` that listen, the last one started last; `text`: /proc/net/unix."""
    prefix = f"@actorflow/{uid}/"
    rows = (line.split(maxsplit=7) for line in text.splitlines()[1:])
    named = [
        row for row in rows if len(row) == 8 and row[7].startswith(prefix) and int(row[3], 16) & LISTENING
    ]
    return [row[7][1:] for row in sorted(named, key=lambda row: int(row[6]))]


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
