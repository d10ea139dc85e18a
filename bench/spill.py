"""python -m bench.spill: three times the store's size written and read back, beside the disk's own speed.

The disk is measured by the same program: one thread, direct, in pieces of the same size, into a file without a name.
"""

from __future__ import annotations

import argparse
import mmap
import os
import tempfile
from time import perf_counter

import numpy as np

import actorflow as af

MIB = 1 << 20
PIECE_BYTES = 32 * MIB


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
    with af.init(num_cpus=1, object_store_memory=store_bytes):
        begin = perf_counter()
        refs = []
        for i in range(pieces):
            source[0] = i
            refs.append(af.put(source))
        put = perf_counter()
        for i, ref in enumerate(refs):
            source[0] = i
            if not np.array_equal(af.get(ref), source):
                raise SystemExit(f"value {i} came back as another")
        return rate(pieces, put - begin), rate(pieces, perf_counter() - put)


def rate(pieces: int, seconds: float) -> float:
    """MB/s."""
    return pieces * PIECE_BYTES / seconds / 1e6


def main() -> None:
    """Prints both rates and their quotients."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store-mib", type=int, default=256)
    parser.add_argument("--directory", default=tempfile.gettempdir())
    options = parser.parse_args()
    os.environ["ACTORFLOW_SPILL_DIRECTORIES"] = options.directory
    pieces = 3 * options.store_mib * MIB // PIECE_BYTES
    disk = disk_rates(options.directory, pieces)
    store = store_rates(pieces, options.store_mib * MIB)
    for name, own, ours in zip(("write", "read"), disk, store, strict=True):
        print(f"{name}: disk {own:,.0f} MB/s, store {ours:,.0f} MB/s, {ours / own:.2f} of it")


if __name__ == "__main__":
    main()
