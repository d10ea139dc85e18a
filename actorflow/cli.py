"""The command line: starts, stops and lists the shared nodes of this user on this machine.

A shared node listens on an abstract Unix socket named after the user and itself, so the kernel's own list of
sockets is the list of nodes: no file has to be written, and none can be stale.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import actorflow as af
from actorflow.client.connection import UNIX_SOCKETS, shared_nodes
from actorflow.observe.objects import list_objects

try:
    import typer
    from rich.console import Console
    from rich.table import Table
except ImportError as error:
    raise SystemExit(f"the command line needs {error.name}: install the extra actorflow[cli]") from error

START_DEADLINE_S = 30.0
WIDEST = 10_000  # columns of a table
IN_FLIGHT = "a call on its way, or a compiled graph"  # what holds a value that no process does

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class NodeLostError(Exception):
    """The node ended while it was being asked."""


@dataclass(frozen=True)
class NodeFacts:
    """What can be seen of a node from outside."""

    address: str
    pid: int
    uptime_s: float
    processes: int  # the node's own included
    memory_bytes: int  # proportional share of all of them


def node_pid(address: str) -> int:
    """The process that listens at `address`. NodeLostError: none does, or it belongs to another user."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(b"\0" + address.encode())
        except OSError as error:
            raise NodeLostError(f"no node at {address}: {error.strerror}") from error
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", credentials)
    if uid != os.getuid():
        raise NodeLostError(f"{address} is not this user's: it belongs to uid {uid}")
    return int(pid)


def family(pid: int) -> list[int]:
    """`pid` and the processes below it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has just ended
        children.setdefault(parent, []).append(int(folder.name))
    found = [pid]
    for member in found:
        found.extend(children.get(member, ()))
    return found


def memory_share_bytes(pid: int) -> int:
    """The memory of a process with each shared page counted in part (PSS); 0 once it has ended."""
    try:
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(row.split()[1]) * 1024 for row in rows if row.startswith("Pss:")), 0)


def uptime_s(pid: int) -> float:
    """Seconds since the process started. NodeLostError: it has ended."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError as error:
        raise NodeLostError(f"process {pid} has ended") from error
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def facts(address: str) -> NodeFacts:
    """What is to be seen of the node at `address`. NodeLostError: it has ended."""
    pid = node_pid(address)
    members = family(pid)
    memory_bytes = sum(map(memory_share_bytes, members))
    return NodeFacts(address, pid, round(uptime_s(pid), 1), len(members), memory_bytes)


def launch(arguments: list[str], log: Path | None) -> str:
    """Starts a node that outlives this command; returns its address. If it fails: says why, typer.Exit."""
    reader, writer = os.pipe()
    with log.open("ab") if log else tempfile.TemporaryFile() as said, open(os.devnull, "rb") as nothing:
        said.seek(0, os.SEEK_END)
        start = said.tell()
        actions = [
            (os.POSIX_SPAWN_DUP2, nothing.fileno(), 0),
            (os.POSIX_SPAWN_DUP2, writer, 1),
            (os.POSIX_SPAWN_DUP2, said.fileno(), 2),
        ]
        command = [sys.executable, "-P", "-m", "actorflow.node", "--listen", *arguments]
        pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions, setsid=True)
        os.close(writer)
        address = first_line(reader, START_DEADLINE_S)
        if address:
            return address
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        words = Path(f"/proc/self/fd/{said.fileno()}").read_text()[start:]
        typer.echo(f"the node did not start: {words.strip() or 'it ended or hung without a word'}", err=True)
        raise typer.Exit(1)


def first_line(reader: int, deadline_s: float) -> str:
    """The first line from the pipe `reader`, which is closed; "" if it ends or the deadline passes before."""
    end = time.monotonic() + deadline_s
    text = b""
    with open(reader, "rb", buffering=0) as pipe:
        while b"\n" not in text:
            ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
            chunk = pipe.read(4096) if ready else b""
            if not chunk:
                return ""
            text += chunk
    return text.partition(b"\n")[0].decode().strip()


def end(address: str, timeout_s: float) -> bool:
    """Asks the node at `address` to end, kills it after `timeout_s`; whether it ended when asked."""
    pid = node_pid(address)
    descriptor = os.pidfd_open(pid)
    try:
        if node_pid(address) != pid:  # the descriptor could be of a process that came after it
            raise NodeLostError(f"the node at {address} has just ended")
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        if select.select([descriptor], [], [], timeout_s)[0]:
            return True
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        select.select([descriptor], [], [])
        return False
    finally:
        os.close(descriptor)


