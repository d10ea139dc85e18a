"""Tasks whose worker dies are run again as often as they may; those that may not are never run twice."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import actorflow as af
from tests.conftest import wait_until

pytestmark = pytest.mark.usefixtures("runtime")
DEADLINE_S = 30.0


@pytest.fixture
def notes() -> Iterator[Path]:
    """A directory in which each attempt leaves a file."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def note(path: Path) -> int:
    """Notes an attempt; returns how many there were before."""
    before = len(list(path.iterdir()))
    (path / str(before)).touch()
    return before


@af.remote
def die_at_first(path: Path, times: int, value: object = None) -> tuple[int, object]:
    before = note(path)
    if before < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return before, value


@af.remote(num_returns=2)
def give_two_then_die(path: Path) -> tuple[int, int]:
    before = note(path)
    if before == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return before, before + 1


@af.remote
async def die_beside(path: Path) -> int:
    before = note(path)
    if before == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return before


@af.remote
def raise_at_first(path: Path, times: int, kind: type[Exception]) -> int:
    before = note(path)
    if before < times:
        raise kind(f"attempt {before + 1}")
    return before


def test_a_task_is_run_again_with_all_its_arguments(notes: Path) -> None:
    inner = af.put([1, 2])
    count, (text, refs) = af.get(die_at_first.remote(notes, 2, ("x" * 5000, [inner])), timeout=DEADLINE_S)
    assert (count, text) == (2, "x" * 5000)
    assert af.get(refs) == [[1, 2]]


def test_an_argument_that_is_a_ref_is_there_again(notes: Path) -> None:
    (notes / "first").mkdir()
    (notes / "second").mkdir()
    first = die_at_first.remote(notes / "first", 1, 5)
    assert af.get(die_at_first.remote(notes / "second", 1, first), timeout=DEADLINE_S) == (1, (1, 5))


def test_three_retries_by_default_and_the_error_says_which_attempt(notes: Path) -> None:
    with pytest.raises(af.WorkerCrashedError) as caught:
        af.get(die_at_first.remote(notes, 9), timeout=DEADLINE_S)
    assert len(list(notes.iterdir())) == 4
    assert (caught.value.attempt, caught.value.task_name) == (4, "die_at_first")
    assert caught.value.death.signal == signal.SIGKILL


def test_without_leave_it_is_run_once(notes: Path) -> None:
    with pytest.raises(af.WorkerCrashedError, match="die_at_first"):
        af.get(die_at_first.options(max_retries=0).remote(notes, 9), timeout=DEADLINE_S)
    assert len(list(notes.iterdir())) == 1


def test_no_limit(notes: Path) -> None:
    assert af.get(die_at_first.options(max_retries=-1).remote(notes, 6), timeout=DEADLINE_S)[0] == 6


def test_several_returns(notes: Path) -> None:
    assert af.get(give_two_then_die.remote(notes), timeout=DEADLINE_S) == [1, 2]


def test_async_tasks(notes: Path) -> None:
    assert af.get(die_beside.remote(notes), timeout=DEADLINE_S) == 1


@pytest.mark.parametrize("retry", [True, [KeyError], [OSError, LookupError]])
def test_exceptions_are_retried_where_asked_for(notes: Path, retry: object) -> None:
    assert af.get(raise_at_first.options(retry_exceptions=retry).remote(notes, 2, KeyError)) == 2


@pytest.mark.parametrize(("retry", "runs"), [(False, 1), ([OSError], 1), (True, 4), ([KeyError], 4)])
def test_exceptions_come_out_when_no_retry_is_left(notes: Path, retry: object, runs: int) -> None:
    with pytest.raises(KeyError) as caught:
        af.get(raise_at_first.options(retry_exceptions=retry).remote(notes, 9, KeyError))
    assert len(list(notes.iterdir())) == runs
    assert isinstance(caught.value, af.TaskError)
    assert caught.value.attempt == runs


def test_the_error_of_an_argument_is_not_retried(notes: Path) -> None:
    (notes / "first").mkdir()
    (notes / "second").mkdir()
    failing = raise_at_first.remote(notes / "first", 9, KeyError)
    with pytest.raises(KeyError):
        af.get(die_at_first.options(retry_exceptions=True).remote(notes / "second", 0, failing))
    assert not list((notes / "second").iterdir())


def test_a_stopped_worker_is_waited_for(notes: Path) -> None:
    """One that is stopped outside of the runtime's locks is not killed, and what it then answers counts."""
    attempts = notes / "attempts"
    attempts.mkdir()
    pids = notes / "pid"
    ref = stop_and_answer.remote(attempts, pids)
    wait_until(lambda: pids.exists() and pids.read_text() != "", DEADLINE_S, "it runs")
    pid = int(pids.read_text())
    wait_until(lambda: _is_stopped(pid), DEADLINE_S, "it is stopped")
    assert af.get([add_one.remote(i) for i in range(50)], timeout=DEADLINE_S) == list(range(1, 51))
    os.kill(pid, signal.SIGCONT)
    assert af.get(ref, timeout=DEADLINE_S) == pid
    assert len(list(attempts.iterdir())) == 1


@af.remote
def add_one(value: int) -> int:
    return value + 1


@af.remote
def stop_and_answer(attempts: Path, pids: Path) -> int:
    note(attempts)
    pids.write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)
    return os.getpid()


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
