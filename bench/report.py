"""Results to a table: figures, ratios to each rival and to the limit, and whether each target is reached."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.rows import AtLeast, AtMost, Row, Statistic, Target
from bench.runner import Cell, Results
from bench.summary import Summary, over_repeats
from bench.systems import SYSTEMS
from bench.workloads import WORKLOADS, Workload

SUBJECT = "actorflow"
_HEADINGS = ("row", "system", "p50", "p99", "rate", "actorflow is", "to reach", "reached")


@dataclass(frozen=True)
class Figures:
    """One system's figures in one row: p50 and p99 in the row's unit; its rate (bytes/s if `is_bytes`).

    `count` is the number of samples of one repeat; with a single one p99 says nothing.
    """

    p50: float
    p99: float
    rate: float | None
    is_bytes: bool
    count: int

    def value(self, statistic: Statistic) -> float:
        """Return one of them. Raises ValueError for a rate where there is none."""
        if statistic != "rate":
            return self.p50 if statistic == "p50" else self.p99
        if self.rate is None:
            raise ValueError("this row has no rate")
        return self.rate


@dataclass(frozen=True)
class Verdict:
    """A target, what was measured for it, and whether that reaches it."""

    target: Target
    measured: float
    is_reached: bool


@dataclass(frozen=True)
class RowReport:
    """Everything about one row; `verdicts` has those targets for which there are figures."""

    row: Row
    figures: dict[str, Figures]
    errors: dict[str, str]
    ratios: dict[str, float]
    verdicts: list[Verdict]


def report_row(row: Row, results: Results, systems: Iterable[str]) -> RowReport:
    """Compute one row from the results."""
    figures, errors = {}, {}
    for system in systems:
        cell = results.cells.get((row.workload, system))
        if cell is None or not _takes_part(row, system):
            continue
        workload = WORKLOADS[row.limit if system == "limit" and row.limit else row.workload]
        quantity = "time_s" if system == "limit" else row.quantity
        if cell.error is not None:
            errors[system] = cell.error
        elif cell.repeats and quantity in cell.repeats[0]:
            figures[system] = _figures(cell, quantity, workload)
    ours = figures.get(SUBJECT)
    ratios = {}
    if ours is not None:
        ratios = {
            system: ratio(row.compare, ours, theirs)
            for system, theirs in figures.items()
            if system != SUBJECT
        }
    verdicts = [verdict for target in row.targets if (verdict := _judge(row, target, figures)) is not None]
    return RowReport(row, figures, errors, ratios, verdicts)


def _takes_part(row: Row, system: str) -> bool:
    return system in row.systems or (system == "limit" and row.limit is not None)


def _figures(cell: Cell, quantity: str, workload: Workload) -> Figures:
    summary: Summary = over_repeats([repeat[quantity] for repeat in cell.repeats])
    rate = None
    if quantity == "time_s":
        rate = (workload.bytes_per_call or workload.operations_per_call) / summary.mean
    return Figures(
        summary.p50, summary.p99, rate, workload.bytes_per_call > 0, summary.count // len(cell.repeats)
    )


def ratio(statistic: Statistic, ours: Figures, theirs: Figures) -> float:
    """Return how many times better ours is: a higher rate, or a lower anything else; inf against 0."""
    better, worse = ours.value(statistic), theirs.value(statistic)
    if statistic != "rate":
        better, worse = worse, better
    return better / worse if worse else float("inf")


def _judge(row: Row, target: Target, figures: dict[str, Figures]) -> Verdict | None:
    ours = figures.get(SUBJECT)
    if ours is None:
        return None
    if isinstance(target, AtMost):
        value = ours.value(target.statistic)
        measured = value / ours.p50 if target.times_p50 and ours.p50 else value
        return Verdict(target, measured, measured <= target.bound)
    theirs = figures.get(target.against)
    if theirs is None:
        return None
    measured = ratio(target.statistic or row.compare, ours, theirs)
    return Verdict(target, measured, measured >= target.factor)


def table(reports: Iterable[RowReport]) -> str:
    """Return a Markdown table, aligned for reading as it is: a line for each row and system."""
    lines = [list(_HEADINGS)]
    for report in reports:
        systems = [system for system in SYSTEMS if system in report.figures or system in report.errors]
        for number, system in enumerate(systems):
            lines.append([report.row.what if number == 0 else "", *_line(report, system)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def _line(report: RowReport, system: str) -> list[str]:
    title = SYSTEMS[system].title
    if system in report.errors:
        return [title, f"failed: {report.errors[system]}", "", "", "", "", ""]
    figures, unit = report.figures[system], report.row.unit
    verdicts = [verdict for verdict in report.verdicts if _belongs(verdict.target, system)]
    targets = [target for target in report.row.targets if _belongs(target, system)]
    return [
        title,
        format_value(figures.p50, unit),
        format_value(figures.p99, unit) if figures.count > 1 else "",
        "" if figures.rate is None else format_rate(figures.rate, figures.is_bytes),
        f"{report.ratios[system]:,.3g} x" if system in report.ratios else "",
        "; ".join(format_target(target, unit) for target in targets),
        "; ".join(_format_verdict(verdict, unit) for verdict in verdicts),
    ]


def _belongs(target: Target, system: str) -> bool:
    """Tell whether a target is shown on a system's line."""
    return system == (target.against if isinstance(target, AtLeast) else SUBJECT)


