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

from ._small import cholesky, solve_lower, solve_upper
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
    p_norm, slope = length(jnp.zeros_like(alpha))
    inside = p_norm <= radius
    upper = g_norm / radius
    lower = jnp.where(definite, (p_norm - radius) / jnp.where(slope < 0, -slope, 1), 0)
    lower = jnp.where(jnp.isfinite(lower), jnp.maximum(lower, 0), 0)

    def more(state):
        _, _, _, done, count = state
        return ~done & (count < _MAX_NEWTON)

    def newton(state):
        alpha, lower, upper, _, count = state
        middle = jnp.maximum(0.001 * upper, jnp.sqrt(lower * upper))
        outside = (alpha < lower) | (alpha > upper) | (alpha == 0)
        alpha = jnp.where(outside, middle, alpha)
        p_norm, slope = length(alpha)
        phi = p_norm - radius
        ratio = phi / jnp.where(slope < 0, slope, -1)
        upper = jnp.where(phi < 0, alpha, upper)
        lower = jnp.maximum(lower, alpha - ratio)
        alpha = alpha - (phi + radius) * ratio / radius
        return alpha, lower, upper, jnp.abs(phi) < _RTOL * radius, count + 1

    start = (alpha, lower, upper, inside, jnp.zeros((), jnp.int32))
    alpha = jax.lax.while_loop(more, newton, start)[0]
    return jnp.where(inside, 0, alpha)


def _on_boundary(p: Vector, alpha: Scalar, radius: Scalar) -> Vector:
    """p scaled to the length `radius` where alpha > 0: it was right to 1% only."""
    norm = jnp.linalg.norm(p)
    return jnp.where(alpha > 0, p * (radius / jnp.where(norm == 0, 1, norm)), p)


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

    basis: Float[Array, "n k"]
    eigvals: Float[Array, " k"]
    grad: Float[Array, " k"]  # V'g, 0 in null directions

    @staticmethod
    def of_matrix(b: Float[Array, "k k"], g: Float[Array, " k"]) -> "Spectral":
        """From the eigenvalues of B; those below k eps max(lam) are null."""
        lam, basis = jnp.linalg.eigh(b)
        kept = lam > b.shape[0] * jnp.finfo(b.dtype).eps * lam[-1]
        return Spectral(basis, jnp.where(kept, lam, 0), jnp.where(kept, g @ basis, 0))

    def product(self, s: Vector) -> Vector:
        return self.basis @ (self.eigvals * (s @ self.basis))

    def solve(self) -> Vector:
        """B^+ g, of minimum norm."""
        null = self.eigvals == 0
        inverse = jnp.where(null, 0, 1 / jnp.where(null, 1, self.eigvals))
        return self.basis @ (self.grad * inverse)

    def step(self, radius: Scalar, alpha: Scalar) -> tuple[Vector, Scalar]:
        """The subproblem's solution in n-space and its alpha."""

        def coordinates(alpha):
            shifted = self.eigvals + alpha
            null = shifted == 0
            inverse = jnp.where(null, 0, 1 / jnp.where(null, 1, shifted))
            return -self.grad * inverse, inverse

        def length(alpha):
            p, inverse = coordinates(alpha)
            p_norm = jnp.linalg.norm(p)
            slope = -jnp.sum(p * p * inverse) / jnp.where(p_norm == 0, 1, p_norm)
            return p_norm, slope

        g_norm = jnp.linalg.norm(self.grad)
        definite = jnp.all(self.eigvals > 0)
        alpha = solve_secular(length, g_norm, radius, alpha, definite)
        p = self.basis @ coordinates(alpha)[0]
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
        zeros = Spectral(jnp.zeros_like(b), jnp.zeros_like(g), jnp.zeros_like(g))
        fallback, _ = jax.lax.while_loop(
            lambda carry: carry[1],
            lambda _: (Spectral.of_matrix(b, g), jnp.array(False)),
            (zeros, ~definite),
        )
        return Cholesky(b, g, definite, fallback)

    def product(self, s: Vector) -> Vector:
        return self.matrix @ s

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
            p_norm = jnp.linalg.norm(p)
            return p_norm, -jnp.sum(q * q) / jnp.where(p_norm == 0, 1, p_norm)

        g_norm = jnp.linalg.norm(self.grad)
        alpha = solve_secular(length, g_norm, radius, alpha, self.definite)
        return _on_boundary(solve(alpha)[0], alpha, radius), alpha
