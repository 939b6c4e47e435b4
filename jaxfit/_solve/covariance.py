"""The covariance (J'J)^-1 of a linearisation, aware of its rank.

J is scaled to unit columns first, and a direction whose singular value is then below
rounding is one that the data do not determine. The parameters it moves get an infinite
variance; the others keep the one they would have with those held fixed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._basics.types import Matrix, Vector
from .._programs.program import program
from .._trf.linearisation import Dense


class Directions(NamedTuple):
    """What the data determine and what not, as directions in parameter space.

    With g the gradient of anything by the parameters, |determined g|^2 is its variance,
    unless it has a share in the null directions: |null g| is then no rounding error of
    |unit g|. Rows of the other kind are zero in each matrix.
    """

    determined: Matrix  # W with (J'J)^-1 = W'W on what is determined
    null: Matrix
    unit: Vector  # 1 / |J_i|, and 0 for fixed parameters
    lost: Bool[Array, " n"]  # the parameters that null directions move


@program
def directions(lin: Dense, fixed: Bool[Array, " n"] | None) -> Directions:
    """The directions of a linearisation."""
    norms = lin.column_norms
    d = 1 / jnp.where(norms == 0, 1, norms)
    c = None
    if fixed is not None:
        d, c = jnp.where(fixed, 0, d), fixed.astype(d.dtype)
    model = lin.spectral(d, c)
    null = (model.eigvals == 0)[:, None]
    root = jnp.sqrt(jnp.where(null[:, 0], 1, model.eigvals))[:, None]
    # A parameter's share in a null direction is a number between 0 and 1; rounding
    # leaves eps times the condition of the rest, so sqrt(eps) tells 0 from not 0.
    share = jnp.sum(jnp.where(null, model.rows**2, 0), axis=0)
    lost = share > jnp.sqrt(jnp.finfo(d.dtype).eps)
    if fixed is not None:
        lost &= ~fixed
    rows = model.rows * d
    return Directions(
        jnp.where(null, 0, rows / root), jnp.where(null, rows, 0), d, lost
    )


@program
def covariance(lin: Dense, fixed: Bool[Array, " n"] | None) -> Matrix:
    """(J'J)^-1, with 0 for fixed parameters (they are known exactly).

    Rows and columns of undetermined parameters are NaN but for an infinite variance.
    The derivative is that of the inverse, -C d(J'J) C.
    """
    w, _, _, lost = directions(lin, fixed)
    return masked(inverse(lin.gram, jax.lax.stop_gradient(w.T @ w)), lost)


def masked(known: Matrix, lost: Bool[Array, " n"]) -> Matrix:
    """A covariance with an infinite variance, and NaN beside it, for what is lost."""
    either = lost[:, None] | lost
    unknown = jnp.where(jnp.eye(lost.size, dtype=bool), jnp.inf, jnp.nan)
    return jnp.where(either, unknown, known)


def correlation_of(matrix: Matrix) -> Matrix:
    """The correlations of a covariance; NaN where there are none."""
    size = jnp.sqrt(jnp.diagonal(matrix, axis1=-2, axis2=-1))
    scale = size[..., :, None] * size[..., None, :]
    usable = (scale > 0) & jnp.isfinite(scale)
    return jnp.where(usable, matrix / jnp.where(usable, scale, 1), jnp.nan)


@jax.custom_jvp
def inverse(gram: Matrix, known: Matrix) -> Matrix:
    """The inverse of `gram` on some directions, which is `known`, with a derivative."""
    del gram
    return known


@inverse.defjvp
def _inverse_jvp(primals, tangents):
    gram, known = primals
    out = inverse(gram, known)
    return out, -out @ tangents[0] @ out
