"""Takes exceptions apart and makes them again, without calling their constructors.

An exception is its class, its args and its attributes. Its constructor may ask for anything, so
that pickle's way (call the class with the args) fails for many users' exceptions; this way works
for all that keep what they know in attributes. Nothing here trusts the exception's own methods.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import traceback
import types
from collections.abc import Mapping
from typing import Any

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, not by C
_ATTRIBUTE_OF_C = (types.MemberDescriptorType, types.GetSetDescriptorType)
_LEFT_OUT = ("args", "obj")  # kept apart; whatever object an AttributeError was about


def own_state(error: BaseException) -> dict[str, Any]:
    """The attributes of an exception: those in slots or set by C (errno, filename), then its __dict__."""
    state = {}
    for kind in type(error).__mro__:
        for name, member in vars(kind).items():
            if isinstance(member, _ATTRIBUTE_OF_C) and name not in _LEFT_OUT and not name.startswith("__"):
                with contextlib.suppress(AttributeError):  # a slot that was never set
                    value = member.__get__(error)
                    if value is not None or kind.__flags__ & _HEAP_TYPE:  # None in C: never set
                        state[name] = value
    return state | vars(error)


def rebuild(kind: type[Any], args: tuple[Any, ...], state: Mapping[str, Any]) -> Any:
    """An exception of `kind` with these args and attributes.

    Raises what the C type below `kind` raises if the args are not for it (exception groups).
    """
    native: Any = kind
    while native.__flags__ & _HEAP_TYPE:
        native = native.__base__
    error = native.__new__(kind, *args)
    error.args = args
    for name, value in state.items():
        with contextlib.suppress(AttributeError, TypeError):  # read-only: was set from args
            object.__setattr__(error, name, value)
    return error


def type_name(kind: type) -> str:
    """The name of a class as tracebacks show it."""
    prefix = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    return f"{prefix}{kind.__qualname__}"


def raised_by_signal_handler(error: BaseException) -> bool:
    """Whether a signal handler of Python raised it: then it says nothing of what it broke off, and is to go on up."""
    trace = error.__traceback__
    if trace is None or trace.tb_next is None:  # raised by C, or here
        return False
    codes = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(trace))


def _code_of(handler: Any) -> types.CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    for function in (handler, getattr(type(handler), "__call__", None)):  # noqa: B004 - its code is wanted
        code = getattr(function, "__code__", None)
        if isinstance(code, types.CodeType):
            return code
    return None


def safe_text(error: BaseException) -> str:
    """str(error), or a note that the exception cannot say it."""
    try:
        return str(error)
    except Exception:
        return f"<{type(error).__name__} has no text: its __str__ raised>"
