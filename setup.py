"""Builds the two extension modules over the one C core; all else is in pyproject.toml."""

from __future__ import annotations

import sys
from glob import glob
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent
# One wheel serves every standard CPython from 3.11 on.
LIMITED_API = "0x030B0000"
# The core is compiled into both modules: hidden, so that neither's symbols can stand in for the other's.
C_FLAGS = ["-std=gnu11", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]


def sources(pattern: str) -> list[str]:
    """The files that match, from the root, in an order that does not depend on the file system."""
    return sorted(glob(pattern, root_dir=ROOT))


def hot_extension() -> Extension:
    """`actorflow._hot`: the way of a call, which keeps the GIL."""
    return Extension(
        "actorflow._hot",
        sources("ext/hot*.c") + sources("ext/core/*.c"),
        depends=sources("ext/*.h") + sources("ext/core/*.h"),
        include_dirs=["ext/core"],
        define_macros=[("Py_LIMITED_API", LIMITED_API)],
        extra_compile_args=C_FLAGS,
        extra_link_args=["-pthread"],
        py_limited_api=True,
    )


if not sys.platform.startswith("linux"):
    raise SystemExit("actorflow needs Linux 5.4 or later: it is built on memfd, futex and pidfd")

setup(
    ext_modules=[hot_extension()],
    cffi_modules=["ext/store_build.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
