"""The error tree: data, texts, pickling; and users' exceptions that keep their own type."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import errno
import inspect
import pickle
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from actorflow import errors
from actorflow.errors import Death, DeathKind, TaskError

DEATH = Death(DeathKind.SIGNALLED, pid=42, node_id="ab12", signal=11)
SAMPLES: dict[str, Any] = {
    "str": "some text",
    "int": 7,
    "float": 2.5,
    "Death": DEATH,
    "BaseException | None": ValueError("cause"),
}
# TaskError is made by wrap; the bases are never raised.
MADE_BY_KEYWORD = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.ActorflowError)
    and kind not in (TaskError, errors.ActorflowError, errors.ActorError)
]


def sample(kind: type[Any]) -> Any:
    """An instance with every field filled."""
    types = {
        name: text for base in reversed(kind.__mro__) for name, text in inspect.get_annotations(base).items()
    }
    return kind(**{name: SAMPLES[types[name]] for name in kind._names})


@pytest.mark.parametrize("kind", MADE_BY_KEYWORD)
def test_every_error_shows_its_data_says_what_to_do_and_pickles(kind: type[Any]) -> None:
    error = sample(kind)
    text = str(error)
    assert any(mark in text for mark in ("; ", ": ", ", or"))
    for name in kind._names:
        value = getattr(error, name)
        assert str(value) in text or f"{value:g}" in text, name
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert str(again) == text
        assert {**vars(again), "cause": None} == {**vars(error), "cause": None}


def test_the_tree_is_what_users_catch() -> None:
    assert issubclass(errors.GetTimeoutError, TimeoutError)
    assert issubclass(errors.ChannelTimeoutError, (errors.ChannelError, TimeoutError))
    assert issubclass(errors.ActorAlreadyExistsError, ValueError)
    for actor_error in (errors.ActorDiedError, errors.ActorUnavailableError, errors.ActorUnschedulableError):
        assert issubclass(actor_error, errors.ActorError)
    for lost in (errors.ObjectFreedError, errors.OwnerDiedError, errors.ReconstructionFailedError):
        assert issubclass(lost, errors.ObjectLostError)


def test_missing_and_unknown_data_is_refused() -> None:
    with pytest.raises(TypeError, match=r"NodeDiedError: unknown \['nodeid'\], missing \['node_id'\]"):
        errors.NodeDiedError(nodeid="x", reason="y")  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", DeathKind)
def test_every_death_says_how_and_what_next(kind: DeathKind) -> None:
    death = Death(kind, pid=9, node_id="n1", exit_code=3, detail="by the driver")
    text = str(errors.ActorDiedError(actor_name="Counter", actor_id="a1", death=death))
    assert (
        f"actor Counter (a1) is dead: {kind.value[0]} with exit code 3: by the driver (pid 9, node n1)"
        in text
    )
    assert text.endswith(death.advice)


def test_a_signal_is_named() -> None:
    assert str(DEATH) == "its process was killed by signal 11 (SIGSEGV) (pid 42, node ab12)"
    assert "signal 250 (unknown)" in str(Death(DeathKind.SIGNALLED, signal=250))


def test_an_error_of_a_dead_constructor_shows_its_cause() -> None:
    cause = wrap(ValueError("no config"))
    error = errors.ActorDiedError(
        actor_name="C", actor_id="1", death=Death(DeathKind.INIT_RAISED), cause=cause
    )
    assert str(error).endswith(str(cause))
    assert isinstance(pickle.loads(pickle.dumps(error)).cause, ValueError)


# -- users' exceptions ------------------------------------------------------------------------------


def wrap(cause: BaseException) -> TaskError:
    return TaskError.wrap(cause, "Traceback text", "work", "ab12", 42, 2)


class Picky(Exception):
    """Its constructor cannot be called with its args."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"{code} at {where}")
        self.code, self.where = code, where


class Slotted(Exception):
    __slots__ = ("place",)

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place


class MakesItself(ValueError):
    def __new__(cls, left: int, right: int) -> MakesItself:
        return super().__new__(cls, left + right)

    def __init__(self, left: int, right: int) -> None:
        self.total = left + right


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    reason: str


class Speaking(Exception):
    message = "class level"

    def __str__(self) -> str:
        return f"speaking: {self.args[0]}"

    @property
    def doubled(self) -> Any:
        return self.args[0] * 2


class Meta(type):
    pass


class WithMeta(Exception, metaclass=Meta):
    pass


class Registering(Exception):
    """A base that asks something of its subclasses."""

    code: int

    def __init_subclass__(cls, *, code: int) -> None:
        cls.code = code


