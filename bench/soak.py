"""The command `python -m bench.soak`: many calls and tasks, and whether any process grows meanwhile."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import process_tree
from bench.child_process import ChildProcess
from bench.report import format_rate, format_value
from bench.runner import START_TIME_LIMIT_S, default_cpus
from bench.systems import SYSTEMS
from bench.workloads import BURST

GROWTH_LIMIT = 0.05
TENTHS = 10
_TIME_LIMIT_S = 600.0


@dataclass(frozen=True)
class Growth:
    """One process's resident memory (Rss) in bytes after the first tenth of the calls and after the last."""

    pid: int
    before_bytes: int
    after_bytes: int

    @property
    def share(self) -> float:
        """The growth as a share of what it was before."""
        return (self.after_bytes - self.before_bytes) / self.before_bytes

    @property
    def is_within_limit(self) -> bool:
        return self.share <= GROWTH_LIMIT


def growths(before: Mapping[int, int], after: Mapping[int, int]) -> list[Growth]:
    """Return the growth of each process that was there at both times, by pid; sizes are in bytes."""
    return [
        Growth(pid, before[pid], after[pid]) for pid in sorted(before.keys() & after.keys()) if before[pid]
    ]


def main() -> None:
    """Run the command; exits with 1 when a process grew by more than the limit."""
    options = _parser().parse_args()
    within = True
    with ChildProcess(options.system, default_cpus()) as child:
        child.start(START_TIME_LIMIT_S)
        for workload, operations in (("actor_burst", options.calls), ("task_burst", options.tasks)):
            within &= _soak(child, workload, operations)
    sys.exit(0 if within else 1)


def _soak(child: ChildProcess, workload: str, operations: int) -> bool:
    """Make so many operations, in bursts; prints what came of it, returns whether all are within limits."""
    bursts = max(1, operations // BURST // TENTHS)
    child.prepare(workload, _TIME_LIMIT_S)
    before: dict[int, int] = {}
    after: dict[int, int] = {}
    for tenth in range(1, TENTHS + 1):
        figures = child.run(workload, _TIME_LIMIT_S, calls=bursts)["time_s"]
        sizes = {pid: process_tree.memory_bytes(pid) for pid in child.pids()}
        after = {pid: size["Rss"] for pid, size in sizes.items()}
        before = before or after
        pss = format_value(sum(size["Pss"] for size in sizes.values()), "B")
        rate = format_rate(BURST / figures.mean, is_bytes=False)
        print(
            f"{workload}: {tenth * bursts * BURST:,} done, {rate}, {len(sizes)} processes, PSS {pss}",
            flush=True,
        )
    found = growths(before, after)
    for growth in found:
        print(_growth_text(growth))
    new, ended = len(after.keys() - before.keys()), len(before.keys() - after.keys())
    print(f"  after the first tenth {new} processes began and {ended} ended", flush=True)
    child.finish(workload, _TIME_LIMIT_S)
    return all(growth.is_within_limit for growth in found)


def _growth_text(growth: Growth) -> str:
    sizes = f"{format_value(growth.before_bytes, 'B')} -> {format_value(growth.after_bytes, 'B')}"
    mark = "" if growth.is_within_limit else f"  more than {GROWTH_LIMIT:.0%}"
    return f"  {growth.pid} {_command(growth.pid)}: {sizes} ({growth.share:+.1%}){mark}"


def _command(pid: int) -> str:
    try:
        return (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode(errors="replace")[:60]
            .strip()
        )
    except (FileNotFoundError, ProcessLookupError):
        return "ended"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument(
        "--system", default="actorflow", choices=[name for name in SYSTEMS if name != "limit"]
    )
    parser.add_argument("--calls", type=int, default=1_000_000, help="actor calls (default: 1,000,000)")
    parser.add_argument("--tasks", type=int, default=200_000, help="tasks (default: 200,000)")
    return parser


if __name__ == "__main__":
    main()
