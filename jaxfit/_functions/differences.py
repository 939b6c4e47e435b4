"""Jacobians by finite differences of function values.

    "2-point"   (f(x + h e) - f(x)) / h                     error O(h)
    "3-point"   (f(x + h e) - f(x - h e)) / 2h              error O(h^2)
    "cs"        Im f(x + i h e) / h, for analytic functions  O(h^2), no cancellation

Steps are those of SciPy's `approx_derivative`: eps^(1/2), eps^(1/3) and eps^(1/2) times
max(1, |x|). No point leaves the bounds: a step that would is taken the other way, or is
shortened, and a central difference becomes the one-sided one of second order.
"""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from .._basics.types import Vector


Scheme = Literal["2-point", "3-point", "cs"]


class DifferenceJacobian(eqx.Module):
    """The Jacobian of `fn(*args)` by its argument number `argnum`, by differences."""

    fn: Callable
    limits: tuple[Vector, Vector] | None  # lower and upper bounds
    rel_step: Any
    scheme: Scheme = eqx.field(static=True)
    eps: float = eqx.field(static=True)
    argnum: int = eqx.field(static=True)

    def __call__(self, *args) -> PyTree[Array]:
        i = self.argnum

        def fn(x):
            return self.fn(*args[:i], x, *args[i + 1 :])

        return difference_jacobian(
            fn, args[i], self.scheme, self.rel_step, self.limits, self.eps
        )


def difference_jacobian(
    fn: Callable[[Array], PyTree[Array]],
    x: Vector,
    scheme: Scheme,
    rel_step: ArrayLike | None = None,
    limits: tuple[Vector, Vector] | None = None,
    eps: float | None = None,
) -> PyTree[Float[Array, "... n"]]:
    """The Jacobian of `fn` at x, in the structure of fn(x).

    `rel_step` is a step relative to |x| (a number or one for each parameter) and `eps`
    the relative error of the values of `fn`, that of x's dtype if None.
    """
    eps = max(float(jnp.finfo(x.dtype).eps), eps or 0.0)
    basis = jnp.eye(x.size, dtype=x.dtype)
    away = jnp.where(x >= 0, 1.0, -1.0).astype(x.dtype)
    usual = eps ** (1 / 3 if scheme == "3-point" else 1 / 2)
    usual = usual * away * jnp.maximum(1, jnp.abs(x))
    h = usual
    if rel_step is not None:
        h = jnp.asarray(rel_step, x.dtype) * away * jnp.abs(x)
        h = jnp.where((x + h) - x == 0, usual, h)

    if scheme == "cs":
        h = jnp.abs(h)

        def turned(e, h):
            return jax.tree.map(lambda f: jnp.imag(f) / h, fn(x + 1j * h * e))

        return _columns(turned, basis, h)

    below = above = jnp.full_like(x, jnp.inf)
    if limits is not None:
        lower, upper = limits
        below, above = x - lower, upper - x
    if scheme == "2-point":
        room = jnp.where(h >= 0, above, below)
        other = jnp.where(h >= 0, below, above)
        back = jnp.where(jnp.abs(h) <= other, -h, h)
        longest = jnp.where(above >= below, above, -below)
        h = jnp.where(
            jnp.abs(h) <= room,
            h,
            jnp.where(jnp.abs(h) <= jnp.maximum(above, below), back, longest),
        )
        f0 = fn(x)

        def forward(e, h):
            moved = x + h * e
            step = jnp.sum(moved - x)
            return jax.tree.map(lambda f1, f0: (f1 - f0) / step, fn(moved), f0)

        return _columns(forward, basis, h)

    h = jnp.abs(h)
    side = jnp.where(above >= below, 1.0, -1.0).astype(x.dtype)
    central = jnp.minimum(above, below) >= h
    h = jnp.where(central, h, side * jnp.minimum(h, jnp.maximum(above, below) / 2))
    f0 = fn(x)

    def centred(e, h, central):
        near, far = x + h * e, x + jnp.where(central, -h, 2 * h) * e
        apart, reach = jnp.sum(near - far), jnp.sum(far - x)

        def slope(f0, f1, f2):
            sided = (4 * f1 - 3 * f0 - f2) / reach
            return jnp.where(central, (f1 - f2) / apart, sided)

        return jax.tree.map(slope, f0, fn(near), fn(far))

    return _columns(centred, basis, h, central)


def _columns(column, *per_parameter):
    # All at once: a host function is called back once for all of them.
    return jax.vmap(column, out_axes=-1)(*per_parameter)
