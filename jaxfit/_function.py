"""Callables as PyTrees: arrays inside are data, everything else is structure.

`jax.jit(solve)(problem)` needs every leaf of the problem to be an array. A plain
function has none and becomes part of the PyTree's structure; an equinox Module gives
its array leaves (the weights of a network, say) to jit, vmap and grad.
"""

from typing import Any

import equinox as eqx
import jax
import numpy as np


def _is_data(leaf) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


class Function(eqx.Module):
    """A callable whose array leaves are dynamic and whose other leaves are static."""

    arrays: Any
    static: tuple = eqx.field(static=True)

    def __init__(self, fn: Any, name: str):
        if not callable(fn):
            raise TypeError(
                f"`{name}` must be callable, got {type(fn).__name__}: pass a function "
                "or an object with __call__."
            )
        arrays, rest = eqx.partition(fn, _is_data)
        leaves, treedef = jax.tree.flatten(rest)
        try:
            hash((tuple(leaves), treedef))
        except TypeError as err:
            raise TypeError(
                f"`{name}` holds something that is neither an array nor hashable "
                f"({err}): make it an equinox Module or close over arrays only."
            ) from err
        self.arrays = arrays
        self.static = (tuple(leaves), treedef)

    @property
    def wrapped(self) -> Any:
        """The callable as it was given."""
        leaves, treedef = self.static
        return eqx.combine(self.arrays, jax.tree.unflatten(treedef, leaves))

    def __call__(self, *args, **kwargs):
        return self.wrapped(*args, **kwargs)
