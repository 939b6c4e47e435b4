"""Bounds lb <= x <= ub in the manner of Coleman and Li: pure functions of vectors.

The first-order condition of the bounded problem is v(x, g) * g = 0 with

    v_i = ub_i - x_i   if g_i < 0 and ub_i is finite
    v_i = x_i - lb_i   if g_i > 0 and lb_i is finite
    v_i = 1            otherwise

(Branch, Coleman and Li 1999, SIAM J. Sci. Comput. 21, 1-23, eq. 2.2; v >= 0 here).
A parameter with lb_i == ub_i is fixed.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from .._basics.types import Flag, Scalar, Vector
from .algebra import every, smallest


class Bounds(eqx.Module):
    """Lower and upper bound of every parameter, infinite where there is none."""

    lower: Vector
    upper: Vector

    @property
    def fixed(self) -> Bool[Array, "n ..."]:
        return self.lower == self.upper

    def contain(self, x: Vector) -> Flag:
        return every((x >= self.lower) & (x <= self.upper))

    def coleman_li(self, x: Vector, g: Vector) -> tuple[Vector, Vector]:
        """The vector v and its derivative dv_i/dx_i, which is -1, 0 or 1."""
        to_upper = (g < 0) & jnp.isfinite(self.upper)
        to_lower = (g > 0) & jnp.isfinite(self.lower)
        v = jnp.where(
            to_upper, self.upper - x, jnp.where(to_lower, x - self.lower, 1.0)
        )
        dv = to_lower.astype(x.dtype) - to_upper.astype(x.dtype)
        return v, dv

    def hat(
        self, x: Vector, g: Vector, scale: Vector, length: Vector | None = None
    ) -> tuple[Vector, Vector, Vector, Vector]:
        """v and dv, 0 for fixed parameters, and the hat scaling d and diagonal c.

        d_i = sqrt(v_i s_i) and c_i = s_i g_i dv_i towards a bound, else d_i = s_i and
        c_i = 0, with s = `scale`; a fixed parameter has d_i = 0 and c_i = 1.
        """
        v, dv = self.coleman_li(x, g)
        v, dv = jnp.where(self.fixed, 0, v), jnp.where(self.fixed, 0, dv)
        towards, share = dv != 0, 1 / scale
        if length is not None:
            towards &= v < length
            share = 1 / length
        d = scale * jnp.sqrt(jnp.where(towards, v * share, 1))
        d = jnp.where(self.fixed, 0, d)
        c = jnp.where(towards, scale * (scale * share) * g * dv, 0)
        c = jnp.where(self.fixed, 1, c)
        return v, dv, d, c

    def stride(self, x: Vector, s: Vector) -> tuple[Scalar, Bool[Array, "n ..."]]:
        """Largest t with x + t s inside the bounds, and the bounds met there."""
        room = jnp.where(s > 0, self.upper - x, self.lower - x)
        strides = jnp.where(s == 0, jnp.inf, room / jnp.where(s == 0, 1, s))
        stride = smallest(strides)
        return stride, (strides == stride) & jnp.isfinite(strides)

    def interior(
        self, x: Vector, rstep: float = 0.0, length: Vector | float = 0.0
    ) -> Vector:
        """x moved to a distance of at least `rstep` (relative) from every bound.

        Relative to the bound, or to the natural `length` of a parameter if that is
        more: so a bound says the same in every unit.

        A bound of 0 has no size: there the distance is a unit of rounding of numbers
        that are smaller than any unit makes them, and never a denormal number: XLA
        flushes those to zero, which would leave x on the bound and freeze it there.
        Beyond that it never exceeds a thousandth of ub - lb, so that a narrow box keeps
        its shape. Fixed parameters stay where they are.
        """
        info = jnp.finfo(x.dtype)
        eps, tiny = float(info.eps), float(info.tiny)
        width = self.upper - self.lower

        def gap(bound):
            size = jnp.where(jnp.isfinite(bound), jnp.abs(bound), 0.0)
            relative = max(eps, rstep) * jnp.maximum(size, length)
            room = jnp.maximum(1e-3 * width, jnp.minimum(eps * size, 0.5 * width))
            return jnp.minimum(jnp.maximum(relative, tiny / eps), room)

        inside = jnp.clip(x, self.lower + gap(self.lower), self.upper - gap(self.upper))
        return jnp.where(self.fixed, self.lower, inside)

    def active(self, x: Vector, size: Vector) -> Int[Array, "n ..."]:
        """-1 where the lower bound is active at x, 1 where the upper one is, else 0.

        Iterates stay strictly inside, so a bound counts as active within eps^0.4
        of the larger of |bound| and `size`, the natural length of the parameter.
        """
        rtol = float(jnp.finfo(x.dtype).eps) ** 0.4
        # One that the data do not show has no natural length, but a box has a width.
        size = jnp.minimum(size, self.upper - self.lower)

        def near(distance, other, bound):
            reach = rtol * jnp.maximum(size, jnp.abs(bound))
            return jnp.isfinite(bound) & (distance <= reach) & (distance <= other)

        below, above = x - self.lower, self.upper - x
        at_lower = near(below, above, self.lower)
        at_upper = near(above, below, self.upper)
        return jnp.where(at_lower, -1, at_upper.astype(jnp.int32))
