"""The distributions that statistics of a fit are compared with, all of them traced.

JAX has the incomplete gamma and beta functions but not the inverse of the latter.
Degrees of freedom are arrays here, as a mask may decide them: hence no table and no
SciPy, and a quantile of Student's t by bisection of its distribution function.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, gammaincc, ndtri
from jaxtyping import Array, ArrayLike, Float

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
