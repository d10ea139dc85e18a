"""The benchmark's arithmetic: quantiles, medians over repeats, ratios, targets, and the table of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report import Figures, as_json, format_rate, format_value, ratio, report_row, table
from bench.rows import ROWS, AtLeast, AtMost, Row
from bench.runner import Cell, Results, plan
from bench.soak import growths
from bench.summary import Summary, over_repeats, quantile, summarise
from bench.systems.actorflow_system import ActorflowSystem
from bench.workloads import WORKLOADS, Workload

samples = st.lists(st.floats(0, 1e6), min_size=1)


def constant(seconds: float, count: int = 1000) -> Summary:
    """A repeat in which every call took the same time."""
    return Summary(seconds, seconds, seconds, count)


def results(workload: str, **cells: Cell | float) -> Results:
    """Results of one block; a number is a system whose calls all took so many seconds."""
    made = Results()
    for system, cell in cells.items():
        if not isinstance(cell, Cell):
            cell = Cell([{"time_s": constant(cell)}])
        made.cells[workload, system] = cell
    return made


def test_quantiles_are_samples_by_nearest_rank() -> None:
    hundred = [float(number) for number in range(100, 0, -1)]
    assert quantile(hundred, 0.5) == 50
    assert quantile(hundred, 0.99) == 99
    assert quantile([3.0, 1.0, 2.0], 0.99) == 3
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2


@given(samples, st.floats(0.01, 1))
def test_a_quantile_bounds_at_least_its_share(values: list[float], share: float) -> None:
    bound = quantile(values, share)
    assert bound in values
    assert sum(value <= bound for value in values) >= share * len(values)
    assert sum(value < bound for value in values) < share * len(values)


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 0.0), ([1.0], 1.1)])
def test_quantiles_of_nothing_are_refused(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match=r"quantile needs|share must be"):
        quantile(values, share)


@given(samples)
def test_a_summary_is_ordered(values: list[float]) -> None:
    summary = summarise(values)
    assert min(values) <= summary.p50 <= summary.p99 <= max(values)
    assert summary.count == len(values)


def test_one_noisy_repeat_does_not_move_the_medians() -> None:
    calm, noisy = Summary(1.0, 2.0, 1.1, 10), Summary(50.0, 90.0, 60.0, 10)
    assert over_repeats([calm, noisy, calm]) == Summary(1.0, 2.0, 1.1, 30)
    with pytest.raises(ValueError, match="at least one"):
        over_repeats([])


def test_ratios_above_one_always_mean_that_ours_is_better() -> None:
    ours = Figures(p50=1.0, p99=4.0, rate=100.0, is_bytes=False, count=1)
    theirs = Figures(p50=10.0, p99=2.0, rate=20.0, is_bytes=False, count=1)
    assert ratio("p50", ours, theirs) == 10
    assert ratio("p99", ours, theirs) == 0.5
    assert ratio("rate", ours, theirs) == 5
    assert ratio("p50", Figures(0, 0, None, False, 1), theirs) == float("inf")


def test_a_figure_that_is_not_there_is_not_made_up() -> None:
    with pytest.raises(ValueError, match="no rate"):
        Figures(1.0, 1.0, None, False, 1).value("rate")


def test_rates_count_the_operations_of_a_call() -> None:
    report = report_row(
        ROWS["actor_burst"], results("actor_burst", actorflow=0.01, ray=0.5), ["actorflow", "ray"]
    )
    assert report.figures["actorflow"].rate == pytest.approx(100_000)
    assert report.figures["ray"].rate == pytest.approx(2_000)
    assert report.ratios == {"ray": pytest.approx(50)}
    (verdict,) = report.verdicts
    assert verdict.measured == pytest.approx(50)


def test_the_limit_is_taken_from_its_own_workload() -> None:
    found = results("put_100mb", actorflow=0.02, limit=0.01)
    report = report_row(ROWS["put_100mb"], found, ["actorflow", "limit"])
    assert report.figures["limit"].rate == pytest.approx(1e10)
    assert report.ratios == {"limit": pytest.approx(0.5)}
    assert [verdict.is_reached for verdict in report.verdicts] == [False, False]


@pytest.mark.parametrize(("p99", "is_reached"), [(30e-6, True), (31e-6, False)])
def test_a_multiple_of_its_own_p50(p99: float, is_reached: bool) -> None:
    row = Row("key", "what", "actor_call", "rate", (AtMost(6, "p99", times_p50=True),))
    found = results("actor_call", actorflow=Cell([{"time_s": Summary(5e-6, p99, 6e-6, 100)}]))
    (verdict,) = report_row(row, found, ["actorflow"]).verdicts
    assert verdict.is_reached is is_reached
    assert verdict.measured == pytest.approx(p99 / 5e-6)


@pytest.mark.parametrize(("workers", "is_reached"), [(8, True), (9, False)])
def test_an_absolute_bound(workers: int, is_reached: bool) -> None:
    cell = Cell([{"time_s": constant(1.0), "count": constant(workers)}])
    report = report_row(ROWS["nested_workers"], results("nested_tasks", actorflow=cell), ["actorflow"])
    assert report.verdicts[0].is_reached is is_reached
    assert report.figures["actorflow"].rate is None


def test_without_actorflow_the_rivals_are_shown_and_nothing_is_judged() -> None:
    report = report_row(ROWS["actor_call_sync"], results("actor_call", ray=1e-3), ["ray"])
    assert report.figures.keys() == {"ray"}
    assert not report.ratios
    assert not report.verdicts
    assert "| 70 x " in table([report])


def test_a_failed_system_is_named_with_its_error() -> None:
    found = results("actor_call", actorflow=1e-5, ray=Cell(error="no answer within 120 s"))
    report = report_row(ROWS["actor_call_sync"], found, ["actorflow", "ray"])
    assert report.errors == {"ray": "no answer within 120 s"}
    assert "ray" not in report.ratios
    assert "failed: no answer within 120 s" in table([report])


def test_a_system_that_has_no_such_thing_is_left_out() -> None:
    found = results("task", actorflow=1e-5, xoscar=Cell(is_unsupported=True))
    report = report_row(ROWS["task_sync"], found, ["actorflow", "xoscar"])
    assert report.figures.keys() == {"actorflow"}
    assert not report.errors


def test_the_table_has_a_line_for_each_system_and_equal_columns() -> None:
    found = results("actor_call", actorflow=5e-6, ray=1e-3, limit=4e-6)
    text = table([report_row(ROWS["actor_call_sync"], found, ["actorflow", "ray", "limit"])])
    heading, rule, *lines = text.splitlines()
    assert len({len(line) for line in (heading, rule, *lines)}) == 1
    assert [line.split("|")[2].strip() for line in lines] == ["actorflow", "Ray", "limit"]
    assert [field.strip() for field in lines[1].split("|")[6:9]] == ["200 x", "70 x", "yes"]
    assert [field.strip() for field in lines[2].split("|")[6:9]] == ["0.8 x", "p50 0.5 x", "yes (0.8 x)"]
    assert [field.strip() for field in lines[0].split("|")[7:9]] == ["p99 <= 6 x p50", "yes (1 x)"]


def test_json_holds_what_the_table_shows() -> None:
    found = results("actor_call", actorflow=5e-6, ray=1e-3)
    report = report_row(ROWS["actor_call_sync"], found, ["actorflow", "ray"])
    content = json.loads(json.dumps(as_json(report)))
    assert content["key"] == "actor_call_sync"
    assert content["systems"]["ray"]["p50"] == 1e-3
    assert content["ratios"]["ray"] == pytest.approx(200)
    assert {"target": "70 x", "against": "ray", "reached": True}.items() <= content["targets"][0].items()


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.31e-7, "s", "131 ns"),
        (5e-6, "s", "5 us"),
        (0.0125, "s", "12.5 ms"),
        (6.3, "s", "6.3 s"),
        (0.0, "s", "0 ns"),
        (875e6, "B", "875 MB"),
        (-2e3, "B", "-2 kB"),
        (1234.0, "count", "1,234"),
    ],
)
def test_values_are_shown_in_readable_units(value: float, unit: str, text: str) -> None:
    assert format_value(value, unit) == text


def test_rates_are_shown_in_readable_units() -> None:
    assert format_rate(220_000.4, is_bytes=False) == "220,000/s"
    assert format_rate(0.75, is_bytes=False) == "0.75/s"
    assert format_rate(9.7e9, is_bytes=True) == "9.7 GB/s"


def test_rows_on_one_workload_share_a_block() -> None:
    blocks = plan([ROWS["paced_1ms"], ROWS["paced_1ms_cpu"], ROWS["put_small"]], ["actorflow", "ray"])
    assert [block.workload.name for block in blocks] == ["paced_1ms", "put_small"]
    assert list(blocks[0].participants) == ["actorflow", "ray"]


def test_the_limit_takes_part_with_its_own_workload() -> None:
    (block,) = plan([ROWS["actor_call_sync"]], ["ray", "limit"])
    assert {name: workload.name for name, workload in block.participants.items()} == {
        "ray": "actor_call",
        "limit": "queue_pickle",
    }


def test_systems_that_a_row_does_not_name_do_not_take_part() -> None:
    assert plan([ROWS["live_actors"]], ["ray", "limit"]) == []


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.key)
def test_rows_name_what_exists(row: Row) -> None:
    workload = WORKLOADS[row.workload]
    assert row.limit is None or row.limit in WORKLOADS
    if "actorflow" in row.systems and workload.operation:
        assert callable(getattr(ActorflowSystem, workload.operation))
    for target in row.targets:
        if isinstance(target, AtLeast):
            assert target.against in row.systems or (target.against == "limit" and row.limit is not None)


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=lambda workload: workload.name)
def test_what_is_measured_once_is_not_done_before(workload: Workload) -> None:
    if workload.measure in ("counted", "memory", "started", "second_driver"):
        assert workload.warm_up_s == 0


def test_growth_is_of_processes_that_were_there_at_both_times() -> None:
    found = growths({1: 100, 2: 100, 3: 100}, {1: 105, 2: 106, 4: 900})
    assert [(growth.pid, growth.is_within_limit) for growth in found] == [(1, True), (2, False)]
    assert found[1].share == pytest.approx(0.06)