class Registered(Registering, code=3):
    pass


class Clashing(Exception):
    """Has an attribute of one of TaskError's names that cannot be set."""

    @property
    def pid(self) -> int:
        return -1


def os_error() -> BaseException:
    return FileNotFoundError(errno.ENOENT, "No such file", "data.csv")


def unicode_error() -> BaseException:
    with pytest.raises(UnicodeDecodeError) as caught:
        b"\xff".decode()
    return caught.value


CAUSES: list[Callable[[], BaseException]] = [
    lambda: ValueError("bad", 3),
    lambda: ValueError(),
    lambda: KeyError("k"),
    os_error,
    unicode_error,
    lambda: ImportError("no", name="mod", path="p"),
    lambda: SyntaxError("bad", ("f.py", 3, 4, "x y")),
    lambda: SystemExit(3),
    lambda: KeyboardInterrupt(),
    lambda: ExceptionGroup("many", [ValueError(1), KeyError(2)]),
    lambda: BaseExceptionGroup("many", [ValueError(1)]),
    lambda: Picky(4, where="there"),
    lambda: Slotted("here"),
    lambda: MakesItself(1, 2),
    lambda: Frozen("ice"),
    lambda: Speaking("x"),
    lambda: WithMeta("m"),
    lambda: Registered("r"),
    lambda: subprocess.CalledProcessError(2, "cmd", b"out"),
]


@pytest.mark.parametrize("make", CAUSES, ids=lambda make: type(make()).__name__)
def test_a_users_exception_keeps_its_type_args_and_attributes(make: Callable[[], BaseException]) -> None:
    cause = make()
    error = wrap(cause)
    assert isinstance(error, TaskError)
    assert isinstance(error, type(cause))
    assert error.cause is cause
    assert error.args == cause.args
    for name in dir(cause):
        value = getattr(cause, name, None)
        if not name.startswith("__") and not callable(value) and name not in ("cause", "pid"):
            assert getattr(error, name, None) == value, name
    assert (error.task_name, error.node_id, error.pid, error.attempt) == ("work", "ab12", 42, 2)
    assert type(wrap(make())) is type(error)  # made once
    with pytest.raises(type(cause)):
        raise error


@pytest.mark.parametrize("make", CAUSES[:3] + CAUSES[12:13], ids=lambda make: type(make()).__name__)
def test_it_pickles_where_its_cause_does(make: Callable[[], BaseException]) -> None:
    error = wrap(make())
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.args == error.args


def test_the_text_says_who_what_where_and_shows_the_remote_traceback() -> None:
    text = str(wrap(ValueError("bad\nmore")))
    assert text == "'work' raised ValueError: bad (node ab12, pid 42, attempt 2)\n\nTraceback text"
    assert str(wrap(ValueError())).startswith("'work' raised ValueError (node")
    assert (
        "tests" in wrap(Picky(1, where="x")).cause_type
        or "test_errors" in wrap(Picky(1, where="x")).cause_type
    )


@pytest.mark.parametrize(
    "cause",
    [
        StopIteration(1),
        StopAsyncIteration(),
        GeneratorExit(),
        asyncio.CancelledError(),
        Clashing(),
        BaseExceptionGroup("with an interrupt", [KeyboardInterrupt()]),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_what_cannot_or_must_not_be_of_its_type_is_a_plain_task_error(cause: BaseException) -> None:
    error = wrap(cause)
    assert type(error) is TaskError
    assert error.cause is cause
    assert error.pid == 42
    assert type(cause).__name__ in str(error)


def test_groups_can_be_split_with_except_star() -> None:
    seen: list[Any] = []
    try:
        raise wrap(ExceptionGroup("two", [ValueError("a"), KeyError("b")]))
    except* ValueError as group:
        seen += group.exceptions
    except* KeyError as group:
        seen += group.exceptions
    assert [type(member) for member in seen] == [ValueError, KeyError]


def test_a_cause_that_cannot_speak_still_arrives() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

        __repr__ = __str__

    error = wrap(Mute())
    assert isinstance(error, Mute)
    assert "Mute has no text" in str(error)


def test_a_failed_nested_task_keeps_type_and_chain() -> None:
    inner = wrap(KeyError("deep"))
    outer = TaskError.wrap(inner, "outer trace", "outer", "cd34", 43, 1)
    assert type(outer) is type(inner)
    assert outer.cause is inner
    assert isinstance(outer, KeyError)
    assert (outer.task_name, inner.task_name) == ("outer", "work")
