"""Exceptions to bytes and back: own type, chain and traceback, or as much of it as can be had."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorflow import errors
from actorflow.errors import TaskError
from actorflow.wire import failures, pickling
from actorflow.wire.failures import decode_error, encode_error, remote_traceback

ROOT = Path(__file__).resolve().parents[2]


def encode(error: BaseException, name: str = "work") -> bytes:
    return encode_error(error, name=name, node_id="ab12", pid=42, attempt=2)


def there_and_back(error: BaseException, name: str = "work") -> BaseException:
    return decode_error(encode(error, name))


def raised(raise_it: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever it raises
        raise_it()
    return caught.value


class Picky(Exception):
    """Its constructor cannot be called with its args."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"{code} at {where}")
        self.code, self.where = code, where


def user_code() -> None:
    try:
        raise KeyError("missing")
    except KeyError as problem:
        raise ValueError("bad input") from problem


def test_a_users_exception_arrives_as_its_own_type_with_traceback_and_chain() -> None:
    error = there_and_back(raised(user_code))
    assert isinstance(error, TaskError)
    assert isinstance(error, ValueError)
    assert type(error.cause) is ValueError
    assert isinstance(error.cause.__cause__, KeyError)
    assert error.cause.__cause__.args == ("missing",)
    assert (error.cause_type, error.cause_text) == ("ValueError", "bad input")
    assert (error.task_name, error.node_id, error.pid, error.attempt) == ("work", "ab12", 42, 2)
    for line in ("in user_code", "KeyError: 'missing'", "direct cause", "ValueError: bad input"):
        assert line in str(error)


def test_the_context_of_an_error_is_carried_unless_suppressed() -> None:
    def in_handler() -> None:
        try:
            raise KeyError("first")
        except KeyError:
            raise OSError(2, "second")  # noqa: B904 - the context is what is tested

    def from_none() -> None:
        try:
            raise KeyError("first")
        except KeyError:
            raise OSError(2, "second") from None

    cause = there_and_back(raised(in_handler)).cause  # type: ignore[attr-defined]
    assert isinstance(cause.__context__, KeyError)
    assert cause.errno == 2
    cause = there_and_back(raised(from_none)).cause  # type: ignore[attr-defined]
    assert cause.__context__ is None
    assert cause.__suppress_context__


def test_a_long_chain_is_cut_but_stays_in_the_text() -> None:
    error: BaseException = ValueError("link 0")
    for number in range(1, 30):
        following = ValueError(f"link {number}")
        following.__cause__ = error
        error = following
    arrived = there_and_back(error)
    links = 0
    link: BaseException | None = arrived.cause  # type: ignore[attr-defined]
    while link is not None:
        links, link = links + 1, link.__cause__
    assert links == failures.CHAIN_LIMIT
    assert "link 0" in str(arrived)


def test_a_chain_in_a_circle_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert isinstance(there_and_back(first), ValueError)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Picky(4, where="there"),
        lambda: subprocess.CalledProcessError(2, ["cmd"], b"out", b"err"),
        lambda: json.JSONDecodeError("bad", "doc", 1),
        lambda: FileNotFoundError(2, "No such file", "data.csv"),
        lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad byte"),
        lambda: AttributeError("no", name="x", obj=threading.Lock()),
        lambda: SystemExit(3),
        lambda: KeyboardInterrupt(),
    ],
    ids=lambda make: type(make()).__name__,
)
def test_type_args_and_attributes_survive(make: Callable[[], BaseException]) -> None:
    before = make()
    arrived = there_and_back(before)
    assert isinstance(arrived, type(before))
    after = arrived.cause  # type: ignore[attr-defined]
    assert type(after) is type(before)
    assert after.args == before.args
    assert str(after) == str(before)
    assert vars(after) == vars(before)
    assert pickle.loads(pickle.dumps(arrived)).args == before.args


def test_arrays_in_an_exception_arrive() -> None:
    array = np.arange(2000.0).reshape(40, 50).T
    error = there_and_back(ValueError("bad data", array))
    assert np.array_equal(error.args[1], array)


