"""The command line against sockets that look like a node's, and against a node that does not start."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actorflow import cli

DEADLINE_S = 30

LISTENER = """
import signal, socket, sys
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
listener.bind("\\0" + sys.argv[1])
listener.listen()
print("listening", flush=True)
signal.pause()
signal.pause()
"""


@contextmanager
def listener(behaviour: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A process that listens as a node of this user does; its address."""
    address = f"actorflow/{os.getuid()}/{secrets.token_hex(16)}"
    command = [sys.executable, "-c", LISTENER, address, behaviour]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
            yield address, process
        finally:
            process.kill()


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, list(words))
    return result.exit_code, result.output


def test_status_shows_a_listening_node() -> None:
    with listener("plain") as (address, process):
        code, output = run("status", "--json")
        assert code == 0
        (row,) = [row for row in json.loads(output) if row["address"] == address]
        assert row["pid"] == process.pid
        assert row["processes"] == 1
        assert row["memory_bytes"] > 0
        assert 0 <= row["uptime_s"] < 3600


def test_a_table_is_whole_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    with listener("plain") as (address, process):
        code, output = run("status")
        assert code == 0
        (line,) = [line for line in output.splitlines() if address in line]
        assert str(process.pid) in line
        assert "MiB" in line
        assert "processes" in output


def test_facts_count_the_processes_below() -> None:
    assert os.getpid() in cli.family(os.getppid())


def test_stop_ends_the_node_and_says_so() -> None:
    with listener("plain") as (address, process):
        code, output = run("stop", address, "--json")
        assert (code, json.loads(output)) == (0, [{"address": address, "result": "stopped"}])
        assert process.wait(DEADLINE_S) == -15


def test_stop_kills_what_does_not_end() -> None:
    with listener("stubborn") as (address, process):
        code, output = run("stop", address, "--timeout", "0.05")
        assert (code, output) == (1, f"{address}: killed\n")
        assert process.wait(DEADLINE_S) == -9


def test_stop_of_an_address_without_a_node() -> None:
    address = f"actorflow/{os.getuid()}/{secrets.token_hex(16)}"
    code, output = run("stop", address)
    assert code == 1
    assert f"no node at {address}" in output


def test_an_address_of_a_dead_node_raises() -> None:
    with pytest.raises(cli.NodeLostError, match="no node at actorflow/0/none"):
        cli.facts("actorflow/0/none")


def test_start_passes_on_what_the_node_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[1]))
    log = tmp_path / "node.log"
    code, output = run("start", "--resources", "not json", "--log", str(log))
    assert code == 1
    assert "the node did not start" in output
    assert "--resources 'not json'" in log.read_text()
    assert log.read_text().strip() in output


def test_first_line_ends_with_the_pipe_and_with_the_deadline() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"actorflow/7/aa\nmore")
    assert cli.first_line(reader, DEADLINE_S) == "actorflow/7/aa"
    os.close(writer)
    reader, writer = os.pipe()
    os.write(writer, b"half a li")
    assert cli.first_line(reader, 0.01) == ""
    os.close(writer)
    reader, writer = os.pipe()
    os.close(writer)
    assert cli.first_line(reader, DEADLINE_S) == ""
