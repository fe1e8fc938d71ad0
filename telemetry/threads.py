"""Context within a process: threads whose work stays in the trace, and calls that are not traced."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from opentelemetry import context
from opentelemetry.context import Context

P = ParamSpec("P")
T = TypeVar("T")


class ContextThreadPool(ThreadPoolExecutor):
    """A ThreadPoolExecutor that runs each call in a copy of the caller's context.

    The context holds the current span and the baggage (and whatever else is in a ContextVar); a thread starts
    with an empty one.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule `fn` with the current context."""
        return super().submit(partial(copy_context().run, fn, *args, **kwargs))


class Within:
    """Make a context, by default the current one, with these values the current one for a block; then restore it."""

    __slots__ = ("_of", "_token", "_values")

    def __init__(self, values: Mapping[str, object], of: Context | None = None) -> None:
        self._values, self._of = values, of

    def __enter__(self) -> None:
        of = context.get_current() if self._of is None else self._of
        self._token = context.attach(Context({**of, **self._values}))

    def __exit__(self, *_: object) -> None:
        context.detach(self._token)


def suppress_instrumentation() -> Within:
    """Stop instrumented libraries from making spans; the same function of their package may not be installed."""
    return Within({context._SUPPRESS_INSTRUMENTATION_KEY: True, "suppress_instrumentation": True})


def is_suppressed(within: Context | None = None) -> bool:
    """Return whether tracing is suppressed in a context, by default at the moment, for the instrumentations."""
    current = context.get_current() if within is None else within
    return bool(current.get("suppress_instrumentation") or current.get(context._SUPPRESS_INSTRUMENTATION_KEY))
