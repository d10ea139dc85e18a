"""What user code may do to its worker: signals, closed streams, sub-interpreters, forks. Later calls are as before."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import actorflow as af
from actorflow import errors


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
    os.close(1)
    os.close(2)
    return "closed"


def print_again() -> str:
    try:
        print("after")
    except ValueError as error:
        return str(error)
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
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
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


def test_streams_that_an_actor_has_closed_stay_its_own_matter(runtime: af.Runtime) -> None:
    host = Host.remote()
    assert af.get(host.run.remote(close_streams)) == "closed"
    assert "closed file" in af.get(host.run.remote(print_again))
    assert af.get(Host.remote().run.remote(print_again)) == "printed"


def test_a_forked_child_of_a_call_may_print_and_exit(runtime: af.Runtime) -> None:
    host = Host.remote()  # a task's worker may be the one whose streams another test has closed
    assert af.get(host.run.remote(fork_that_prints_and_exits)) == 7
    assert af.get(host.run.remote(own_process))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR2, signal.SIGABRT])
def test_a_signal_that_ends_a_worker_is_named(runtime: af.Runtime, number: signal.Signals) -> None:
    host, other = Host.remote(), Host.remote()
    pid, kept = af.get([host.run.remote(own_process), other.run.remote(own_process)])
    os.kill(pid, number)
    with pytest.raises(errors.ActorDiedError, match=number.name) as raised:
        af.get(host.run.remote(own_process), timeout=30)
    assert raised.value.death.signal == number
    assert af.get(other.run.remote(own_process)) == kept


def test_a_worker_that_was_stopped_goes_on(runtime: af.Runtime) -> None:
    host = Host.remote()
    pid = af.get(host.run.remote(own_process))
    os.kill(pid, signal.SIGSTOP)
    call = host.run.remote(own_process)
    with pytest.raises(af.GetTimeoutError):
        af.get(call, timeout=0.2)
    os.kill(pid, signal.SIGCONT)
    assert af.get(call, timeout=30) == pid
