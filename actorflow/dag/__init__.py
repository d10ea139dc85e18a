"""Compiled graphs: methods of actors, wired once and then run without calls. The names are Ray's."""

from actorflow.dag.collectives import (
    CollectiveOutputNode,
    allgather,
    allreduce,
    broadcast,
    reducescatter,
)
from actorflow.dag.compiled import CompiledGraph
from actorflow.dag.inputs import GraphInput
from actorflow.dag.nodes import ClassMethodNode, DAGNode, InputAttributeNode, InputNode, MultiOutputNode
from actorflow.dag.results import CompiledRef

__all__ = [
    "DAGNode",
    "InputNode",
    "InputAttributeNode",
    "ClassMethodNode",
    "MultiOutputNode",
    "CollectiveOutputNode",
    "allreduce",
    "allgather",
    "reducescatter",
    "broadcast",
    "GraphInput",
    "CompiledGraph",
    "CompiledRef",
]
