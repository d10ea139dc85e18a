"""What graphs are written with: the input, bound methods of actors, several outputs; and their run without compiling.

A node is immutable and knows the nodes whose values it takes. All that depend on one InputNode are noted there by
number and label, and not by reference: so that compiling finds those that lead to no output, and a graph that nobody
holds is freed at once, with its handles of actors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, NoReturn

from actorflow.client import handles
from actorflow.client.handles import ActorMethod
from actorflow.client.refs import ObjectRef
from actorflow.dag import plan
from actorflow.dag.compiled import CompiledGraph
from actorflow.dag.inputs import input_part
from actorflow.dag.options import GraphOptions
from actorflow.dag.plan import TensorTransport

_LOOK_DEPTH = 8  # containers within containers that are searched for nodes


class _Family:
    """The nodes that depend on one InputNode: their labels, and for each the numbers of those that it takes."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.upstream: list[tuple[int, ...]] = []

    def add(self, label: str, upstream: tuple[int, ...]) -> int:
        self.labels.append(label)
        self.upstream.append(upstream)
        return len(self.labels) - 1

    def check_used(self, used: set[int]) -> None:
        """ValueError where a node that is not in `used` has been bound."""
        unused = [label for number, label in enumerate(self.labels) if number not in used]
        if unused:
            raise ValueError(
                f"{', '.join(unused)} of this graph lead to no output: give what they return to another node or "
                "to the MultiOutputNode, or leave them out"
            )


class DAGNode:
    """Base of all nodes."""

    _label: str
    _family: _Family | None = None
    _number = -1
    _transport = TensorTransport()

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the graph up to here by ordinary calls, and returns a ref (a list of them for a MultiOutputNode).

        For debugging: nothing is compiled. Errors and refs are those of ordinary calls. TypeError for a missing input.
        """
        values: dict[int, Any] = {}
        for node in _with_upstream(self):
            values[id(node)] = node._evaluate(values, args, kwargs)
        return values[id(self)]

    def experimental_compile(self, **options: Any) -> CompiledGraph:
        """Wires the graph that ends here once, so that executions need no calls. Options: see GraphOptions.

        Waits until every actor has taken its part. Raises ValueError for a graph that cannot be compiled (unused or
        unfed nodes, a GPU transport from or to the driver), ActorDiedError; ChannelTimeoutError where the process of
        an actor is stopped; TypeError and ValueError for options. After an error no actor is in the graph.
        """
        checked = GraphOptions(**options)
        graph, methods = _described(self)
        return CompiledGraph(plan.checked(graph), methods, checked)

    compile = experimental_compile

    def with_tensor_transport(
        self,
        transport: Any = "auto",
        device: str = "default",
        static_shape: bool = False,
        direct_return: bool = False,
        *,
        _static_shape: bool = False,
        _direct_return: bool = False,
    ) -> DAGNode:
        """Says how tensors in this node's value travel: "auto", "shm", "gloo", "nccl", or by communicators of
        one's own, which a function makes (of a Setup, as the backend of a collective group).

        `static_shape`: shape and dtype are the same each time; `direct_return`: the value is one tensor. `device`
        other than "default" is for GPUs only and refused. Returns the node. ValueError: no such transport.
        """
        if device != "default":
            raise ValueError(
                f"device={device!r}: tensors arrive on the device of the actor's process; use 'default'"
            )
        made = transport_of(transport)
        self._transport = dataclasses.replace(
            made, static_shape=static_shape or _static_shape, direct_return=direct_return or _direct_return
        )
        return self

    # -- within this package

    def _upstream(self) -> Iterator[DAGNode]:
        """The nodes whose values this one takes."""
        return iter(())

    def _evaluate(self, values: dict[int, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Its value in an execution that is not compiled; `values`: of the nodes before it, by their id()."""
        raise NotImplementedError

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} is a node of a graph, and no value: pass nodes to bind as arguments of their own, not "
            "inside of other objects"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._label})"


def transport_of(transport: Any) -> TensorTransport:
    """A transport by its name, or by communicators of one's own. ValueError: there is none such."""
    if callable(transport):
        return TensorTransport(plan.OWN, communicator=transport)
    if transport not in plan.TRANSPORTS:
        raise ValueError(
            f"transport={transport!r} must be one of {', '.join(plan.TRANSPORTS)}, or a function that makes a "
            "Communicator"
        )
    return TensorTransport(transport)


