"""Callables as PyTrees: arrays inside are data, everything else is structure.

`jax.jit(solve)(problem)` needs every leaf of the problem to be an array. A plain
function has none and becomes part of the PyTree's structure; an equinox Module gives
its array leaves (the weights of a network, say) to jit, vmap and grad.

Two structures are equal where the callables hold the same (`_programs.capture`),
whatever their own `__eq__` says: a program is used again for an equal structure.
"""

from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._programs.capture import Capture, captured, traced_call
from .._programs.known_by import Content


class _Structure(Content):
    """What of a callable is no array. Equal where the captures are."""

    __slots__ = ("capture", "leaves", "treedef")

    def __init__(self, leaves: tuple, treedef: Any, capture: Capture):
        super().__init__(capture.key, capture.opaque)
        self.leaves, self.treedef, self.capture = leaves, treedef, capture


def _taken_apart(
    fn: Any, name: str, capture: Capture | None
) -> tuple[tuple, _Structure]:
    """The arrays of a callable, and what of it is no array."""
    if not callable(fn):
        raise TypeError(
            f"`{name}` must be callable, got {type(fn).__name__}: pass a function "
            "or an object with __call__."
        )
    leaves, treedef = jax.tree.flatten(fn)
    are_data = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
    pairs = list(zip(leaves, are_data, strict=True))
    arrays = tuple([leaf if data else None for leaf, data in pairs])
    rest = tuple([None if data else leaf for leaf, data in pairs])
    return arrays, _Structure(rest, treedef, capture or captured(fn))


def module_of(kind: Any, **fields: Any) -> Any:
    """An equinox Module of all its fields, made without looking at them.

    Its own call takes 25 us, and a problem is five of them.
    """
    made = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def function_of(fn: Any, name: str) -> "Function":
    """`Function(fn, name)`, in less time."""
    arrays, structure = _taken_apart(fn, name, None)
    return module_of(Function, arrays=arrays, structure=structure)


class Function(eqx.Module):
    """A callable whose array leaves are dynamic and whose other leaves are static."""

    arrays: tuple
    structure: _Structure = eqx.field(static=True)

    def __init__(self, fn: Any, name: str, capture: Capture | None = None):
        self.arrays, self.structure = _taken_apart(fn, name, capture)

    @property
    def wrapped(self) -> Any:
        """The callable as it was given."""
        pairs = zip(self.arrays, self.structure.leaves, strict=True)
        leaves = [rest if array is None else array for array, rest in pairs]
        return jax.tree.unflatten(self.structure.treedef, leaves)

    @property
    def capture(self) -> Capture:
        """What the callable held when it was given."""
        return self.structure.capture

    def current(self) -> "Function":
        """The same callable, known by what it holds now."""
        fn = self.wrapped
        now = captured(fn)
        return self if now == self.capture else Function(fn, "function", now)

    def __call__(self, *args, **kwargs):
        return traced_call(self.wrapped, self.capture, *args, **kwargs)
