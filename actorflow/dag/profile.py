"""Where the time of one execution went: waiting, reading, computing and writing of each operation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class StepProfile(NamedTuple):
    """One operation in one execution. `start_s`: from the beginning of `execute` to when it began to read.

    `sleeps`: how often its actor went to sleep for it (CompiledGraph.sleeps).
    `wait_s`: since its actor had ended the step before, for its inputs, for room, and for what else the actor did. In a
    threaded actor waiting is part of reading and writing.
    """

    label: str
    actor: int
    start_s: float
    wait_s: float
    read_s: float
    compute_s: float
    write_s: float
    sleeps: int


class Profile:
    """One execution: `total_s` from `execute` to the last result; `steps` in the order in which they computed.

    `sleeps`: how often the caller went to sleep for its results.
    """

    def __init__(self, result: Any, total_s: float, steps: Iterable[StepProfile], sleeps: int) -> None:
        self.result = result
        self.total_s = total_s
        self.sleeps = sleeps
        self.steps = sorted(steps, key=lambda step: step.start_s + step.read_s)

    def __str__(self) -> str:
        columns = ("start", "wait", "read", "compute", "write")
        width = max(len(step.label) for step in self.steps)
        lines = [f"{'us':{width}} actor" + "".join(f"{column:>12}" for column in columns) + "  sleeps"]
        for step in self.steps:
            times = "".join(f"{seconds * 1e6:12.1f}" for seconds in step[2:-1])
            lines.append(f"{step.label:{width}} {step.actor:5}{times}{step.sleeps:8}")
        return "\n".join(
            [*lines, f"in all {self.total_s * 1e6:.1f} us; the caller slept {self.sleeps} times"]
        )
