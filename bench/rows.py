"""The rows of the table: what each shows, against whom it is held, and what is to be reached."""

from dataclasses import dataclass
from typing import Literal

Statistic = Literal["p50", "p99", "rate"]
RIVALS = ("ray", "dask", "xoscar")
_GRAPH_SYSTEMS = ("actorflow", "ray")


@dataclass(frozen=True)
class AtLeast:
    """actorflow is to be at least `factor` times as good as `against` (a system, or "limit").

    Faster, or smaller; `statistic` is the row's own unless given. A factor below one is a share of the limit.
    """

    factor: float
    against: str
    statistic: Statistic | None = None


@dataclass(frozen=True)
class AtMost:
    """actorflow's own `statistic` is to be at most `bound`, in the row's unit or as a multiple of its p50."""

    bound: float
    statistic: Statistic = "p50"
    times_p50: bool = False


Target = AtLeast | AtMost


@dataclass(frozen=True)
class Row:
    """One row.

    `quantity` is what is taken from the workload's measurement, `unit` the unit of p50 and p99, `compare` the
    statistic that ratios are made of. `limit` names the limit's workload.
    """

    key: str
    what: str
    workload: str
    compare: Statistic
    targets: tuple[Target, ...] = ()
    limit: str | None = None
    systems: tuple[str, ...] = ("actorflow", *RIVALS)
    quantity: str = "time_s"
    unit: Literal["s", "B", "count"] = "s"


def _rate(key: str, what: str, factor: float, limit: str | None = None, workload: str | None = None) -> Row:
    return Row(key, what, workload or key, "rate", (AtLeast(factor, "ray"),), limit)


def _copy(key: str, what: str, limit: str) -> Row:
    targets = (AtLeast(0.9, "limit"), AtLeast(0.9, "limit", "p99"))
    return Row(key, what, key, "rate", targets, limit)


def _graph(key: str, what: str, factor: float, limit: str | None = None) -> Row:
    return Row(key, what, key, "p50", (AtLeast(factor, "ray"),), limit, _GRAPH_SYSTEMS)


def _sleeps(key: str, what: str) -> Row:
    return Row(f"{key}_sleeps", what, key, "p50", (), None, ("actorflow",), "sleeps", "count")


def _limit(workload: str, what: str) -> Row:
    return Row(workload, what, workload, "p50", systems=("limit",))


