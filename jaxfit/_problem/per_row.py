"""Rows of data: which arrays have one for each residual, and cutting some of them."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import ArrayLike

from .._basics.trees import on_some


class Shared(eqx.Module):
    """What all rows share. Its arrays are no rows, even where they are as long."""

    value: Any


def are_rows(data: Any, size: int) -> Any:
    """For each array of the data whether it has `size` rows along its first axis."""

    def one(node):
        if isinstance(node, Shared):
            return jax.tree.map(lambda leaf: False, node)
        return node.ndim > 0 and node.shape[0] == size

    return jax.tree.map(one, data, is_leaf=lambda node: isinstance(node, Shared))


def cut_rows(rows: Any, size: int, start: ArrayLike, count: int) -> Any:
    """Rows `start` to `start + count` of every leaf that holds rows."""
    if count == size:
        return rows

    def cut(leaf):
        return jax.lax.dynamic_slice_in_dim(leaf, start, count)

    return on_some(cut, rows, are_rows(rows, size))
