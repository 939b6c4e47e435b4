"""The certificate of convergence: whether a linearisation shows a minimum.

Bates and Watts (1981), "A relative offset orthogonality convergence criterion for
nonlinear least squares", Technometrics 23, 179-183: with r = Q1 Q1'r + Q2 Q2'r, the
parts of the residual within the tangent plane of the model and normal to it, a fit of m
data and p parameters has converged where

    sqrt(|Q1'r|^2 / p) / sqrt(|Q2'r|^2 / (m - p)) <= 0.001

Then no parameter would move by more than about a thousandth of its standard error.
|Q1'r|^2 is g'B^-1 g, what the Newton step p(0) of the hat space promises: there bounds
have their share, and a robust loss has reweighted the rows. It has no units.

Where r itself is rounding there is nothing normal to compare with: the step is to be
rounding of the parameters.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool

from .._basics.types import Count, Flag, Scalar, Vector
from .algebra import dot, every, largest, norm


# The relative offset of a fit that has converged.
OFFSET = 1e-3
# What r, and J times the parameters, are rounded to, in units of eps.
_ROUNDING = 64
# A column is rounding of the others where its effect is less than so many eps of them.
_NOISE = 16
# The cosine between r and every column at a minimum where J is singular and r is not 0.
_COSINE = 1e-7


class Visible(NamedTuple):
    """Which parameters the residual shows at x, by what each makes of it: |J_i| |x_i|.

    A step that changes a parameter by its own size changes the residual by so much. If
    that is rounding of what the other parameters make, the column is made of rounding,
    or the parameter has gone where the model no longer depends on it.
    """

    rounding: Scalar  # what |J p| is at least, for a step p that means something
    faint: Bool[Array, "n ..."]  # columns that are rounding, if not parameters of 0
    fallen: Bool[Array, "n ..."]  # of those, columns that were much larger before

    @staticmethod
    def of(
        x: Vector, norms: Vector, steepest: Vector, r_norm: Scalar, least: ArrayLike
    ) -> "Visible":
        """Of column norms at x and the largest so far; steps below `least` are none."""
        info = jnp.finfo(x.dtype)
        eps, zero = float(info.eps), float(info.tiny) ** 0.5
        effect = norms * jnp.abs(x)
        whole = norm(effect)
        return Visible(
            rounding=jnp.maximum(least, _ROUNDING * eps) * whole
            + _ROUNDING * eps * r_norm,
            faint=(effect <= _NOISE * eps * whole) & (jnp.abs(x) > zero),
            fallen=(effect <= eps ** (2 / 3) * whole) & (norms < eps**0.5 * steepest),
        )


def certified(
    grad_h: Vector,
    newton: Vector,
    p: Count,
    num_rows: Count,
    r_norm: Scalar,
    rounding: Scalar,
    level: ArrayLike,
) -> Flag:
    """Whether the relative offset is at most `level`, or the step is rounding.

    `newton` is the Newton step of the hat space, `grad_h` the gradient there; `p`
    counts the directions that neither are null nor held by bounds.
    """
    size = largest(jnp.abs(grad_h))  # a square of a small residual may underflow
    safe = jnp.where(size > 0, size, 1)
    tangent = safe * jnp.sqrt(jnp.maximum(-dot(grad_h / safe, newton / safe), 0))
    normal = jnp.sqrt(jnp.maximum((r_norm - tangent) * (r_norm + tangent), 0))
    dof = num_rows - p
    share = jnp.where(dof > 0, jnp.maximum(p, 1) / jnp.where(dof > 0, dof, 1), 0)
    return tangent <= jnp.maximum(level * jnp.sqrt(share) * normal, rounding)


def is_flat(cosine: Scalar, gtol: ArrayLike) -> Flag:
    """Whether no column sees the residual: for fits without degrees of freedom.

    As many parameters as data and yet a residual: J is singular at the minimum, and
    Gauss-Newton steps towards it stay long.
    """
    eps = float(jnp.finfo(cosine.dtype).eps)
    return cosine <= jnp.maximum(gtol, max(_COSINE, _ROUNDING * eps))


def is_stale(inv_scale: Vector, norms: Vector) -> Flag:
    """Whether a scale of earlier points may make a direction of x seem null."""
    return ~every(inv_scale <= 10 * jnp.where(norms > 0, norms, jnp.inf))
