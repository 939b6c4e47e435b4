"""A small PyTree with all its scalars in one vector of floats.

XLA compiles and calls kernels for every array that a loop carries. With the scalars in
one vector, written by one chain of selects, the scalar arithmetic of a step melts into
one kernel. Integers are exact in a float up to 1/eps (16 million in float32), far above
any count here.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def packing(example: Any, dtype) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """`pack` and `unpack` for PyTrees of the structure of `example`."""
    leaves, treedef = jax.tree.flatten(example)
    dims = [jnp.ndim(leaf) for leaf in leaves]

    def of(parts, ndim):
        return [a.astype(dtype) for a, d in zip(parts, dims, strict=True) if d == ndim]

    def pack(tree):
        parts = jax.tree.leaves(tree)
        vectors = of(parts, 1)
        even = len({a.size for a in vectors}) == 1
        rest = [a for a, d in zip(parts, dims, strict=True) if d > 1]
        return (
            stack_scalars(of(parts, 0), dtype),
            jnp.stack(vectors) if even else vectors,
            rest,
        )

    def unpack(packed):
        scalars, vectors, rest = (list(part) for part in packed)
        parts = [
            (scalars, vectors, rest)[min(ndim, 2)].pop(0).astype(leaf.dtype)
            for leaf, ndim in zip(leaves, dims, strict=True)
        ]
        return jax.tree.unflatten(treedef, parts)

    return pack, unpack


def stack_scalars(scalars, dtype):
    """`jnp.stack` of scalars that stays elementwise: a concatenation breaks fusion."""
    if scalars[0].ndim:
        return jnp.stack([scalar.astype(dtype) for scalar in scalars])
    index = np.arange(len(scalars))
    vector = jnp.zeros(len(scalars), dtype)
    for i, scalar in enumerate(scalars):
        vector = jnp.where(index == i, scalar.astype(dtype), vector)
    return vector
