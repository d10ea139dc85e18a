"""Everything below one process: who is there, what memory and CPU time it uses, and stopping or ending it.

Linux only: reads /proc, and the CPU clocks of other processes (clock_getcpuclockid(3)).
"""

import os
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

_PROC = Path("/proc")
# The kernel's clock id of a process is (~pid << 3) | CPUCLOCK_SCHED: its user and system time together, those
# of ended threads included, in nanoseconds; /proc/<pid>/stat has the same sum, but in ticks of 10 ms.
_CPUCLOCK_SCHED = 2


def descendants(root: int) -> list[int]:
    """Return the pids of all living processes below `root`, parents before children; no zombies."""
    children: dict[int, list[int]] = {}
    dead = set()
    for entry in os.listdir(_PROC):
        if entry.isdigit() and (fields := _stat_fields(int(entry))):
            state, parent = fields[0], int(fields[1])
            children.setdefault(parent, []).append(int(entry))
            if state in "ZX":
                dead.add(int(entry))
    found = list(children.get(root, []))
    for pid in found:  # grows while it is walked: breadth first
        found.extend(children.get(pid, []))
    return [pid for pid in found if pid not in dead]


def _stat_fields(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat after the command name, or nothing when the process is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def memory_bytes(pid: int) -> dict[str, int]:
    """Return a process's "Rss" and "Pss" in bytes, from smaps_rollup; both 0 when it is gone.

    Pss (proportional set size) divides each shared page among those who map it, so that a sum over
    processes counts it once.
    """
    sizes = {"Rss": 0, "Pss": 0}
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return sizes
    for line in lines:
        name, _, rest = line.partition(":")
        if name in sizes:
            sizes[name] = int(rest.split()[0]) * 1024
    return sizes


def tree_pss_bytes(root: int) -> int:
    """Return the sum of Pss over everything below `root`, in bytes."""
    return sum(memory_bytes(pid)["Pss"] for pid in descendants(root))


def tree_cpu_s(root: int) -> dict[int, float]:
    """Return the CPU time that each process below `root` has used so far, in seconds."""
    used = {}
    for pid in descendants(root):
        try:
            used[pid] = time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
        except OSError:  # it ended between the listing and the look
            continue
    return used


def spent_s(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """Return the CPU seconds spent between two results of tree_cpu_s, by processes that still live."""
    return sum(used - before.get(pid, 0.0) for pid, used in after.items())


def send_signal(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each process that still exists."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def stop(root: int) -> None:
    """Stop (SIGSTOP) everything below `root`, parents first, until nothing new appears."""
    stopped: set[int] = set()
    while new := [pid for pid in descendants(root) if pid not in stopped]:
        send_signal(new, signal.SIGSTOP)
        stopped.update(new)


def resume(root: int) -> None:
    """Let everything below `root` go on, children first: a parent finds its children at work."""
    send_signal(reversed(descendants(root)), signal.SIGCONT)


def kill(root: int) -> None:
    """Kill everything below `root` by pid and reap it; `root` must be the caller, and a child subreaper."""
    while pids := descendants(root):
        send_signal(pids, signal.SIGKILL)
        _reap_available()
    _reap_available()


def _reap_available() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
