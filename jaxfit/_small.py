"""Factorisations of small matrices as plain arithmetic.

Library kernels (LAPACK on a CPU, cuSOLVER on a GPU) work on one small matrix at a time:
a batch of 1,000 is a loop of 1,000 calls. Written out as arithmetic on scalars the same
factorisation is one fused elementwise kernel over the batch. Above `UNROLL` columns the
written-out program gets long to compile and the library takes over.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._types import Flag, Matrix, Vector


UNROLL = 8


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
    n = b.size
    if n > UNROLL:
        return jax.scipy.linalg.solve_triangular(lower, b, lower=True)
    y: list = []
    for i in range(n):
        rest = b[i] - sum(lower[i, k] * y[k] for k in range(i))
        y.append(rest / lower[i, i])
    return jnp.stack(y)


def solve_upper(lower: Matrix, b: Vector) -> Vector:
    """L^-T b."""
    n = b.size
    if n > UNROLL:
        return jax.scipy.linalg.solve_triangular(lower, b, lower=True, trans=1)
    y: list = [None] * n
    for i in reversed(range(n)):
        rest = b[i] - sum(lower[k, i] * y[k] for k in range(i + 1, n))
        y[i] = rest / lower[i, i]
    return jnp.stack(y)


def triangle(columns: Float[Array, "n1 m"]) -> Float[Array, "n1 n1"]:
    """The upper triangle R of Q R = columns', whatever m: no Q is kept.

    Up to `UNROLL` columns by modified Gram-Schmidt, one column at a time, whose R is as
    accurate as Householder's (Bjorck 1967, "Solving linear least squares problems by
    Gram-Schmidt orthogonalization").
    """
    n1, m = columns.shape
    if n1 > UNROLL + 1:
        r = jnp.linalg.qr(columns.T, mode="r")
        return jnp.concatenate([r, jnp.zeros((n1 - r.shape[0], n1), r.dtype)])
    rest = list(columns)
    rows = []
    for j in range(n1):
        norm = jnp.sqrt(jnp.sum(rest[j] * rest[j]))
        q = rest[j] / jnp.where(norm == 0, 1, norm)
        dots = [jnp.sum(q * rest[k]) for k in range(j + 1, n1)]
        for k, dot in enumerate(dots, start=j + 1):
            rest[k] = rest[k] - dot * q
        rows.append(jnp.stack([jnp.zeros_like(norm)] * j + [norm, *dots]))
    return jnp.stack(rows)
