"""What workers print appears in their driver: whose it is, whole, in order, and to the last line however they end.

Each driver is a script of its own, whose standard output and error are looked at after its end.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PREAMBLE = """
import ctypes, os, signal, subprocess, sys, time
import actorflow as af
from actorflow import errors

@af.remote
def work(*words, file=None):
    print(*words)
    return os.getpid()

@af.remote
class Counter:
    def say(self, text):
        print(text)
        return os.getpid()

    def crash(self):
        print("just before")
        sys.stdout.write("no end of line")
        sys.stdout.flush()
        ctypes.string_at(0)
"""


# Unbuffered, a driver prints its lines in pieces, between which workers' lines can come.
LEFT_OUT = ("ACTORFLOW_ADDRESS", "PYTHONUNBUFFERED")


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a driver to a good end."""
    kept = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script],
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_an_actor_that_has_a_repr_is_called_so() -> None:
    done = run("""
@af.remote
class Stage:
    def __init__(self, number):
        self.number = number

    def __repr__(self):
        if self.number < 0:
            raise ValueError("no number")
        return f"Stage(number={self.number})"

    def say(self):
        print("hello")
        return os.getpid()

with af.init(num_cpus=1):
    for number in (1, -1):
        print(af.get(Stage.remote(number).say.remote()))
""")
    lines = set(done.stdout.splitlines())
    pids = [line for line in lines if line.isdigit()]
    assert any(f"(Stage(number=1) pid={pid}) hello" in lines for pid in pids), lines
    assert any(f"(Stage pid={pid}) hello" in lines for pid in pids), lines


def test_lines_bear_the_name_and_the_process_of_the_call() -> None:
    done = run("""
with af.init(num_cpus=1):
    pids = af.get(work.remote("hello")), af.get(Counter.remote().say.remote("there"))
    sys.stdout.write("pids %d %d\\n" % pids)  # at once: print writes piece by piece, and lines may come between
""")
    pids = re.search(r"^pids (\d+) (\d+)$", done.stdout, re.MULTILINE)
    assert pids is not None, done.stdout
    assert f"(work pid={pids[1]}) hello\n" in done.stdout
    assert f"(Counter pid={pids[2]}) there\n" in done.stdout
    assert done.stderr == ""


def test_c_code_and_other_processes_print_too_and_errors_go_to_stderr() -> None:
    done = run("""
@af.remote
def mixed():
    print("by print")
    os.write(1, b"by a system call\\n")
    ctypes.CDLL(None).puts(b"by C")
    subprocess.run(["echo", "by a program"], check=True)
    print("complaint", file=sys.stderr)
    subprocess.run("echo complaint of a program >&2", shell=True, check=True)

with af.init(num_cpus=1):
    af.get(mixed.remote())
""")
    said = [line.partition(") ")[2] for line in done.stdout.splitlines()]
    assert said == ["by print", "by a system call", "by C", "by a program"]
    assert all(line.startswith("(mixed pid=") for line in done.stdout.splitlines())
    assert [line.partition(") ")[2] for line in done.stderr.splitlines()] == [
        "complaint",
        "complaint of a program",
    ]


def test_tasks_that_take_turns_keep_their_names() -> None:
    done = run("""
@af.remote
def odd(number):
    print("odd", number)

@af.remote
def even(number):
    print("even", number)

with af.init(num_cpus=1):
    af.get([(odd if number % 2 else even).remote(number) for number in range(200)])
""")
    lines = re.findall(r"\((\w+) pid=\d+\) (\w+) (\d+)", done.stdout)
    assert sorted(int(number) for _, _, number in lines) == list(range(200))
    assert all(title == said for title, said, _ in lines)


def test_async_tasks_that_run_at_once_keep_their_names() -> None:
    done = run("""
import asyncio

@af.remote
async def first(other):
    for number in range(20):
        print("first", number)
        await asyncio.sleep(0.001)

@af.remote
async def second(other):
    for number in range(20):
        print("second", number)
        await asyncio.sleep(0.001)

with af.init(num_cpus=1):
    af.get([first.remote(0), second.remote(0)])
""")
    lines = re.findall(r"\((\w+) pid=\d+\) (\w+) (\d+)", done.stdout)
    for title in ("first", "second"):
        assert [int(number) for whose, said, number in lines if whose == said == title] == list(range(20))


def test_a_crash_takes_no_line_along() -> None:
    done = run("""
with af.init(num_cpus=1):
    try:
        af.get(Counter.remote().crash.remote())
    except errors.ActorDiedError as error:
        print(error.death.signal)
""")
    said = re.findall(r"\(Counter pid=\d+\) (.*)\n", done.stdout)
    assert said == ["just before", "no end of line"]
    assert re.search(r"\(Counter pid=\d+\) Fatal Python error: Segmentation fault", done.stderr)
    assert re.search(r"\(Counter pid=\d+\) .*in crash\n", done.stderr)


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_worker_that_ends_has_said_what_it_said(end: str) -> None:
    done = run(f"""
@af.remote(max_retries=0)
def end():
    for number in range(1000):
        print("line", number)
    {end}

with af.init(num_cpus=1):
    try:
        af.get(end.remote())
    except errors.WorkerCrashedError:
        pass
""")
    assert re.findall(r"\(end pid=\d+\) line (\d+)", done.stdout) == [str(number) for number in range(1000)]


