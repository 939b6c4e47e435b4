"""Robust losses: the cost is 1/2 * C^2 * sum(rho(r^2 / C^2)) with C = `f_scale`.

A loss enters the solver only here. Near a point it is replaced by an ordinary least
squares problem with the same gradient and an approximate Hessian (Triggs et al. 2000,
"Bundle adjustment: a modern synthesis", section 4.3):

    row scale  s = sqrt(rho' + 2 rho'' z),     z = r^2 / C^2
    residual   r <- r rho' / s,                J <- diag(s) J

Where rho' + 2 rho'' z is not positive (an outlier beyond the inflection point) s^2 is
floored at rho'/1000, which keeps the gradient exact and all but drops the curvature. A
floor of eps, as in SciPy, would make such residuals 10^8 times longer than the others,
and a QR factorisation of [J r] would lose eight digits of the gradient.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._basics.types import Scalar


def _soft_l1(z):
    # 2 (sqrt(1 + z) - 1) without the cancellation at small z, where inliers are.
    return 2 * z / (jnp.sqrt(1 + z) + 1)


def _huber(z):
    # The inner `where` keeps the derivative of sqrt finite on the branch not taken.
    return jnp.where(z <= 1, z, 2 * jnp.sqrt(jnp.where(z <= 1, 1, z)) - 1)


def _cauchy(z):
    return jnp.log1p(z)


def _arctan(z):
    return jnp.arctan(z)


LOSSES: dict[str, Callable | None] = {
    "linear": None,
    "soft_l1": _soft_l1,
    "huber": _huber,
    "cauchy": _cauchy,
    "arctan": _arctan,
}


class Loss(eqx.Module):
    """`rho` (elementwise, traced; None is least squares) and its scale."""

    rho: Callable | None
    f_scale: Scalar

    def cost(self, r: Float[Array, " m"]) -> Scalar:
        """1/2 C^2 sum(rho(r^2 / C^2))."""
        if self.rho is None:
            return 0.5 * jnp.sum(r * r)
        return 0.5 * self.f_scale**2 * jnp.sum(self.rho((r / self.f_scale) ** 2))

    def influence_sums(
        self, r: Float[Array, " m"], used: Bool[Array, " m"] | None
    ) -> tuple[Scalar, Scalar]:
        """sum(psi^2) and sum(psi') over the residuals that count.

        psi = r rho' is the slope of the cost by a residual; psi' is its derivative
        s^2, floored as above.
        """
        _, weighted, scale = self.robustify(r)
        scale = jnp.ones_like(r) if scale is None else scale
        slope = scale**2 if used is None else jnp.where(used, scale**2, 0)
        return jnp.sum((weighted * scale) ** 2), jnp.sum(slope)

    def robustify(
        self, r: Float[Array, " m"]
    ) -> tuple[Float[Array, " m"], Float[Array, " m"], Float[Array, " m"] | None]:
        """Cost of each row, corrected residual and row scale (None if all are 1)."""
        if self.rho is None:
            return 0.5 * r * r, r, None
        z = (r / self.f_scale) ** 2
        ones = jnp.ones_like(z)

        def slope(z, rho=self.rho):
            return jax.jvp(rho, (z,), (ones,))

        (rho, d_rho), (_, d2_rho) = jax.jvp(slope, (z,), (ones,))
        row_scale = jnp.sqrt(jnp.maximum(d_rho + 2 * d2_rho * z, 1e-3 * d_rho))
        cost = 0.5 * self.f_scale**2 * rho
        # rho' may underflow to 0 for an outlier: its row is then 0.
        used = row_scale > 0
        return cost, r * d_rho / jnp.where(used, row_scale, 1), row_scale
