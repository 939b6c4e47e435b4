"""The trust-region subproblem: min g'p + p'Bp/2 subject to |p| <= radius.

Its solution is p(alpha) = -(B + alpha I)^-1 g with alpha = 0 where that lies inside and
otherwise the root of the secular equation |p(alpha)| = radius, found by the bracketed
Newton iteration of More (1978), "The Levenberg-Marquardt algorithm: implementation and
theory", section 5. B is factored once for an outer step and p is asked for many radii.

`Spectral` knows B = V diag(lam) V' on k columns (the triangular form: k = n, from an
SVD; the matrix-free form: k = 2). `Cholesky` knows B itself and factors B + alpha I for
each alpha: less work for large n, and plain arithmetic for lanes of small fits.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._basics.packing import stack_scalars
from .._basics.types import Count, Flag, Matrix, Scalar, Vector
from .._basics.varying import axes_of
from .algebra import cholesky, dot, matvec, norm, solve_lower, solve_upper, vecmat


# The step needs no more than its length right to 1%: the radius itself is a heuristic.
_RTOL, _MAX_NEWTON = 0.01, 10
_LAST, _END = -1, -2


class Newton(NamedTuple):
    """The minimiser of the model itself, whatever the radius: the step p(0).

    It is of minimum norm, or basic, where B is singular.
    """

    p: Float[Array, "k ..."]
    slope: Scalar  # p'dp/dalpha
    rank: Count  # the number of directions in which B has curvature


def solve_secular(
    solve: Callable[[Scalar], tuple[Float[Array, "k ..."], Scalar]],
    newton: Newton,
    g: Float[Array, "k ..."],
    radius: Scalar,
    guess: Scalar,
) -> tuple[Float[Array, "k ..."], Scalar]:
    """Return p(alpha) of length at most `radius`, and alpha.

    `solve(alpha)` returns p(alpha) and p'dp/dalpha; `newton` is what it is at 0, and
    `guess` a first alpha > 0. Any axes behind the first are lanes: each has its own
    loop, all of them run until the last has ended.

    A count tells the phase: 1 and more are Newton iterations, -1 evaluates p at the
    last alpha. All of it is one loop over a few scalars in one vector, because that
    compiles to one kernel.
    """

    def more(carry):
        return jnp.any(carry[0][3] > _END)

    def root_of(p, p_dp):
        """|p|, and how far alpha is from the root of the tangent to |p|."""
        p_norm = norm(p)
        slope = p_dp / jnp.where(p_norm == 0, 1, p_norm)
        return p_norm, (p_norm - radius) / jnp.where(slope < 0, -slope, 1)

    def turn(carry):
        alpha, lower, upper, count = carry[0]
        ended, last = count == _END, count == _LAST
        middle = jnp.maximum(0.001 * upper, jnp.sqrt(lower * upper))
        outside = (alpha < lower) | (alpha > upper) | (alpha == 0)
        alpha = jnp.where(outside & ~last, middle, alpha)
        p, p_dp = solve(alpha)
        p_norm, root = root_of(p, p_dp)
        close = jnp.abs(p_norm - radius) < _RTOL * radius
        tried = close | (count >= _MAX_NEWTON)
        upper = jnp.where(p_norm < radius, alpha, upper)
        lower = jnp.maximum(lower, alpha + root)
        better = alpha + root * (p_norm / radius)
        count = jnp.where(last, _END, jnp.where(tried, _LAST, count + 1))
        alpha = jnp.where(last, alpha, better)
        # On the boundary p was right to 1% only: it is made exact.
        p = p * jnp.where(last, radius / jnp.where(p_norm == 0, 1, p_norm), 1)
        turned = stack_scalars([alpha, lower, upper, count], guess.dtype), p
        if guess.ndim:
            turned = jax.tree.map(lambda a, b: jnp.where(ended, b, a), turned, carry)
        return turned

    p_norm, root = root_of(newton.p, newton.slope)
    inside = ~(p_norm > radius)  # NaN counts as inside: it has nothing to iterate for
    first = [
        jnp.where(inside, 0, guess),
        jnp.where(newton.rank == len(g), root, 0),
        norm(g) / jnp.where(inside, 1, radius),
        jnp.where(inside, _END, 1),
    ]
    start = stack_scalars(first, guess.dtype), newton.p
    scalars, p = jax.lax.while_loop(more, turn, start)
    return p, scalars[0]


@runtime_checkable
class Subproblem(Protocol):
    """A factored model of the cost around x: many radii, one factorisation."""

    def step(self, radius: Scalar, alpha: Scalar) -> tuple[Vector, Scalar]:
        """The minimiser within `radius` and its alpha, from a guess of alpha."""
        ...

    @property
    def newton(self) -> Newton:
        """The minimiser whatever the radius, in n-space."""
        ...

    @property
    def product(self) -> Callable[[Vector], Vector]:
        """s -> B s."""
        ...


class Spectral(eqx.Module):
    """B = V diag(lam) V' on the span of V; lam is exactly 0 in null directions."""

    rows: Float[Array, "k n ..."]  # V'
    eigvals: Float[Array, "k ..."]
    grad: Float[Array, "k ..."]  # V'g, 0 in null directions

    @staticmethod
    def of_matrix(b: Float[Array, "k k"], g: Float[Array, "k ..."]) -> "Spectral":
        """From the eigenvalues of B; those below k eps max(lam) are null."""
        lam, basis = jnp.linalg.eigh(b)
        kept = lam > b.shape[0] * jnp.finfo(b.dtype).eps * lam[-1]
        rows, lam = basis.T, jnp.where(kept, lam, 0)
        return Spectral(rows, lam, jnp.where(kept, matvec(rows, g), 0))

    def product(self, s: Vector) -> Vector:
        return vecmat(self.eigvals * matvec(self.rows, s), self.rows)

    def solve(self) -> Vector:
        """B^+ g, of minimum norm."""
        return -self.newton.p

    @property
    def newton(self) -> Newton:
        inner = self._newton()
        return inner._replace(p=vecmat(inner.p, self.rows))

    def _newton(self) -> Newton:
        """The same on the span of V."""
        p, slope = self._shifted(jnp.zeros_like(self.eigvals[0]))
        return Newton(p, slope, jnp.sum(self.eigvals > 0, dtype=jnp.int32))

    def _shifted(self, alpha: Scalar) -> tuple[Float[Array, "k ..."], Scalar]:
        shifted = self.eigvals + alpha
        null = shifted == 0
        inverse = jnp.where(null, 0, 1 / jnp.where(null, 1, shifted))
        p = -self.grad * inverse
        return p, -dot(p * p, inverse)

    def step(self, radius: Scalar, alpha: Scalar) -> tuple[Vector, Scalar]:
        """The subproblem's solution in n-space and its alpha."""
        newton = self._newton()
        p, alpha = solve_secular(self._shifted, newton, self.grad, radius, alpha)
        return vecmat(p, self.rows), alpha


