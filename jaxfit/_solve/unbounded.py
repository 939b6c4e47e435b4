"""Variables without bounds: u -> x, with x(u) always within them.

    free             x = x0 + s u,   s = |x0|, or 1 where x0 is 0
    one bound        x = bound +- (distance of x0 to it) exp(+-u)
    two bounds       x = lower + (upper - lower) logistic(u + u0)

so that x(0) = x0, moved off a bound that it lies on, and u is of the order of 1 where x
has changed by its own size. Where lower == upper x does not depend on u.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._basics.types import Scalar, Vector
from .._trf.bounds import Bounds


class Bijection(eqx.Module):
    """The map of all parameters, made for a centre x0."""

    bounds: Bounds | None
    centre: Vector
    size: Vector

    @staticmethod
    def of(
        bounds: Bounds | None, centre: Vector, size: Vector | None = None
    ) -> "Bijection":
        """The map with x(0) = centre; `size` is s of free parameters."""
        if size is None:
            size = jnp.where(centre == 0, 1, jnp.abs(centre))
        if bounds is not None:
            centre = bounds.interior(centre, 1e-3, size)
        return Bijection(bounds, centre, size)

    @property
    def fixed(self) -> Bool[Array, " n"]:
        """Parameters with lower == upper."""
        if self.bounds is None:
            return jnp.zeros(self.centre.shape, bool)
        return self.bounds.fixed

    def _kinds(self):
        """Bounds with harmless numbers for infinite ones, and which are finite."""
        assert self.bounds is not None
        lower, upper = self.bounds.lower, self.bounds.upper
        has_lower, has_upper = jnp.isfinite(lower), jnp.isfinite(upper)
        low = jnp.where(has_lower, lower, self.centre - 1)
        high = jnp.where(has_upper, upper, self.centre + 1)
        wide = jnp.where(high > low, high - low, 1)
        share = jnp.clip((self.centre - low) / wide, 1e-6, 1 - 1e-6)
        logit = jnp.log(share) - jnp.log1p(-share)
        return low, high, has_lower, has_upper, logit

    def forward(self, u: Vector) -> Vector:
        """x(u)."""
        x = self.centre + self.size * u
        if self.bounds is None:
            return x
        low, high, has_lower, has_upper, logit = self._kinds()
        # Where the branch is not taken exp must not overflow: its derivative is NaN.
        rising = jnp.where(has_lower & ~has_upper, u, 0)
        falling = jnp.where(has_upper & ~has_lower, u, 0)
        up = low + (self.centre - low) * jnp.exp(rising)
        down = high - (high - self.centre) * jnp.exp(-falling)
        both = low + (high - low) * jax.nn.sigmoid(logit + u)
        x = jnp.where(has_lower & has_upper, both, x)
        x = jnp.where(has_lower & ~has_upper, up, x)
        x = jnp.where(has_upper & ~has_lower, down, x)
        x = jnp.clip(x, self.bounds.lower, self.bounds.upper)
        return jnp.where(self.bounds.fixed, self.bounds.lower, x)

    def inverse(self, x: Vector) -> Vector:
        """u(x); 0 for fixed parameters, -inf or inf on a bound."""
        u = (x - self.centre) / self.size
        if self.bounds is None:
            return u
        low, high, has_lower, has_upper, logit = self._kinds()
        up = jnp.log(x - low) - jnp.log(self.centre - low)
        down = jnp.log(high - self.centre) - jnp.log(high - x)
        both = jnp.log(x - low) - jnp.log(high - x) - logit
        u = jnp.where(has_lower & has_upper, both, u)
        u = jnp.where(has_lower & ~has_upper, up, u)
        u = jnp.where(has_upper & ~has_lower, down, u)
        return jnp.where(self.bounds.fixed, 0, u)

    def log_slope(self, u: Vector) -> Scalar:
        """The log of |dx/du|, summed over the parameters that are not fixed."""
        log = jnp.log(self.size)
        if self.bounds is not None:
            low, high, has_lower, has_upper, logit = self._kinds()
            wide = jnp.where(high > low, high - low, 1)
            up = jnp.log(jnp.where(has_lower, self.centre - low, 1)) + u
            down = jnp.log(jnp.where(has_upper, high - self.centre, 1)) - u
            z = logit + u
            both = jnp.log(wide) + jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z)
            log = jnp.where(has_lower & has_upper, both, log)
            log = jnp.where(has_lower & ~has_upper, up, log)
            log = jnp.where(has_upper & ~has_lower, down, log)
        return jnp.sum(jnp.where(self.fixed, 0, log))
