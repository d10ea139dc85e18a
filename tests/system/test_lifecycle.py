"""However the runtime ends, nothing of it stays, and whoever waits is told what died.

The driver of most tests keeps one worker busy, and has an actor that has forked a child, a daemon in a session of its
own, and another program.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from actorflow.wire import framing, messages
from tests.conftest import wait_until
from tests.system.drivers import DRIVER, END_DEADLINE_S, MARK, ROOT, RUN_DEADLINE_S, Driver, marked, new_mark

mark = pytest.fixture(new_mark)

# -- the driver ends --------------------------------------------------------------------------------------------------


def test_shutdown_leaves_nothing_while_the_driver_lives(mark: str) -> None:
    driver = Driver(mark)
    assert len(marked(mark)) >= 7  # driver, node, zygote, two workers, child, daemon, program
    driver.tell("shut down")
    assert driver.hear() == {"done": True}
    assert [process.pid for process in marked(mark)] == [driver.process.pid]
    driver.tell("end")
    assert driver.end() == ""
    assert driver.process.returncode == 0


def test_end_of_the_script(mark: str) -> None:
    driver = Driver(mark)
    driver.tell("end")
    assert driver.end() == ""
    assert driver.process.returncode == 0
    assert marked(mark) == []


def test_exception_in_the_driver(mark: str) -> None:
    driver = Driver(mark)
    driver.tell("raise")
    assert "LookupError: on purpose" in driver.end()
    assert driver.process.returncode == 1
    assert marked(mark) == []


def test_interrupt_from_the_keyboard(mark: str) -> None:
    driver = Driver(mark)
    driver.tell("wait")
    os.killpg(driver.process.pid, signal.SIGINT)
    said = driver.end()
    assert said.rstrip().endswith("KeyboardInterrupt"), said
    assert said.count("Traceback") == 1, said  # the driver's: no other process was interrupted
    assert marked(mark) == []


def test_driver_is_killed(mark: str) -> None:
    driver = Driver(mark)
    driver.process.kill()
    driver.end()
    wait_until(lambda: not marked(mark), END_DEADLINE_S, "everything has followed the driver")


def test_driver_is_killed_while_its_forked_child_has_everything_open(mark: str) -> None:
    driver = Driver(
        mark,
        "import json, os, signal, sys\nimport actorflow as af\naf.init(num_cpus=1)\n"
        "child = os.fork()\nif not child:\n    signal.pause()\n"
        "print(json.dumps({'family': [child]}), flush=True)\nsignal.pause()",
    )
    driver.process.kill()
    driver.process.wait()
    (child,) = driver.family
    wait_until(
        lambda: [process.pid for process in marked(mark)] == [child],
        END_DEADLINE_S,
        "only the driver's own child is left",
    )
    os.kill(child, signal.SIGKILL)
    driver.end()


# -- node, zygote or worker ends --------------------------------------------------------------------------------------


def test_node_is_killed(mark: str) -> None:
    driver = Driver(mark)
    driver.tell("wait")
    node = driver.node
    node.kill()
    said = driver.hear()
    assert said["error"] == "NodeDiedError"
    assert f"(pid {node.pid}) was killed by signal 9" in said["text"]
    assert driver.end() == ""


def test_zygote_is_killed(mark: str) -> None:
    driver = Driver(mark)
    driver.tell("wait")
    zygote = driver.zygote
    zygote.kill()
    said = driver.hear()
    assert said["error"] == "NodeDiedError"
    assert f"the zygote (pid {zygote.pid}) was killed by signal 9 (SIGKILL)" in said["text"]
    assert driver.end() == ""


def test_worker_of_a_task_is_killed(mark: str) -> None:
    driver = Driver(mark)
    driver.tell("wait")
    workers = driver.zygote.children()

    def busiest() -> psutil.Process:
        return max(workers, key=lambda process: process.cpu_times().user)

    wait_until(lambda: busiest().cpu_times().user > 0.2, END_DEADLINE_S, "the busy worker is known")
    busy = busiest()
    busy.kill()
    said = driver.hear()
    assert said["error"] == "WorkerCrashedError"
    assert f"killed by signal 9 (SIGKILL) (pid {busy.pid}" in said["text"]
    assert driver.end() == ""


def test_worker_of_an_actor_is_killed(mark: str) -> None:
    driver = Driver(mark)
    driver.tell("wait for actor")
    worker, child, _, _ = driver.family
    os.kill(worker, signal.SIGKILL)
    for _ in range(2):  # the call that ran, and one that was made later
        said = driver.hear()
        assert said["error"] == "ActorDiedError"
        assert f"killed by signal 9 (SIGKILL) (pid {worker}" in said["text"]
    assert driver.hear()["again"] not in driver.family, "the node goes on"
    wait_until(lambda: not psutil.pid_exists(child), END_DEADLINE_S, "the actor's child went with it")
    assert driver.end() == ""


def test_node_is_told_to_stop(mark: str) -> None:
    driver = Driver(mark)
    driver.tell("wait")
    driver.node.terminate()
    said = driver.hear()
    assert said["error"] == "NodeDiedError"
    assert "told to stop (SIGTERM)" in said["text"]
    assert driver.end() == ""


# -- a shared node ----------------------------------------------------------------------------------------------------


class SharedNode:
    """A node that listens."""

    def __init__(self, mark: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "actorflow.node", "--listen", "--num-cpus", "2"],
            env={**os.environ, MARK: mark, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

    def connect(self) -> socket.socket:
        """A connection that says nothing yet."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(END_DEADLINE_S)
        connection.connect("\0" + self.address)
        return connection

    def reply(self, said: bytes) -> messages.Message | None:
        """What the node answers to these bytes; None: nothing before it ends the connection."""
        decoder: framing.Decoder[messages.Message] = framing.Decoder()
        with self.connect() as connection:
            connection.sendall(said)
            while data := connection.recv(65536):
                for message in decoder.feed(data):
                    return message
        return None

    def works(self, mark: str) -> bool:
        """Whether a driver can attach and get work done."""
        script = (
            "import json\nimport actorflow as af\naf.init()\nprint(json.dumps({'family': "
            "[af.get(af.remote(lambda: 5).remote())]}), flush=True)"
        )
        driver = Driver(mark, script, ACTORFLOW_ADDRESS=self.address)
        assert driver.end() == ""
        return driver.family == [5]