def test_a_class_of_main_travels_along(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        "import sys\n"
        "from actorflow.wire.failures import encode_error\n"
        "class Mine(Exception):\n"
        "    def __init__(self, code, extra): self.code = code\n"
        "data = encode_error(Mine(7, None), name='f', node_id='n', pid=1, attempt=1)\n"
        "sys.stdout.buffer.write(data)\n"
    )
    run = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
    )
    error = decode_error(run.stdout)
    assert type(error).__name__ == "TaskError(Mine)"
    assert error.code == 7  # type: ignore[attr-defined]


def test_groups_arrive_with_their_members() -> None:
    class Local(Exception):
        def __init__(self, one: int, two: int) -> None:
            self.two = two

    holding_a_lock = ValueError(threading.Lock())
    group = ExceptionGroup("many", [Local(1, 2), ExceptionGroup("inner", [KeyError("k")]), holding_a_lock])
    error = there_and_back(group)
    assert isinstance(error, ExceptionGroup)
    assert error.message == "many"
    members: tuple[Any, ...] = error.exceptions
    local, inner, text_only = members
    assert local.two == 2
    assert isinstance(inner.exceptions[0], KeyError)
    assert isinstance(text_only, TaskError)
    assert text_only.cause_type == "ValueError"


def test_a_group_with_an_interrupt_is_a_plain_task_error() -> None:
    error = there_and_back(BaseExceptionGroup("stop", [KeyboardInterrupt(), ValueError(1)]))
    assert type(error) is TaskError
    assert isinstance(error.cause, BaseExceptionGroup)
    assert isinstance(error.cause.exceptions[0], KeyboardInterrupt)


def test_what_cannot_be_pickled_arrives_as_text() -> None:
    def fail() -> None:
        raise ValueError("has a lock", threading.Lock())

    error = there_and_back(raised(fail))
    assert type(error) is TaskError
    assert error.cause is None
    assert error.cause_type == "ValueError"
    assert "has a lock" in error.cause_text
    assert "in fail" in error.remote_traceback
    assert "text only" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


class OnlyHere(Exception):
    """Cannot be unpickled: what it asks for is not there."""

    def __reduce__(self) -> Any:
        return _exit_when_called, ()


def _exit_when_called() -> NoReturn:
    raise SystemExit("not in this process")


def test_what_cannot_be_unpickled_arrives_as_text() -> None:
    error = there_and_back(OnlyHere("gone"))
    assert type(error) is TaskError
    assert error.cause_text == "gone"


def test_errors_of_the_runtime_pass_through_with_a_note_of_where() -> None:
    error = there_and_back(errors.GetTimeoutError(timeout_s=1.5, pending=1, total=2))
    assert type(error) is errors.GetTimeoutError
    assert error.timeout_s == 1.5
    assert error.__notes__ == ["raised in 'work' (node ab12, pid 42, attempt 2)"]
    again = there_and_back(error, name="outer")
    assert len(again.__notes__) == 2


def test_a_nested_failure_keeps_its_type_and_both_tracebacks() -> None:
    inner = there_and_back(raised(user_code), name="inner")

    def outer_code() -> None:
        raise inner

    outer = there_and_back(raised(outer_code), name="outer")
    assert isinstance(outer, ValueError)
    assert isinstance(outer, TaskError)
    assert outer.task_name == "outer"
    assert type(outer.cause) is ValueError
    assert str(outer).index("in user_code") < str(outer).index("in outer_code")
    assert type(outer) is type(inner)


def test_a_failure_that_no_user_code_has_seen_is_passed_on_as_it_is() -> None:
    inner = there_and_back(raised(user_code), name="inner")
    again = there_and_back(inner.with_traceback(None), name="outer")
    assert isinstance(again, TaskError)
    assert again.task_name == "inner"
    assert str(again) == str(inner)


def test_a_failure_that_goes_on_through_many_calls_stays_small() -> None:
    error = there_and_back(raised(user_code), name="inner")
    kind = type(error)
    sizes = []
    for number in range(100):

        def on(error: BaseException = error) -> None:
            raise error

        data = encode(raised(on), name=f"outer{number}")
        sizes.append(len(data))
        error = decode_error(data)
    assert max(after - before for before, after in itertools.pairwise(sizes)) < 2000
    assert type(error) is kind


