"""The layers of the package: imports run downwards, nothing imports in a circle or out of sight.

The rule is ARCHITECTURE.md's. Imports under `if TYPE_CHECKING` count as well: a type is knowledge too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "actorflow"

# From the bottom up. A part may import from earlier lines; parts of one line know nothing of each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("advice", "errors", "exception_parts", "ids", "options", "config", "records", "_hot"),
    ("runtime_env",),
    ("shm", "wire"),
    ("core",),
    ("client",),
    ("collective",),
    ("worker", "node"),
    ("dag", "observe", "integrations", "util"),
    ("actor", "exceptions", "experimental", "remote_function", "runtime_context", "types"),
    ("cli",),
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
# Parts of the bottom line are single modules that may build on one another; the test for circles holds them.
BOTTOM = frozenset(LAYERS[0])

# An import inside a function is allowed for what may be missing, or what not everyone should pay for.
DEFERRED: Mapping[str, str] = {
    "actorflow.wire.inspect": "only wanted for the advice of an error",
    "difflib": "only wanted for the advice of an error",
    "matplotlib": "an extra",
    "numpy.random": "only reseeded in a worker when user code has imported it",
    "random": "only reseeded in a worker when user code has imported it",
    "rich": "the extra `cli`; a repr falls back to plain text",
    "tempfile": "only wanted by a node that spills, and it brings much with it",
    "torch": "an extra of several hundred megabytes",
}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("actorflow", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text(), str(path)) for name, path in MODULES.items()}


def imported(name: str, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The dotted names that an import statement of module `name` may load, the most precise first."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
        package = package[: len(package) - (node.level - 1)]
        base = ".".join([*package, base] if base else package)
    for alias in node.names:
        whole = f"{base}.{alias.name}"
        yield whole if whole in MODULES or whole == "actorflow._hot" else base


def imports(name: str) -> Iterator[tuple[str, int]]:
    """What module `name` imports from the package, with the line."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for target in imported(name, node):
                if target.split(".")[0] == "actorflow":
                    yield target, node.lineno


def part(name: str) -> str:
    """The directory or top module of the package that `name` belongs to; "" for the package itself."""
    return name.split(".")[1] if "." in name else ""


def is_run_module(name: str) -> bool:
    return name.rpartition(".")[2] == "__main__"


def forbidden(source: str, target: str) -> str | None:
    """Why module `source` may not import `target`, or None."""
    above, below = part(source), part(target)
    if above in ("", below):
        return (
            None  # the package's own `__init__` shows what is public; inside a part, cycles alone are refused
        )
    if below == "":
        return "imports the package's public face, which imports everything" if above != "cli" else None
    if RANK[below] < RANK[above] or (above in BOTTOM and below in BOTTOM):
        return None
    return f"imports upwards or sideways: {above} is not above {below}"


def first_cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """A circle of imports as the names on it, or [] when there is none."""
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in finished:
            return []
        for target in sorted(graph.get(name, ())):
            if found := visit(target, [*path, name]):
                return found
        finished.add(name)
        return []

    for start in sorted(graph):
        if found := visit(start, []):
            return found
    return []


def test_every_part_has_its_layer() -> None:
    unknown = {part(name) for name in MODULES} - RANK.keys() - {""}
    assert not unknown, f"give {sorted(unknown)} a line in LAYERS"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_downwards(name: str) -> None:
    wrong = [
        f"{MODULES[name]}:{line}: {reason}"
        for target, line in imports(name)
        if (reason := forbidden(name, target)) is not None
    ]
    assert not wrong, "\n".join(wrong)


def test_no_circle() -> None:
    graph = {name: {target for target, _ in imports(name)} for name in MODULES}
    assert first_cycle(graph) == []


def test_the_search_finds_a_circle() -> None:
    assert first_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert first_cycle({"a": {"b", "c"}, "b": {"c"}}) == []


# A package whose parts are re-exported at first use: it may say which, in a table and a `__getattr__` (PEP 562).
LAZY = ("actorflow", "actorflow.util", "actorflow.experimental")
LAZY_NAMES = ("_AT_FIRST_USE", "__getattr__")


@pytest.mark.parametrize("name", sorted(name for name, path in MODULES.items() if path.name == "__init__.py"))
def test_init_only_reexports(name: str) -> None:
    allowed = ("__all__", "__version__", *(LAZY_NAMES if name in LAZY else ()))
    for node in TREES[name].body:
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"{name}:{node.lineno}: code in an __init__.py"
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            assert ast.unparse(target) in allowed, f"{name}:{node.lineno}"
        elif isinstance(node, ast.FunctionDef):
            assert node.name in allowed, f"{name}:{node.lineno}: a function in an __init__.py"
        elif isinstance(node, ast.If):
            assert ast.unparse(node.test) == "TYPE_CHECKING", f"{name}:{node.lineno}"
            assert all(isinstance(inner, ast.ImportFrom) for inner in node.body), f"{name}:{node.lineno}"
        else:
            assert isinstance(node, ast.Import | ast.ImportFrom), (
                f"{name}:{node.lineno}: code in an __init__.py"
            )


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_stand_at_the_top(name: str) -> None:
    functions = (
        node for node in ast.walk(TREES[name]) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    for function in functions:
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom):
                for target in imported(name, node):
                    allowed = any(target == kept or target.startswith(kept + ".") for kept in DEFERRED)
                    assert allowed, f"{MODULES[name]}:{node.lineno}: {target} is imported inside a function"


def test_running_modules_are_not_imported() -> None:
    loaded = {target for name in MODULES for target, _ in imports(name)}
    assert not {name for name in loaded if is_run_module(name)}
