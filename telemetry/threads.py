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
        """Schedule `fn` with the context of now."""
        return super().submit(partial(copy_context().run, fn, *args, **kwargs))


class Within:
    """Make a context the current one for a block, by default that which is, with these values; then put it back."""

    __slots__ = ("_of", "_token", "_values")

    def __init__(self, values: Mapping[str, object], of: Context | None = None) -> None:
        self._values, self._of = values, of

    def __enter__(self) -> None:
        of = context.get_current() if self._of is None else self._of
        self._token = context.attach(Context({**of, **self._values}))

    def __exit__(self, *_: object) -> None:
        context.detach(self._token)


def suppress_instrumentation() -> Within:
    """Have instrumented libraries make no spans; the one of opentelemetry.instrumentation, which may not be there."""
    return Within({context._SUPPRESS_INSTRUMENTATION_KEY: True, "suppress_instrumentation": True})


def is_suppressed() -> bool:
    """Return whether nothing is traced just now, as the instrumentations see it."""
    current = context.get_current()
    return bool(current.get("suppress_instrumentation") or current.get(context._SUPPRESS_INSTRUMENTATION_KEY))
