"""Context within a process: threads whose work stays in the trace, and calls that are not traced."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from opentelemetry import context

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


@contextmanager
def suppress_instrumentation() -> Iterator[None]:
    """Have instrumented libraries make no spans; the one of opentelemetry.instrumentation, which may not be there."""
    suppressed = context.set_value(context._SUPPRESS_INSTRUMENTATION_KEY, True)
    token = context.attach(context.set_value("suppress_instrumentation", True, suppressed))
    try:
        yield
    finally:
        context.detach(token)


def is_suppressed() -> bool:
    """Return whether nothing is traced just now, as the instrumentations see it."""
    return bool(
        context.get_value("suppress_instrumentation") or context.get_value(context._SUPPRESS_INSTRUMENTATION_KEY)
    )
