"""The main job: counts what the standard library consists of, in parallel, and checks that serially.

Every .py file of this Python's standard library is parsed by tasks. One actor gathers their counts. A table
of how surprising each pair of bytes is goes to every task as one shared array, without a copy. A progress bar
shows the way.

    python examples/wordstats.py --batch-kb 256
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import sysconfig
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

import actorflow as af

Table = npt.NDArray[np.float64]
SAMPLE_STEP = 10  # the table is made from every tenth file


@dataclass
class Counts:
    """What a set of files consists of. Adding is the same in any order."""

    files: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    errors: int = 0
    words: Counter[str] = field(default_factory=Counter)
    bits_per_byte: dict[str, float] = field(default_factory=dict)

    def add(self, other: Counts) -> None:
        self.files += other.files
        self.lines += other.lines
        self.functions += other.functions
        self.classes += other.classes
        self.errors += other.errors
        self.words.update(other.words)
        self.bits_per_byte.update(other.bits_per_byte)


def library_files() -> list[Path]:
    """Every .py file of this Python's standard library, the largest first."""
    root = Path(sysconfig.get_path("stdlib"))
    added = {"site-packages", "dist-packages"}  # what was installed on top of it
    files = [path for path in root.rglob("*.py") if not added & set(path.parts)]
    return sorted(files, key=lambda path: (-path.stat().st_size, str(path)))


def pairs(content: bytes) -> npt.NDArray[np.int64]:
    """Each byte and its successor as one number below 65,536."""
    values = np.frombuffer(content, np.uint8).astype(np.int64)
    return values[:-1] * 256 + values[1:]


def surprise_table(files: Iterable[Path]) -> Table:
    """For each pair of bytes, the bits of information in the second one when the first is known."""
    seen = np.ones(65536)
    for path in files:
        seen += np.bincount(pairs(path.read_bytes()), minlength=65536)
    square = seen.reshape(256, 256)
    return np.asarray(-np.log2(square / square.sum(axis=1, keepdims=True))).ravel()


def count_file(path: Path, table: Table) -> Counts:
    """The counts of one file; what is not Python source (the library tests some) counts as an error."""
    content = path.read_bytes()
    counts = Counts(files=1, lines=content.count(b"\n"))
    if len(content) > 1:
        counts.bits_per_byte[str(path)] = float(table[pairs(content)].mean())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        counts.errors = 1
        return counts
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            counts.functions += 1
        elif isinstance(node, ast.ClassDef):
            counts.classes += 1
        elif isinstance(node, ast.Name):
            counts.words[node.id] += 1
    return counts


def count_files(files: Iterable[Path], table: Table) -> Counts:
    total = Counts()
    for path in files:
        total.add(count_file(path, table))
    return total


count_batch = af.remote(count_files)


@af.remote
class Statistics:
    """Gathers the counts of all batches."""

    def __init__(self) -> None:
        self.total = Counts()

    def add(self, counts: Counts) -> int:
        """Returns how many files are in, so that the caller's progress needs no copy of the counts."""
        self.total.add(counts)
        return counts.files

    def result(self) -> Counts:
        return self.total


def batches(files: Iterable[Path], batch_bytes: int) -> Iterator[list[Path]]:
    """Groups of files of about `batch_bytes`: enough work for each call, and many groups to share out."""
    batch: list[Path] = []
    size_bytes = 0
    for path in files:
        batch.append(path)
        size_bytes += path.stat().st_size
        if size_bytes >= batch_bytes:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


async def count_in_parallel(files: list[Path], table: Table, batch_bytes: int) -> Counts:
    async with af.init():
        statistics = Statistics.remote()
        shared = af.put(table)
        # A batch's counts go from its task to the actor: they never pass through this process.
        added = [statistics.add(count_batch.remote(batch, shared)) for batch in batches(files, batch_bytes)]
        with tqdm(total=len(files), unit="file") as bar:
            for ready in asyncio.as_completed(added):
                bar.update(await ready)
        counts: Counts = await statistics.result()
        return counts


def report(counts: Counts) -> None:
    print(f"{counts.files:,} files, {counts.lines:,} lines, {counts.errors} not to be parsed")
    print(f"{counts.functions:,} functions, {counts.classes:,} classes, {counts.words.total():,} names")
    print("most used:", ", ".join(f"{word} ({number:,})" for word, number in counts.words.most_common(8)))
    densest = max(counts.bits_per_byte, key=lambda path: counts.bits_per_byte[path])
    print(f"most surprising: {Path(densest).name}, {counts.bits_per_byte[densest]:.2f} bits per byte")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-kb", type=int, default=256, help="source in one task, in KB (default: 256)")
    parser.add_argument(
        "--limit", type=int, default=None, help="how many files, the largest first (default: all)"
    )
    options = parser.parse_args()

    files = library_files()[: options.limit]
    table = surprise_table(files[::SAMPLE_STEP])

    start = time.perf_counter()
    parallel = asyncio.run(count_in_parallel(files, table, options.batch_kb * 1024))
    parallel_s = time.perf_counter() - start

    start = time.perf_counter()
    serial = count_files(tqdm(files, unit="file"), table)
    serial_s = time.perf_counter() - start

    report(parallel)
    print(f"parallel {parallel_s:.2f} s (start and end of the runtime included), serial {serial_s:.2f} s")
    if parallel != serial:
        raise SystemExit("the parallel result differs from the serial one")
    print("the parallel result equals the serial one")


if __name__ == "__main__":
    main()
