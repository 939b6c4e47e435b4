"""The linearisation of a problem whose Jacobian must not be formed."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._basics.types import Scalar, Vector
from .._basics.varying import alike
from .algebra import dot, norm
from .subproblem import Newton, Spectral, Subspace


class Slope(eqx.Module):
    """What is left of a matrix-free linearisation once its data are out of sight."""

    cost: Scalar
    grad: Vector
    column_norms: Vector
    differenced: Scalar

    @staticmethod
    def blank(n: int, m: int, dtype) -> "Slope":
        """NaN everywhere: nothing has been seen yet."""
        nan = jnp.full(n, jnp.nan, dtype)
        return Slope(nan[0], nan, nan, nan[0])

    def without(self, columns: Bool[Array, "n ..."]) -> "Slope":
        """As if J had zeros in some columns."""
        grad = jnp.where(columns, 0, self.grad)
        norms = jnp.where(columns, 0, self.column_norms)
        return Slope(self.cost, grad, norms, self.differenced)


class MatrixFree(eqx.Module):
    """`product(s)` is J'J s; `column_norms` may be estimates.

    The subproblem is solved on the plane of the gradient and the Gauss-Newton step, the
    latter by conjugate gradients truncated at `cg_steps` products (Branch, Coleman and
    Li 1999, section 3). Only vectors of length n are kept.
    """

    cost: Scalar
    grad: Vector
    column_norms: Vector
    product: Callable[[Vector], Vector]
    cg_steps: int = eqx.field(static=True)

    @property
    def differenced(self) -> Scalar:
        """0: here derivatives that are not finite are left as they are."""
        return jnp.zeros_like(self.cost)

    def summary(self) -> "Slope":
        return Slope(self.cost, self.grad, self.column_norms, self.differenced)

    def subproblem(self, d: Vector, c: Vector | None) -> Subspace:
        def product(s):
            curved = d * self.product(d * s)
            return curved if c is None else curved + c * s

        g = d * self.grad
        newton = conjugate_gradients(product, -g, self.cg_steps)
        basis, _ = jnp.linalg.qr(jnp.stack([g, newton], axis=1))
        b = jnp.stack([product(basis[:, 0]), product(basis[:, 1])])
        plane = Spectral.of_matrix(b @ basis, g @ basis)
        spectral = Spectral(plane.rows @ basis.T, plane.eigvals, plane.grad)
        # Nothing tells the rank of a matrix known by its products alone.
        rank = jnp.asarray(g.size, jnp.int32)
        ahead = Newton(newton, jnp.zeros_like(self.cost), rank)
        return Subspace(spectral, product, ahead)


def conjugate_gradients(
    product: Callable[[Vector], Vector], b: Vector, steps: int
) -> Vector:
    """Approximate solution of B p = b for positive semidefinite B.

    Stops at a residual of eps^(1/2) |b|, at `steps` products, or on a direction
    of no curvature (Nocedal and Wright 2006, algorithm 7.2, without the radius).
    """
    tol = jnp.sqrt(jnp.finfo(b.dtype).eps) * norm(b)

    rounding = b.size * jnp.finfo(b.dtype).eps

    def more(state):
        _, r, _, _, _, curved, count = state
        return (norm(r) > tol) & curved & (count < steps)

    def step(state):
        p, r, s, rr, steepest, _, count = state
        bs = product(s)
        curvature = dot(s, bs)
        # Curvature per length: rounding of the largest seen counts as none.
        quotient = curvature / dot(s, s)
        steepest = jnp.maximum(steepest, quotient)
        curved = quotient > rounding * steepest
        t = jnp.where(curved, rr / jnp.where(curved, curvature, 1), 0)
        p, r = p + t * s, r - t * bs
        rr_new = dot(r, r)
        s = r + (rr_new / rr) * s
        return p, r, s, rr_new, steepest, curved, count + 1

    rest = jnp.zeros((), b.dtype), jnp.array(True), jnp.zeros((), jnp.int32)
    start = (jnp.zeros_like(b), b, b, dot(b, b), *alike(rest, b))
    return jax.lax.while_loop(more, step, start)[0]
