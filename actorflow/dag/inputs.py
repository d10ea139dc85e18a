"""What a graph is given with each execution: which arguments there must be, and the parts of them that are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actorflow.dag.plan import Access


class GraphInput:
    """What `execute` was given, where the whole InputNode is bound and that was not one argument: `[0]`, `.name`."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._args = args
        self._kwargs = kwargs

    def __getitem__(self, key: int | str) -> Any:
        return self._args[key] if isinstance(key, int) else self._kwargs[key]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._kwargs:
            raise AttributeError(f"the graph's input has no keyword argument {name!r}")
        return self._kwargs[name]

    def __repr__(self) -> str:
        items = [*map(repr, self._args), *(f"{name}={value!r}" for name, value in self._kwargs.items())]
        return f"GraphInput({', '.join(items)})"


def input_part(access: Access, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The part of an execution's arguments that an access means. TypeError: it was not given."""
    if access is None:
        return args[0] if len(args) == 1 and not kwargs else GraphInput(args, kwargs)
    try:
        return args[access] if isinstance(access, int) else kwargs[access]
    except LookupError:
        wanted = f"argument {access} by position" if isinstance(access, int) else f"argument {access!r}"
        raise TypeError(f"the graph's input is missing {wanted}") from None


class Signature:
    """Which arguments a graph takes: those that it uses, and any others only if it uses the input as a whole."""

    def __init__(self, accesses: Sequence[Access]) -> None:
        self._takes_any = None in accesses
        self._is_whole = tuple(accesses) == (None,)
        self._count = 1 + max((access for access in accesses if isinstance(access, int)), default=-1)
        self._names = frozenset(access for access in accesses if isinstance(access, str))

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """TypeError where arguments are missing, or nothing in the graph would use them."""
        if self._is_whole:
            if args or kwargs:
                return
            raise TypeError("the graph's input is missing: give execute at least one argument")
        missing = [str(number) for number in range(len(args), self._count)]
        missing += sorted(map(repr, self._names - kwargs.keys()))
        if missing:
            raise TypeError(f"the graph's input is missing argument {', '.join(missing)}")
        if not self._takes_any and (len(args) > self._count or kwargs.keys() - self._names):
            more = [*map(str, range(self._count, len(args))), *sorted(map(repr, kwargs.keys() - self._names))]
            raise TypeError(f"nothing in the graph uses argument {', '.join(more)} of its input")
