"""What is measured, and how often: one definition for all systems.

A workload names an operation that each system implements with its public API, and the way it is measured.
Where Ray's own microbenchmark (ray_perf.py) has the row, its definition is followed; its batches of 5,000
and 10,000 calls per caller are 1,000 here, so that slow systems get more than one sample too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

BURST = 1_000
CALLERS = 4
NESTED_REFS = 10_000
QUEUED_TASKS = 100_000
LIVE_ACTORS = 2_000
BACKLOG_TASKS = 500
BACKLOG_TASK_S = 0.05
DOOMED_CALL_S = 30.0
BEGUN_S = 0.03  # after so long a call that was sent runs
FLOOD_CALLS = 50_000
FLOOD_PAYLOAD_BYTES = 50_000
FLOOD_CALL_S = 0.0002
MEGABYTE = 1_000_000

Measure = Literal[
    "calls",  # time each call, one after the other
    "paced",  # the same with a pause between, and the CPU time of all processes
    "busy_thread",  # the same beside a CPU-bound thread of the caller
    "busy_processes",  # the same beside twice as many CPU-bound processes as there are cores
    "counted",  # time each call; what it returns is a count
    "returned",  # the call returns the seconds that it took, measured closer to the matter
    "memory",  # memory of all processes after one call, and its growth
    "started",  # time from init to a first result, and memory at idle after it
    "second_driver",  # a call of a second driver beside the backlog that the operation makes
]


@dataclass(frozen=True)
class Workload:
    """One thing to measure.

    `operations_per_call` and `bytes_per_call` turn the time of a call into a rate. Each repeat calls for
    `warm_up_s` unmeasured (0: not at all), then for `budget_s`, at least once. `fresh` makes a new runtime
    for each repeat, `shared` one that several drivers can use; otherwise a system's runtime, with `cpus`
    workers (None: as many as the machine has), serves all its workloads. A command that takes longer than
    `time_limit_s` ends that system's runtime.
    """

    name: str
    operation: str
    arguments: Mapping[str, int] = field(default_factory=dict)
    measure: Measure = "calls"
    operations_per_call: int = 1
    bytes_per_call: int = 0
    warm_up_s: float = 0.3
    budget_s: float = 1.0
    gap_s: float = 0.0
    fresh: bool = False
    shared: bool = False
    cpus: int | None = None
    max_repeats: int = 100
    time_limit_s: float = 120.0


def _put(name: str, megabytes: int, budget_s: float) -> Workload:
    size = megabytes * MEGABYTE
    return Workload(name, "put_array", {"size_bytes": size}, bytes_per_call=size, budget_s=budget_s)


def _copy(name: str, megabytes: int, budget_s: float) -> Workload:
    size = megabytes * MEGABYTE
    return Workload(name, "copy", {"size_bytes": size}, bytes_per_call=size, budget_s=budget_s)


def _graph(name: str, operation: str, arguments: Mapping[str, int], operations_per_call: int = 1) -> Workload:
    """One that may hang in some system: it costs that system's runtime no more than this."""
    return Workload(name, operation, arguments, operations_per_call=operations_per_call, time_limit_s=30.0)


