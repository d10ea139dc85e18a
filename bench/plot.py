"""A picture of the ratios; needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bench.report import RowReport
from bench.rows import RIVALS, AtLeast
from bench.systems import SYSTEMS

_ROW_HEIGHT_INCHES = 0.35


def save_plot(reports: Sequence[RowReport], path: Path) -> bool:
    """Draw, for each row, how many times better actorflow is than each rival, and what is to be reached.

    The file's ending decides the format. Returns False, having drawn nothing, when no row has such a ratio.
    """
    shown = [report for report in reports if any(rival in report.ratios for rival in RIVALS)]
    if not shown:
        return False
    figure = Figure(figsize=(10, 1.5 + _ROW_HEIGHT_INCHES * len(shown)), layout="constrained")
    axes = figure.subplots()
    for rival in RIVALS:
        points = [
            (report.ratios[rival], place) for place, report in enumerate(shown) if rival in report.ratios
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o", label=f"times {SYSTEMS[rival].title}")
    goals = [
        (target.factor, place)
        for place, report in enumerate(shown)
        for target in report.row.targets
        if isinstance(target, AtLeast) and target.against in RIVALS
    ]
    if goals:
        axes.plot(*zip(*goals, strict=True), "k|", markersize=12, label="to reach")
    axes.set_yticks(range(len(shown)), [report.row.what for report in shown])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("how many times better actorflow is")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path)
    return True
