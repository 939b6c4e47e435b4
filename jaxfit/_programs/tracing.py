"""Whether JAX is tracing a function of the user."""

import functools
import threading
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import get_opaque_trace_state


def _outside() -> Any:
    """JAX's state where nothing is traced: that of a thread which has just begun."""
    found = []
    thread = threading.Thread(target=lambda: found.append(get_opaque_trace_state()))
    thread.start()
    thread.join()
    return found[0]


_OUTSIDE = _outside()


def is_within_a_trace() -> bool:
    """Whether something is traced, though not perhaps what is at hand."""
    return get_opaque_trace_state() != _OUTSIDE


def at_once(fn: Callable) -> Callable:
    """A function of numbers, which it needs while it runs.

    Inside a function that is traced its own arithmetic is no part of that.
    """

    @functools.wraps(fn)
    def run(*args: Any, **kwargs: Any):
        if not is_within_a_trace():
            return fn(*args, **kwargs)
        with jax.ensure_compile_time_eval():
            return fn(*args, **kwargs)

    return run