class InputNode(DAGNode):
    """What the driver gives with each execution: whole, or `inp[0]` by number, `inp.name`, `inp["name"]` by name."""

    _label = "input"

    def __init__(self) -> None:
        self._family = _Family()
        self._number = self._family.add(self._label, ())

    def __enter__(self) -> InputNode:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __getitem__(self, key: Any) -> InputAttributeNode:
        if not isinstance(key, int | str) or isinstance(key, bool) or (isinstance(key, int) and key < 0):
            raise TypeError(
                f"the input of a graph has arguments by number from 0 and by name, and no {key!r}"
            )
        return InputAttributeNode(self, key)

    def __getattr__(self, name: str) -> InputAttributeNode:
        if name.startswith("_"):
            raise AttributeError(f"InputNode has no attribute {name!r}")
        return InputAttributeNode(self, name)

    def _evaluate(self, values: dict[int, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return input_part(None, args, kwargs)


class InputAttributeNode(DAGNode):
    """One argument of an execution. Made by `inp[0]`, `inp.name`."""

    def __init__(self, whole: InputNode, key: int | str) -> None:
        self._whole = whole
        self._key = key
        self._family = whole._family
        self._number = whole._number
        self._label = f"input[{key!r}]"

    def with_tensor_transport(self, *args: Any, **kwargs: Any) -> DAGNode:
        """As of the whole input."""
        self._whole.with_tensor_transport(*args, **kwargs)
        return self

    def _evaluate(self, values: dict[int, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return input_part(self._key, args, kwargs)


class ActorNode(DAGNode):
    """Base of the nodes whose values actors make. `method`: some method of the actor."""

    _method: ActorMethod

    @property
    def _key(self) -> object:
        """What its operation is found by while a graph is described."""
        return id(self)

    def _list_in(self, listing: Listing) -> None:
        """Adds its operations to a graph that is being described; those that it depends on are there."""
        raise NotImplementedError


def family_of(label: str, upstream: Sequence[DAGNode]) -> tuple[_Family | None, int]:
    """Notes a node that takes the values of others: its family, and its number there. ValueError: there are two."""
    families = {id(node._family): node._family for node in upstream if node._family is not None}
    if len(families) > 1:
        raise ValueError(f"{label} takes values of two InputNodes: a graph has one, with several arguments")
    for family in families.values():
        return family, family.add(label, tuple(node._number for node in upstream if node._family is family))
    return None, -1


class ClassMethodNode(ActorNode):
    """A method of an actor with its arguments. Made by `actor.method.bind(...)`."""

    def __init__(self, method: ActorMethod, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._method = method
        self._label = method.label
        for value in (*args, *kwargs.values()):
            if not isinstance(value, DAGNode):
                _refuse_hidden_node(value, self._label, _LOOK_DEPTH)
        self._args = args
        self._kwargs = kwargs
        self._family, self._number = family_of(self._label, list(self._upstream()))

    def _upstream(self) -> Iterator[DAGNode]:
        for value in (*self._args, *self._kwargs.values()):
            if isinstance(value, DAGNode):
                yield value

    def _evaluate(
        self, values: dict[int, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ObjectRef[Any]:
        def value_of(item: Any) -> Any:
            return values[id(item)] if isinstance(item, DAGNode) else item

        ref: ObjectRef[Any] = self._method.remote(
            *map(value_of, self._args), **{name: value_of(item) for name, item in self._kwargs.items()}
        )
        return ref

    def _list_in(self, listing: Listing) -> None:
        if self._method.returns != 1:
            raise ValueError(
                f"{self._label} does not return one value: generators and num_returns are for ordinary calls"
            )
        operation = plan.Operation(
            listing.actor_of(self._method),
            self._label,
            self._method.name,
            tuple(listing.source(value, self._label) for value in self._args),
            tuple((name, listing.source(value, self._label)) for name, value in self._kwargs.items()),
            self._transport,
        )
        listing.add(self._key, operation)


class MultiOutputNode(DAGNode):
    """The end of a graph that gives several values: each execution gives a list of refs, one for each of the nodes."""

    _label = "outputs"

    def __init__(self, args: Any) -> None:
        if not isinstance(args, list | tuple) or not args:
            raise ValueError("MultiOutputNode takes a list of nodes, at least one")
        for node in args:
            if not isinstance(node, ActorNode):
                raise ValueError(f"an output must be a bound method of an actor, not {node!r}")
        self._nodes = tuple(args)

    def _upstream(self) -> Iterator[DAGNode]:
        return iter(self._nodes)

    def _evaluate(self, values: dict[int, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        return [values[id(node)] for node in self._nodes]


def _refuse_hidden_node(value: Any, label: str, depth: int) -> None:
    """ValueError where there is a node inside of a list, tuple, set, dict or dataclass."""
    if isinstance(value, DAGNode):
        raise ValueError(
            f"{label} was bound to {value!r} inside of another object: pass nodes as arguments of their own"
        )
    if not depth:
        return
    items: Iterator[Any] = iter(())
    if isinstance(value, dict):
        items = iter([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple | set | frozenset):
        items = iter(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = iter([getattr(value, field.name, None) for field in dataclasses.fields(value)])
    for item in items:
        _refuse_hidden_node(item, label, depth - 1)


def _with_upstream(end: DAGNode) -> list[DAGNode]:
    """All nodes that `end` depends on and itself, each after those whose values it takes, in the order of binding."""
    found: dict[int, DAGNode] = {}
    waiting: list[tuple[DAGNode, Iterator[DAGNode]]] = [(end, end._upstream())]
    while waiting:
        node, upstream = waiting[-1]
        following = next(upstream, None)
        if following is None:
            waiting.pop()
            found.setdefault(id(node), node)
        elif id(following) not in found:
            waiting.append((following, following._upstream()))
    return list(found.values())


class Listing:
    """A graph that is being described: its operations so far, and some method of each of its actors."""

    def __init__(self) -> None:
        self.operations: list[plan.Operation] = []
        self.methods: list[ActorMethod] = []
        self._actors: dict[Any, int] = {}  # by their mailboxes
        self._numbers: dict[object, int] = {}  # of operations, by the keys of their nodes

    def add(self, key: object, operation: plan.Operation) -> int:
        """Adds an operation; returns its number."""
        self._numbers[key] = len(self.operations)
        self.operations.append(operation)
        return self._numbers[key]

    def has(self, key: object) -> bool:
        """Whether the operation of that key is there."""
        return key in self._numbers

    def number(self, node: ActorNode) -> int:
        """The number of the operation that makes a node's value."""
        return self._numbers[node._key]

    def actor_of(self, method: ActorMethod) -> int:
        """The number of a method's actor."""
        if method.mailbox not in self._actors:
            self._actors[method.mailbox] = len(self.methods)
            self.methods.append(method)
        return self._actors[method.mailbox]

    def source(self, value: Any, label: str) -> plan.Source:
        """Where the argument of `label` comes from."""
        if isinstance(value, ActorNode):
            return plan.Result(self.number(value))
        if isinstance(value, InputAttributeNode):
            return plan.Input(value._key)
        if isinstance(value, InputNode):
            return plan.Input()
        if isinstance(value, DAGNode):
            raise ValueError(f"{value!r} is the end of a graph: {label} cannot take its value")
        return plan.Constant(value)


def _described(end: DAGNode) -> tuple[plan.Graph, list[ActorMethod]]:
    """The graph that ends here as data, and for each of its actors some method of it."""
    if not isinstance(end, ActorNode | MultiOutputNode):
        raise ValueError(
            f"a graph ends with a bound method of an actor or a MultiOutputNode, not with {end!r}"
        )
    nodes = _with_upstream(end)
    bound = [node for node in nodes if isinstance(node, ActorNode)]
    listing = Listing()
    for node in bound:
        node._list_in(listing)
    outputs: tuple[ActorNode, ...] = end._nodes if isinstance(end, MultiOutputNode) else (end,)
    whole = next((node for node in nodes if isinstance(node, InputNode)), None)
    parts = (part._whole for part in nodes if isinstance(part, InputAttributeNode))
    whole = whole or next(parts, None)
    graph = plan.Graph(
        tuple(listing.operations),
        tuple(map(listing.number, outputs)),
        isinstance(end, MultiOutputNode),
        whole._transport if whole is not None else TensorTransport(),
    )
    if whole is not None and whole._family is not None:
        whole._family.check_used({whole._number} | {node._number for node in bound})
    return graph, listing.methods


handles.bind_with(ClassMethodNode)