@app.command()
def start(
    num_cpus: Annotated[float | None, typer.Option(min=0, help="Default: this machine's.")] = None,
    num_gpus: Annotated[float | None, typer.Option(min=0, help="Default: this machine's.")] = None,
    memory: Annotated[
        int | None, typer.Option(min=0, help="Bytes for tasks and actors that ask for some.")
    ] = None,
    object_store_memory: Annotated[int | None, typer.Option(min=0, help="Bytes for shared objects.")] = None,
    resources: Annotated[str | None, typer.Option(help='JSON, such as {"licence": 2}.')] = None,
    labels: Annotated[str | None, typer.Option(help='JSON, such as {"zone": "a"}.')] = None,
    log: Annotated[
        Path | None, typer.Option(help="File for what the node itself says; default: nowhere.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Starts a node that programs of this user can share, and prints its address."""
    given = {
        "--num-cpus": num_cpus,
        "--num-gpus": num_gpus,
        "--memory": memory,
        "--object-store-memory": object_store_memory,
        "--resources": resources,
        "--labels": labels,
    }
    words = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    address = launch(words, log)
    typer.echo(json.dumps({"address": address, "pid": node_pid(address)}) if as_json else address)


@app.command()
def stop(
    address: Annotated[str | None, typer.Argument(help="Default: every node of this user.")] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0, help="Seconds until it is killed.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Ends a node, its workers and the jobs that it runs."""
    results: list[dict[str, Any]] = []
    for name in [address] if address else shared_nodes(UNIX_SOCKETS.read_text(), os.getuid()):
        try:
            how = "stopped" if end(name, timeout_s) else "killed"
        except NodeLostError as error:
            how = str(error)
        results.append({"address": name, "result": how})
    if as_json:
        typer.echo(json.dumps(results))
    else:
        for row in results:
            typer.echo(f"{row['address']}: {row['result']}")
        if not results:
            typer.echo("no node is running")
    if any(row["result"] != "stopped" for row in results):
        raise typer.Exit(1)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Lists the nodes of this user on this machine."""
    found = []
    for address in shared_nodes(UNIX_SOCKETS.read_text(), os.getuid()):
        try:
            found.append(facts(address))
        except NodeLostError:
            continue  # it ended after it was listed
    if as_json:
        typer.echo(json.dumps([asdict(node) for node in found]))
    elif found:
        show(table(found))
    else:
        typer.echo("no node is running")


@app.command()
def memory(
    address: Annotated[str | None, typer.Argument(help="Default: the node on this machine.")] = None,
    as_json: AsJson = False,
) -> None:
    """Lists what lies in a node's object store: size, state, who made it, who holds it."""
    try:
        with af.init(address or "auto", log_to_driver=False):
            rows = list_objects()
    except (ConnectionError, ValueError, af.ActorflowError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(rows))
    elif rows:
        show(object_table(rows))
    else:
        typer.echo("the object store is empty")


def show(view: Table) -> None:
    """Prints a table whole, however narrow the terminal is: what stands there is to be read and copied."""
    needed = Console(width=WIDEST).measure(view).maximum
    Console(width=max(needed, Console().width)).print(view)


def object_table(rows: list[dict[str, Any]]) -> Table:
    view = Table("object", "MiB", "state", "made by", "held by")
    for row in rows:
        held = [f"{holder['role']} {holder['pid']}" for holder in row["holders"]]
        held += [f"{row['held_inside']} values or calls"] if row["held_inside"] else []
        size = f"{row['size_bytes'] / 1024**2:,.1f}"
        made_by = f"{row['made_by'] or 'not known'} ({row['how']})"
        view.add_row(
            row["object_id"] or "(arguments)", size, row["state"], made_by, ", ".join(held) or IN_FLIGHT
        )
    return view


def table(found: list[NodeFacts]) -> Table:
    view = Table("address", "pid", "up", "processes", "memory")
    for node in found:
        memory = f"{node.memory_bytes / 1024**2:,.0f} MiB"
        view.add_row(node.address, str(node.pid), f"{node.uptime_s:,.0f} s", str(node.processes), memory)
    return view


def main() -> None:
    app()


if __name__ == "__main__":
    main()
