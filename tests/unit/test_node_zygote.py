"""The zygote by itself: what it forks, what it reports, and what is left of it when the node goes.

Each test is a script in a fresh process, which plays the node: a process that has run pytest is no zygote's parent.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PREAMBLE = """
import os, select, signal, socket, sys
from collections import namedtuple
from actorflow.node.zygote import FORKED_DESCRIPTORS, ORDER, REPORT, Report, fork_zygote

Said = namedtuple("Said", "kind slot epoch pid value")

reader, writer = os.pipe()  # everything below the zygote has the writing end

def life(memfd, slot, epoch, commands, node_pidfd):
    if slot == 1:  # ends at once
        sys.exit(epoch)
    if slot == 2:  # leaves a child behind
        if not os.fork():
            signal.pause()
        os._exit(0)
    if slot == 3:  # leaves a daemon in its own session behind
        if not os.fork():
            os.setsid()
            if os.fork():
                os._exit(0)
            signal.pause()
        os.wait()
    if slot == 4:
        raise LookupError("on purpose")
    if slot == 5:
        os.write(writer, b"S" if signal.getsignal(signal.SIGINT) is signal.default_int_handler else b"?")
        os.write(writer, b"G" if os.getpgid(0) == os.getpid() else b"?")
        os.write(writer, b"D" if commands == (4096, 7) else b"?")
    while True:
        signal.pause()

foreign_reader, foreign = os.pipe()
pid, pidfd, link = fork_zygote(life, 0, os.pidfd_open(os.getpid()), None, [foreign])
os.close(writer)
said, descriptors, printed = [], [], []

def fork(slot, epoch=1):
    link.send(ORDER.pack(slot, epoch, 4096, 7, 0))

def hear(kind):
    while True:
        for message in said:
            if message.kind == kind:
                said.remove(message)
                return message
        data, arrived, _, _ = socket.recv_fds(link, REPORT.size, FORKED_DESCRIPTORS)
        assert data, "the zygote has gone"
        descriptors.extend(arrived[:1])
        printed.extend(arrived[1:])
        said.append(Said(*REPORT.unpack(data)))

def all_gone():
    os.waitpid(pid, 0)
    return os.read(reader, 1) == b""
"""


def play(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a script to a good end."""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_births_and_deaths_are_reported() -> None:
    play("""
fork(1, epoch=5)
born = hear(Report.FORKED)
assert (born.slot, born.epoch) == (1, 5)
(child,) = descriptors
select.select([child], [], [], 30)
dead = hear(Report.EXITED)
assert (dead.slot, dead.epoch, dead.pid) == (1, 5, born.pid)
assert os.waitstatus_to_exitcode(dead.value) == 5
""")


def test_a_killed_worker_is_reported_with_its_signal() -> None:
    play("""
fork(9)
hear(Report.FORKED)
signal.pidfd_send_signal(descriptors[0], signal.SIGKILL)
assert os.waitstatus_to_exitcode(hear(Report.EXITED).value) == -9
""")


def test_an_exception_ends_the_worker_and_nothing_else() -> None:
    play("""
fork(4)
assert os.waitstatus_to_exitcode(hear(Report.EXITED).value) == 1
assert open(printed[0]).read() == ""
assert open(printed[1]).read().count("LookupError: on purpose") == 1
fork(1, epoch=3)
assert os.waitstatus_to_exitcode(hear(Report.EXITED).value) == 3
""")


def test_a_worker_is_on_its_own() -> None:
    play("""
fork(5)
seen = b""
while len(seen) < 3:
    seen += os.read(reader, 3)
assert seen == b"SGD", seen
""")


def test_a_workers_group_goes_with_it() -> None:
    play("""
fork(2)
hear(Report.EXITED)
link.close()
assert all_gone()
""")


def test_everything_goes_when_the_node_hangs_up() -> None:
    play("""
for slot in (3, 9, 9, 2):
    fork(slot)
for _ in range(4):
    hear(Report.FORKED)
link.close()
assert all_gone()
""")


def test_everything_goes_when_the_node_is_killed() -> None:
    play("""
own_end, other_end = os.pipe()
node = os.fork()
if node == 0:
    os.close(reader)
    os.close(own_end)
    reader2, writer2 = os.pipe()
    writer = writer2
    pid, pidfd, link = fork_zygote(life, 0, os.pidfd_open(os.getpid()), None, [foreign])
    for slot in (3, 9):
        fork(slot)
    hear(Report.FORKED), hear(Report.FORKED)
    os.close(writer2)
    os.kill(os.getpid(), signal.SIGKILL)
os.close(other_end)
assert os.waitstatus_to_exitcode(os.waitpid(node, 0)[1]) == -9
assert os.read(own_end, 1) == b"", "someone below the node lives"
""")


def test_what_is_the_nodes_alone_is_closed_in_the_zygote() -> None:
    play("""
fork(9)
hear(Report.FORKED)
os.close(foreign)
assert os.read(foreign_reader, 1) == b"", "zygote or worker has it"
""")
