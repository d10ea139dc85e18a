"""The command `python -m bench.chaos`: tasks and actor calls while workers are killed, and what came of each of them.

Half of the tasks, and of the actors' calls, may be run again without limit, half never. Each execution is written to a
file before anything else happens in it, so that afterwards it can be said of every call how often it was executed:
those that may be run again have all given their value; of the others none was executed twice, and one that failed says
that its process died. How long a death takes to be noticed is measured from the signal to the moment where the slot of
the process is settled: from then on its calls are with another process, or have failed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import actorflow as af
from actorflow import _hot
from actorflow.shm.store import Role, SlotFacts, SlotState, Store
from bench.chaos_bodies import Laborer, work

LABORER: Any = Laborer
ACTORS = 4
BUSY_SHARE = 0.6
LOOK_S = 0.0005
NOTICE_LIMIT_S = 0.05  # p99
RESTART_LIMIT_S = 0.02  # median, to the next answer
RESTARTS = 50
DEADLINE_S = 120.0  # for all that is outstanding at the end


@dataclass(frozen=True)
class Plan:
    """How much of it: tasks, as many actor calls, kills, and the time between two of these."""

    calls: int
    kills: int
    pause_s: float
    seed: int = 1

    @property
    def work_s(self) -> float:
        """How long a call takes: so long that the actors are busy for most of the time between two kills."""
        return BUSY_SHARE * self.pause_s * ACTORS * self.kills / self.calls


@dataclass
class Report:
    """What came of it. Times in seconds; `wrong`: what should not have been, in words."""

    done: int = 0
    failed: int = 0
    again: int = 0  # executions beyond the first of a call
    killed: int = 0
    notices_s: list[float] = field(default_factory=list)
    restarts_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.done:,} calls gave their value, {self.failed:,} failed, {self.again:,} executions were repeated"
        yield f"{self.killed} processes killed; noticed after {_times(self.notices_s)}"
        if self.restarts_s:
            yield f"an actor's next answer after its process was killed: {_times(self.restarts_s)}"
        yield from (f"WRONG: {text}" for text in self.wrong)


@dataclass(frozen=True)
class Sent:
    """A call: its number, its ref, and whether it may be run again."""

    number: int
    ref: Any
    again: bool


def run(plan: Plan) -> Report:
    """Kills workers of the runtime of this process while calls run; returns when all calls are settled."""
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "executed")
        sent = _kill_while_sending(plan, path, report)
        failed = _settled(sent, report)
        executed = Counter(int(line) for line in Path(path).read_text().splitlines())
    _judge(sent, failed, executed, report)
    return report


def restart_times(count: int) -> list[float]:
    """From SIGKILL of an actor's process to its next answer."""
    actor = LABORER.options(max_task_retries=-1).remote()
    times_s = []
    for _ in range(count):
        pid = af.get(actor.pid.remote(), timeout=DEADLINE_S)
        begun_s = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        while af.get(actor.pid.remote(), timeout=DEADLINE_S) == pid:
            pass  # it answered before it was gone
        times_s.append(time.perf_counter() - begun_s)
    return times_s


# -- sending and killing


