"""RemoteFunction: what `@af.remote` makes of a function.

At its first call in a session it exports the function, has the node open the queue for its shape, and keeps both; from
then on a call is one C call. The end of the session takes them away again, so no call has to ask whether there is one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from actorflow import _hot, errors
from actorflow.client import calls, generators, runtime
from actorflow.client.exports import export_of, is_named
from actorflow.client.where import where_of
from actorflow.options import TaskOptions

MOST_LIMIT_MS = 2**32 - 1  # 49 days


class Terms(NamedTuple):
    """What a worker has to know of a function before it runs its calls."""

    retry_on: tuple[type[BaseException], ...] = ()  # exceptions after which a call is run again
    max_calls: int = 0  # after so many the worker ends; 0: no limit
    name: str = ""  # to be shown instead of the function's own


class OnTerms(NamedTuple):
    """A function as it is exported where there are terms."""

    function: Any
    terms: Terms


class RemoteFunction:
    """A function that runs as a task. Calling it (or its `.remote`) sends a call and returns a ref at once."""

    def __init__(self, function: Callable[..., Any], options: TaskOptions) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self._options = options
        self._returns = calls.returns_of(
            function, options.num_returns, options.generator_backpressure_num_objects
        )
        self._retries = options.max_retries
        retry = options.retry_exceptions
        self._retry = retry if isinstance(retry, bool) else None
        self._terms = Terms(() if isinstance(retry, bool) else retry, options.max_calls, options.name or "")
        self._export = export_of(function, self._terms)
        self._environment = calls.environment_of(options)
        self._named_by: Any = self  # what its module may have under the function's name
        self._bound_call: Callable[..., Any] = self._bind_and_call
        self._reference: _hot.Reference | None = None

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Sends the call. Returns a ref; a list of refs where num_returns > 1; None where it is 0; an
        ObjectRefGenerator where it is "streaming", which is the default for generator functions.

        Refs among the arguments become their values before the function runs. Raises TypeError, naming the member,
        for an argument that cannot be pickled; ObjectStoreFullError. The function's own errors come with the ref.
        """
        try:
            return self._bound_call(
                0, args, kwargs, self._returns, self._reference, True, self._retries, self._retry
            )
        except Exception as error:
            return self._call_again(error, args, kwargs)

    __call__ = remote

    def local(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the function here and now, as if it had not been decorated."""
        return self.function(*args, **kwargs)

    def options(self, **options: Any) -> RemoteFunction:
        """The same function with other options; those that are not given stay. TypeError, ValueError."""
        other = RemoteFunction(self.function, self._options.merged(**options))
        other._named_by = self._named_by
        return other

    def _bind_and_call(
        self, method: int, args: tuple[Any, ...], kwargs: dict[str, Any], returns: int, _: None, *rest: Any
    ) -> Any:
        """The first call of a session."""
        session = runtime.require()
        name = self._terms.name or calls.short_name(self.function)
        queue = session.queue(*self._queue_key(session), name)
        travels_as = self._named_by if is_named(self._named_by, self.function) else self.function
        reference = self._exported(travels_as)
        session.tell("name_task", [reference], name=name)
        call = _limited(queue.call, self._options.timeout_s)
        self._reference = reference
        self._bound_call = generators.streaming(call) if returns <= _hot.STREAM else call
        session.bind(self)
        return self._bound_call(method, args, kwargs, returns, reference, *rest)

    def _queue_key(self, session: runtime.Runtime) -> tuple[Any, bool, str, Any]:
        """What the node tells this function's queue by: what a call takes, its kind, its environment, and where it
        may run."""
        environment = session.environment_for(self._environment)
        is_async = calls.is_async(self.function)
        return self._options.shape(), is_async, environment, where_of(self._options)

    def _refused(self, error: Exception) -> Any:
        """Refs with the error of calls that never can run: where the queue was closed, the node says why."""
        session = runtime.require()
        key = self._queue_key(session)
        if isinstance(error, _hot.ClosedError):
            session.forget_queue(*key)
            self.unbind()
        refs = [
            session.control("open_queue", **runtime.queue_fields(*key)) for _ in range(max(1, self._returns))
        ]
        if self._returns <= _hot.STREAM:
            return generators.failed(refs[0])
        return refs if self._returns > 1 else refs[0] if self._returns else None

    def _exported(self, travels_as: Any) -> _hot.Reference:
        """What its calls name: the function, with the terms if there are any."""
        return self._export.reference(
            travels_as if self._terms == Terms() else OnTerms(travels_as, self._terms)
        )

    def _call_again(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The way of a call that was refused at first."""
        if isinstance(error, _hot.ClosedError | errors.TaskUnschedulableError | errors.PlacementGroupError):
            return self._refused(error)
        if isinstance(error, _hot.FullError) and not calls.is_out_of_credit(error):
            return calls.again_with_room(
                lambda: self._bound_call(
                    0, args, kwargs, self._returns, self._reference, True, self._retries, self._retry
                )
            )
        calls.raise_translated(error, lambda: calls.argument_parts(self.function, args, kwargs))

    def unbind(self) -> None:
        """The session has ended: the next call begins with another one."""
        self._bound_call, self._reference = self._bind_and_call, None

    def __reduce__(self) -> str | tuple[Any, ...]:
        if self._named_by is self and is_named(self, self.function):
            return str(self.function.__qualname__)
        return RemoteFunction, (self.function, self._options)

    def __repr__(self) -> str:
        return f"RemoteFunction({getattr(self.function, '__qualname__', self.function)})"


def _limited(call: Callable[..., Any], timeout_s: float | None) -> Callable[..., Any]:
    """Target.call, with the limit of time that the calls bear."""
    if timeout_s is None:
        return call
    limit_ms = min(max(1, math.ceil(timeout_s * 1000)), MOST_LIMIT_MS)
    return lambda *arguments: call(*arguments, limit_ms)
