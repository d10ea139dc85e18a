"""What `actorflow memory` and the list behind it tell of nodes of their own: where values lie, and that it asks one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import actorflow as af
from actorflow import cli
from tests.system.test_listing import rows_of


def test_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTORFLOW_SPILL_DIRECTORIES", str(tmp_path))
    with af.init(num_cpus=1, object_store_memory=32 * 1024 * 1024):
        refs = [af.put(np.ones(4 * 1024 * 1024, np.uint8)) for _ in range(12)]
        states = [row["state"] for ref in refs for row in rows_of(ref)]
        assert len(states) == 12
        assert {"memory", "disk"} <= set(states)
        on_disk = refs[states.index("disk")]
        af.get(on_disk)
        (row,) = rows_of(on_disk)
        assert (row["state"], row["made_by"], row["how"]) == ("memory and disk", "put", "put")


def test_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[1]))
    code, address = run("start", "--num-cpus", "1")
    assert code == 0
    address = address.strip()
    try:
        assert run("memory", address) == (0, "the object store is empty\n")
        keeper = "import sys, numpy, actorflow as af; af.init(sys.argv[1]); af.put(1); "
        keeper += "ref = af.put(numpy.ones(1_000_000)); print(ref.hex(), flush=True); sys.stdin.read()"
        listed_while(keeper, address)
    finally:
        assert run("stop", address)[0] == 0
    code, output = run("memory", address)
    assert code == 1
    assert output


def test_an_address_that_is_none_is_refused_in_one_line() -> None:
    code, output = run("memory", "no sense")
    assert code == 1
    assert output.startswith("af.init option address must be 'local', 'auto'")
    assert output.count("\n") == 1


def listed_while(program: str, address: str) -> None:
    """What the command says while another driver has put something."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program, address], text=True, **pipes) as driver:  # type: ignore[call-overload]
        object_id = driver.stdout.readline().strip()
        code, output = run("memory", address, "--json")
        assert code == 0
        (row,) = json.loads(output)
        assert row["object_id"] == object_id
        assert [holder["pid"] for holder in row["holders"]] == [driver.pid]
        code, output = run("memory", address)
        assert (code, object_id in output) == (0, True)
        driver.stdin.close()


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, list(words))
    return result.exit_code, result.output
