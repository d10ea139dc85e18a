"""Spilling to disks that are full, small, limited or broken: nothing is lost but what the disk has lost itself."""

from __future__ import annotations

import functools
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actorflow as af
from tests.conftest import wait_until
from tests.system.test_spill import (
    PIECE_BYTES,
    PIECES,
    STORE_BYTES,
    node_process,
    outcome_of,
    piece,
    spill_files,
    start,
)

__all__ = ["start"]  # a fixture of these tests, too


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that holds half of what the store does. Skipped where this user may mount none."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={STORE_BYTES // 2}", "none", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def put_until_full(refs: list[Any]) -> None:
    """Puts until there is no room in the store nor on the disk."""
    for i in range(4 * PIECES):
        refs.append(af.put(piece(i)))


def read_all(refs: list[Any]) -> None:
    for i, ref in enumerate(refs):
        assert np.array_equal(af.get(ref), piece(i))


def written_files() -> list[str]:
    return [file for file in spill_files() if os.stat(file).st_size]


def is_room(refs: list[Any]) -> bool:
    try:
        refs.append(af.put(piece(len(refs))))
    except af.OutOfDiskError:
        return False
    return True


def test_a_small_disk_is_filled_and_emptied(start: Any, small_disk: Path) -> None:
    with start(str(small_disk)):
        refs: list[Any] = []
        with pytest.raises(af.OutOfDiskError) as caught:
            put_until_full(refs)
        assert caught.value.path == str(small_disk)
        assert len(refs) > STORE_BYTES // PIECE_BYTES  # some went to the disk
        del caught
        # Nothing can be written: what is on disk comes back one after another, and is let go of for the next.
        del refs[-2:]
        read_all(refs)
        kept = len(refs)
        wait_until(functools.partial(is_room, refs), 20, "there is room for what was dropped")
        assert len(refs) == kept + 1
        read_all(refs)
        refs.clear()
        wait_until(
            lambda: os.statvfs(small_disk).f_bfree == os.statvfs(small_disk).f_blocks, 20, "the disk is free"
        )


def test_files_that_may_not_grow_are_followed_by_others(start: Any) -> None:
    with start():
        resource.prlimit(node_process().pid, resource.RLIMIT_FSIZE, (5 * PIECE_BYTES, resource.RLIM_INFINITY))
        refs = [af.put(piece(i)) for i in range(PIECES)]
        assert len(written_files()) > 1
        read_all(refs)
        del refs


def test_where_no_object_may_be_written_nothing_is_lost(start: Any) -> None:
    with start():
        node = node_process().pid
        resource.prlimit(node, resource.RLIMIT_FSIZE, (PIECE_BYTES // 2, resource.RLIM_INFINITY))
        refs: list[Any] = []
        with pytest.raises(af.OutOfDiskError):
            put_until_full(refs)
        read_all(refs)
        resource.prlimit(node, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        wait_until(functools.partial(is_room, refs), 20, "there is room again")
        read_all(refs)
        refs.clear()


def test_what_the_disk_has_lost_is_said_and_all_else_is_there(start: Any) -> None:
    with start():
        refs = [af.put(piece(i)) for i in range(PIECES)]
        (file,) = written_files()
        os.truncate(file, 2 * PIECE_BYTES)
        found = [outcome_of(functools.partial(af.get, ref)) for ref in refs]
        lost = [i for i, outcome in enumerate(found) if isinstance(outcome, af.ObjectLostError)]
        assert 0 < len(lost) < PIECES
        assert all(found[i].object_id == refs[i].hex() for i in lost)
        assert all(np.array_equal(found[i], piece(i)) for i in range(PIECES) if i not in lost)
        with pytest.raises(af.ObjectLostError):
            af.get(refs[lost[0]])
        found.clear()
        del refs
