"""Every example, the README's too, run as a user runs it: as a script, as a web service, as a notebook.

Each run carries a mark in its environment, which every process that it starts inherits. So a test sees what
is left of it, also of processes that no longer have a parent.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import nbclient
import nbformat
import pytest

from tests.conftest import wait_until

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES, README = ROOT / "examples", ROOT / "README.md"
MARK = "ACTORFLOW_TEST_MARK"
RUN_DEADLINE_S = 240  # the whole standard library on a slow, busy machine
START_DEADLINE_S = 60
END_DEADLINE_S = 30.0
CELL_DEADLINE_S = 60


def marked_processes(mark: str) -> list[str]:
    """The processes that were started, at any depth, with this mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it has ended, or it is another user's
    return found


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """The environment for a run; at the end of the test no process that had it may be left."""
    mark = secrets.token_hex(8)
    variables = {name: value for name, value in os.environ.items() if name != "ACTORFLOW_ADDRESS"}
    yield {**variables, MARK: mark, "PYTHONPATH": str(ROOT)}
    try:
        wait_until(lambda: not marked_processes(mark), END_DEADLINE_S, "every process ended")
    except TimeoutError:
        pytest.fail("left behind: " + "\n".join(marked_processes(mark)), pytrace=False)


def run(environment: dict[str, str], *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs Python with these arguments to a good end."""
    command = [sys.executable, *map(str, words)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=RUN_DEADLINE_S)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def test_quickstart(environment: dict[str, str]) -> None:
    result = run(environment, EXAMPLES / "quickstart.py")
    lines = result.stdout.splitlines()
    assert lines[:9] == [
        "squares: [0, 1, 4, 9, 16]",
        "nested: 30",
        "chained: 81",
        "waited: 1 done, 3 perhaps not",
        "mean of 8 MB that nobody copied: 499999.5",
        "what get returns may be read, not written: False",
        "caught: no milk here",
        "raised in another process: True",
        "totals: [10, 11, 13, 16, 20]",
    ]
    assert lines[9:11] == ["awaited: 49", "gathered: ['hello Ada', 'hello Grace']"]
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("pipeline.py", "8 micro-batches went through: the results equal those of the whole model"),
        ("tensor_parallel.py", "4 batches over 2 actors: each has the result of the whole layers"),
        ("prefill_decode.py", "the tokens equal those of the model in a single process"),
    ],
)
@pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")
def test_tensor_examples(environment: dict[str, str], name: str, last: str) -> None:
    """Each compares what its actors computed with what torch computes in one process."""
    result = run(environment, "-W", "error", EXAMPLES / name)
    assert result.stdout.splitlines()[-1] == last
    assert result.stderr == ""


def readme_block(words: str) -> str:
    """The README's one Python block that has these words."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (found,) = [block for block in blocks if words in block]
    return str(found)


# What a block needs around it to run as a script, as its surroundings give it: a client, a cell with top-level await.
IN_FASTAPI = """
from fastapi.testclient import TestClient
with TestClient(app) as web:
    print(web.get("/predict", params={"text": "words"}).json())
"""
IN_NOTEBOOK = """
import ast, asyncio, sys
async def run():
    await eval(compile(sys.argv[1], "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), globals())
asyncio.run(run())
"""


@pytest.mark.parametrize(
    "words", ["async def main()", "\nwith af.init():\n    counter"], ids=["async", "sync"]
)
def test_readme_counter(environment: dict[str, str], words: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(readme_block(words))
    assert run(environment, script).stdout == "[0, 1, 3, 6, 10]\n"


def test_guide(environment: dict[str, str], tmp_path: Path) -> None:
    """Its blocks are one program; what each line prints stands behind it."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guide.md").read_text(), re.DOTALL)
    script = tmp_path / "script.py"
    script.write_text("".join(blocks))
    said = run(environment, script).stdout.splitlines()
    expected = ["[1, 3, 6]", "[1.0, 1.0, 1.0]", "10", "2 0", "True Account.pay 1", "[0, 1, 4, 9]"]
    assert said == expected
    assert all(line in "".join(blocks) for line in said)


def test_readme_graph(environment: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(readme_block("InputNode"))
    assert run(environment, script).stdout.splitlines() == [
        "[0, 6, 12, 18, 24]",
        "0: Stage.scale [actor 0] <- input (auto)",
        "1: Stage.scale [actor 1] <- 0 (auto)",
        "outputs <- 1 (auto)",
    ]


def test_readme_fastapi(environment: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(readme_block("FastAPI(lifespan=lifespan)") + IN_FASTAPI)
    assert run(environment, script).stdout == "5\n"


def test_readme_notebook(environment: dict[str, str]) -> None:
    result = run(environment, "-W", "ignore", "-c", IN_NOTEBOOK, readme_block("ignore_reinit_error"))
    assert result.stdout == "9\n[0, 1, 4, 9]\n"


def check_wordstats(result: subprocess.CompletedProcess[str]) -> int:
    """Checks what the main job printed; how many files it counted."""
    assert result.stdout.splitlines()[-1] == "the parallel result equals the serial one"
    assert re.search(r"parallel \d+\.\d\d s .*, serial \d+\.\d\d s", result.stdout)
    counted = re.match(r"([\d,]+) files, ([\d,]+) lines", result.stdout)
    assert counted is not None, result.stdout
    files, lines = (int(number.replace(",", "")) for number in counted.groups())
    assert lines > files
    assert f"100%|██████████| {files}/{files}" in result.stderr
    return files


def test_wordstats_counts_the_whole_standard_library(environment: dict[str, str]) -> None:
    files = check_wordstats(run(environment, EXAMPLES / "wordstats.py"))
    assert files > 500


def test_wordstats_with_one_file_in_a_task(environment: dict[str, str]) -> None:
    result = run(environment, EXAMPLES / "wordstats.py", "--limit", "12", "--batch-kb", "1")
    assert check_wordstats(result) == 12


@contextmanager
def web_server(environment: dict[str, str], log: Path, workers: int) -> Iterator[str]:
    """uvicorn with the example; its URL. It is asked to end, and has to end well."""
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", "0", "--no-use-colors"]
    command += ["--workers", str(workers), "fastapi_app:app"]
    with (
        log.open("w") as output,
        subprocess.Popen(command, env=environment, stdout=output, stderr=output) as server,
    ):

        def url() -> str | None:
            found = re.search(r"Uvicorn running on (http://127.0.0.1:\d+)", log.read_text())
            started = log.read_text().count("Application startup complete")
            return found.group(1) if found and started >= workers else None

        try:
            wait_until(lambda: bool(url()) or server.poll() is not None, START_DEADLINE_S, "uvicorn is up")
            address = url()
            assert address is not None, log.read_text()
            yield address
            server.terminate()
            assert server.wait(END_DEADLINE_S) in (0, -15), log.read_text()
            assert "Traceback" not in log.read_text(), log.read_text()
        finally:
            server.kill()


def client(url: str) -> httpx.AsyncClient:
    """A client that opens a connection for each request, so that any process of the server may answer."""
    return httpx.AsyncClient(base_url=url, limits=httpx.Limits(max_keepalive_connections=0), timeout=60)


async def check_words(web: httpx.AsyncClient) -> None:
    answer = await web.get("/words", params={"text": "a rose is a rose"})
    assert (answer.status_code, answer.json()) == (200, {"a": 2, "rose": 2, "is": 1})
    answer = await web.get("/words", params={"text": " "})
    assert (answer.status_code, answer.json()) == (422, {"detail": "the text is empty"})


async def visit(web: httpx.AsyncClient) -> dict[str, Any]:
    answer = await web.get("/visits")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def test_web_service_with_a_private_node(environment: dict[str, str], tmp_path: Path) -> None:
    with web_server(environment, tmp_path / "log", workers=1) as url:
        async with client(url) as web:
            await check_words(web)
            assert [(await visit(web))["visit"] for _ in range(3)] == [1, 2, 3]


@contextmanager
def shared_node(environment: dict[str, str]) -> Iterator[str]:
    """A node started, looked at and stopped by the command line; its address."""
    address: str = json.loads(run(environment, "-m", "actorflow.cli", "start", "--json").stdout)["address"]
    try:
        yield address
        nodes = json.loads(run(environment, "-m", "actorflow.cli", "status", "--json").stdout)
        assert address in [node["address"] for node in nodes]
    finally:
        stopped = run(environment, "-m", "actorflow.cli", "stop", address, "--json")
        assert json.loads(stopped.stdout) == [{"address": address, "result": "stopped"}]


async def test_web_service_with_two_workers_on_one_node(environment: dict[str, str], tmp_path: Path) -> None:
    with shared_node(environment) as address:
        shared = {**environment, "ACTORFLOW_ADDRESS": address}
        with web_server(shared, tmp_path / "log", workers=2) as url:
            async with client(url) as web, asyncio.timeout(START_DEADLINE_S):
                answers: list[dict[str, Any]] = []
                while len({answer["pid"] for answer in answers}) < 2:
                    answers += await asyncio.gather(*(visit(web) for _ in range(8)))
                    await check_words(web)
                # One actor counted for both: every number once.
                assert sorted(answer["visit"] for answer in answers) == list(range(1, len(answers) + 1))


def shown(cell: Any) -> str:
    """What a cell shows, as plain text."""
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "".join(texts).strip()


async def test_notebook_with_every_cell_run_twice(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    # nbformat types its classes, but not this function.
    book = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    runner = nbclient.NotebookClient(book, timeout=CELL_DEADLINE_S, kernel_name="python3")
    cells = {cell.id: (index, cell) for index, cell in enumerate(book.cells) if cell.cell_type == "code"}
    async with runner.async_setup_kernel():
        for _ in range(2):  # and all of it again after its own shutdown
            for index, cell in cells.values():
                await runner.async_execute_cell(cell, index)
                await runner.async_execute_cell(cell, index)
            check_notebook({name: shown(cell) for name, (_, cell) in cells.items()})


def check_notebook(results: dict[str, str]) -> None:
    expected = {
        "await-task": "49",
        "get-tasks": "[0, 1, 4, 9, 16]",
        "call-actor": "2",
        "gather": "[0, 1, 4, 9]",
        "array": "(999999, False)",
        "error": "division by zero - in another process: True",
        "shutdown": "",
    }
    assert {name: results[name] for name in expected} == expected
    for name, word in (("init", "Runtime"), ("show-ref", "ObjectRef"), ("define-actor", "Counter")):
        assert word in results[name]
        assert " at 0x" not in results[name], "an address tells a reader nothing"
