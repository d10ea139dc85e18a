"""What user code may do to its worker: signals, closed streams, sub-interpreters, forks. Later calls are as before."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import actorflow as af
from actorflow import errors
from tests.conftest import wait_until


@af.remote(max_retries=0)
def run(body: Callable[..., Any], *args: Any) -> Any:
    return body(*args)


@af.remote
class Host:
    """An actor: what is done to its process is still there at the next call."""

    def run(self, body: Callable[..., Any], *args: Any) -> Any:
        return body(*args)


def own_process(_: int = 0) -> int:
    return os.getpid()


def close_streams() -> str:
    print("before")
    sys.stdout.close()
    sys.stderr.close()
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # an earlier call has closed it
            os.close(descriptor)
    return "closed"


def print_again() -> str:
    print("after")
    print("after", file=sys.stderr, flush=True)
    return "printed"


def handled_signal() -> list[int]:
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)
    return seen


def alarm() -> str:
    def ring(number: int, frame: object) -> None:
        raise TimeoutError("rung")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        threading.Event().wait(60)  # what the signal is to end
    except TimeoutError as error:
        return str(error)
    finally:
        signal.signal(signal.SIGALRM, before)
    return "slept"


def in_sub_interpreter() -> int:
    import _xxsubinterpreters as interpreters  # type: ignore[import-not-found] # CPython's own, without stubs

    reader, writer = os.pipe()
    interpreter = interpreters.create()
    interpreters.run_string(interpreter, f"import os; os.write({writer}, str(6 * 7).encode())")
    interpreters.destroy(interpreter)
    os.close(writer)
    with open(reader) as answer:
        return int(answer.read())


def fork_that_prints_and_exits() -> int:
    sys.stdout.flush()
    child = os.fork()
    if not child:
        print("the child")
        sys.exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork_that_execs() -> int:
    child = os.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-c", "raise SystemExit(5)"])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (handled_signal, [signal.SIGUSR1]),
        (alarm, "rung"),
        (fork_that_execs, 5),
        (close_streams, "closed"),
    ],
)
def test_what_a_call_does_to_its_process_ends_with_it(
    runtime: af.Runtime, body: Callable[..., Any], result: Any
) -> None:
    assert af.get(run.remote(body)) == result
    host = Host.remote()
    assert af.get(host.run.remote(body)) == result
    assert af.get([host.run.remote(own_process, number) for number in range(20)])
    assert af.get([run.remote(own_process, number) for number in range(20)])


@pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="the module of sub-interpreters has another name there"
)
def test_sub_interpreters_in_a_worker(runtime: af.Runtime) -> None:
    host = Host.remote()
    pid = af.get(host.run.remote(own_process))
    assert af.get(host.run.remote(in_sub_interpreter)) == 42
    assert af.get(host.run.remote(own_process)) == pid
    assert af.get(run.remote(in_sub_interpreter)) == 42


def test_who_prints_after_a_call_that_closed_the_streams_does_not_fail(runtime: af.Runtime) -> None:
    host = Host.remote()
    assert af.get(host.run.remote(close_streams)) == "closed"
    assert af.get(host.run.remote(print_again)) == "printed"
    assert af.get(Host.remote().run.remote(print_again)) == "printed"
    assert af.get([run.remote(close_streams) for _ in range(4)]) == ["closed"] * 4
    assert af.get([run.remote(print_again) for _ in range(8)]) == ["printed"] * 8


def test_a_forked_child_of_a_call_may_print_and_exit(runtime: af.Runtime) -> None:
    host = Host.remote()  # a task's worker may be the one whose streams another test has closed
    assert af.get(host.run.remote(fork_that_prints_and_exits)) == 7
    assert af.get(host.run.remote(own_process))


DEADLY = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGUSR1, signal.SIGABRT]
HARMLESS = [signal.SIGPIPE, signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT]


@af.remote
class AsyncHost:
    """The same on a loop."""

    async def run(self, body: Callable[..., Any], *args: Any) -> Any:
        return body(*args)


ThreadedHost = Host.options(max_concurrency=2)


@pytest.mark.parametrize("kind", [Host, ThreadedHost, AsyncHost], ids=["plain", "threaded", "async"])
@pytest.mark.parametrize("number", DEADLY)
def test_a_signal_that_ends_an_idle_worker_is_named(
    runtime: af.Runtime, number: signal.Signals, kind: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("this process ignores the signal (nohup), and so do all that it starts")
    host, other = kind.remote(), Host.remote()
    pid, kept = af.get([host.run.remote(own_process), other.run.remote(own_process)])
    os.kill(pid, number)
    wait_until(lambda: not psutil.pid_exists(pid), 30, f"{pid} has ended")  # the signal may meet any thread
    with pytest.raises(errors.ActorDiedError, match=number.name) as raised:
        af.get(host.run.remote(own_process), timeout=30)
    assert raised.value.death.signal == number
    assert af.get(other.run.remote(own_process)) == kept
    if number != signal.SIGABRT:  # of which faulthandler tells where
        assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", [Host, ThreadedHost, AsyncHost], ids=["plain", "threaded", "async"])
def test_signals_that_end_no_worker(runtime: af.Runtime, kind: Any) -> None:
    host = kind.remote()
    pid = af.get(host.run.remote(own_process))
    for number in HARMLESS:
        os.kill(pid, number)
        assert af.get(host.run.remote(own_process), timeout=30) == pid


def interrupted(path: str) -> str:
    with open(path, "w") as told:
        told.write(f"{os.getpid()}\n")
    try:
        threading.Event().wait(60)  # what the signal is to end
    except KeyboardInterrupt:
        return "interrupted"
    return "slept"


def number_in(path: Path) -> int:
    """The number that a file has for its line, once that is there."""
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), 30, f"{path} is written")
    return int(path.read_text())


def test_an_interrupt_ends_the_code_of_a_plain_call_and_nothing_else(
    runtime: af.Runtime, tmp_path: Path
) -> None:
    host = Host.remote()
    for caller, name in ((host, "method"), (None, "task")):
        path = tmp_path / name
        call = (caller.run if caller is not None else run).remote(interrupted, str(path))
        os.kill(number_in(path), signal.SIGINT)
        assert af.get(call, timeout=30) == "interrupted"
    assert af.get(host.run.remote(own_process)) == int((tmp_path / "method").read_text())


def test_a_worker_that_was_stopped_goes_on(runtime: af.Runtime) -> None:
    host = Host.remote()
    pid = af.get(host.run.remote(own_process))
    os.kill(pid, signal.SIGSTOP)
    call = host.run.remote(own_process)
    with pytest.raises(af.GetTimeoutError):
        af.get(call, timeout=0.2)
    os.kill(pid, signal.SIGCONT)
    assert af.get(call, timeout=30) == pid