def format_target(target: Target, unit: str) -> str:
    """Return a target in a few characters."""
    if isinstance(target, AtLeast):
        return f"{target.statistic + ' ' if target.statistic else ''}{target.factor:g} x"
    if target.times_p50:
        return f"{target.statistic} <= {target.bound:g} x p50"
    return f"<= {format_value(target.bound, unit)}"


def _format_verdict(verdict: Verdict, unit: str) -> str:
    word = "yes" if verdict.is_reached else "no"
    if isinstance(verdict.target, AtLeast) and verdict.target.statistic is None:
        return word  # the ratio stands beside it
    relative = isinstance(verdict.target, AtLeast) or verdict.target.times_p50
    measured = f"{verdict.measured:.3g} x" if relative else format_value(verdict.measured, unit)
    return f"{word} ({measured})"


def format_value(value: float, unit: str) -> str:
    """Return a value with a readable unit: "s" as ns to s, "B" as kB to GB, "count" as it is."""
    if unit == "count":
        return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"
    scales = (1e-9, 1e-6, 1e-3, 1.0) if unit == "s" else (1.0, 1e3, 1e6, 1e9)
    names = ("ns", "us", "ms", "s") if unit == "s" else ("B", "kB", "MB", "GB")
    index = max([number for number, scale in enumerate(scales) if abs(value) >= scale], default=0)
    return f"{value / scales[index]:.3g} {names[index]}"


def format_rate(rate: float, is_bytes: bool) -> str:
    """Return a rate as GB/s, or as calls per second."""
    if is_bytes:
        return f"{rate / 1e9:.3g} GB/s"
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


def as_json(report: RowReport) -> dict[str, Any]:
    """Return everything about a row as plain values."""
    return {
        "key": report.row.key,
        "what": report.row.what,
        "unit": report.row.unit,
        "compared": report.row.compare,
        "systems": {
            system: {"p50": figures.p50, "p99": figures.p99, "rate": figures.rate, "samples": figures.count}
            for system, figures in report.figures.items()
        },
        "errors": report.errors,
        "ratios": report.ratios,
        "targets": [
            {
                "target": format_target(verdict.target, report.row.unit),
                "against": verdict.target.against if isinstance(verdict.target, AtLeast) else SUBJECT,
                "measured": verdict.measured,
                "reached": verdict.is_reached,
            }
            for verdict in report.verdicts
        ],
    }
