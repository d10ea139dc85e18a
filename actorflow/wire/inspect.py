"""Finds the member of a value that cannot be pickled, and the way to it.

Where a value cannot be pickled, one of the pieces that pickle would take it apart into cannot
either, or it is to blame itself. Following the first bad piece leads to the culprit. The search is
bounded: values can be huge, and each look at a piece pickles it.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from actorflow.exception_parts import safe_text, type_name

DEPTH_LIMIT = 32
LOOKS_LIMIT = 2_000

Piece = tuple[str, Any]  # the way from the whole, and the piece


@dataclass(frozen=True)
class Culprit:
    """A member that cannot be pickled: "argument 'config'.callbacks[2].lock", of what type, and why not.

    `obj` is the member itself, `parent` what it was found in; None where it is the whole.
    """

    path: str
    type_name: str
    reason: str
    obj: Any = field(default=None, compare=False, repr=False)
    parent: Any = field(default=None, compare=False, repr=False)


def find_unpicklable(
    parts: Iterable[Piece],
    failure: Callable[[Any], Exception | None],
    reducer_for: Callable[[type], Callable[[Any], Any] | None],
    depth: int = DEPTH_LIMIT,
) -> Culprit | None:
    """The first member that cannot be pickled, reached from one of the named parts; None if all can be.

    `failure` tries to pickle a value and returns what that raised; `reducer_for` gives the function
    that is registered for a type. When a bound (`depth`: members inside members) is reached, the last
    bad member found is returned.
    """
    looks = LOOKS_LIMIT
    path, culprit, parent, reason = "", None, None, None
    pieces: Iterator[Piece] = iter(parts)
    seen: set[int] = set()
    for _ in range(min(depth, DEPTH_LIMIT)):
        for name, piece in pieces:
            looks -= 1
            if looks < 0 or id(piece) in seen:
                continue
            problem = failure(piece)
            if problem is not None:
                path, culprit, parent, reason = path + name, piece, culprit, problem
                break
        else:
            break
        seen.add(id(culprit))
        pieces = _pieces(culprit, reducer_for)
    if reason is None:
        return None
    return Culprit(path, type_name(type(culprit)), safe_text(reason).partition("\n")[0], culprit, parent)


def _pieces(value: Any, reducer_for: Callable[[type], Callable[[Any], Any] | None]) -> Iterator[Piece]:
    """What pickle takes a value apart into. Nothing where that cannot be told."""
    try:
        if isinstance(value, types.FunctionType):
            yield from _function_pieces(value)
        elif isinstance(value, type):
            yield from ((f".{name}", member) for name, member in vars(value).items())
        elif isinstance(value, types.MethodType):
            yield from ((".__self__", value.__self__), (".__func__", value.__func__))
        elif isinstance(value, classmethod | staticmethod):
            yield "", value.__func__
        elif isinstance(value, property):
            yield from ((".fget", value.fget), (".fset", value.fset), (".fdel", value.fdel))
        elif type(value) in (dict, list, tuple, set, frozenset):
            yield from _container_pieces(value)
        elif type(value) is functools.partial:
            yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
        else:
            reducer = reducer_for(type(value))
            yield from _reduced_pieces(reducer(value) if reducer else value.__reduce_ex__(5))
    except Exception:  # the value's own methods raise: it is to blame itself
        return


def _container_pieces(value: Any) -> Iterator[Piece]:
    if isinstance(value, dict):
        for key, member in value.items():
            yield f"[{_short(key)}]", member
            yield f" key {_short(key)}", key
    elif isinstance(value, set | frozenset):
        yield from ((f" item {_short(member)}", member) for member in value)
    else:
        yield from ((f"[{index}]", member) for index, member in enumerate(value))


def _function_pieces(function: types.FunctionType) -> Iterator[Piece]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        yield f"<closure {name}>", cell.cell_contents
    for name in _global_names(code):
        if name in function.__globals__:
            yield f"<global {name}>", function.__globals__[name]
    yield "<defaults>", function.__defaults__
    yield "<defaults>", function.__kwdefaults__
    yield from ((f".{name}", member) for name, member in vars(function).items())


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _reduced_pieces(reduced: Any) -> Iterator[Piece]:
    """The pieces in what __reduce__ returned: state, items, then the arguments to make the object from."""
    if not isinstance(reduced, tuple):
        return
    _, arguments, state, items, pairs = (*reduced, *(None,) * 5)[:5]
    for members in state if isinstance(state, tuple) else (state,):
        if isinstance(members, dict):
            yield from ((f".{name}", member) for name, member in members.items())
        else:
            yield ".__reduce__()[2]", members
    yield from ((f"[{index}]", member) for index, member in enumerate(items or ()))
    yield from ((f"[{_short(key)}]", member) for key, member in pairs or ())
    yield from ((f".__reduce__()[1][{index}]", member) for index, member in enumerate(arguments or ()))


def _short(key: Any) -> str:
    """repr(key), not too long, or its type where it has none."""
    try:
        text = repr(key)
    except Exception:
        return f"a {type_name(type(key))}"
    return text if len(text) <= 40 else f"{text[:37]}..."
