"""Functions and classes on their way to workers: each is put into shared memory once a session.

What its module can be asked for travels as a name (`module.name`); what only this process has, `__main__` and
notebooks included, travels by value. Refs and handles that it captured are owned by the exported value.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Hashable
from typing import Any

import cloudpickle

from actorflow import _hot
from actorflow.client import calls, runtime

_exports: weakref.WeakKeyDictionary[Any, dict[Hashable, Export]] = weakref.WeakKeyDictionary()


def export_of(subject: Any, terms: Hashable = None) -> Export:
    """The export of a function or class: one for each of them and all `terms` on which it is called, however often it
    is decorated."""
    try:
        exports = _exports.setdefault(subject, {})
    except TypeError:  # neither hashable nor weakly referable: a callable object
        return Export(subject)
    export = exports.get(terms)
    if export is None:
        export = exports[terms] = Export(subject)
    return export


class Export:
    """A function or class in shared memory, for the sessions in which it is used."""

    __slots__ = ("__weakref__", "_reference", "_session", "_subject")

    def __init__(self, subject: Any) -> None:
        # Not the subject itself where it is the key of `_exports`: that would keep it alive for ever.
        self._subject = _weakly(subject)
        self._session: runtime.Runtime | None = None
        self._reference: _hot.Reference | None = None

    def reference(self, travels_as: Any) -> _hot.Reference:
        """The exported value in this session; `travels_as` is what is put there at first use.

        TypeError names what cannot be pickled in it.
        """
        session = runtime.require()
        if self._reference is None or self._session is not session:
            subject = self._subject()
            try:
                self._reference = _hot.put(travels_as)
            except Exception as error:
                calls.raise_translated(error, lambda: [(_title(subject), subject)])
            self._session = session
        return self._reference


def _weakly(subject: Any) -> Any:
    try:
        return weakref.ref(subject)
    except TypeError:
        return lambda: subject


def _title(subject: Any) -> str:
    kind = "class" if isinstance(subject, type) else "function"
    return f"{kind} {getattr(subject, '__qualname__', subject)!r}"


def is_named(holder: Any, subject: Any) -> bool:
    """Whether `holder`, made of `subject` by a decorator, is what its module has under that name."""
    module_name, name = getattr(subject, "__module__", None), getattr(subject, "__qualname__", "")
    module = sys.modules.get(module_name or "")
    if (
        module is None
        or module_name == "__main__"
        or module_name in cloudpickle.list_registry_pickle_by_value()
    ):
        return False
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is holder
