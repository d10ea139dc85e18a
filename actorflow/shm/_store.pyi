"""The cffi module that ext/store_build.py makes; typed by actorflow.shm.store, which alone uses it."""

from typing import Any

ffi: Any
lib: Any
