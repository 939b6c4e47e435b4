"""Factorisations of small matrices as plain arithmetic.

Library kernels (LAPACK on a CPU, cuSOLVER on a GPU) work on one small matrix at a time:
a batch of 1,000 is a loop of 1,000 calls. Written out as arithmetic on scalars the same
factorisation is one fused elementwise kernel over the batch. Above `UNROLL` columns the
written-out program gets long to compile and the library takes over.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._types import Flag, Matrix, Scalar, Vector


UNROLL = 8


def dot(a: Vector, b: Vector) -> Scalar:
    """a'b. XLA fuses a sum of products with its neighbours, a `dot` it does not."""
    return jnp.sum(a * b)


def norm(a: Vector) -> Scalar:
    """|a|."""
    return jnp.sqrt(jnp.sum(a * a))


def matvec(a: Float[Array, "k n"], b: Vector) -> Float[Array, " k"]:
    """A b."""
    return jnp.sum(a * b, axis=1)


def vecmat(a: Float[Array, " k"], b: Float[Array, "k n"]) -> Vector:
    """a'B."""
    return jnp.sum(a[:, None] * b, axis=0)


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

    By the library's Householder reflections. Written out as modified Gram-Schmidt it
    costs the same from 1,000 to 10,000 rows and twice the compilation below.
    """
    n1, m = columns.shape
    r = jnp.linalg.qr(columns.T, mode="r")
    if m >= n1:
        return r
    return jnp.concatenate([r, jnp.zeros((n1 - r.shape[0], n1), r.dtype)])