def test_a_chain_of_causes_that_are_calls_stays_small() -> None:
    error = there_and_back(raised(user_code), name="inner")
    for number in range(60):

        def step(error: BaseException = error) -> None:
            raise RuntimeError("the step failed") from error

        data = encode(raised(step), name=f"step{number}")
        assert len(data) < 600_000
        error = decode_error(data)
    assert isinstance(error, RuntimeError)


def test_a_brief_encoding_keeps_the_type_as_text() -> None:
    data = failures.encode_briefly(encode(ValueError("x" * 10**6), name="long"))
    assert len(data) < 5000
    error = decode_error(data)
    assert type(error) is TaskError
    assert error.cause_type == "ValueError"
    assert error.cause_text == "x" * 1024


class Evil(Exception):
    """Whatever is asked of it, it raises."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit("evil")

    def _raise(self, *_: Any) -> Any:
        raise SystemExit("evil")

    __reduce__ = __reduce_ex__ = __str__ = __repr__ = _raise


class EvilText(str):
    def __len__(self) -> int:
        raise KeyboardInterrupt

    __getitem__ = encode = partition = __len__  # type: ignore[assignment]


class Lying(Exception):
    def __str__(self) -> str:
        return EvilText("a lie")

    def __reduce__(self) -> Any:
        return "nonsense"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Evil("x"),
        lambda: Lying("x"),
        lambda: ValueError(Evil("x")),
        lambda: ExceptionGroup("g", [Evil("x"), ValueError(1)]),
    ],
)
def test_nothing_an_exception_does_keeps_it_from_arriving(make: Callable[[], BaseException]) -> None:
    evil = make()
    error = there_and_back(evil)
    assert isinstance(error, TaskError)
    assert type(evil).__name__ in error.cause_type
    assert str(error)


def test_surrogates_and_endless_texts_arrive() -> None:
    assert there_and_back(ValueError("\udcff")).args == ("\udcff",)
    error = there_and_back(ValueError("a" * 10_000_000 + "end"))
    assert isinstance(error, TaskError)
    assert len(error.cause_text) < failures.TEXT_LIMIT + 100
    assert error.cause_text.endswith("end")
    assert "characters left out" in error.cause_text


def test_deep_recursion_arrives() -> None:
    def dig(depth: int) -> int:
        return dig(depth + 1) + 1

    error = there_and_back(raised(lambda: dig(0)))
    assert isinstance(error, RecursionError)
    assert "in dig" in str(error)


def test_frames_of_the_package_are_left_out() -> None:
    def through_the_package() -> Any:
        return pickling.dumps(Unpicklable())

    class Unpicklable:
        def __reduce__(self) -> Any:
            raise ValueError("mine")

    trace = remote_traceback(raised(through_the_package))
    assert "through_the_package" in trace
    assert "in __reduce__" in trace
    assert f"{os.sep}actorflow{os.sep}wire{os.sep}" not in trace


@given(st.binary(max_size=200))
def test_garbage_gives_an_internal_error(data: bytes) -> None:
    error = decode_error(data)
    assert isinstance(error, errors.InternalError)
    assert "report" in str(error)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=7),
    max_leaves=20,
)


@given(st.lists(plain, max_size=4))
def test_well_formed_nonsense_is_decoded_to_some_error(nonsense: list[Any]) -> None:
    assert isinstance(decode_error(msgpack.packb(nonsense)), errors.ActorflowError)


@given(st.data())
def test_damaged_errors_never_make_decoding_raise(data: st.DataObject) -> None:
    good = bytearray(encode_error(ValueError("x", [1, 2]), name="f", node_id="n", pid=1, attempt=1))
    place = data.draw(st.integers(0, len(good) - 1))
    cut = data.draw(st.booleans())
    damaged = bytes(good[:place]) if cut else bytes(good[:place]) + b"\xc1" + bytes(good[place + 1 :])
    assert isinstance(decode_error(damaged), errors.ActorflowError)
