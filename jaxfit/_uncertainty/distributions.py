"""Quantiles and tails of the normal, chi2, Student's t and Fisher's F distributions.

JAX has the incomplete gamma and beta functions but not the inverse of the latter.
Degrees of freedom are traced arrays here, as a mask may decide them: hence no table and
no SciPy, and a quantile of Student's t by bisection of its distribution function.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc, gammaincc, ndtri
from jaxtyping import Array, ArrayLike, Float

from .._basics.precision import precision
from .._programs.program import program


_HALVINGS = 60


def normal_quantile(level: ArrayLike) -> Array:
    """q with P(|z| < q) = level, z normal."""
    return ndtri(0.5 + 0.5 * jnp.asarray(level))


@program
def student_quantile(level: ArrayLike, dof: ArrayLike) -> Array:
    """q with P(|t| < q) = level, t of Student's distribution; NaN for dof < 1.

    P(|t| > q) = I_x(dof/2, 1/2) with x = dof / (dof + q^2): the root x is bracketed by
    0 and 1 and bisected in log odds, which finds far tails as well as near ones.
    """
    level, dof = jnp.broadcast_arrays(jnp.asarray(level), jnp.asarray(dof))
    dof = dof.astype(level.dtype)
    ok = dof >= 1
    a = jnp.where(ok, dof, 1) / 2
    low, high = jnp.full_like(level, -80.0), jnp.full_like(level, 80.0)

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        # x is the share of dof in dof + q^2, and `middle` the log of q^2 / dof.
        outside = betainc(a, 0.5, jax.nn.sigmoid(-middle))
        far = outside < 1 - level
        return jnp.where(far, low, middle), jnp.where(far, middle, high)

    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (low, high))
    q = jnp.sqrt(2 * a * jnp.exp(0.5 * (low + high)))
    return jnp.where(ok, q, jnp.nan)


def quantile(level: float, dof: int | None) -> float:
    """`reach` in one dimension as a number of the host, in double precision.

    **Raises:** `ValueError` unless 0 < level < 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1, got {level!r}.")
    with precision(np.dtype(float)):
        return float(reach(np.float64(level), None if dof is None else np.int64(dof)))


def chi2_sf(value: ArrayLike, dof: ArrayLike) -> Array:
    """P(chi2 > value)."""
    value = jnp.asarray(value)
    return gammaincc(jnp.asarray(dof, value.dtype) / 2, value / 2)


def f_sf(value: ArrayLike, dof1: ArrayLike, dof2: ArrayLike) -> Array:
    """P(F > value) of Fisher's F with dof1 and dof2 degrees of freedom."""
    value = jnp.asarray(value)
    d1, d2 = jnp.asarray(dof1, value.dtype), jnp.asarray(dof2, value.dtype)
    return betainc(d2 / 2, d1 / 2, d2 / (d2 + d1 * value))


def student_sf(value: ArrayLike, dof: ArrayLike) -> Array:
    """P(|t| > value)."""
    value = jnp.asarray(value)
    return f_sf(value**2, 1, dof)


@program(static=(2,))
def reach(
    level: ArrayLike, dof: ArrayLike | None, dimensions: int = 1
) -> Float[Array, "..."]:
    """How far a region of probability `level` reaches, in standard deviations.

    The root of the quantile of chi2 with one or two degrees of freedom where the noise
    is known (`dof` None), and where it was estimated with `dof` of them the root of
    that of F times the dimensions (Bates and Watts 1988, section 6.1): both have
    closed forms in two dimensions.
    """
    level = jnp.asarray(level, float)
    if dimensions == 1:
        return normal_quantile(level) if dof is None else student_quantile(level, dof)
    if dof is None:
        return jnp.sqrt(-2 * jnp.log1p(-level))
    dof = jnp.asarray(dof, level.dtype)
    return jnp.sqrt(dof * jnp.expm1(-2 / dof * jnp.log1p(-level)))


def check_levels(levels: Any) -> tuple[float, ...]:
    """Probabilities as a tuple.

    **Raises:** `ValueError` where there are none, or one is not between 0 and 1.
    """
    values = np.atleast_1d(np.asarray(levels, float)).tolist()
    if not values:
        raise ValueError("`levels` is empty: give one or more, such as 0.95.")
    for level in values:
        if not 0 < level < 1:
            raise ValueError(
                f"`levels` must be between 0 and 1, got {level!r}: 0.95 is 95%."
            )
    return tuple(values)
