"""af.timeline: what ran when, in the Chrome trace format, which chrome://tracing and ui.perfetto.dev show."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from actorflow import config
from actorflow.client import runtime


def timeline(filename: str | Path | None = None) -> list[dict[str, Any]] | None:
    """The calls of tasks and actors that have ended, up to about half a second ago, each with its process and thread.

    Recording is off, and costs nothing, unless the environment has ACTORFLOW_TIMELINE_EVENTS=100000 (how many calls the
    node remembers) where the node is started. `filename`: writes the trace there as JSON and returns None; without
    it the events are returned. Times are microseconds of CLOCK_MONOTONIC. Raises RuntimeError where it is off.
    """
    session = runtime.require()
    recorded, _ = session.ask("timeline")
    if recorded is None:
        name = config.variable("timeline_events")
        raise RuntimeError(
            f"the timeline is off: set {name}=100000 in the environment before the node is started"
        )
    events = trace(recorded)
    if filename is None:
        return events
    Path(filename).write_text(json.dumps(events))
    return None


def trace(recorded: Iterable[Any]) -> list[dict[str, Any]]:
    """Chrome trace events for [pid, is an actor, name, thread, start_ns, end_ns], in order of their start."""
    rows = sorted(recorded, key=lambda row: row[4])
    named = {row[0]: row[2].rpartition(".")[0] for row in rows if row[1]}
    processes = [
        {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": named.get(pid) or "worker"}}
        for pid in dict.fromkeys(row[0] for row in rows)
    ]
    return processes + [
        {
            "ph": "X",
            "cat": "actor" if is_actor else "task",
            "name": name,
            "pid": pid,
            "tid": thread,
            "ts": start_ns / 1000,
            "dur": (end_ns - start_ns) / 1000,
        }
        for pid, is_actor, name, thread, start_ns, end_ns in rows
    ]
