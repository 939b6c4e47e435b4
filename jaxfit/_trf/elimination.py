"""Small symmetric systems by elimination, written out as arithmetic.

A matrix of n x n is an array of shape (n, n, lanes): each entry is a vector over the
lanes, so that every operation below is one vectorised instruction after another and no
library is called. Of one fit, without an axis of lanes, each entry is a scalar.
Positive semidefinite matrices need no pivoting for stability. A pivot that does not
stand out of its rounding noise belongs to a column that depends on those before it: its
unknown is set to 0 and left out, which gives a basic solution of the consistent system.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._basics.packing import stack_scalars
from .algebra import diagonal, total


Lane = Float[Array, "..."]
Vectors = Float[Array, "n ..."]
Matrices = Float[Array, "n n ..."]


# Up to so many unknowns the operations are written out; beyond, they are loops over
# whole matrices: a little slower, but compiled in a moment (0.3 s where 12 unknowns
# written out take 5 s and an inverse of 8 takes 6 s).
_WRITTEN, _WRITTEN_INVERSE = 8, 6


def solve_shifted(b: Matrices, g: Vectors, alpha: Lane) -> tuple[Vectors, Lane, Array]:
    """p = -(B + alpha I)^-1 g, the slope p'dp/dalpha, and the number of sound pivots.

    By B + alpha I = L D L' with a unit triangle L: the slope is -|D^-1/2 L^-1 p|^2.
    """
    n = len(g)
    if n > _WRITTEN:
        eye = jnp.eye(n, dtype=bool)[..., None]
        lower, inverse, sound = _factor(jnp.where(eye, b + alpha, b))
        p = _backward(lower, _forward(lower, -g) * inverse)
        z = _forward(lower, p)
        return p, -total(z * z * inverse), _count(sound)
    shifted = [
        [b[i, j] + alpha if i == j else b[i, j] for j in range(i + 1)] for i in range(n)
    ]
    rows, pivots, kept = _factor_written(shifted)
    y = _forward_written(rows, [-g[i] for i in range(n)])
    x = [y[j] * pivots[j] for j in range(n)]
    for j in reversed(range(n)):
        for i in range(j):
            x[i] = x[i] - rows[j][i] * x[j]
    z = _forward_written(rows, x)
    slope = total([z[j] * z[j] * pivots[j] for j in range(n)])
    return (
        stack_scalars(x, g.dtype),
        -slope,
        total([one.astype(jnp.int32) for one in kept]),
    )


def _count(sound: Bool[Array, "n ..."]) -> Int[Array, "..."]:
    return jnp.sum(sound, axis=0, dtype=jnp.int32)


def inverse_of(
    gram: Matrices, fixed: Bool[Array, "n ..."] | None
) -> tuple[list[Lane], Bool[Array, "n ..."]]:
    """(J'J)^-1 as its lower half row by row, and which parameters have none.

    Entries of fixed parameters are 0. J is scaled to unit columns first, and with
    B = L D L' and M = L^-1 the inverse is the sum of M_j'M_j / D_j over the rows of M.
    A row whose pivot was dropped is a null direction: a parameter that has a share in
    one is not determined by the data, and its entries are without meaning.
    """
    n = len(gram)
    size = jnp.sqrt(diagonal(gram))
    unit = 1 / jnp.where(size == 0, 1, size)
    if fixed is not None:
        unit = jnp.where(fixed, 0, unit)
    if n > _WRITTEN_INVERSE:
        half, share = _inverse(gram * unit * unit[:, None], unit, fixed)
    else:
        half, share = _inverse_written(gram, unit, fixed)
    return half, share > float(jnp.finfo(gram.dtype).eps) ** 0.5


def _reciprocal(pivot: Lane, size: Lane, n: int) -> tuple[Lane, Array]:
    """1 / pivot, or 0 where it is not sound (as in `algebra.cholesky`), and whether."""
    sound = pivot > 10 * n * float(jnp.finfo(pivot.dtype).eps) * size
    return jnp.where(sound, 1 / jnp.where(sound, pivot, 1), 0), sound


def _factor(b: Matrices) -> tuple[Matrices, Vectors, Bool[Array, "n ..."]]:
    """L below its unit diagonal, 1 / D, and which pivots are sound.

    For a pivot that is not sound 1 / D is 0, and so is the column of L below it.
    """
    n, sizes = len(b), diagonal(b)
    rank = jnp.arange(n)[:, None]

    def eliminate(j, carry):
        a, lower, inverse, sound = carry
        row = a[j]
        reciprocal, kept = _reciprocal(row[j], sizes[j], n)
        column = jnp.where(rank > j, a[:, j] * reciprocal, 0)
        a = a - column[:, None] * row
        inverse, sound = inverse.at[j].set(reciprocal), sound.at[j].set(kept)
        return a, lower.at[:, j].set(column), inverse, sound

    start = b, jnp.zeros_like(b), jnp.zeros_like(sizes), jnp.ones(sizes.shape, bool)
    _, lower, inverse, sound = jax.lax.fori_loop(0, n, eliminate, start)
    return lower, inverse, sound


def _forward(lower: Matrices, b: Array) -> Array:
    """L^-1 b, of one vector or of the columns of a matrix."""

    def eliminate(j, y):
        column = lower[:, j]
        if y.ndim > column.ndim:
            column = column[:, None]
        return y - column * y[j]

    return jax.lax.fori_loop(0, len(lower), eliminate, b)


def _backward(lower: Matrices, y: Vectors) -> Vectors:
    """L^-T y."""
    n = len(lower)
    return jax.lax.fori_loop(0, n, lambda k, p: p - lower[n - 1 - k] * p[n - 1 - k], y)


def _inverse(b: Matrices, unit: Vectors, fixed) -> tuple[list[Lane], Vectors]:
    n = len(b)
    lower, inverse, sound = _factor(b)
    eye = jnp.broadcast_to(jnp.eye(n, dtype=b.dtype)[..., None], b.shape)
    m = _forward(lower, eye)
    dropped = ~sound if fixed is None else ~sound & ~fixed

    def add(j, carry):
        outer, share = carry
        row = m[j]
        squares = row * row
        own = jnp.where(dropped[j], squares / total(squares), 0)
        return outer + row * (row * inverse[j])[:, None], jnp.maximum(share, own)

    start = jnp.zeros_like(b), jnp.zeros_like(unit)
    outer, share = jax.lax.fori_loop(0, n, add, start)
    outer = outer * unit * unit[:, None]
    return [outer[i, j] for i in range(n) for j in range(i + 1)], share


def _inverse_written(
    gram: Matrices, unit: Vectors, fixed
) -> tuple[list[Lane], Vectors]:
    n = len(gram)
    b = [[gram[i, j] * unit[i] * unit[j] for j in range(i + 1)] for i in range(n)]
    factor, inverse, sound = _factor_written(b)
    rows: list[list] = []
    for j in range(n):
        row = [-sum(factor[j][k] * rows[k][i] for k in range(i, j)) for i in range(j)]
        rows.append([*row, jnp.ones_like(unit[0])])
    share = jnp.zeros_like(unit)
    for j in range(n):
        squares = jnp.stack([m * m for m in rows[j]])
        dropped = ~sound[j] if fixed is None else ~sound[j] & ~fixed[j]
        own = jnp.where(dropped, squares / total(squares), 0)
        share = share.at[: j + 1].max(own)
    half = [
        sum(rows[k][i] * rows[k][j] * inverse[k] for k in range(i, n))
        * (unit[i] * unit[j])
        for i in range(n)
        for j in range(i + 1)
    ]
    return half, share


def _factor_written(
    b: list[list[Lane]],
) -> tuple[list[list[Lane]], list[Lane], list[Array]]:
    """The rows of L below its diagonal, 1 / D, and which pivots are sound.

    `b` is the lower half of B = L D L' by rows.
    """
    n = len(b)
    a = [list(row) for row in b]
    inverse, factor, sound = [], [[] for _ in range(n)], []
    for j in range(n):
        reciprocal, kept = _reciprocal(a[j][j], b[j][j], n)
        column = [a[i][j] * reciprocal for i in range(j + 1, n)]
        for i in range(j + 1, n):
            for k in range(j + 1, i + 1):
                a[i][k] = a[i][k] - column[i - j - 1] * a[k][j]
            factor[i].append(column[i - j - 1])
        inverse.append(reciprocal)
        sound.append(kept)
    return factor, inverse, sound


def _forward_written(factor: list[list[Lane]], b: list[Lane]) -> list[Lane]:
    """L^-1 b."""
    y: list = []
    for j, row in enumerate(factor):
        y.append(b[j] - sum(row[k] * y[k] for k in range(j)))
    return y
