"""The house rules that a machine can hold: sizes, headers, words, and no sleeping in tests.

What needs judgement is left to a reader; what is here is meant to fail before one has to say it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("actorflow", "bench", "examples", "ext", "tests", ".ci")
TOP_FILES = ("setup.py", "pyproject.toml", "README.md", "CHANGELOG.md", "ARCHITECTURE.md")
GENERATED = frozenset({"_store.c", "__pycache__", "build", ".hypothesis"})

FILE_LINES = 500
USUAL_FILE_LINES = 400
LONG_FILES_SHARE = 0.1  # how many files may exceed the usual length
FUNCTION_LINES = 60

# What may stand in no file, with what to do instead. This file is the one that has to spell them.
REFUSED: tuple[tuple[str, str], ...] = (
    (r"\b(TODO|FIXME|XXX|HACK)\b", "do it, or leave it out"),
    (r"(?<![\w.])/(home|root|Users|work|mnt|opt|tmp)/\w", "a path of one machine"),
    (r"\bpypi\b|pythonhosted|\bindex-url\b", "the machine's own configuration says where packages come from"),
    (r"(?i)\bissues? #?\d", "say why, not who asked"),
    (r"(?i)\b(blazing|seamless|leverag\w+|utili[sz]e[sd]?|cutting[- ]edge|simply|obviously)\b", "say facts"),
    (r"(?i)\b(whitelist|blacklist|slave)\b", "say what it allows, refuses or serves"),
    (r"(?i)\b(raylet|plasma store)\b", "it is called node, object store"),
    (r"\b(foo|baz|qux)\b", "a name that says what it is"),
    (r"\btype: ignore(?!\[)", "name the error code, and say why"),
    (r"\bnoqa(?!:)", "name the rule, and say why"),
)  # fmt: skip


def files(*suffixes: str) -> list[Path]:
    """The project's own files with these suffixes."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    found += [ROOT / name for name in TOP_FILES if (ROOT / name).exists()]
    return sorted(
        path
        for path in found
        if path.suffix in suffixes and not GENERATED & set(path.relative_to(ROOT).parts)
    )


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


PYTHON = files(".py", ".pyi")
C = files(".c", ".h")
EVERY = files(".py", ".pyi", ".c", ".h", ".md", ".toml", ".ipynb", "")
TREES = {path: ast.parse(path.read_text(), str(path)) for path in PYTHON}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and number of lines of every function of a Python file."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, Function):
            yield f"{node.name}:{node.lineno}", (node.end_lineno or node.lineno) - node.lineno + 1


def c_functions(text: str) -> Iterator[tuple[str, int]]:
    """First line and number of lines of every function of a C file laid out as this project's are."""
    start, header = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        is_open = line.rstrip().endswith("{") and line[:1] not in (" ", "\t", "}", "/", "#", "*")
        if is_open and "(" in line and "=" not in line.split("(")[0]:
            start, header = number, line.strip()
        elif line.startswith("}") and start:
            yield f"{header}:{start}", number - start + 1
            start = 0


def sleeps(tree: ast.Module) -> Iterator[int]:
    """Lines that sleep, outside of what a worker runs (there, a sleep is the load that is tested)."""
    hidden: set[ast.AST] = set()
    for node in ast.walk(tree):
        remote = isinstance(node, Function | ast.ClassDef) and any(
            "remote" in ast.unparse(decorator) for decorator in node.decorator_list
        )
        if remote:
            hidden.update(ast.walk(node))
        if node in hidden or not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        gives_a_turn = name == "asyncio.sleep" and [ast.unparse(value) for value in node.args] == ["0"]
        if name in ("time.sleep", "sleep", "asyncio.sleep") and not gives_a_turn:
            yield node.lineno


@pytest.mark.parametrize("path", PYTHON + C, ids=relative)
def test_file_length(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= FILE_LINES, "split it by responsibility"


def test_most_files_keep_to_the_usual_length() -> None:
    long = [relative(path) for path in PYTHON + C if len(path.read_text().splitlines()) > USUAL_FILE_LINES]
    assert len(long) <= LONG_FILES_SHARE * len(PYTHON + C), long


@pytest.mark.parametrize("path", PYTHON + C, ids=relative)
def test_function_length(path: Path) -> None:
    found = python_functions(path) if path.suffix in (".py", ".pyi") else c_functions(path.read_text())
    assert not [f"{name}: {lines} lines" for name, lines in found if lines > FUNCTION_LINES]


@pytest.mark.parametrize("path", PYTHON + C, ids=relative)
def test_file_says_what_it_is_for(path: Path) -> None:
    if path.suffix in (".c", ".h"):
        assert path.read_text().startswith(("/*", "//")), "a C file opens with a comment"
    elif path.read_text().strip():
        assert ast.get_docstring(TREES[path]), "a module opens with its docstring"


@pytest.mark.parametrize("path", EVERY, ids=relative)
def test_words(path: Path) -> None:
    if path == Path(__file__).resolve():
        return
    found = [
        f"{relative(path)}:{number}: {match.group(0)!r}: {instead}"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for pattern, instead in REFUSED
        if (match := re.search(pattern, line))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", [path for path in PYTHON if "tests" in path.parts], ids=relative)
def test_no_test_sleeps(path: Path) -> None:
    lines = list(sleeps(TREES[path]))
    assert not lines, f"lines {lines}: wait for a condition with a deadline instead"


def test_the_sleep_search_finds_what_it_should() -> None:
    source = (
        "time.sleep(1)\n@af.remote\ndef work():\n    time.sleep(1)\nasyncio.sleep(0)\nasyncio.sleep(0.1)\n"
    )
    assert list(sleeps(ast.parse(source))) == [1, 6]


def test_the_c_search_finds_functions() -> None:
    source = "struct a {\n  int b;\n};\nint f(int x) {\n  return x;\n}\nstatic int t[] = {\n  1\n};\n"
    assert list(c_functions(source)) == [("int f(int x) {:4", 3)]
