"""Runs the rows: every system in its own process, repeats interleaved, all others stopped meanwhile."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from bench.child_process import ChildFailedError, ChildProcess, UnsupportedError
from bench.rows import Row
from bench.summary import Summary
from bench.workloads import WORKLOADS, Workload

START_TIME_LIMIT_S = 120.0
IDLE_WATCH_S = 2.0
_BOOKKEEPING_TIME_LIMIT_S = 60.0


@dataclass
class Cell:
    """What one system gave for one workload: figures by quantity for each repeat, or why not."""

    repeats: list[dict[str, Summary]] = field(default_factory=list)
    error: str | None = None
    is_unsupported: bool = False

    @property
    def is_over(self) -> bool:
        return self.is_unsupported or self.error is not None


@dataclass
class Results:
    """All cells by (block, system), and the CPUs that each system used when idle, before it was stopped.

    A block is named by its workload; the limit that is measured beside it is system "limit".
    """

    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    idle_cpu: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """One workload and all who take part: each system with its workload (the limit's is another one)."""

    workload: Workload
    participants: dict[str, Workload]


def plan(rows: Iterable[Row], systems: Iterable[str]) -> list[Block]:
    """Return the blocks that the rows need, in the rows' order; rows on one workload share a block."""
    chosen = list(systems)
    participants: dict[str, dict[str, Workload]] = {}
    for row in rows:
        members = participants.setdefault(row.workload, {})
        for system in chosen:
            if system in row.systems:
                members[system] = WORKLOADS[row.workload]
        if row.limit is not None and "limit" in chosen:
            members["limit"] = WORKLOADS[row.limit]
    return [Block(WORKLOADS[name], members) for name, members in participants.items() if members]


class Runner:
    """Holds the systems' processes during a run.

    A system's runtime is started when first needed and serves all its blocks, so that starting one does not
    decide what fits into a run. Whoever is not being measured is stopped: an idle Ray alone wakes up often
    enough to use several per cent of a CPU and to disturb the tail of what is measured beside it.
    """

    def __init__(self, repeats: int, tell: Callable[[str], None]) -> None:
        """Measure each block `repeats` times (fewer where a workload says so); `tell` hears of progress."""
        self._repeats = repeats
        self._tell = tell
        self._children: dict[tuple[str, int], ChildProcess] = {}
        self.results = Results()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children.values():
            child.close()
        self._children.clear()

    def run(self, block: Block) -> None:
        """Measure one block. A system that fails is left out of its remaining repeats."""
        prepared: set[str] = set()
        repeats = min(self._repeats, block.workload.max_repeats)
        for system in block.participants:
            self.results.cells[block.workload.name, system] = Cell()
        for repeat in range(repeats):
            for system, workload in block.participants.items():
                cell = self.results.cells[block.workload.name, system]
                if not cell.is_over:
                    self._tell(f"{block.workload.name} {repeat + 1}/{repeats}: {system}")
                    self._run_once(system, workload, cell, prepared)
        for system in prepared:
            self._finish(system, block.participants[system], self.results.cells[block.workload.name, system])

    def _run_once(self, system: str, workload: Workload, cell: Cell, prepared: set[str]) -> None:
        try:
            if workload.fresh:
                self._run_fresh(system, workload, cell)
                return
            with self._awake(system, workload) as child:
                if system not in prepared:
                    child.prepare(workload.name, workload.time_limit_s)
                    prepared.add(system)
                cell.repeats.append(child.run(workload.name, workload.time_limit_s))
        except UnsupportedError:
            cell.is_unsupported = True
        except ChildFailedError as error:
            self._fail(system, workload, cell, error)
            prepared.discard(system)

    def _run_fresh(self, system: str, workload: Workload, cell: Cell) -> None:
        with ChildProcess(system, workload.cpus or default_cpus()) as child:
            child.start(START_TIME_LIMIT_S, workload.shared)
            child.prepare(workload.name, workload.time_limit_s)
            cell.repeats.append(child.run(workload.name, workload.time_limit_s))

    def _finish(self, system: str, workload: Workload, cell: Cell) -> None:
        """Free what the block made; a runtime of unusual size is not kept."""
        try:
            with self._awake(system, workload) as child:
                child.finish(workload.name, _BOOKKEEPING_TIME_LIMIT_S)
        except ChildFailedError as error:
            self._fail(system, workload, cell, error)
        if workload.cpus is not None:
            self._close(system, workload)

    @contextlib.contextmanager
    def _awake(self, system: str, workload: Workload) -> Iterator[ChildProcess]:
        """Let a system's processes run for as long as the context lasts."""
        child = self._child(system, workload)
        child.resume()
        try:
            yield child
        finally:
            child.stop()

    def _child(self, system: str, workload: Workload) -> ChildProcess:
        cpus = workload.cpus or default_cpus()
        if (system, cpus) not in self._children:
            child = self._children[system, cpus] = ChildProcess(system, cpus)
            child.start(START_TIME_LIMIT_S)
            if system not in self.results.idle_cpu:
                child.idle_cpu(IDLE_WATCH_S)  # what starting it leaves to do is not idling
                self.results.idle_cpu[system] = child.idle_cpu(IDLE_WATCH_S)
        return self._children[system, cpus]

    def _fail(self, system: str, workload: Workload, cell: Cell, error: ChildFailedError) -> None:
        self._tell(f"{workload.name}: {system}: {error}")
        cell.error = str(error)
        self._close(system, workload)

    def _close(self, system: str, workload: Workload) -> None:
        child = self._children.pop((system, workload.cpus or default_cpus()), None)
        if child is not None:
            child.close()


def default_cpus() -> int:
    """Return the number of workers that a system gets unless a workload says otherwise: one for each CPU."""
    return os.cpu_count() or 1
