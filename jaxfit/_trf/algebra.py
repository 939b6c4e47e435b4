"""Factorisations of small matrices as plain arithmetic.

Library kernels (LAPACK on a CPU, cuSOLVER on a GPU) work on one small matrix at a time:
a batch of 1,000 is a loop of 1,000 calls. Written out as arithmetic on scalars the same
factorisation is one fused elementwise kernel over the batch. Above `UNROLL` columns the
written-out program gets long to compile and the library takes over.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._basics.types import Flag, Matrix, Scalar, Vector


UNROLL = 8


def total(a: Any) -> Array:
    """The sum along the first axis."""
    return _along(jnp.sum, operator.add, a)


def largest(a: Vector) -> Scalar:
    """The maximum along the first axis."""
    return _along(jnp.max, jnp.maximum, a)


def smallest(a: Vector) -> Scalar:
    """The minimum along the first axis."""
    return _along(jnp.min, jnp.minimum, a)


def every(a: Bool[Array, "n ..."]) -> Flag:
    """Whether all hold along the first axis."""
    return _along(jnp.all, operator.and_, a)


def _along(reduction: Callable, pairwise: Callable, a: Any) -> Any:
    """A reduction of n numbers; of n rows of lanes it is written out.

    On a CPU a library reduces 5 rows of 1,024 lanes in 40 us, written out it takes 2.
    """
    if not isinstance(a, list) and a.ndim == 1:
        return reduction(a)
    return functools.reduce(pairwise, list(a))


def dot(a: Vector, b: Vector) -> Scalar:
    """a'b. XLA fuses a sum of products with its neighbours, a `dot` it does not."""
    return total(a * b)


def norm(a: Vector) -> Scalar:
    """|a|."""
    return jnp.sqrt(total(a * a))


def matvec(a: Float[Array, "k n ..."], b: Vector) -> Float[Array, "k ..."]:
    """A b."""
    if b.ndim > 1:
        return total([a[:, j] * b[j] for j in range(len(b))])
    return jnp.sum(a * b, axis=1)


def vecmat(a: Float[Array, "k ..."], b: Float[Array, "k n ..."]) -> Vector:
    """a'B."""
    return jnp.sum(a[:, None] * b, axis=0)


def choose(which: Flag, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """`yes()` where `which` holds, else `no()`; on lanes `no` only if one needs it."""
    if which.ndim == 0:
        return jax.lax.cond(which, yes, no)

    def both():
        return jax.tree.map(lambda a, b: jnp.where(which, a, b), yes(), no())

    return jax.lax.cond(jnp.all(which), yes, both)


def diagonal(a: Matrix) -> Vector:
    """The diagonal of a matrix, or of the matrix of each lane."""
    return jnp.stack([a[i, i] for i in range(len(a))])


def cholesky(a: Matrix) -> tuple[Matrix, Flag]:
    """The lower triangle L with L L' = a, and whether every pivot was sound.

    A pivot is sound when more than 10 n eps of its diagonal element survives the
    elimination; below that the factor holds rounding noise.
    """
    n = a.shape[0]
    floor = 10 * n * jnp.finfo(a.dtype).eps
    if n > UNROLL:
        lower = jnp.linalg.cholesky(a)
        pivots = jnp.diagonal(lower) ** 2
        # NaN, LAPACK's answer for an indefinite matrix, compares as false.
        return lower, jnp.all(pivots > floor * jnp.diagonal(a))
    rows = [[jnp.zeros((), a.dtype)] * n for _ in range(n)]
    definite = jnp.array(True)
    for j in range(n):
        pivot = a[j, j] - sum(rows[j][k] * rows[j][k] for k in range(j))
        definite &= pivot > floor * a[j, j]
        diagonal = jnp.sqrt(jnp.where(pivot > 0, pivot, 1))
        rows[j][j] = diagonal
        for i in range(j + 1, n):
            rest = a[i, j] - sum(rows[i][k] * rows[j][k] for k in range(j))
            rows[i][j] = rest / diagonal
    return jnp.stack([jnp.stack(row) for row in rows]), definite


def solve_lower(lower: Matrix, b: Vector) -> Vector:
    """L^-1 b."""
    n = len(b)
    if n > UNROLL:
        return jax.scipy.linalg.solve_triangular(lower, b, lower=True)
    y: list = []
    for i in range(n):
        rest = b[i] - sum(lower[i, k] * y[k] for k in range(i))
        y.append(rest / lower[i, i])
    return jnp.stack(y)


def solve_upper(lower: Matrix, b: Vector) -> Vector:
    """L^-T b."""
    n = len(b)
    if n > UNROLL:
        return jax.scipy.linalg.solve_triangular(lower, b, lower=True, trans=1)
    y: list = [None] * n
    for i in reversed(range(n)):
        rest = b[i] - sum(lower[k, i] * y[k] for k in range(i + 1, n))
        y[i] = rest / lower[i, i]
    return jnp.stack(y)


def triangle(columns: Float[Array, "n1 m"]) -> Float[Array, "n1 n1"]:
    """The upper triangle R of Q R = columns', whatever m: no Q is kept.

    By the library's Householder reflections, with a diagonal that is not negative, as
    that of a Cholesky factor: so both have the same derivative.
    """
    n1, m = columns.shape
    r = jnp.linalg.qr(columns.T, mode="r")
    if m < n1:
        r = jnp.concatenate([r, jnp.zeros((n1 - r.shape[0], n1), r.dtype)])
    return r * jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(r.dtype)[:, None]