def test_a_flood_arrives_whole_and_in_order() -> None:
    done = run("""
with af.init(num_cpus=2):
    counter = Counter.remote()
    af.get([counter.say.remote(f"line {number}") for number in range(30000)])
""")
    assert re.findall(r"line (\d+)", done.stdout) == [str(number) for number in range(30_000)]


def test_what_several_processes_say_alike_is_counted() -> None:
    done = run("""
with af.init(num_cpus=4):
    counters = [Counter.remote() for _ in range(4)]
    af.get([counter.say.remote("loading") for counter in counters for _ in range(5)])
""")
    first, *others = re.findall(r"loading(?: \[said (\d+) times more by \d processes\])?", done.stdout)
    assert first == ""
    assert len(others) < 8
    assert sum(int(count or 1) for count in others) == 19


def test_output_as_json_and_without_counting() -> None:
    done = run(
        """
with af.init(num_cpus=1):
    counters = [Counter.remote() for _ in range(2)]
    af.get([counter.say.remote("loading") for counter in counters])
""",
        ACTORFLOW_OUTPUT_JSON="1",
        ACTORFLOW_OUTPUT_REPEAT_S="0",
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["title"], line["line"], line["stream"]) for line in lines] == [
        ("Counter", "loading", "stdout")
    ] * 2


def test_log_to_driver_off() -> None:
    done = run("""
with af.init(num_cpus=1, log_to_driver=False):
    af.get(work.remote("hello"))
    af.get(Counter.remote().say.remote("there"))
print("done")
""")
    assert (done.stdout, done.stderr) == ("done\n", "")


@pytest.mark.parametrize("way", ["sys.stdout.close()", "sys.stdout = None", "os.close(1); os.close(2)"])
def test_a_driver_whose_output_is_closed_goes_on(way: str, tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    run(f"""
{way}
with af.init(num_cpus=1):
    af.get(work.remote("hello"))
    with open({str(answer)!r}, "w") as file:
        file.write(str(af.get(Counter.remote().say.remote("there")) > 0))
os._exit(0)
""")
    assert answer.read_text() == "True"


def test_a_driver_that_takes_nothing_holds_no_worker_back() -> None:
    """Its thread is held in a stream of the user's, as by a terminal that was stopped."""
    done = run(
        """
import threading

class Stopped:
    encoding = "utf-8"
    gate = threading.Event()
    text = ""
    def write(self, text):
        self.gate.wait()
        Stopped.text += text
    def flush(self):
        pass

@af.remote
def flood():
    for number in range(200):
        print("x" * 10000)
    return "through"

true = sys.stdout
sys.stdout = sys.stderr = Stopped()
with af.init(num_cpus=1):
    assert af.get(flood.remote()) == "through"
    Stopped.gate.set()
    assert af.get(Counter.remote().say.remote("after")) > 0
sys.stdout = true
dropped = sum(int(line.split()[1]) for line in Stopped.text.splitlines() if line.startswith("(actorflow)"))
print(dropped > 0, Stopped.text.count("x" * 10000) + dropped, "after" in Stopped.text)
""",
        ACTORFLOW_OUTPUT_BUFFER_BYTES="65536",
    )
    assert done.stdout == "True 200 True\n"


def test_what_user_code_puts_at_a_descriptor_gets_plain_text(tmp_path: Path) -> None:
    captured = tmp_path / "captured"
    done = run(f"""
@af.remote
def capture():
    kept = os.dup(1)
    with open({str(captured)!r}, "wb") as file:
        os.dup2(file.fileno(), 1)
        print("captured")
        os.dup2(kept, 1)
    os.close(kept)
    print("shown")

with af.init(num_cpus=1):
    af.get(capture.remote())
""")
    assert captured.read_text() == "captured\n"
    assert re.fullmatch(r"\(capture pid=\d+\) shown\n", done.stdout)


def test_drivers_of_a_shared_node_get_their_own_workers_lines() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "actorflow.cli"]
    started = subprocess.run([*command, "start"], env=environment, capture_output=True, text=True, timeout=60)
    address = started.stdout.strip()
    assert address, started.stderr
    try:
        script = f"with af.init({address!r}):\n    print(af.get(work.remote(sys.argv[0] + ' ' + NAME)))\n"
        for name in ("one", "two"):
            done = run(f"NAME = {name!r}\n{script}")
            pid, *rest = sorted(done.stdout.splitlines(), reverse=True)
            assert rest == [f"(work pid={pid}) -c {name}"]
    finally:
        subprocess.run([*command, "stop", address], env=environment, check=True, timeout=60)
