"""Arrays that a function captures, seen in the precision of the trace at hand.

JAX remembers the array that it made of a NumPy array among the constants of a program,
for as long as a program holds it, and by the NumPy array alone: a trace in another
precision is given it as well. So float64 meets float32 in a process that has double
precision off and fits in it at some doors, or a double fit is given numbers that were
rounded to single. Where that would happen, the programs are given up, and with them
what they hold.
"""

import functools
import types
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._programs.kept import clear_caches
from .callables import Function


_LIBRARIES = ("jax", "numpy", "scipy", "equinox", "optax", "jaxtyping", "beartype")
_DEPTH = 8  # of what is looked into


def forget_other_precision(fn: Any) -> None:
    """Give up JAX's programs if they hold an array of `fn` in another precision."""
    if any(map(_is_of_another, _arrays(fn, set(), _DEPTH))):
        jax.clear_caches()
        clear_caches()


def _is_of_another(array: np.ndarray) -> bool:
    known = jax.make_jaxpr(lambda: jax.lax.stop_gradient(jax.lax.neg(array)))()
    wanted = jax.dtypes.canonicalize_dtype(array.dtype)
    return any(np.dtype(a.dtype) != wanted for a in known.consts)


def _arrays(thing: Any, seen: set[int], depth: int) -> Iterator[np.ndarray]:
    """The 64-bit NumPy arrays that a function, or what it captures, holds."""
    if id(thing) in seen or depth == 0:
        return
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        if thing.dtype.kind in "fiuc" and thing.dtype.itemsize >= 8 and thing.ndim:
            yield thing
        return
    for part in _parts(thing):
        yield from _arrays(part, seen, depth - 1)


def _parts(thing: Any) -> list[Any]:
    if isinstance(thing, types.FunctionType):
        if (thing.__module__ or "").split(".")[0] in _LIBRARIES:
            return []
        cells = [
            cell.cell_contents for cell in thing.__closure__ or () if _is_full(cell)
        ]
        names = thing.__code__.co_names
        space = [thing.__globals__[k] for k in names if k in thing.__globals__]
        return [*cells, *space, *(thing.__defaults__ or ())]
    if isinstance(thing, Function):
        return [thing.wrapped]
    if isinstance(thing, types.MethodType):
        return [thing.__func__, thing.__self__]
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, list | tuple):
        return list(thing)
    if isinstance(thing, dict):
        return list(thing.values())
    if isinstance(thing, types.ModuleType | type | jax.Array):
        return []
    if isinstance(wrapped := getattr(thing, "__wrapped__", None), types.FunctionType):
        return [wrapped]
    if isinstance(thing, eqx.Module) or not _is_of_a_library(thing):
        return list(getattr(thing, "__dict__", {}).values())
    return []


def _is_full(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _is_of_a_library(thing: Any) -> bool:
    return type(thing).__module__.split(".")[0] in (*_LIBRARIES, "builtins")
