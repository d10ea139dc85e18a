"""Options of tasks, actors, methods and af.init: checked, immutable records.

An option is a row: a field with its default, its check and its meaning. Records are made from the
keywords that users write, `merged` with those of `.options(...)`, and hold normal forms only:
mappings are sorted tuples of pairs, so that records can be hashed and sent. None means the default.

Unknown names and wrong types raise TypeError, impossible values ValueError; both name the option
and what is allowed.
"""
# ruff: noqa: RUF009 - a row is a field, its default is never shared

from __future__ import annotations

import dataclasses
import json
import logging
import math
import numbers
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, TypeVar

from actorflow.advice import unknown_option

POOL_MARK = "@group "  # behind it the name of a resource says of which placement group it is
TENSOR_TRANSPORTS = ("auto", "gloo", "nccl", "shm")
PLACEMENT_STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
ANY_BUNDLE = -1  # of a placement group
ONE = 10_000  # ten-thousandths in one: amounts of resources are counted in these

_LARGEST_AMOUNT = 10**12
_LARGEST_BYTES = 2**49  # in ten-thousandths it is just below 2**63
_LARGEST_COUNT = 2**31 - 1
_LARGEST_RETURNS = 10_000  # each is a cell of its own
_SMALLEST_STORE_BYTES = 1 << 20

_STREAMS = ("streaming", "dynamic")
_STRATEGIES = ("DEFAULT", "SPREAD")
_BY_OPTION = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
_ACCELERATOR_UNITS = 10  # of "accelerator_type:NAME": 1,000 at once on a node that has one
_SELECTOR = re.compile(r"!?(in\([^()!]+\)|[^()!]+)")
_ADDRESS = re.compile(r"local|auto|actorflow/\d+/[0-9a-f]+")

T = TypeVar("T")
Self = TypeVar("Self", bound="Options")
Pairs = tuple[tuple[str, T], ...]  # a mapping, sorted by name
Shape = Pairs[int]  # resources in ten-thousandths; a key for a dict
Returns = int | Literal["streaming", "dynamic"]


_RETURNS_DOC = (
    "refs that a call gives, 'streaming' or 'dynamic'; by default 1, of generator functions 'streaming'"
)
_BACKPRESSURE_DOC = "items of a stream that may be unread before its generator waits; -1: no limit"
# What Ray calls them.
_RAY_NAMES = {"_generator_backpressure_num_objects": "generator_backpressure_num_objects"}


class SchedulingStrategy:
    """Base of the objects that say where tasks and actors run."""

    def where(self) -> tuple[tuple[str, Any], ...]:
        """The requirement as it is told to the node; see core/where.py."""
        return ()


# -- checks: each takes what the user gave and returns its normal form; an error's text follows the name


def _wrong_type(allowed: str, value: Any) -> TypeError:
    return TypeError(f"must be {allowed}, not {value!r} ({type(value).__name__})")