@pytest.fixture
def shared_node(mark: str) -> Iterator[SharedNode]:
    """A node that listens, stopped at the end of the test."""
    node = SharedNode(mark)
    yield node
    node.process.terminate()
    node.process.communicate(timeout=RUN_DEADLINE_S)
    assert node.process.returncode == 0


SHARING = r"""
import json, os, signal, sys
import actorflow as af
af.init()

@af.remote
class Counter:
    def __init__(self):
        self.count = 0
    def add(self):
        self.count += 1
        return self.count, os.getpid()

counter = Counter.remote()
print(json.dumps({"family": [af.get(counter.add.remote())[1]]}), flush=True)
for _ in sys.stdin:
    print(json.dumps({"count": af.get(counter.add.remote())[0]}), flush=True)
"""


def test_one_driver_is_killed_and_the_other_goes_on(mark: str, shared_node: SharedNode) -> None:
    first = Driver(mark, SHARING, ACTORFLOW_ADDRESS=shared_node.address)
    second = Driver(mark, SHARING, ACTORFLOW_ADDRESS=shared_node.address)
    assert first.family != second.family
    first.process.kill()
    first.end()
    wait_until(lambda: not psutil.pid_exists(first.family[0]), END_DEADLINE_S, "its actor has ended")
    second.tell("add")
    assert second.hear() == {"count": 2}
    assert second.end() == ""
    assert shared_node.works(mark)


def test_a_local_node_is_private_whatever_the_environment_says(mark: str, shared_node: SharedNode) -> None:
    driver = Driver(
        mark, DRIVER.replace("num_cpus=2", "'local', num_cpus=2"), ACTORFLOW_ADDRESS=shared_node.address
    )
    assert driver.end() == ""
    assert shared_node.works(mark)


