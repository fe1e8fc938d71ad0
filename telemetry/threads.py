"""A thread pool whose work stays in the trace: without it, its spans would begin traces of their own."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

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
