"""Values whose files are lost: made again by their calls, with all that those need, or refused with the reason."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actorflow as af
from actorflow import _hot
from actorflow.errors import ReconstructionFailedError
from actorflow.shm.store import Role, Store
from tests.conftest import wait_until

pytest.importorskip("fsspec")

STORE_BYTES = 64 * 1024 * 1024
PIECE_BYTES = 4 * 1024 * 1024
PIECES = STORE_BYTES // PIECE_BYTES  # more than fit

Array = np.ndarray[Any, Any]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Starts a private node that spills to files in `tmp_path`; afterwards its books are checked."""

    @contextmanager
    def started(num_cpus: int = 2, **settings: str) -> Iterator[af.Runtime]:
        monkeypatch.setenv("ACTORFLOW_SPILL_DIRECTORIES", f"file://{tmp_path}")
        for name, value in settings.items():
            monkeypatch.setenv(f"ACTORFLOW_{name}", value)
        with af.init(num_cpus=num_cpus, object_store_memory=STORE_BYTES) as runtime:
            yield runtime
            store = Store(_hot.client_address())
            wait_until(lambda: store.segment().object_bytes_used == 0, 20, "the store is empty")
            wait_until(lambda: store.audit().clean, 20, "the books agree")

    return started


def files(tmp_path: Path) -> list[Path]:
    return [entry for entry in tmp_path.rglob("*") if entry.is_file()]


def fill() -> None:
    """Puts so much that all that lay in the store before is on disk."""
    refs = [af.put(np.zeros(PIECE_BYTES, dtype=np.uint8)) for _ in range(2 * PIECES)]
    del refs


def delete(file: Path) -> None:
    file.unlink()