def test_stopping_a_shared_node_ends_its_drivers_waits(mark: str) -> None:
    node = SharedNode(mark)
    driver = Driver(mark, DRIVER.replace("num_cpus=2", ""), ACTORFLOW_ADDRESS=node.address)
    driver.tell("wait")
    node.process.terminate()
    said = driver.hear()
    assert said["error"] == "NodeDiedError"
    assert "told to stop (SIGTERM)" in said["text"]
    assert driver.end() == ""
    node.process.communicate(timeout=RUN_DEADLINE_S)


# -- who may not attach -----------------------------------------------------------------------------------------------

OWN_HELLO = messages.Hello(messages.WIRE_VERSION, os.getuid(), os.getpid(), messages.Role.DRIVER)


@pytest.mark.parametrize(
    ("said", "reason", "text"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "order", "a frame of"),
        (b"\0\0\0\x05hello", "order", "no message"),
        (b"\0\0\0\x02\x92\x01", "order", ""),
        (framing.encode(messages.Shutdown("now")), "order", "must be Hello"),
        (framing.encode(messages.Welcome("n", 1, 1, 1, 1, 1)), "order", "Welcome may not be sent here"),
        (framing.encode(OWN_HELLO).replace(b"\x01\x01", b"\x01\x63", 1), "version", "version 99"),
        (
            framing.encode(
                messages.Hello(messages.WIRE_VERSION, os.getuid() + 1, os.getpid(), OWN_HELLO.role)
            ),
            "uid",
            "the kernel says",
        ),
        (
            framing.encode(
                messages.Hello(messages.WIRE_VERSION, os.getuid(), os.getpid() + 1, OWN_HELLO.role)
            ),
            "pid",
            "the kernel says",
        ),
        (
            framing.encode(
                messages.Hello(messages.WIRE_VERSION, os.getuid(), os.getpid(), messages.Role.WORKER)
            ),
            "role",
            "only a driver",
        ),
        (framing.encode(OWN_HELLO) * 2, "order", "at this point"),
    ],
    ids=["http", "text", "short", "no_hello", "welcome", "version", "uid", "pid", "role", "twice"],
)
def test_who_breaks_the_rules_is_refused_by_name(
    mark: str, shared_node: SharedNode, said: bytes, reason: str, text: str
) -> None:
    reply = shared_node.reply(said)
    assert isinstance(reply, messages.Refuse)
    assert reply.reason == reason
    assert text in reply.text
    assert shared_node.works(mark)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_refused(mark: str, shared_node: SharedNode) -> None:
    nobody = 65534
    script = (
        "import os, socket, sys\nos.setuid(65534)\nconnection = socket.socket(socket.AF_UNIX)\n"
        f"connection.connect('\\0{shared_node.address}')\n"
        "hello = bytes.fromhex(sys.argv[1]).replace(b'PID!', os.getpid().to_bytes(4, 'big'))\n"
        "connection.sendall(hello)\nsys.stdout.buffer.write(connection.recv(65536))"
    )
    plain = framing.encode(messages.Hello(messages.WIRE_VERSION, nobody, 1 << 31, messages.Role.DRIVER))
    hello = plain.replace((1 << 31).to_bytes(4, "big"), b"PID!")
    done = subprocess.run(
        [sys.executable, "-c", script, hello.hex()],
        capture_output=True,
        timeout=RUN_DEADLINE_S,
        check=True,
    )
    decoder: framing.Decoder[messages.Refuse] = framing.Decoder(messages.Refuse)
    (reply,) = decoder.feed(done.stdout)
    assert reply.reason == "uid"
    assert "and you are user 65534" in reply.text
    assert shared_node.works(mark)


def test_connections_that_end_at_any_point_do_no_harm(mark: str, shared_node: SharedNode) -> None:
    hello = framing.encode(OWN_HELLO)
    start = framing.encode(messages.JobStart("", (), "/", "half a driver", True))
    for length in (0, 1, 4, len(hello) - 1, len(hello), len(hello) + 3, len(hello) + len(start)):
        with shared_node.connect() as connection:
            connection.sendall((hello + start)[:length])
    assert shared_node.works(mark)