class Subspace(eqx.Module):
    """A model known by its product with any vector and solved on a small subspace."""

    spectral: Spectral
    product: Callable[[Vector], Vector]
    newton: Newton

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
    newton: Newton

    @staticmethod
    def of_matrix(b: Matrix, g: Vector) -> "Cholesky":
        lower, definite = cholesky(b)
        p, slope = _solved(lower, g)
        # The loop replaces what it carries, B by V' and g by V'g: were B a constant of
        # the loop, XLA would move the eigenvalues out of it and always compute them.
        fallback, _ = jax.lax.while_loop(
            lambda carry: carry[1],
            lambda carry: (
                Spectral.of_matrix(carry[0].rows, carry[0].grad),
                jnp.zeros_like(carry[1]),
            ),
            (Spectral(b, jnp.zeros_like(g), g), ~definite),
        )
        other = fallback.newton
        newton = Newton(
            jnp.where(definite, p, other.p),
            slope,
            jnp.where(definite, len(g), other.rank),
        )
        return Cholesky(b, g, definite, fallback, newton)

    def product(self, s: Vector) -> Vector:
        return matvec(self.matrix, s)

    def step(self, radius: Scalar, alpha: Scalar) -> tuple[Vector, Scalar]:
        """The subproblem's solution and its alpha."""

        def by_factor():
            return self._step(radius, alpha)

        def by_spectrum():
            return self.fallback.step(radius, alpha)

        if axes_of(self.grad):
            # JAX fails to batch a loop in a branch inside `shard_map`; batched, both
            # branches run anyway.
            both = by_factor(), by_spectrum()
            return jax.tree.map(functools.partial(jnp.where, self.definite), *both)
        return jax.lax.cond(self.definite, by_factor, by_spectrum)

    def _step(self, radius, alpha):
        eye = jnp.eye(self.grad.size, dtype=self.grad.dtype)

        def solve(alpha):
            lower, _ = cholesky(self.matrix + alpha * eye)
            return _solved(lower, self.grad)

        return solve_secular(solve, self.newton, self.grad, radius, alpha)


def _solved(lower: Matrix, g: Vector) -> tuple[Vector, Scalar]:
    """p = -(L L')^-1 g and its slope by a shift of the diagonal, -|L^-1 p|^2."""
    p = -solve_upper(lower, solve_lower(lower, g))
    q = solve_lower(lower, p)
    return p, -dot(q, q)