def truncate(file: Path) -> None:
    os.truncate(file, PIECE_BYTES // 2)


def flip(file: Path) -> None:
    with file.open("r+b") as spoiled:
        spoiled.seek(PIECE_BYTES // 2)
        byte = spoiled.read(1)[0]
        spoiled.seek(PIECE_BYTES // 2)
        spoiled.write(bytes([byte ^ 1]))


def lose_all(tmp_path: Path, how: Callable[[Path], None] = delete) -> int:
    """Has everything that is in the store spilled, and its files lost; returns how many."""
    fill()
    lost = 0
    for file in files(tmp_path):
        with suppress(FileNotFoundError):  # of what was put only to fill the store
            if file.stat().st_size >= PIECE_BYTES:  # else it is being written just now, and is such a one
                how(file)
                lost += 1
    return lost


class Runs:
    """Counts runs of tasks, in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def note(self, name: str) -> int:
        """Another run; returns how many there were before."""
        before = self.of(name)
        (self.folder / f"{name}-{before}").touch(exist_ok=False)
        return before

    def of(self, name: str) -> int:
        return len(list(self.folder.glob(f"{name}-*")))


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs") / "of")


def piece(number: int) -> Array:
    return np.random.default_rng(number).integers(0, 255, PIECE_BYTES, dtype=np.uint8)


@af.remote
def make(runs: Runs, number: int) -> Array:
    runs.note("make")
    return piece(number)


@af.remote
def plus(runs: Runs, name: str, *arrays: Array) -> Array:
    runs.note(name)
    return np.asarray(sum(arrays[1:], start=arrays[0] + np.uint8(1)))


@pytest.mark.parametrize("how", [delete, truncate, flip])
def test_a_result_is_made_again(start: Any, tmp_path: Path, runs: Runs, how: Callable[[Path], None]) -> None:
    with start():
        ref = make.remote(runs, 7)
        af.wait([ref])
        assert lose_all(tmp_path, how) > 0
        assert np.array_equal(af.get(ref), piece(7))
        assert runs.of("make") == 2
        fill()
        assert np.array_equal(af.get(ref), piece(7))  # it is spilled and read like any other
        assert runs.of("make") == 2
        del ref


def test_a_chain_all_of_which_is_lost_and_held(start: Any, tmp_path: Path, runs: Runs) -> None:
    with start():
        first = make.remote(runs, 1)
        second = plus.remote(runs, "second", first)
        third = plus.remote(runs, "third", second, first)
        af.wait([third])
        lose_all(tmp_path)
        assert np.array_equal(af.get(third), piece(1) + piece(1) + np.uint8(2))
        assert (runs.of("make"), runs.of("second"), runs.of("third")) == (2, 2, 2)
        assert np.array_equal(af.get(second), piece(1) + np.uint8(1))
        assert np.array_equal(af.get(first), piece(1))
        assert runs.of("make") == 2
        del first, second, third


def test_a_chain_whose_inputs_were_freed(start: Any, tmp_path: Path, runs: Runs) -> None:
    with start():
        first = make.remote(runs, 1)
        second = plus.remote(runs, "second", first)
        third = plus.remote(runs, "third", second, first)
        af.wait([third])
        del first, second
        wait_until(lambda: stored_bytes() < 2 * PIECE_BYTES, 20, "lineage holds no values")
        lose_all(tmp_path)
        assert np.array_equal(af.get(third), piece(1) + piece(1) + np.uint8(2))
        assert (runs.of("make"), runs.of("second"), runs.of("third")) == (2, 2, 2)
        del third


def stored_bytes() -> int:
    return Store(_hot.client_address()).segment().object_bytes_used


def test_a_task_whose_argument_is_lost_gives_its_cpu_back(start: Any, tmp_path: Path, runs: Runs) -> None:
    with start(num_cpus=1):
        first = make.remote(runs, 1)
        af.wait([first])
        lose_all(tmp_path)
        assert np.array_equal(af.get(plus.remote(runs, "user", first)), piece(1) + np.uint8(1))
        assert runs.of("make") == 2
        del first


def read(ref: Any, number: int, found: list[bool]) -> None:
    found.append(np.array_equal(af.get(ref), piece(number)))


def test_many_readers_wait_for_one_run(start: Any, tmp_path: Path, runs: Runs) -> None:
    with start():
        ref = make.remote(runs, 3)
        af.wait([ref])
        lose_all(tmp_path)
        found: list[bool] = []
        threads = [threading.Thread(target=read, args=(ref, 3, found)) for _ in range(4)]
        for thread in threads:
            thread.start()
        user = plus.remote(runs, "user", ref)
        for thread in threads:
            thread.join()
        assert found == [True] * 4
        assert np.array_equal(af.get(user), piece(3) + np.uint8(1))
        assert runs.of("make") == 2
        del ref, user


def test_several_results_of_one_call(start: Any, tmp_path: Path, runs: Runs) -> None:
    @af.remote(num_returns=3)
    def three() -> tuple[int, Array, Array]:
        runs.note("three")
        return 1, piece(1), piece(2)

    with start():
        small, one, two = three.remote()
        af.wait([small])
        lose_all(tmp_path)
        assert np.array_equal(af.get(two), piece(2))
        assert np.array_equal(af.get(one), piece(1))
        assert af.get(small) == 1
        assert runs.of("three") <= 3
        user = plus.remote(runs, "user", two, one)
        af.wait([user])
        del one, two
        lose_all(tmp_path)
        assert np.array_equal(af.get(user), piece(1) + piece(2) + np.uint8(1))
        del small, user


def test_refs_in_results_and_arguments(start: Any, tmp_path: Path, runs: Runs) -> None:
    @af.remote
    def nested() -> list[Any]:
        runs.note("nested")
        return [make.remote(runs, 5), af.put(piece(6)), piece(4)]

    @af.remote
    def inner(refs: list[Any]) -> Array:
        return np.asarray(af.get(refs[0]))

    with start():
        outer = nested.remote()
        made, _, whole = af.get(outer)
        assert np.array_equal(whole, piece(4))
        through = inner.remote([made])
        af.wait([through])
        del made, _, whole
        lose_all(tmp_path)
        again, put, whole = af.get(outer)
        assert np.array_equal(whole, piece(4))
        assert np.array_equal(af.get(put), piece(6))
        assert np.array_equal(af.get(again), piece(5))
        assert np.array_equal(af.get(through), piece(5))
        assert runs.of("nested") == 2
        del outer, through, again, put, whole


def test_the_error_of_the_second_run_arrives(start: Any, tmp_path: Path, runs: Runs) -> None:
    @af.remote
    def once() -> Array:
        if runs.note("once"):
            raise ValueError("not again")
        return piece(1)

    with start():
        ref = once.remote()
        user = plus.remote(runs, "user", ref)
        af.wait([user])
        lose_all(tmp_path)
        with pytest.raises(ValueError, match="not again"):
            af.get(ref)
        with pytest.raises(ValueError, match="not again"):
            af.get(ref)
        with pytest.raises(ReconstructionFailedError, match="something that it was made from is gone"):
            af.get(user)
        del ref, user


def test_another_kind_of_value_the_second_time(start: Any, tmp_path: Path, runs: Runs) -> None:
    @af.remote
    def other(second: Any) -> Any:
        if not runs.note(f"other{second!r:.5}"):
            return piece(1)
        return b"x" * PIECE_BYTES if isinstance(second, str) else second

    with start():
        for second in (None, 5, b"short", [af.put(1)], np.arange(6000), "large"):
            ref = other.remote(second)
            af.wait([ref])
            lose_all(tmp_path)
            value = af.get(ref)
            if isinstance(second, np.ndarray):
                assert np.array_equal(value, second)
            elif isinstance(second, list):
                assert af.get(value[0]) == 1
            else:
                assert value == (b"x" * PIECE_BYTES if isinstance(second, str) else second)
            del ref, value
        del second


def running_workers() -> list[int]:
    return [slot.pid for slot in Store(_hot.client_address()).slots(Role.WORKER) if slot.running]


def test_a_worker_killed_while_it_makes_a_value_again(start: Any, tmp_path: Path, runs: Runs) -> None:
    gate = tmp_path.parent / f"{tmp_path.name}-gate"

    @af.remote(max_retries=2)
    def slow() -> Array:
        if runs.note("slow") == 1:
            os.mkfifo(gate)
            with gate.open():
                pass
        return piece(9)

    with start():
        ref = slow.remote()
        af.wait([ref])
        lose_all(tmp_path)
        found: list[bool] = []
        reader = threading.Thread(target=read, args=(ref, 9, found))
        reader.start()
        wait_until(gate.exists, 20, "it runs again")
        for pid in running_workers():
            os.kill(pid, signal.SIGKILL)
        reader.join()
        assert found == [True]
        assert runs.of("slow") == 3
        lose_all(tmp_path)
        with pytest.raises(ReconstructionFailedError, match="used up"):
            af.get(ref)
        del ref


def outcome_of(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except af.ActorflowError as error:
        return error


def test_what_is_not_made_again_says_why(start: Any, tmp_path: Path, runs: Runs) -> None:
    @af.remote(max_retries=0)
    def never() -> Array:
        return piece(1)

    @af.remote
    class Maker:
        def make(self) -> Array:
            return piece(2)

        def items(self) -> Iterator[Array]:
            yield piece(4)

    with start():
        actor = Maker.remote()
        stream = actor.items.options(num_returns="streaming").remote()
        refs = {
            "max_retries=0": never.remote(),
            "max_task_retries": actor.make.remote(),
            "it was put": af.put(piece(3)),
            "item of a generator": next(stream),
            "over 100 KiB by value": plus.remote(runs, "user", piece(5)),
        }
        af.wait(list(refs.values()), num_returns=len(refs))
        lose_all(tmp_path)
        for why, ref in refs.items():
            error = outcome_of(functools.partial(af.get, ref))
            assert isinstance(error, af.ObjectLostError)
            assert error.object_id == ref.hex()
            assert why in str(error)
            assert str(tmp_path) in str(error)
        assert runs.of("user") == 1
        refs.clear()
        del ref, error, actor, stream


def test_a_method_that_may_be_retried_is_run_again(start: Any, tmp_path: Path, runs: Runs) -> None:
    @af.remote(max_restarts=1, max_task_retries=1)
    class Maker:
        def make(self, array: Array) -> Array:
            runs.note("method")
            return np.asarray(array + np.uint8(1))

    with start():
        actor = Maker.remote()
        source = make.remote(runs, 1)
        ref = actor.make.remote(source)
        af.wait([ref])
        lose_all(tmp_path)
        assert np.array_equal(af.get(ref), piece(1) + np.uint8(1))
        assert (runs.of("method"), runs.of("make")) == (2, 2)
        lose_all(tmp_path)
        with pytest.raises(ReconstructionFailedError, match="used up"):
            af.get(ref)
        del ref, actor, source


def test_lineage_keeps_no_actor_and_no_put_value_alive(start: Any, tmp_path: Path, runs: Runs) -> None:
    @af.remote
    class Source:
        def pid(self) -> int:
            return os.getpid()

    @af.remote
    def through(source: Any, refs: list[Any]) -> Array:
        assert af.get(source.pid.remote()) > 0
        return np.asarray(af.get(refs[0]) + np.uint8(1))

    with start():
        source = Source.remote()
        given = af.put(piece(1))
        ref = through.remote(source, [given])
        af.wait([ref])
        pid = af.get(source.pid.remote())
        del source, given
        wait_until(lambda: stored_bytes() < 2 * PIECE_BYTES, 20, "the put value is freed")
        wait_until(lambda: not Path("/proc", str(pid)).exists(), 20, "the actor has ended")
        lose_all(tmp_path)
        with pytest.raises(ReconstructionFailedError, match="something that it was made from is gone"):
            af.get(ref)
        del ref


def test_beyond_the_budget_the_oldest_are_forgotten(start: Any, tmp_path: Path, runs: Runs) -> None:
    with start(num_cpus=1, LINEAGE_BUDGET_BYTES=str(64 * 1024)):  # one worker: they end in the order made
        text = b"x" * 15_000  # an argument that is kept beside the call
        refs = [kept.remote(runs, i, text) for i in range(8)]
        af.wait(refs, num_returns=len(refs))
        lose_all(tmp_path)
        found = [outcome_of(functools.partial(af.get, ref)) for ref in refs]
        is_lost = [isinstance(one, ReconstructionFailedError) for one in found]
        assert 4 <= sum(is_lost) < len(refs)
        assert is_lost == sorted(is_lost, reverse=True)
        assert all("over its budget" in str(one) for one, lost in zip(found, is_lost, strict=True) if lost)
        found.clear()
        del refs


@af.remote
def kept(runs: Runs, number: int, _: bytes) -> Array:
    runs.note(f"kept{number}")
    return piece(number)


def test_without_a_budget_nothing_is_kept(start: Any, tmp_path: Path, runs: Runs) -> None:
    with start(LINEAGE_BUDGET_BYTES="0"):
        ref = make.remote(runs, 1)
        af.wait([ref])
        lose_all(tmp_path)
        with pytest.raises(ReconstructionFailedError, match="was not kept"):
            af.get(ref)
        del ref


async def test_awaited(start: Any, tmp_path: Path, runs: Runs) -> None:
    with start():
        ref = make.remote(runs, 1)
        await ref
        lose_all(tmp_path)
        assert np.array_equal(await ref, piece(1))
        del ref
