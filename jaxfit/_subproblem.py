"""The trust-region subproblem: min g'p + p'Bp/2 subject to |p| <= radius.

Its solution is p(alpha) = -(B + alpha I)^-1 g with alpha = 0 where that lies inside and
otherwise the root of the secular equation |p(alpha)| = radius, found by the bracketed
Newton iteration of More (1978), "The Levenberg-Marquardt algorithm: implementation and
theory", section 5. B is factored once for an outer step and p is asked for many radii.

`Spectral` knows B = V diag(lam) V' on k columns (the triangular form: k = n, from an
SVD; the matrix-free form: k = 2). `Cholesky` knows B itself and factors B + alpha I for
each alpha: less work for large n, and plain arithmetic for lanes of small fits.
"""

from collections.abc import Callable
from typing import Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._pack import stack_scalars
from ._small import cholesky, dot, matvec, norm, solve_lower, solve_upper, vecmat
from ._types import Flag, Matrix, Scalar, Vector


# The step needs no more than its length right to 1%: the radius itself is a heuristic.
_RTOL, _MAX_NEWTON = 0.01, 10


def solve_secular(
    length: Callable[[Scalar], tuple[Scalar, Scalar]],
    g_norm: Scalar,
    radius: Scalar,
    alpha: Scalar,
    definite: Flag,
) -> Scalar:
    """Return alpha >= 0 with |p(alpha)| <= radius, equal to 1% where alpha > 0.

    `length(alpha)` returns |p| and d|p|/d alpha. `alpha` is a first guess and
    `definite` tells whether B is nonsingular, so that p(0) has a slope to start from.
    """

    def newton_root(p_norm, slope):
        return (p_norm - radius) / jnp.where(slope < 0, -slope, 1)

    def more(carry):
        return (carry[3] > 0) & (carry[3] <= _MAX_NEWTON)

    # The carry is one vector (alpha, lower, upper, count), count -1 meaning done: XLA
    # compiles a kernel for every array that a loop carries.
    def newton(carry):
        alpha, lower, upper, count = carry
        middle = jnp.maximum(0.001 * upper, jnp.sqrt(lower * upper))
        outside = (alpha < lower) | (alpha > upper) | (alpha == 0)
        alpha = jnp.where(outside, middle, alpha)
        p_norm, slope = length(alpha)
        root = newton_root(p_norm, slope)
        upper = jnp.where(p_norm < radius, alpha, upper)
        lower = jnp.maximum(lower, alpha + root)
        done = jnp.abs(p_norm - radius) < _RTOL * radius
        alpha = alpha + root * (p_norm / radius)
        count = jnp.where(done, -1, count + 1)
        return stack_scalars([alpha, lower, upper, count], alpha.dtype)

    p_norm, slope = length(jnp.zeros_like(alpha))
    inside = p_norm <= radius
    lower = jnp.where(definite, jnp.maximum(newton_root(p_norm, slope), 0), 0)
    count = jnp.where(inside, -1, 1)
    alpha = jnp.where(inside, 0, alpha)
    start = stack_scalars([alpha, lower, g_norm / radius, count], alpha.dtype)
    return jax.lax.while_loop(more, newton, start)[0]


def _on_boundary(p: Vector, alpha: Scalar, radius: Scalar) -> Vector:
    """p scaled to the length `radius` where alpha > 0: it was right to 1% only."""
    length = norm(p)
    return p * jnp.where(alpha > 0, radius / jnp.where(length == 0, 1, length), 1)


class Subproblem(Protocol):
    """A factored model of the cost around x: many radii, one factorisation."""

    def step(self, radius: Scalar, alpha: Scalar) -> tuple[Vector, Scalar]:
        """The minimiser within `radius` and its alpha, from a guess of alpha."""
        ...

    def product(self, s: Vector) -> Vector:
        """B s."""
        ...