def _kill_while_sending(plan: Plan, path: str, report: Report) -> list[Sent]:
    """Sends a share of the calls, then kills one process in their midst, and so on."""
    dice = random.Random(plan.seed)
    tasks = [work.options(max_retries=-1, num_cpus=0.5), work.options(max_retries=0, num_cpus=0.5)]
    actors = [LABORER.options(max_task_retries=-1 if i % 2 == 0 else 0).remote() for i in range(ACTORS)]
    af.get([actor.pid.remote() for actor in actors], timeout=DEADLINE_S)
    store = Store(_hot.client_address())
    sent: list[Sent] = []
    due_s = time.monotonic()
    for kill in range(plan.kills):
        share = range(plan.calls * kill // plan.kills, plan.calls * (kill + 1) // plan.kills)
        for i in share:
            task = tasks[i % 2].remote(path, 2 * i, plan.work_s)
            call = actors[i % ACTORS].work.remote(path, 2 * i + 1, plan.work_s)
            sent += [Sent(2 * i, task, i % 2 == 0), Sent(2 * i + 1, call, i % 2 == 0)]
        due_s += plan.pause_s
        _pause(dice.uniform(0.2, 0.8) * plan.pause_s)
        _kill_one(store, dice, report)
        _pause(due_s - time.monotonic())
    return sent


def _pause(pause_s: float) -> None:
    time.sleep(max(0.0, pause_s))


def _kill_one(store: Store, dice: random.Random, report: Report) -> None:
    """Kills a worker, rather one that runs something, and waits until that is noticed."""
    living = [facts for facts in store.slots(Role.WORKER) if facts.state is SlotState.LIVE]
    victims = [facts for facts in living if facts.running] or living
    if not victims:
        report.wrong.append("there was no worker to kill")
        return
    victim = dice.choice(victims)
    try:
        os.kill(victim.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it had ended by itself
    begun_s = time.perf_counter()
    while _is_there(store, victim) and time.perf_counter() - begun_s < DEADLINE_S:
        time.sleep(LOOK_S)
    report.killed += 1
    report.notices_s.append(time.perf_counter() - begun_s)


def _is_there(store: Store, victim: SlotFacts) -> bool:
    facts = store.slot(victim.number)
    return facts.epoch == victim.epoch and facts.state is not SlotState.FREE


# -- judging


def _settled(sent: Sequence[Sent], report: Report) -> dict[int, BaseException]:
    """Waits for all; the errors by number."""
    failed: dict[int, BaseException] = {}
    deadline_s = time.monotonic() + DEADLINE_S
    for call in sent:
        try:
            value = af.get(call.ref, timeout=max(0.1, deadline_s - time.monotonic()))
        except af.ActorflowError as error:
            failed[call.number] = error
        else:
            report.done += 1
            if value != call.number:
                report.wrong.append(f"call {call.number} gave {value}")
    return failed


def _judge(
    sent: Sequence[Sent], failed: dict[int, BaseException], executed: Counter[int], report: Report
) -> None:
    report.failed = len(failed)
    for call in sent:
        runs, error = executed[call.number], failed.get(call.number)
        report.again += max(0, runs - 1)
        if call.again and error is not None:
            report.wrong.append(f"call {call.number} may be run again and failed: {error!r}")
        if not call.again and runs > 1:
            report.wrong.append(f"call {call.number} was executed {runs} times without leave")
        if error is None and runs == 0:
            report.wrong.append(f"call {call.number} gave a value and was never executed")
        if error is not None and not isinstance(error, af.WorkerCrashedError | af.ActorUnavailableError):
            report.wrong.append(f"call {call.number} failed otherwise: {error!r}")


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _times(values_s: Sequence[float]) -> str:
    if not values_s:
        return "no time: none was measured"
    shares = ((0.5, "median"), (0.99, "p99"), (1.0, "longest"))
    return ", ".join(f"{name} {quantile(values_s, share) * 1e3:.1f} ms" for share, name in shares)


# -- the command


def main() -> None:
    """Run the command; exits with 1 when something was wrong or slower than the limits."""
    options = _parser().parse_args()
    with af.init(num_cpus=4):
        report = run(Plan(options.calls, options.kills, options.pause))
        report.restarts_s = restart_times(RESTARTS)
        _look_at_the_end(report)
    if report.notices_s and quantile(report.notices_s, 0.99) > NOTICE_LIMIT_S:
        report.wrong.append(f"deaths were noticed later than {NOTICE_LIMIT_S * 1e3:g} ms")
    if quantile(report.restarts_s, 0.5) > RESTART_LIMIT_S:
        report.wrong.append(f"restarts took longer than {RESTART_LIMIT_S * 1e3:g} ms")
    print("\n".join(report.lines()))
    sys.exit(1 if report.wrong else 0)


def _look_at_the_end(report: Report) -> None:
    """Everything is given back: resources, and the object store."""
    deadline_s = time.monotonic() + DEADLINE_S
    while af.available_resources() != af.cluster_resources() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    if af.available_resources() != af.cluster_resources():
        report.wrong.append(f"resources are missing: {af.available_resources()} of {af.cluster_resources()}")
    store = Store(_hot.client_address())
    if left := store.segment().object_bytes_used:
        report.wrong.append(f"{left:,} bytes are left in the object store")
    if not (audit := store.audit()).clean:
        report.wrong.append(f"the books do not agree: {audit}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000, help="tasks, and actor calls (default: 20,000)")
    parser.add_argument("--kills", type=int, default=200, help="processes to kill (default: 200)")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between kills (default: 0.5)")
    return parser


if __name__ == "__main__":
    main()
