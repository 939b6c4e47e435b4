"""The capture of a function: what it reads besides its arguments, to be compared.

A traced program keeps the globals, closures and attributes that its function had when
it was traced. So they are part of what the program is known by: one that was compiled
for other values is not found again. `content` tells what is looked at, and how.

A function may change what it captures when it is called: it counts its calls, or keeps
what it computed once. Such a change is of the trace's own making, and no reason for
another one: what the function is after a trace counts as what it was before.

What a helper wrapped in `jax.jit` captured is JAX's to remember, and it does not look
twice.
"""

import types
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

from .content import Walk
from .kept import Memory
from .known_by import Content, Same


class Capture(Content):
    """What a function holds; `traced` if that is among other things traced by JAX."""

    __slots__ = ("traced",)

    def __init__(self, key: Hashable, opaque: bool, traced: bool):
        super().__init__(key, opaque)
        self.traced = traced


class Held(Content):
    """A thing that is part of a program's structure, compared by what it holds."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        walk = Walk()
        super().__init__(walk.value(value), walk.opaque)
        self.value = value


def captured(fn: Callable) -> Capture:
    """Equal to an earlier value only if nothing that `fn` captures has changed.

    Arrays among the leaves of a PyTree (of an equinox Module, say) are no part of it:
    they are data of the program.
    """
    walk = Walk()
    key = walk.value(fn) if isinstance(fn, types.FunctionType) else _node(fn, walk)
    capture = Capture(key, walk.opaque, walk.traced)
    return _AFTER_TRACES.find(capture, capture)


def _node(thing: Any, walk: Walk) -> Hashable:
    """The content of a PyTree; the values of arrays among its leaves do not count."""
    if isinstance(thing, jax.Array | np.ndarray):
        return "data"
    children, form = jax.tree.flatten(thing, is_leaf=lambda node: node is not thing)
    form = form.node_data()
    if form is None:  # a leaf
        return walk.value(thing)
    kind, rest = form
    parts = tuple(_node(child, walk) for child in children)
    return walk.value(kind), walk.value(rest), parts


# What functions had become by being traced, and what they were before.
_AFTER_TRACES = Memory()
_FUNCTIONS = Memory(1024)


def traced_call(fn: Callable, capture: Capture, *args: Any, **kwargs: Any) -> Any:
    """`fn(*args, **kwargs)` of a function with this capture, in a trace.

    **Raises:** `ValueError` where it has changed since: its program would be known by
    what it was.
    """
    check_capture(fn, capture, name_of(fn))
    value = fn(*args, **kwargs)
    after = captured(fn)
    if not after.same(capture):
        _AFTER_TRACES.put(after, capture)
    return value


def name_of(fn: Callable) -> str:
    """What a function, or an object that is called as one, goes by."""
    return getattr(fn, "__name__", type(fn).__name__)


def check_capture(fn: Callable, capture: Capture, name: str) -> None:
    """Refuse to trace a function that has changed since `capture` was made.

    **Raises:** `ValueError`: a result cannot evaluate a model that is no longer so.
    """
    if not captured(fn).same(capture):
        raise ValueError(
            f"`{name}` has changed since the fit: a global, an attribute or something "
            "else that it captures has another value now. Fit again, or pass such "
            "values as parameters or as part of x."
        )


def refuse_traced(capture: Capture) -> None:
    """Refuse a function that captures what JAX traces, where the host must know it."""
    if capture.traced:
        raise TypeError(
            "the function captures a value that is traced by JAX, and this call works "
            "on the host: inside jit, vmap or grad call "
            "jaxfit.solve(jaxfit.curve_problem(...))."
        )


def interned(fn: Callable) -> tuple[Callable, Capture]:
    """A function that does the same as `fn`, always the same one, and its capture.

    A lambda written in a loop is a new object each time round, with the same code: its
    program is compiled once.

    **Raises:** `TypeError` where it captures a value that is traced by JAX.
    """
    capture = captured(fn)
    refuse_traced(capture)
    if isinstance(fn, types.FunctionType):
        known = _FUNCTIONS.get(capture, lambda: fn)
        # That one may have changed since.
        if known is fn or captured(known).same(capture):
            return known, capture
        _FUNCTIONS.put(capture, fn)
    return fn, capture


def identity(fn: Any) -> Hashable:
    """An object as itself; a method as its function and its object."""
    if isinstance(fn, types.MethodType):
        return Same(fn.__func__), Same(fn.__self__)
    return Same(fn)


def by_identity(make: Callable, *args: Any) -> Any:
    """`make(*args)`, remembered; all but plain values is known by identity."""
    plain = str | tuple | Capture | None
    key = make, *(a if isinstance(a, plain) else identity(a) for a in args)
    return _MADE.get(key, lambda: make(*args))


_MADE = Memory(512)
