"""The covariance (J'J)^-1 of a linearisation, aware of its rank.

J is scaled to unit columns first, and a direction whose singular value is then below
rounding is one that the data do not determine. The rule for what these move, here and
nowhere else: a parameter, or a quantity derived from parameters, that has a share in
such a direction has variance inf, and NaN for its covariances and correlations. The
others keep the variance that they would have with those held fixed. Functions take
NumPy's arrays and traced ones.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from .._basics.precision import in_full_products
from .._basics.types import Matrix, Vector
from .._programs.program import program
from .._trf.linearisation import Dense


def dense(lin: Any, why: str) -> Dense:
    """The linearisation `lin` of a fit, which has all of J'J.

    **Raises:** `ValueError` after a matrix-free fit, where it is None; `why` goes on
    from what such a fit lacks.
    """
    if lin is None:
        raise ValueError(
            f"a matrix-free fit forms no J'J{why}: solve again from the solution with "
            "TRF(linear_solver='qr')."
        )
    return lin


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


def masked(known: Any, lost: Any) -> Any:
    """Covariances with an infinite variance, and NaN beside it, for what is lost."""
    xp = _numbers(known)
    either = lost[..., :, None] | lost[..., None, :]
    unknown = xp.where(np.eye(lost.shape[-1], dtype=bool), xp.inf, xp.nan)
    return xp.where(either, unknown, known)


def scaled(inverse: Any, variance: Any) -> Any:
    """Covariances times the variance of a residual: what is infinite stays so."""
    xp = _numbers(inverse)
    endless = xp.isinf(inverse) & xp.isfinite(variance)
    return xp.where(endless, inverse, xp.where(endless, 0, inverse) * variance)


def derived(variance: Any, slopes: Any, null: Any, unit: Any) -> Any:
    """Variances of quantities with gradients `slopes`: inf where they are lost.

    `variance` is that on what is determined; `null` and `unit` are of `Directions`. A
    gradient's share in a null direction is told from rounding where columns of J have
    length 1.
    """
    xp = _numbers(slopes)
    share = xp.linalg.norm(slopes @ null.T, axis=-1)
    size = xp.linalg.norm(slopes * unit, axis=-1)
    tiny = np.sqrt(np.finfo(slopes.dtype).eps)
    return xp.where(share > tiny * size, xp.inf, variance)


def correlation_of(matrix: Any) -> Any:
    """The correlations of covariances; NaN where there are none."""
    xp = _numbers(matrix)
    size = xp.sqrt(xp.diagonal(matrix, axis1=-2, axis2=-1))
    size = xp.where((size > 0) & xp.isfinite(size), size, xp.nan)
    return matrix / (size[..., :, None] * size[..., None, :])


def _numbers(a: Any) -> Any:
    return np if isinstance(a, np.ndarray) else jnp


@jax.custom_jvp
def inverse(gram: Matrix, known: Matrix) -> Matrix:
    """The inverse of `gram` on some directions, which is `known`, with a derivative."""
    del gram
    return known


@inverse.defjvp
@in_full_products
def _inverse_jvp(primals, tangents):
    gram, known = primals
    out = inverse(gram, known)
    return out, -out @ tangents[0] @ out
