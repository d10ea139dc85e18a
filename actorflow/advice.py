"""What errors advise whoever wrote a name that there is not."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, names: Iterable[str], most: int = 1) -> list[str]:
    """The names that are like a wrong one, the likest first."""
    import difflib

    return difflib.get_close_matches(name, list(names), most)


def unknown_option(noun: str, name: str, allowed: Iterable[str]) -> TypeError:
    """The error for an option that there is not, with the nearest of those that are allowed."""
    names = list(allowed)
    near = nearest(name, names)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return TypeError(f"there is no {noun} {name!r}; {hint}Allowed are {', '.join(names)}")
