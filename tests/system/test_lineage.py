"""Values whose files are lost: made again by their calls, with all that those need."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actorflow as af
from actorflow.client import runtime as runtimes
from actorflow.errors import ReconstructionFailedError
from tests.conftest import wait_until
from tests.system.conftest import stored_bytes
from tests.system.lineage_bodies import (
    PIECE_BYTES,
    Array,
    Runs,
    delete,
    fill,
    flip,
    lose_all,
    make,
    piece,
    plus,
    read,
    runs,
    start,
    truncate,
)

__all__ = ["runs", "start"]  # fixtures

pytest.importorskip("fsspec")


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


def nameless_files() -> list[Path]:
    """Those of the node in a local directory."""
    current = runtimes.current()
    assert current is not None
    assert current._connection is not None
    folder = Path("/proc", str(current._connection.node_pid), "fd")
    return [
        entry for entry in folder.iterdir() if "(deleted)" in _target(entry) and "memfd" not in _target(entry)
    ]


def _target(entry: Path) -> str:
    try:
        return os.readlink(entry)
    except FileNotFoundError:
        return ""


def zero(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def cut(file: Path) -> None:
    os.truncate(file, 0)


@pytest.mark.parametrize("how", [zero, cut])
def test_local_files_without_a_name(start: Any, runs: Runs, how: Callable[[Path], None]) -> None:
    with start(place=""):
        made, put = make.remote(runs, 7), af.put(piece(8))
        af.wait([made])
        fill()
        for file in nameless_files():
            how(file)
        with pytest.raises(af.ObjectLostError, match=r"a file without a name, from byte .* it was put"):
            af.get(put)
        assert np.array_equal(af.get(made), piece(7))
        assert runs.of("make") == 2
        del made, put


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


def test_a_task_whose_argument_is_lost_gives_its_cpu_back(start: Any, tmp_path: Path, runs: Runs) -> None:
    with start(num_cpus=1):
        first = make.remote(runs, 1)
        af.wait([first])
        lose_all(tmp_path)
        assert np.array_equal(af.get(plus.remote(runs, "user", first)), piece(1) + np.uint8(1))
        assert runs.of("make") == 2
        del first


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


async def test_awaited(start: Any, tmp_path: Path, runs: Runs) -> None:
    with start():
        ref = make.remote(runs, 1)
        await ref
        lose_all(tmp_path)
        assert np.array_equal(await ref, piece(1))
        del ref