_CALLS = (
    Row(
        "actor_call_sync",
        "actor call, one at a time, sync",
        "actor_call",
        "rate",
        (AtLeast(70, "ray"), AtLeast(0.5, "limit", "p50"), AtMost(6, "p99", times_p50=True)),
        "queue_pickle",
    ),
    Row(
        "actor_call_await",
        "the same, awaited on uvloop",
        "actor_call_await",
        "rate",
        (AtLeast(25, "xoscar"),),
        "queue_pickle",
    ),
    _rate("actor_burst", "actor calls, 1,000 in flight, 1:1", 50, "queue_pickle_burst"),
    _rate("async_actor_burst", "the same, async actor", 50, "queue_pickle_burst"),
    _rate("actor_callers", "actor calls n:n, 4 callers", 35, "queue_pickle_burst"),
    _rate("task_sync", "task, one at a time", 80, "queue_pickle", "task"),
    _rate("task_burst", "tasks, 1,000 in flight", 70, "queue_pickle_burst"),
    _rate("task_callers", "tasks from 4 callers", 50, "queue_pickle_burst"),
)
_OBJECTS = (
    _rate("put_small", "put small", 100),
    _rate("get_small", "get small", 40),
    _copy("put_100mb", "put 100 MB, store in use before", "copy_100mb"),
    _copy("put_800mb", "put 800 MB, store in use before", "copy_800mb"),
    Row("get_100mb", "get 100 MB", "get_100mb", "p50", (AtLeast(15, "ray"),)),
    Row(
        "task_100mb",
        "task with a 100 MB ref argument",
        "task_100mb",
        "p50",
        (AtLeast(40, "ray"),),
        "queue_pickle",
    ),
    _rate("wait_each", "wait, 1,000 refs one by one", 30),
    _rate("stream", "streaming generator, 1,000 items", 30),
    _rate("get_nested_refs", "get one object that holds 10,000 refs", 5),
)
_CHANNELS = (
    Row(
        "channel_echo",
        "channel round trip from Python, two processes",
        "channel_echo",
        "p50",
        limit="channel_c",
        systems=("actorflow",),
    ),
)
_PROCESSES = (
    Row(
        "init",
        "init to first task result",
        "started",
        "p50",
        (AtLeast(12, "ray"),),
        "interpreter_start",
        ("actorflow", "ray", "dask"),
    ),
    Row(
        "twenty_actors", "20 actors made and called", "twenty_actors", "p50", (AtLeast(50, "ray"),), "fork_20"
    ),
    Row(
        "idle_memory",
        "memory at idle, sum of PSS",
        "started",
        "p50",
        (AtLeast(8, "ray"),),
        quantity="memory_bytes",
        unit="B",
    ),
)
_BESIDE = (
    Row("paced_1ms", "actor call every 1 ms", "paced_1ms", "p50", (AtLeast(15, "ray"),)),
    Row(
        "paced_1ms_cpu",
        "its CPU time, all processes",
        "paced_1ms",
        "p50",
        (AtLeast(10, "ray"),),
        quantity="cpu_s",
    ),
    Row("paced_10ms", "actor call every 10 ms", "paced_10ms", "p50", (AtLeast(15, "ray"),)),
    Row(
        "paced_10ms_cpu",
        "its CPU time, all processes",
        "paced_10ms",
        "p50",
        (AtLeast(10, "ray"),),
        quantity="cpu_s",
    ),
    Row(
        "busy_thread",
        "actor call, a CPU-bound thread beside it in the caller",
        "busy_thread",
        "p50",
        (AtLeast(100, "ray"),),
    ),
    Row(
        "nested_tasks",
        "500 parents that each get one child, 4 CPUs",
        "nested_tasks",
        "p50",
        (AtLeast(20, "ray"),),
    ),
    Row(
        "nested_workers",
        "worker processes of these",
        "nested_tasks",
        "p50",
        (AtMost(8),),
        quantity="count",
        unit="count",
    ),
    Row(
        "second_driver",
        "a single task of a second driver behind 500 tasks of 50 ms",
        "second_driver",
        "p50",
        (AtMost(0.15),),
    ),
)
_TO_HOLD = (
    Row(
        "crowded_pairs",
        "4 callers, each with its own actor, one call at a time (8 processes)",
        "crowded_pairs",
        "rate",
        (AtLeast(1, "actorflow_nospin"),),
        systems=("actorflow", "actorflow_nospin", "ray"),
    ),
    Row(
        "crowded_busy",
        "actor call beside twice as many busy processes as cores",
        "crowded_busy",
        "rate",
        (AtLeast(1, "actorflow_nospin"),),
        systems=("actorflow", "actorflow_nospin", "ray"),
    ),
    Row(
        "death_notice",
        "SIGKILL of an actor to the error of its caller",
        "death_notice",
        "p50",
        (AtMost(0.02), AtMost(0.02, "p99")),
        systems=("actorflow", "ray"),
    ),
    # No rival in rows that fill memory: Ray takes four times of what it is sent, and tens of MB for an actor.
    Row(
        "flood_memory",
        "memory growth while 2.5 GB of calls flood a slow actor",
        "flood",
        "p50",
        (AtMost(1.25e9),),
        systems=("actorflow",),
        quantity="growth_bytes",
        unit="B",
    ),
    Row(
        "queued_tasks",
        "100,000 tasks queued at once",
        "queued_tasks",
        "rate",
        limit="queue_pickle_burst",
        systems=("actorflow", "ray"),
    ),
    Row(
        "live_actors",
        "2,000 live actors, sum of PSS",
        "live_actors",
        "p50",
        (AtMost(6e9),),
        systems=("actorflow",),
        quantity="memory_bytes",
        unit="B",
    ),
)
_GRAPHS = (
    Row(
        "graph_echo",
        "compiled graph, one actor, sync",
        "graph_echo",
        "p50",
        (AtMost(10e-6), AtMost(60e-6, "p99")),
        "channel_c",
        systems=_GRAPH_SYSTEMS,
    ),
    Row(
        "graph_await",
        "the same, awaited on uvloop",
        "graph_await",
        "p50",
        (AtMost(15e-6),),
        systems=("actorflow",),
    ),
    _graph("graph_chain", "compiled graph, chain of 3 actors", 10, "channel_c_chain"),
    _graph("graph_chain_1mb", "the same, 1 MB array", 5),
    _graph("graph_pipeline", "compiled graph, 10 in flight through 2 stages", 10),
    _graph("graph_fan_out", "compiled graph, 1 to 4 and gather", 5),
    _sleeps("graph_echo", "sleeps of all processes per execution: one actor, sync"),
    _sleeps("graph_chain", "the same, chain of 3 actors"),
    _sleeps("graph_chain_1mb", "the same, 1 MB array"),
    _sleeps("graph_pipeline", "sleeps per execution: 10 in flight through 2 stages"),
    _sleeps("graph_fan_out", "the same, 1 to 4 and gather"),
    Row(
        "graph_gloo",
        "compiled graph, 4 MB of float32 over an edge of gloo",
        "graph_gloo",
        "p50",
        (AtLeast(0.9, "limit"),),
        "gloo",
        ("actorflow",),
    ),
    Row(
        "graph_compile",
        "compile and first result, 3 actors",
        "graph_compile",
        "p50",
        (AtMost(0.020),),
        systems=_GRAPH_SYSTEMS,
    ),
)
_LIMITS = (
    _limit("queue_c", "limit: queue round trip, two processes, C"),
    _limit("channel_c", "limit: round trip through channels of one slot, two processes, C"),
    _limit("channel_c_chain", "limit: the same, along 3 processes and back"),
    _limit("queue_pickle", "limit: the queue through cffi, pickle both ways"),
    _limit("queue_pickle_burst", "limit: the same, 1,000 in flight"),
    _limit("copy_100mb", "limit: memcpy of 100 MB into touched shared pages"),
    _limit("copy_800mb", "limit: memcpy of 800 MB into touched shared pages"),
    _limit("gloo", "limit: 4 MB of float32 by torch.distributed with gloo, and an answer"),
    _limit("fork_warm", "limit: fork of a warm Python, to its first byte"),
    _limit("fork_20", "limit: 20 of these"),
    _limit("interpreter_start", "limit: interpreter start with numpy"),
)

ROWS: dict[str, Row] = {
    row.key: row
    for row in (*_CALLS, *_OBJECTS, *_CHANNELS, *_GRAPHS, *_PROCESSES, *_BESIDE, *_TO_HOLD, *_LIMITS)
}