def _number(value: Any, allowed: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise _wrong_type(allowed, value)
    return value


def _whole(value: Any, low: int, high: int, allowed: str) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise _wrong_type(allowed, value)
    if not low <= int(value) <= high:
        raise ValueError(f"must be {allowed}, not {value}")
    return int(value)


def quantity(value: Any) -> float:
    """An amount of a resource: from 0 in steps of 0.0001."""
    allowed = "a number from 0 in steps of 0.0001"
    if not 0 <= _number(value, allowed) <= _LARGEST_AMOUNT:  # NaN too is outside
        raise ValueError(f"must be {allowed}, at most {_LARGEST_AMOUNT:,}, not {value}")
    units: int = round(value * ONE)
    if not math.isclose(units, value * ONE, rel_tol=1e-12, abs_tol=1e-6):
        raise ValueError(f"must be {allowed}, not {value}")
    return units // ONE if units % ONE == 0 else units / ONE


def _whole_above_one(value: Any) -> float:
    """An amount of devices: a fraction of one, or whole ones."""
    amount = quantity(value)
    if amount > 1 and amount % 1:
        raise ValueError(f"must be whole above 1, since a fraction shares one device, not {value}")
    return amount


def _size_bytes(value: Any) -> int:
    """A size in bytes; whole floats like 1e9 are taken as well."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _whole(value, 0, _LARGEST_BYTES, f"a whole number of bytes from 0 to {_LARGEST_BYTES:,}")


def _store_bytes(value: Any) -> int:
    """A size in bytes for the object store."""
    size = _size_bytes(value)
    if size < _SMALLEST_STORE_BYTES:
        raise ValueError(f"must be at least {_SMALLEST_STORE_BYTES:,} bytes, not {size:,}")
    return size


def _count(value: Any) -> int:
    """A whole number from 0."""
    return _whole(value, 0, _LARGEST_COUNT, "a whole number from 0")


def _positive(value: Any) -> int:
    """A whole number from 1."""
    return _whole(value, 1, _LARGEST_COUNT, "a whole number from 1")


def _count_or_endless(value: Any) -> int:
    """A whole number from 0, or -1 for no limit."""
    return _whole(value, -1, _LARGEST_COUNT, "a whole number from 0, or -1 for no limit")


def _positive_or_endless(value: Any) -> int:
    """A whole number from 1, or -1 for no limit."""
    allowed = "a whole number from 1, or -1 for no limit"
    if _whole(value, -1, _LARGEST_COUNT, allowed) == 0:
        raise ValueError(f"must be {allowed}, not 0")
    return int(value)


def _seconds(value: Any) -> float:
    """A time above 0."""
    allowed = "a number of seconds above 0"
    if not 0 < _number(value, allowed) < math.inf:
        raise ValueError(f"must be {allowed}, not {value}")
    return float(value)


def _num_returns(value: Any) -> Any:
    """How many refs a call gives, or how its items come."""
    allowed = f"a whole number from 0 to {_LARGEST_RETURNS:,}, {' or '.join(map(repr, _STREAMS))}"
    if not isinstance(value, str):
        return _whole(value, 0, _LARGEST_RETURNS, allowed)
    if value not in _STREAMS:
        raise ValueError(f"must be {allowed}, not {value!r}")
    return value


def _switch(value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise _wrong_type("True or False", value)
    return value


def _word(value: Any) -> str:
    """A text that is not empty."""
    if not isinstance(value, str):
        raise _wrong_type("a text", value)
    if not value:
        raise ValueError("must be a text that is not empty")
    return value


def _lifetime(value: Any) -> str | None:
    """'detached', or 'non_detached', which is the default."""
    if not isinstance(value, str):
        raise _wrong_type("'detached' or 'non_detached'", value)
    if value not in ("detached", "non_detached"):
        raise ValueError(f"must be 'detached' or 'non_detached', not {value!r}")
    return value if value == "detached" else None


def _exceptions(value: Any) -> Any:
    """True, False, or the types of exceptions."""
    if isinstance(value, bool):
        return value
    allowed = "True, False, or a list of exception types"
    if not isinstance(value, list | tuple):
        raise _wrong_type(allowed, value)
    for kind in value:
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            raise _wrong_type(allowed, kind)
    return tuple(value)


def _transport(value: Any) -> str:
    """How the tensors of a result travel."""
    allowed = " or ".join(map(repr, TENSOR_TRANSPORTS))
    if not isinstance(value, str):
        raise _wrong_type(allowed, value)
    if value.lower() not in TENSOR_TRANSPORTS:
        raise ValueError(f"must be {allowed}, not {value!r}")
    return value.lower()


def _strategy(value: Any) -> Any:
    """The name of a strategy, or an object that is one."""
    allowed = f"{' or '.join(map(repr, _STRATEGIES))}, or an object of af.util.scheduling_strategies"
    if isinstance(value, SchedulingStrategy):
        return value
    if not isinstance(value, str):
        raise _wrong_type(allowed, value)
    if value not in _STRATEGIES:
        raise ValueError(f"must be {allowed}, not {value!r}")
    return value


def _pairs(value: Any, what: str, checked: Callable[[Any], T]) -> Pairs[T]:
    if not isinstance(value, Mapping):
        raise _wrong_type(f"a dict of {what} by name", value)
    pairs = []
    for name, member in value.items():
        if not isinstance(name, str) or not name:
            raise _wrong_type(f"a dict of {what} by name", name)
        try:
            pairs.append((name, checked(member)))
        except (TypeError, ValueError) as problem:
            raise type(problem)(f"[{name!r}] {problem}") from None
    return tuple(sorted(pairs))


def _custom_resources(value: Any) -> Pairs[float]:
    """Amounts of resources that have no option of their own."""
    pairs = _pairs(value, "amounts", quantity)
    for name, _ in pairs:
        if POOL_MARK in name:
            raise ValueError(
                f"must not have {name!r}: names with {POOL_MARK!r} are those of placement groups"
            )
        if name in _BY_OPTION:
            raise ValueError(f"must not have {name!r}: use the option {_BY_OPTION[name]}")
    return pairs


def _labels(value: Any) -> Pairs[str]:
    """Labels by name."""
    return _pairs(value, "texts", _word)


def _selector(value: Any) -> Pairs[str]:
    """Texts by name of a label: "value", "!value", "in(value, other)" or "!in(value, other)"."""
    return _pairs(value, "texts", _label_text)


def _label_text(value: Any) -> str:
    if not _SELECTOR.fullmatch(_word(value)):
        raise ValueError(f"must be 'value', '!value', 'in(a, b)' or '!in(a, b)', not {value!r}")
    return str(value)


def _groups(value: Any) -> Pairs[int]:
    """Limits of concurrency groups by name."""
    return _pairs(value, "limits", _positive)


def _runtime_env(value: Any) -> str:
    """A dict as JSON, the same text for equal dicts; "" for none."""
    if not isinstance(value, Mapping):
        raise _wrong_type("a dict", value)
    try:
        return json.dumps(dict(value), sort_keys=True, allow_nan=False, default=os.fspath) if value else ""
    except (TypeError, ValueError) as problem:
        raise TypeError(f"must be a dict of plain values, as in JSON: {problem}") from None


LOCAL = "local"  # the address of a private node, whatever the environment says


def _address(value: Any) -> str:
    """'local', 'auto', or the name of a node."""
    allowed = "'local', 'auto', or what 'actorflow start' printed"
    if not isinstance(value, str):
        raise _wrong_type(allowed, value)
    if ":" in value:
        raise NotImplementedError(
            f"{value!r}: nodes of other machines cannot be reached yet; it must be {allowed}"
        )
    if not _ADDRESS.fullmatch(value):
        raise ValueError(f"must be {allowed}, not {value!r}")
    return value


def _logging_level(value: Any) -> int:
    """A level as number or as name ("INFO")."""
    if not isinstance(value, str):
        return _whole(value, 0, 100, "a number from 0 to 100 or the name of a level")
    level = logging.getLevelNamesMapping().get(value.upper())
    if level is None:
        names = ", ".join(logging.getLevelNamesMapping())
        raise ValueError(f"must be a number from 0 to 100 or one of {names}, not {value!r}")
    return level


# -- records


def _row(default: T, checked: Callable[[Any], Any], doc: str) -> T:
    """One option: its default, the check that normalises what is given, and what it means."""
    return dataclasses.field(default=default, metadata={"check": checked, "doc": doc})


class Options:
    """Base of the records. `_noun` is how an error calls their options."""

    _noun: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def __init__(self, **given: Any) -> None:
        vars(self).update({name: row.default for name, row in self.__dataclass_fields__.items()})
        self._take(given)

    @classmethod
    def has(cls, given_name: str) -> bool:
        """Whether there is an option of that name."""
        return _RAY_NAMES.get(given_name, given_name) in cls.__dataclass_fields__

    def merged(self: Self, **given: Any) -> Self:
        """A record with these options instead; None brings back a default."""
        record = object.__new__(type(self))
        vars(record).update(vars(self))
        record._take(given)
        return record

    def _take(self, given: dict[str, Any]) -> None:
        rows = self.__dataclass_fields__
        for given_name, value in given.items():
            name = _RAY_NAMES.get(given_name, given_name)
            if name not in rows:
                raise self._unknown(name)
            vars(self)[name] = rows[name].default if value is None else self._checked(rows[name], value)
        self._check_together()

    def _checked(self, row: dataclasses.Field[Any], value: Any) -> Any:
        try:
            return row.metadata["check"](value)
        except (TypeError, ValueError, NotImplementedError) as problem:
            raise type(problem)(f"{self._noun} {row.name} {problem}") from None

    def _check_together(self) -> None:
        """Raises ValueError where options that are fine by themselves contradict each other."""

    def _unknown(self, name: str) -> TypeError:
        return unknown_option(self._noun, name, self.__dataclass_fields__)


@dataclasses.dataclass(frozen=True, init=False)
class _Placed(Options):
    """What tasks and actors have in common: what they need and where they run."""

    num_cpus: float | None = _row(None, quantity, "CPUs")
    num_gpus: float = _row(0, _whole_above_one, "GPUs; a fraction shares one")
    memory: int = _row(0, _size_bytes, "bytes of memory to set aside; 0: none")
    resources: Pairs[float] = _row((), _custom_resources, "amounts of further resources, by name")
    accelerator_type: str | None = _row(None, _word, "the kind of accelerator that the node must have")
    scheduling_strategy: str | SchedulingStrategy = _row(
        "DEFAULT", _strategy, "where to run: 'DEFAULT', 'SPREAD' or a strategy object"
    )
    label_selector: Pairs[str] = _row(
        (), _selector, "labels that the node must have, by name: 'value', '!value', 'in(a, b)' or '!in(a, b)'"
    )
    runtime_env: str = _row("", _runtime_env, "the environment to run in: a dict, kept as JSON")

    def _units(self, cpus: float) -> Shape:
        amounts = {"CPU": cpus, "GPU": self.num_gpus, "memory": self.memory, **dict(self.resources)}
        units = {name: round(amount * ONE) for name, amount in amounts.items() if amount}
        if self.accelerator_type is not None:
            units[f"accelerator_type:{self.accelerator_type}"] = _ACCELERATOR_UNITS
        return tuple(sorted(units.items()))


@dataclasses.dataclass(frozen=True, init=False)
class TaskOptions(_Placed):
    """Options of a task. num_cpus is 1 unless given."""

    _noun = "task option"

    num_returns: Returns | None = _row(None, _num_returns, _RETURNS_DOC)
    max_retries: int = _row(3, _count_or_endless, "further attempts after a crash; -1: no limit")
    retry_exceptions: bool | tuple[type[BaseException], ...] = _row(
        False, _exceptions, "retry on exceptions too: on all, or on those of these types"
    )
    max_calls: int = _row(0, _count, "calls after which the worker is replaced; 0: no limit")
    name: str | None = _row(None, _word, "the name to show; by default the function's")
    timeout_s: float | None = _row(None, _seconds, "seconds that one attempt may run")
    generator_backpressure_num_objects: int = _row(-1, _positive_or_endless, _BACKPRESSURE_DOC)

    def shape(self) -> Shape:
        """What one call takes while it runs."""
        return self._units(1 if self.num_cpus is None else self.num_cpus)


@dataclasses.dataclass(frozen=True, init=False)
class ActorOptions(_Placed):
    """Options of an actor. Unless num_cpus is given, it needs 1 to be placed and takes none."""

    _noun = "actor option"

    max_restarts: int = _row(0, _count_or_endless, "restarts after a crash; -1: no limit")
    max_task_retries: int = _row(
        0, _count_or_endless, "attempts more for a call that was cut off; -1: no limit"
    )
    max_concurrency: int | None = _row(
        None, _positive, "calls at once; by default 1, or 1000 if any method is async"
    )
    max_pending_calls: int = _row(
        -1, _positive_or_endless, "calls of one process that may have no result yet; -1: no limit"
    )
    name: str | None = _row(None, _word, "the name for af.get_actor")
    namespace: str | None = _row(None, _word, "the namespace of the name; by default the job's")
    lifetime: Literal["detached"] | None = _row(None, _lifetime, "'detached': outlives its handles and job")
    get_if_exists: bool = _row(False, _switch, "an actor of that name is taken instead of made")
    concurrency_groups: Pairs[int] = _row((), _groups, "calls at once of each group of methods, by name")

    def _check_together(self) -> None:
        if self.get_if_exists and self.name is None:
            raise ValueError("actor option get_if_exists needs the option name: whose actor is to be taken?")

    def shape(self) -> Shape:
        """What the actor takes while it lives."""
        return self._units(self.num_cpus or 0)

    def placing_shape(self) -> Shape:
        """What a node must have free for the actor to be placed there."""
        return self._units(1 if self.num_cpus is None else self.num_cpus)


@dataclasses.dataclass(frozen=True, init=False)
class MethodOptions(Options):
    """Options of an actor's method."""

    _noun = "method option"

    num_returns: Returns | None = _row(None, _num_returns, _RETURNS_DOC)
    generator_backpressure_num_objects: int = _row(-1, _positive_or_endless, _BACKPRESSURE_DOC)
    concurrency_group: str | None = _row(None, _word, "the group whose limit counts")
    max_task_retries: int | None = _row(
        None, _count_or_endless, "attempts more for a call that was cut off; by default the actor's"
    )
    retry_exceptions: bool | tuple[type[BaseException], ...] = _row(
        False, _exceptions, "retry on exceptions too: on all, or on those of these types"
    )
    tensor_transport: str | None = _row(None, _transport, "the result's tensors stay here, and travel thus")

    def _check_together(self) -> None:
        if self.tensor_transport is not None and self.num_returns not in (None, 1):
            raise ValueError(
                f"method option tensor_transport is for one result, not num_returns={self.num_returns!r}"
            )


@dataclasses.dataclass(frozen=True, init=False)
class InitOptions(Options):
    """Options of af.init. Amounts that are not given are what the machine has."""

    _noun = "af.init option"

    address: str | None = _row(None, _address, "'local': a private node; 'auto', or a node's name")
    num_cpus: float | None = _row(None, quantity, "CPUs")
    num_gpus: float | None = _row(None, _whole_above_one, "GPUs")
    memory: int | None = _row(None, _size_bytes, "bytes for tasks and actors to set aside")
    resources: Pairs[float] = _row((), _custom_resources, "amounts of further resources, by name")
    labels: Pairs[str] = _row((), _labels, "labels of the node, by name")
    object_store_memory: int | None = _row(None, _store_bytes, "bytes for objects")
    namespace: str | None = _row(None, _word, "the namespace of the job's actors; by default one of its own")
    runtime_env: str = _row("", _runtime_env, "the environment of the job: a dict, kept as JSON")
    log_to_driver: bool = _row(True, _switch, "workers' output appears in the driver")
    logging_level: int = _row(20, _logging_level, "the least level logged: a number or a name")
    ignore_reinit_error: bool = _row(False, _switch, "a second af.init does nothing instead of raising")

    def _check_together(self) -> None:
        if self.address in (None, LOCAL):
            return
        for name in ("num_cpus", "num_gpus", "memory", "resources", "labels", "object_store_memory"):
            if getattr(self, name) not in (None, ()):
                raise ValueError(
                    f"af.init option {name} is for a node that is started here, but address={self.address!r} "
                    "is one that runs: leave one of them out"
                )
