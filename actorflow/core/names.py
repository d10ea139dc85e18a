"""Names of actors: one living actor a name and namespace, and what a wrong name may have been meant to be."""

from __future__ import annotations

from collections.abc import Iterable

from actorflow.advice import nearest
from actorflow.core.events import ActorId
from actorflow.errors import ActorAlreadyExistsError


def nearest_named(namespace: str, name: str, taken: Iterable[tuple[str, str]], most: int = 3) -> list[str]:
    """Names that are like a wrong one, the likest first; one of another namespace as "namespace/name"."""
    pairs = list(taken)
    here = nearest(name, [known for space, known in pairs if space == namespace], most)
    elsewhere = [f"{space}/{known}" for space, known in pairs if space != namespace and known == name]
    return (here + elsewhere)[:most]


class ActorNames:
    """Who has which name. A name is free again as soon as its actor is dead."""

    def __init__(self) -> None:
        self._actors: dict[str, dict[str, ActorId]] = {}  # by namespace, by name
        self._names: dict[ActorId, tuple[str, str]] = {}

    def take(self, namespace: str, name: str, actor: ActorId) -> None:
        """Gives the name to the actor. ActorAlreadyExistsError: a living one has it."""
        taken = self._actors.setdefault(namespace, {})
        if name in taken:
            raise ActorAlreadyExistsError(actor_name=name, namespace=namespace)
        taken[name] = actor
        self._names[actor] = (namespace, name)

    def release(self, actor: ActorId) -> None:
        """The actor's name, if it has one, may be taken by another."""
        if actor in self._names:
            namespace, name = self._names.pop(actor)
            del self._actors[namespace][name]
            if not self._actors[namespace]:
                del self._actors[namespace]

    def find(self, namespace: str, name: str) -> ActorId | None:
        """The living actor of that name."""
        return self._actors.get(namespace, {}).get(name)

    def nearest(self, namespace: str, name: str, most: int = 3) -> list[str]:
        """Names that are like a wrong one, the likest first; one of another namespace as "namespace/name"."""
        return nearest_named(namespace, name, self._names.values(), most)

    def listed(self, namespace: str | None = None) -> list[tuple[str, str]]:
        """All (namespace, name) in use, sorted; those of one namespace if it is given."""
        return sorted(pair for pair in self._names.values() if namespace in (None, pair[0]))
