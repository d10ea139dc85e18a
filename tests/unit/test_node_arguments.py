"""The node's command line: what is understood, and what is refused by name."""

from __future__ import annotations

import pytest

from actorflow.node.arguments import UsageError, parse


def test_private_node() -> None:
    arguments = parse(["--driver-fd", "7", "--num-cpus", "2.5", "--preload", "numpy", "--preload", "json"])
    assert arguments.driver_fd == 7
    assert not arguments.listen
    assert arguments.num_cpus == 2.5
    assert arguments.num_gpus is None
    assert arguments.preload == ["numpy", "json"]


def test_shared_node() -> None:
    words = ["--listen", "--resources", '{"disk": 2, "licence": 0.5}', "--labels", '{"zone": "a"}']
    words += ["--object-store-memory", "1048576", "--memory", "2097152", "--num-gpus", "1"]
    arguments = parse(words)
    assert arguments.listen
    assert arguments.driver_fd is None
    assert arguments.resources == {"disk": 2.0, "licence": 0.5}
    assert arguments.labels == {"zone": "a"}
    assert arguments.object_store_bytes == 1 << 20
    assert arguments.memory_bytes == 2 << 20
    assert arguments.num_gpus == 1.0


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "--driver-fd or --listen"),
        (["--listen", "--driver-fd", "3"], "--driver-fd or --listen"),
        (["--listen", "--speed", "9"], "--speed"),
        (["--listen", "--num-cpus"], "--num-cpus needs a value"),
        (["--listen", "--num-cpus", "many"], "--num-cpus 'many'"),
        (["--listen", "--num-cpus", "-1"], "at least 0"),
        (["--listen", "--num-cpus", "nan"], "at least 0"),
        (["--listen", "--object-store-memory", "-1"], "at least 0"),
        (["--listen", "--resources", "[1]"], "JSON object"),
        (["--listen", "--resources", "{"], "--resources"),
        (["--listen", "--resources", '{"a": null}'], "--resources"),
    ],
)
def test_what_is_wrong_is_named(words: list[str], named: str) -> None:
    with pytest.raises(UsageError, match=named.replace("[", r"\[").replace("{", r"\{")):
        parse(words)
