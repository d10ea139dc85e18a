"""What the node is asked about itself, and about actors: resources, names, and their end."""

from __future__ import annotations

from typing import Any

from actorflow.client import objects, runtime
from actorflow.client.handles import ActorHandle, Description


def kill(handle: ActorHandle, *, no_restart: bool = True) -> None:
    """Ends an actor at once, whatever it is doing; its unfinished calls get ActorDiedError.

    `no_restart=False`: only its process is ended, if it has a restart left (max_restarts): it comes back with its
    mailbox, as after a crash. When this returns, no call made later reaches the process that it had. Killing a dead
    actor does nothing. TypeError: not a handle.
    """
    if not isinstance(handle, ActorHandle):
        raise TypeError(f"kill() takes an actor's handle, not {handle!r}")
    objects.check_switch("no_restart", no_restart)
    session = runtime.require_for("this handle")
    session.ask("kill_actor", [handle._actor_door.target.mailbox], no_restart=no_restart)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """The handle of the living actor of that name; it does not keep the actor alive.

    `namespace`: by default that of this job. TypeError: not texts. ValueError: there is no such actor.
    """
    _require_text("name", name)
    if namespace is not None:
        _require_text("namespace", namespace)
    session = runtime.require()
    description, holds = session.ask("get_actor", name=name, namespace=namespace or session.namespace)
    if not holds:
        hint = f"; did you mean {' or '.join(map(repr, description))}?" if description else ""
        raise ValueError(
            f"no actor named {name!r} lives in namespace {namespace or session.namespace!r}{hint}"
        )
    return ActorHandle(holds[0], holds[0], Description.of(description))


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """The names of the living actors of this job's namespace, sorted; {"name", "namespace"} of each of all of them."""
    objects.check_switch("all_namespaces", all_namespaces)
    named, _ = runtime.require().ask("list_named_actors", all_namespaces=all_namespaces)
    if all_namespaces:
        return [{"name": name, "namespace": namespace} for namespace, name in named]
    return [name for _, name in named]


def cluster_resources() -> dict[str, float]:
    """All resources of the node, by name."""
    return _resources("total")


def available_resources() -> dict[str, float]:
    """The resources that no call or actor takes at this moment, by name, in ones."""
    return _resources("available")


def nodes() -> list[dict[str, Any]]:
    """The nodes that this process can reach: one. Each with NodeID, Alive, NodeManagerHostname, NodePid, Resources
    (in ones) and Labels."""
    found: list[dict[str, Any]] = runtime.require().ask("nodes")[0]
    return found


def _require_text(what: str, given: object) -> None:
    if not isinstance(given, str):
        raise TypeError(f"the {what} of an actor is a text, not {given!r}")


def _resources(kind: str) -> dict[str, float]:
    amounts, _ = runtime.require().ask("resources")
    return {str(name): float(amount) for name, amount in amounts[kind].items()}
