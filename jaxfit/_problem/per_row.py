"""Rows of data: which arrays have one for each residual, and visits of some of them."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
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


def visit(objective: Any, start: Any, add: Callable[[Any, Any, Any], Any]) -> Any:
    """All rows of an `Objective`, block by block: add(sums, rows, mask) of each.

    The sums begin as `start`, and as None where all rows are one block.
    """
    size, block, rows_mask = objective.size, objective.block, objective.mask
    if block == size:
        return add(None, objective.rows, rows_mask)

    # If blocks do not cut the rows evenly the last one ends with the data and
    # overlaps the one before: what it has seen already is masked, not padded.
    @jax.checkpoint
    def one(sums, i):
        due = begin = i * block
        mask = None
        if size % block:
            begin = jnp.minimum(due, size - block)
            mask = begin + jnp.arange(block) >= due
        if rows_mask is not None:
            own = jax.lax.dynamic_slice_in_dim(rows_mask, begin, block)
            mask = own if mask is None else mask & own
        return add(sums, cut_rows(objective.rows, size, begin, block), mask), None

    count = -(-size // block)
    return jax.lax.scan(one, start, jnp.arange(count))[0]
