"""What `python -m actorflow.node` is told on its command line.

    python -m actorflow.node (--driver-fd FD | --listen) [--num-cpus NUMBER] [--num-gpus NUMBER] [--memory BYTES]
        [--resources JSON] [--labels JSON] [--object-store-memory BYTES] [--preload MODULE]...

--driver-fd: a private node. FD is one end of a Unix stream socketpair; the driver that holds the other end has sent its
Hello and waits for Welcome or Refuse. The node ends with that driver, however that ends.
--listen: a shared node. It prints its address (one line) and serves every driver of its user until it is told to stop.
--resources, --labels: JSON objects {name: amount} and {name: text}. What is not given is what the machine has.
--preload: imported before workers are forked, so that none of them has to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence


class UsageError(ValueError):
    """The command line is not as this module's docstring has it."""


class Arguments:
    """A parsed command line. None: not given."""

    def __init__(self) -> None:
        self.driver_fd: int | None = None
        self.listen = False
        self.num_cpus: float | None = None
        self.num_gpus: float | None = None
        self.memory_bytes: int | None = None
        self.object_store_bytes: int | None = None
        self.resources: dict[str, float] = {}
        self.labels: dict[str, str] = {}
        self.preload: list[str] = []


def parse(words: Sequence[str]) -> Arguments:
    """The command line `words` (without program name). UsageError names the word that is wrong."""
    # By hand: argparse takes 10 ms to import, and a node has to be up in a tenth of a second.
    arguments = Arguments()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--listen":
            arguments.listen = True
            continue
        if word not in _OPTIONS:
            raise UsageError(f"unknown argument {word!r}; known are --listen, {', '.join(sorted(_OPTIONS))}")
        if not rest:
            raise UsageError(f"{word} needs a value")
        _set(arguments, word, rest.pop(0))
    if arguments.listen == (arguments.driver_fd is not None):
        raise UsageError("give either --driver-fd or --listen")
    return arguments


def _set(arguments: Arguments, word: str, text: str) -> None:
    name, read = _OPTIONS[word]
    try:
        value = read(text)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{word} {text!r}: {error}") from None
    if name == "preload":
        arguments.preload.append(str(value))
    else:
        setattr(arguments, name, value)


def _amount(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise ValueError("must be a number of at least 0")
    return number


def _size(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError("must be at least 0")
    return number


def _amounts(text: str) -> dict[str, float]:
    return {str(name): _amount(amount) for name, amount in _object(text).items()}


def _labels(text: str) -> dict[str, str]:
    return {str(name): str(value) for name, value in _object(text).items()}


def _object(text: str) -> dict[object, str]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object")
    return value


_OPTIONS: dict[str, tuple[str, Callable[[str], object]]] = {
    "--driver-fd": ("driver_fd", _size),
    "--num-cpus": ("num_cpus", _amount),
    "--num-gpus": ("num_gpus", _amount),
    "--memory": ("memory_bytes", _size),
    "--object-store-memory": ("object_store_bytes", _size),
    "--resources": ("resources", _amounts),
    "--labels": ("labels", _labels),
    "--preload": ("preload", str),
}
