"""The command `python -m bench`: the table of actorflow, its rivals and the machine's limits."""

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.machine import describe
from bench.report import as_json, report_row, table
from bench.rows import ROWS, Row
from bench.runner import Results, Runner, plan
from bench.systems import SYSTEMS, installed_version

_DEFINITIONS = """\
p50 and p99 are nearest-rank quantiles over the calls of one repeat (p99 is the slowest of fewer than 100);
each figure is its median over the repeats. Rate: operations, or bytes, per second of the measured calls.
"actorflow is": how many times better by the rate, or by the p50 where a row compares times or sizes; against
the limit, the share of it that is reached. The systems take turns within every repeat (A B C A B C ...).
Whoever is not being measured is stopped (SIGSTOP): left alone, idle systems would take CPU time from it."""

_QUIET_LOAD = 0.3


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    rows = [ROWS[key] for key in options.only] if options.only else list(ROWS.values())
    systems = _chosen_systems(options.systems)
    machine = describe(systems)
    print(_machine_text(machine), _DEFINITIONS, sep="\n", flush=True)
    results = _measure(rows, systems, options.repeats)
    if results.idle_cpu:
        print(_idle_text(results))
    reports = [report_row(row, results, systems) for row in rows]
    print("\n" + table(reports))
    if options.json is not None:
        content = {"machine": machine, "repeats": options.repeats, "idle_cpu": results.idle_cpu}
        content["rows"] = [as_json(report) for report in reports]
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if options.plot is not None and not importlib.import_module("bench.plot").save_plot(
        reports, options.plot
    ):
        print("nothing to plot: no row has a ratio to a rival")


def _measure(rows: Sequence[Row], systems: Sequence[str], repeats: int) -> Results:
    with Runner(repeats, lambda text: print(text, file=sys.stderr, flush=True)) as runner:
        for block in plan(rows, systems):
            runner.run(block)
        return runner.results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--only", action="append", metavar="ROW", choices=ROWS, help=f"one of {', '.join(ROWS)}"
    )
    parser.add_argument("--systems", type=lambda text: text.split(","), help=f"some of {','.join(SYSTEMS)}")
    parser.add_argument("--repeats", type=_repeats, default=3, help="repeats of each row (default: 3)")
    parser.add_argument("--json", type=_output_file, metavar="FILE", help="write all figures to a file")
    parser.add_argument("--plot", type=_plot_file, metavar="FILE", help="draw the ratios; needs matplotlib")
    return parser


def _repeats(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on, not {text}")
    return int(text)


def _output_file(text: str) -> Path:
    """Refuse before the run what could not be written after it."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"no folder {path.parent}")
    return path


def _plot_file(text: str) -> Path:
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("matplotlib is not installed")
    return _output_file(text)


def _chosen_systems(wanted: list[str] | None) -> list[str]:
    """Return the wanted systems, or all that are installed. Ends the program for one that cannot be used."""
    for name in wanted or ():
        if name not in SYSTEMS:
            sys.exit(f"no system {name}; there are {', '.join(SYSTEMS)}")
        if installed_version(name) is None:
            sys.exit(f"{name} is not installed")
    return wanted or [name for name in SYSTEMS if installed_version(name) is not None]


def _machine_text(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{SYSTEMS[name].title} {version}" for name, version in machine["versions"].items())
    load = f"load before: {machine['load_before']:.2f}"
    if machine["load_before"] > _QUIET_LOAD:
        load += " (other programs are running: they disturb every figure)"
    return (
        f"{machine['processor']}, {machine['cpus']} CPUs, {machine['memory']}; Linux {machine['kernel']}, "
        f"Python {machine['python']}; {load}\n{versions}"
    )


def _idle_text(results: Results) -> str:
    parts = [f"{SYSTEMS[name].title} {share:.2%}" for name, share in results.idle_cpu.items()]
    return f"CPU used by each system when idle, before it was stopped (of one CPU): {', '.join(parts)}"


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell reports it; all systems have ended
