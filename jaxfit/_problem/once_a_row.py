"""The sums over the rows with each number of each row computed once.

Sums of products of columns are a kernel each on a CPU (21 of 5 parameters), and each
computes anew what it needs of residual and derivatives. Here the columns of [J r] are
written one after the other as the rows of one matrix, whose product with itself is all
the sums; operations that take long are computed before that (`_programs.stages`). One
linearisation of 1e6 points on one core, in ns a row:

    model                           sum by sum   here
    a exp(-b x) + c                        7.5    4.9
    a Gauss peak on a line                16.2    8.2
    a sin(b x + c) exp(-d x) + e         191     26
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float, Int

from .._basics.types import Vector
from .._basics.varying import alike
from .._programs.stages import in_stages
from .._trf.linearisation import Columns
from .per_row import visit


_FEW = 2048

Weighted = Callable[
    [Any, Bool[Array, " b"] | None],
    tuple[Float[Array, " b"], Float[Array, " b"], Columns],
]


def rows_once(objective: Any, x: Vector) -> Weighted:
    """`weighted_rows` of an `Objective` at x, for some rows and their mask.

    On a CPU what it gives has no derivative in reverse mode.
    """
    count = _zero(x)

    def weighted(rows, mask):
        return objective.weighted_rows(x, rows, mask)

    def staged(rows, mask):
        return in_stages(weighted, count, objective.block, rows, mask)

    return staged


def products(objective: Any, x: Vector) -> Float[Array, "n1 n1"]:
    """[J r]'[J r] of all rows of an `Objective`, with twice the cost in the corner.

    On a CPU it has no derivative in reverse mode. Of few rows it is few kernels: a call
    of one costs as much as the sums of 100 rows.
    """
    n, block, robust = x.size, objective.block, objective.loss.rho is not None
    weighted = rows_once(objective, x)

    if objective.size <= _FEW:
        row_cost, r, columns = objective.weighted_rows(
            x, objective.rows, objective.mask
        )
        matrix = jnp.stack([*columns, r])
        squares = jnp.sum(matrix[:, None] * matrix, axis=-1)
        return squares.at[n, n].set(2 * jnp.sum(row_cost)) if robust else squares

    def add(sums, rows, mask):
        cost, matrix, squares = zero if sums is None else sums
        row_cost, r, columns = weighted(rows, mask)
        for i, row in enumerate((*columns, r)):
            matrix = jax.lax.dynamic_update_slice(matrix, row[None], (i, 0))
        if robust:
            cost = cost + row_cost
        return cost, matrix, squares + matrix @ matrix.T

    dtype = x.dtype
    zero = (
        jnp.zeros(block if robust else (), dtype),
        jnp.zeros((n + 1, block), dtype),
        jnp.zeros((n + 1, n + 1), dtype),
    )
    zero = alike(zero, x)
    cost, _, squares = visit(objective, zero, add)
    return squares.at[n, n].set(2 * jnp.sum(cost)) if robust else squares


@custom_vmap
def _zero(x: Vector) -> Int[Array, ""]:
    """0, which the compiler does not know; one for all lanes of a `vmap`."""
    return jnp.any(x > jnp.inf).astype(jnp.int32)


@_zero.def_vmap
def _(axis_size: int, in_batched: list[bool], x: Float[Array, "l n"]):
    del axis_size, in_batched
    return _zero(x.reshape(-1)), False