_ALL = [
    Workload("actor_call", "actor_call"),
    Workload("actor_call_await", "actor_call_await"),
    Workload("actor_burst", "actor_burst", {"calls": BURST}, operations_per_call=BURST),
    Workload("async_actor_burst", "async_actor_burst", {"calls": BURST}, operations_per_call=BURST),
    Workload(
        "actor_callers",
        "actor_callers",
        {"callers": CALLERS, "calls": BURST},
        operations_per_call=CALLERS * BURST,
    ),
    Workload("task", "task"),
    Workload("task_burst", "task_burst", {"calls": BURST}, operations_per_call=BURST),
    Workload(
        "task_callers",
        "task_callers",
        {"callers": CALLERS, "calls": BURST},
        operations_per_call=CALLERS * BURST,
    ),
    Workload("put_small", "put_small"),
    Workload("get_small", "get_small"),
    _put("put_100mb", 100, 1.5),
    _put("put_800mb", 800, 3.0),
    Workload("get_100mb", "get_array", {"size_bytes": 100 * MEGABYTE}),
    Workload("task_100mb", "task_with_array", {"size_bytes": 100 * MEGABYTE}),
    Workload("wait_each", "wait_each", {"calls": BURST}),
    Workload("stream", "stream", {"items": BURST}),
    Workload("get_nested_refs", "get_nested_refs", {"count": NESTED_REFS}),
    Workload("channel_echo", "channel_echo"),
    Workload("started", "", measure="started", warm_up_s=0, fresh=True),
    Workload("twenty_actors", "make_actors", {"count": 20}, warm_up_s=0, time_limit_s=180),
    Workload("paced_1ms", "actor_call", measure="paced", gap_s=0.001),
    Workload("paced_10ms", "actor_call", measure="paced", gap_s=0.010, budget_s=3.0),
    Workload("busy_thread", "actor_call", measure="busy_thread", budget_s=2.0),
    Workload("nested_tasks", "nested_tasks", {"count": 500}, measure="counted", warm_up_s=0, cpus=4),
    Workload(
        "second_driver",
        "backlog",
        {"tasks": BACKLOG_TASKS},
        measure="second_driver",
        warm_up_s=0,
        fresh=True,
        shared=True,
        max_repeats=3,
        time_limit_s=180,
    ),
    Workload("death_notice", "death_notice", measure="returned", warm_up_s=0),
    Workload(
        "crowded_pairs", "actor_pairs", {"pairs": CALLERS, "calls": 100}, operations_per_call=CALLERS * 100
    ),
    Workload("crowded_busy", "actor_call", measure="busy_processes", budget_s=6.0),
    Workload(
        "flood",
        "flood",
        {"calls": FLOOD_CALLS},
        measure="memory",
        warm_up_s=0,
        fresh=True,
        max_repeats=3,
    ),
    Workload(
        "queued_tasks",
        "task_burst",
        {"calls": QUEUED_TASKS},
        operations_per_call=QUEUED_TASKS,
        warm_up_s=0,
        max_repeats=1,
        time_limit_s=600,
    ),
    Workload(
        "live_actors",
        "hold_actors",
        {"count": LIVE_ACTORS},
        measure="memory",
        warm_up_s=0,
        fresh=True,
        max_repeats=1,
        time_limit_s=600,
    ),
    _graph("graph_echo", "graph_chain", {"stages": 1, "size_bytes": 0}),
    _graph("graph_chain", "graph_chain", {"stages": 3, "size_bytes": 0}),
    _graph("graph_chain_1mb", "graph_chain", {"stages": 3, "size_bytes": MEGABYTE}),
    _graph("graph_pipeline", "graph_pipeline", {"stages": 2, "in_flight": 10}, operations_per_call=10),
    _graph("graph_await", "graph_await", {}),
    _graph("graph_compile", "graph_compile", {"stages": 3}),
    _graph("graph_fan_out", "graph_fan_out", {"branches": 4}),
    _graph("graph_gloo", "graph_gloo", {"size_bytes": 4 * MEGABYTE}),
    # The machine's own limits.
    Workload("queue_c", "queue_c", {"round_trips": BURST}, measure="returned"),
    Workload("channel_c", "channel_c", {"processes": 2, "round_trips": BURST}, measure="returned"),
    Workload("channel_c_chain", "channel_c", {"processes": 4, "round_trips": BURST}, measure="returned"),
    Workload("queue_pickle", "queue_pickle"),
    Workload("queue_pickle_burst", "queue_pickle_burst", {"calls": BURST}, operations_per_call=BURST),
    _copy("copy_100mb", 100, 1.0),
    _copy("copy_800mb", 800, 1.0),
    Workload("gloo", "gloo", {"size_bytes": 4 * MEGABYTE}),
    Workload("fork_warm", "fork_warm", {"count": 1}),
    Workload("fork_20", "fork_warm", {"count": 20}),
    Workload("interpreter_start", "interpreter_start", warm_up_s=0.1, budget_s=0.5),
]

WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in _ALL}
