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
    """Have these values in the current context for a block, and put the context back behind it."""

    __slots__ = ("_token", "_values")

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def __enter__(self) -> None:
        self._token = context.attach(Context({**context.get_current(), **self._values}))

    def __exit__(self, *_: object) -> None:
        context.detach(self._token)


def suppress_instrumentation() -> Within:
    """Have instrumented libraries make no spans; the one of opentelemetry.instrumentation, which may not be there."""
    return Within({context._SUPPRESS_INSTRUMENTATION_KEY: True, "suppress_instrumentation": True})


def is_suppressed() -> bool:
    """Return whether nothing is traced just now, as the instrumentations see it."""
    current = context.get_current()
    return bool(current.get("suppress_instrumentation") or current.get(context._SUPPRESS_INSTRUMENTATION_KEY))
