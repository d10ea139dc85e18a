"""af.timeline on a real node: what has run is in it, also what ran in workers that have ended; off, it says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import json, os, sys, time
import actorflow as af

@af.remote
def work(): return os.getpid()

@af.remote
async def work_async(): return os.getpid()

@af.remote
class Counter:
    def say(self): return os.getpid()
    def step(self, value): return os.getpid()

def seen():
    return {(event["name"], event["pid"]) for event in af.timeline() if event["ph"] == "X"}

with af.init(num_cpus=1):
    start_us = time.monotonic_ns() / 1000
    counter = Counter.remote()
    wanted = {("work", af.get(work.remote())), ("work_async", af.get(work_async.remote()))}
    wanted.add(("Counter.say", af.get(counter.say.remote())))
    with af.dag.InputNode() as inp:
        graph = counter.step.bind(inp).experimental_compile()
    wanted.add(("Counter.step", af.get(graph.execute(1))))
    graph.teardown()
    del counter, graph, inp
    end = time.monotonic() + 30
    while not seen() >= wanted:
        assert time.monotonic() < end, (seen(), wanted)
        time.sleep(0.05)
    assert af.timeline(sys.argv[1]) is None
    print(json.dumps([start_us, time.monotonic_ns() / 1000]))
"""


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "ACTORFLOW_ADDRESS"}
    return subprocess.run(
        [sys.executable, "-c", *words],
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_calls_are_in_the_trace(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    done = run(SCRIPT, str(file), ACTORFLOW_TIMELINE_EVENTS="1000")
    assert done.returncode == 0, done.stderr
    start_us, end_us = json.loads(done.stdout)
    events = [event for event in json.loads(file.read_text()) if event["ph"] == "X"]
    assert {event["cat"] for event in events} == {"task", "actor"}
    assert all(start_us <= event["ts"] <= event["ts"] + event["dur"] <= end_us for event in events)


def test_off_it_says_how_it_is_turned_on() -> None:
    done = run("import actorflow as af\nwith af.init(num_cpus=1):\n    af.timeline()")
    assert "RuntimeError: the timeline is off: set ACTORFLOW_TIMELINE_EVENTS=100000" in done.stderr
