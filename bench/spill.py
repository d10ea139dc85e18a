"""python -m bench.spill: three times the store's size written and read back, beside the disk's own speed.

Both sides move the same bytes: the store is full before its first timed put, so that each sends another value to the
disk, and only values that lie there are read back. The disk is measured by the same program, by one thread, direct, in
pieces of the same size, into a file without a name. A disk that others use has good and bad moments: both sides are
measured in turns, and medians are printed.
"""

from __future__ import annotations

import argparse
import mmap
import os
import tempfile
from collections.abc import Iterator
from statistics import median
from time import perf_counter

import numpy as np

import actorflow as af

MIB = 1 << 20
PIECE_BYTES = 32 * MIB
SIZES = 3  # of the store are written and read


def disk_rates(directory: str, pieces: int) -> tuple[float, float]:
    """MB/s written and read."""
    memory = mmap.mmap(-1, PIECE_BYTES)
    memory.write(os.urandom(MIB) * (PIECE_BYTES // MIB))
    descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT, 0o600)
    try:
        begin = perf_counter()
        for i in range(pieces):
            os.pwrite(descriptor, memory, i * PIECE_BYTES)
        written = perf_counter()
        for i in range(pieces):
            os.preadv(descriptor, [memory], i * PIECE_BYTES)
        return rate(pieces, written - begin), rate(pieces, perf_counter() - written)
    finally:
        os.close(descriptor)


def store_rates(pieces: int, store_bytes: int) -> tuple[float, float]:
    """MB/s put and got, each value compared."""
    source = np.random.default_rng(0).integers(0, 255, PIECE_BYTES, dtype=np.uint8)
    same = np.empty(PIECE_BYTES, dtype=bool)

    def put(numbers: range) -> Iterator[af.ObjectRef[np.ndarray]]:
        for number in numbers:
            source[0] = number
            yield af.put(source)

    with af.init(num_cpus=1, object_store_memory=store_bytes):
        fill = store_bytes // PIECE_BYTES
        refs = [*put(range(fill))]
        begin = perf_counter()
        refs.extend(put(range(fill, fill + pieces)))
        put_s = perf_counter() - begin
        del refs[pieces:]  # what is in memory
        begin = perf_counter()
        for number, ref in enumerate(refs):
            source[0] = number
            if not np.equal(af.get(ref), source, out=same).all():
                raise SystemExit(f"value {number} came back as another")
        return rate(pieces, put_s), rate(pieces, perf_counter() - begin)


def rate(pieces: int, seconds: float) -> float:
    """MB/s."""
    return pieces * PIECE_BYTES / seconds / 1e6


def main() -> None:
    """Prints both rates and their quotients."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store-mib", type=int, default=256)
    parser.add_argument("--directory", default=tempfile.gettempdir())
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    os.environ["ACTORFLOW_SPILL_DIRECTORIES"] = options.directory
    pieces = SIZES * options.store_mib * MIB // PIECE_BYTES
    turns = [
        (disk_rates(options.directory, pieces), store_rates(pieces, options.store_mib * MIB))
        for _ in range(options.turns)
    ]
    for i, name in enumerate(("write", "read")):
        disk, store = (median(turn[side][i] for turn in turns) for side in range(2))
        share = median(turn[1][i] / turn[0][i] for turn in turns)
        print(f"{name}: disk {disk:,.0f} MB/s, store {store:,.0f} MB/s, {share:.2f} of it")


if __name__ == "__main__":
    main()
