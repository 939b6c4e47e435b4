"""PyTrees of arrays cut, joined and lengthened along their first axis.

And the vector of all numbers of a tree, cut up like the tree again: what
`jax.flatten_util.ravel_pytree` does for one vector, with any axes before it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree


def take(tree: PyTree, which: Any) -> PyTree:
    """Some rows of every array, by a slice, indices or booleans."""
    return jax.tree.map(lambda a: a[which], tree)


def joined(trees: Sequence[PyTree]) -> PyTree:
    """Trees of NumPy arrays, one below the other; a mask of any stays a mask."""

    def below(*arrays: Any) -> np.ndarray:
        if any(isinstance(a, np.ma.MaskedArray) for a in arrays):
            return np.ma.concatenate(arrays)
        return np.concatenate(arrays)

    return jax.tree.map(below, *trees)


def padded(array: Any, length: int) -> Any:
    """A copy of an array with its last row repeated up to so many rows."""
    if not isinstance(array, np.ndarray):
        last = jnp.repeat(array[-1:], length - len(array), axis=0)
        return jnp.concatenate([array, last])
    wide = np.empty((length, *array.shape[1:]), array.dtype)
    wide[: len(array)] = array
    wide[len(array) :] = array[-1]
    return wide


def on_some(fn: Callable[[Any], Any], tree: PyTree, which: PyTree) -> PyTree:
    """`fn` of the arrays that `which` marks, the others as they are."""
    return jax.tree.map(lambda a, marked: fn(a) if marked else a, tree, which)


def where(which: Any, yes: PyTree, no: PyTree) -> PyTree:
    """`yes` where `which` holds, along the last axes, and `no` elsewhere."""
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), yes, no)


def as_rows(params: PyTree) -> Float[Array, "p n"]:
    """Parameters with a first axis as rows of their numbers."""
    return jax.vmap(lambda one: ravel_pytree(one)[0])(params)


def unravel_as(params: PyTree, flat: Any) -> PyTree:
    """Vectors along the last axis of `flat` cut up like `params`.

    Axes before the last stay in front, and so does the dtype: that of `flat`. Of
    `params` the shapes matter alone.
    """
    leaves, structure = jax.tree.flatten(params)
    parts, start = [], 0
    for leaf in leaves:
        shape, size = np.shape(leaf), int(np.prod(np.shape(leaf)))
        part = flat[..., start : start + size]
        parts.append(part.reshape((*part.shape[:-1], *shape)))
        start += size
    return jax.tree.unflatten(structure, parts)
