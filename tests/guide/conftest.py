"""The programs of this folder run on a module's runtime and leave nothing behind, as the system tests do."""

from tests.system.conftest import clean_node, loop_of_uvloop, no_leaks, runtime

__all__ = ["clean_node", "loop_of_uvloop", "no_leaks", "runtime"]
