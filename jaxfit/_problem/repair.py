"""Derivatives that are not finite where the function is, replaced by differences.

The rules of differentiation meet 0 * inf or 0 / 0 where the function is harmless: at
x = 0 in (x / e)^b with b < 1, below the threshold in sqrt(max(x - x0, 0)), on the
branch of a `where` that is not taken. Of such an entry of J

    J_i = (r(x + h e_i) - r(x - h e_i)) / 2h,      h = eps^(1/3) L_i,

and both points are taken inside where a bound is near (second order, "3-point" of
`_functions.differences`). Where only one side is finite, its slope counts, and of two
slopes that disagree, as at a kink, the flatter one: the other may be infinite.

L_i = |r| / |J_i| is how far a parameter alone moves to change r by |r|, so the steps
have the units of the parameters; it is kept between eps^(1/6) |x_i| and max(1, |x_i|).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._basics.types import Scalar, Vector
from .._trf.bounds import Bounds


def lengths(cost: Scalar, norms: Vector) -> Vector:
    """|r| / |J_i|, infinite where a column is 0."""
    known = norms > 0
    return jnp.where(known, jnp.sqrt(2 * cost) / jnp.where(known, norms, 1), jnp.inf)


def repaired(
    fn,
    x: Vector,
    r: Float[Array, " b"],
    jt: Float[Array, "n b"],
    length: Vector,
    bounds: Bounds | None,
) -> Float[Array, "n b"]:
    """J' with what is not finite, where r is, replaced; by 0 for lengths of 0."""
    bad = ~jnp.isfinite(jt) & jnp.isfinite(r)
    slopes = jnp.where((length == 0)[:, None], 0, _slopes(fn, x, r, length, bounds))
    return jnp.where(bad & jnp.isfinite(slopes), slopes, jt)


def steps(x: Vector, length: Vector, bounds: Bounds | None) -> tuple[Vector, Vector]:
    """From x to the two points that a difference is made of, along each parameter.

    Opposite ones, or one twice the other where a bound is near; 0 for one that is held.
    """
    eps = float(jnp.finfo(x.dtype).eps)
    size = jnp.abs(x)
    h = eps ** (1 / 3) * jnp.clip(length, eps ** (1 / 6) * size, jnp.maximum(1, size))
    if bounds is None:
        return h, -h
    below, above = x - bounds.lower, bounds.upper - x
    side = jnp.where(above >= below, 1.0, -1.0).astype(x.dtype)
    inside = side * jnp.minimum(h, jnp.maximum(above, below) / 2)
    central = jnp.minimum(above, below) >= h
    return jnp.where(central, h, inside), jnp.where(central, -h, 2 * inside)


def _slopes(fn, x, r, length, bounds) -> Float[Array, "n b"]:
    def slope(e, near, far):
        x1, x2 = x + near * e, x + far * e
        f1, f2 = fn(x1), fn(x2)
        # The steps as they came out, which are 0 for a parameter that is held.
        h1, h2 = jnp.sum(x1 - x), jnp.sum(x2 - x)
        d1, d2 = (f1 - r) / h1, (f2 - r) / h2
        smooth = (d1 * h2 - d2 * h1) / (h2 - h1)
        flat = jnp.where(jnp.abs(d1) <= jnp.abs(d2), d1, d2)
        agree = jnp.abs(d1 - d2) <= 0.5 * jnp.maximum(jnp.abs(d1), jnp.abs(d2))
        both = jnp.where(agree, smooth, flat)
        one = jnp.where(jnp.isfinite(d1), d1, d2)
        found = jnp.where(jnp.isfinite(d1) & jnp.isfinite(d2), both, one)
        return jnp.where(near == 0, 0, found)

    near, far = steps(x, length, bounds)
    return jax.vmap(slope)(jnp.eye(x.size, dtype=x.dtype), near, far)