class Spectral(eqx.Module):
    """B = V diag(lam) V' on the span of V; lam is exactly 0 in null directions."""

    rows: Float[Array, "k n"]  # V'
    eigvals: Float[Array, " k"]
    grad: Float[Array, " k"]  # V'g, 0 in null directions

    @staticmethod
    def of_matrix(b: Float[Array, "k k"], g: Float[Array, " k"]) -> "Spectral":
        """From the eigenvalues of B; those below k eps max(lam) are null."""
        lam, basis = jnp.linalg.eigh(b)
        kept = lam > b.shape[0] * jnp.finfo(b.dtype).eps * lam[-1]
        rows, lam = basis.T, jnp.where(kept, lam, 0)
        return Spectral(rows, lam, jnp.where(kept, matvec(rows, g), 0))

    def product(self, s: Vector) -> Vector:
        return vecmat(self.eigvals * matvec(self.rows, s), self.rows)

    def solve(self) -> Vector:
        """B^+ g, of minimum norm."""
        null = self.eigvals == 0
        inverse = jnp.where(null, 0, 1 / jnp.where(null, 1, self.eigvals))
        return vecmat(self.grad * inverse, self.rows)

    def step(self, radius: Scalar, alpha: Scalar) -> tuple[Vector, Scalar]:
        """The subproblem's solution in n-space and its alpha."""

        def coordinates(alpha):
            shifted = self.eigvals + alpha
            null = shifted == 0
            inverse = jnp.where(null, 0, 1 / jnp.where(null, 1, shifted))
            return -self.grad * inverse, inverse

        def length(alpha):
            p, inverse = coordinates(alpha)
            p_norm = norm(p)
            return p_norm, -dot(p * p, inverse) / jnp.where(p_norm == 0, 1, p_norm)

        g_norm = norm(self.grad)
        definite = jnp.all(self.eigvals > 0)
        alpha = solve_secular(length, g_norm, radius, alpha, definite)
        p = vecmat(coordinates(alpha)[0], self.rows)
        return _on_boundary(p, alpha, radius), alpha


class Subspace(eqx.Module):
    """A model known by its product with any vector and solved on a small subspace."""

    spectral: Spectral
    product: Callable[[Vector], Vector]

    def step(self, radius: Scalar, alpha: Scalar) -> tuple[Vector, Scalar]:
        return self.spectral.step(radius, alpha)


class Cholesky(eqx.Module):
    """B itself; where it is not positive definite, its spectrum takes over.

    The spectrum is computed by a `while_loop` that runs at most once: under `vmap` a
    `cond` would compute it for every lane at every step, the loop only when a lane
    needs it.
    """

    matrix: Matrix
    grad: Vector
    definite: Flag
    fallback: Spectral

    @staticmethod
    def of_matrix(b: Matrix, g: Vector) -> "Cholesky":
        _, definite = cholesky(b)
        # The loop replaces what it carries, B by V' and g by V'g: were B a constant of
        # the loop, XLA would move the eigenvalues out of it and always compute them.
        fallback, _ = jax.lax.while_loop(
            lambda carry: carry[1],
            lambda carry: (
                Spectral.of_matrix(carry[0].rows, carry[0].grad),
                jnp.array(False),
            ),
            (Spectral(b, jnp.zeros_like(g), g), ~definite),
        )
        return Cholesky(b, g, definite, fallback)

    def product(self, s: Vector) -> Vector:
        return matvec(self.matrix, s)

    def step(self, radius: Scalar, alpha: Scalar) -> tuple[Vector, Scalar]:
        """The subproblem's solution and its alpha."""

        def by_factor():
            return self._step(radius, alpha)

        def by_spectrum():
            return self.fallback.step(radius, alpha)

        return jax.lax.cond(self.definite, by_factor, by_spectrum)

    def _step(self, radius, alpha):
        eye = jnp.eye(self.grad.size, dtype=self.grad.dtype)

        def solve(alpha):
            lower, _ = cholesky(self.matrix + alpha * eye)
            half = solve_lower(lower, self.grad)
            return -solve_upper(lower, half), lower

        def length(alpha):
            p, lower = solve(alpha)
            q = solve_lower(lower, p)
            p_norm = norm(p)
            return p_norm, -dot(q, q) / jnp.where(p_norm == 0, 1, p_norm)

        g_norm = norm(self.grad)
        alpha = solve_secular(length, g_norm, radius, alpha, self.definite)
        return _on_boundary(solve(alpha)[0], alpha, radius), alpha
