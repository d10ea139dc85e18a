"""What the kernel is told through the C core, and whether it has what the runtime is built on."""

from __future__ import annotations

import os

from actorflow.shm._store import ffi, lib


def become_subreaper() -> None:
    """Makes this process adopt the orphans among its descendants, so that it can end them."""
    if lib.af_store_subreaper() != 0:
        raise OSError(ffi.errno, "prctl(PR_SET_CHILD_SUBREAPER) failed")


def missing_features() -> list[str]:
    """What the runtime needs of the kernel and this process may not use, each with why; [] when all is there."""
    missing = []
    try:
        os.close(os.memfd_create("probe", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    except OSError as error:
        missing.append(f"memfd_create ({error.strerror})")
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        missing.append(f"pidfd_open ({error.strerror})")
    if not lib.af_store_has_futex():
        missing.append("futex")
    return missing


def punch_hole(descriptor: int, offset: int, size_bytes: int) -> bool:
    """Gives the disk under a part of a file back. False: its file system cannot do that."""
    return bool(lib.af_store_punch(descriptor, offset, size_bytes) == 0)
