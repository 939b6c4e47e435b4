"""The trust-region subproblem: min g'p + p'Bp/2 subject to |p| <= radius.

Its solution is p(alpha) = -(B + alpha I)^-1 g with alpha = 0 where that lies inside and
otherwise the root of the secular equation |p(alpha)| = radius, found by the bracketed
Newton iteration of More (1978), "The Levenberg-Marquardt algorithm: implementation and
theory", section 5. B is factored once for an outer step and p is asked for many radii.

`Spectral` knows B = V diag(lam) V' on k columns (the triangular form: k = n, from an
SVD; the matrix-free form: k = 2). `Factored` knows B itself and factors B + alpha I for
each alpha: less work for large n, and plain arithmetic for small fits and their lanes.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._basics.once import only_where
from .._basics.packing import stack_scalars
from .._basics.types import Count, Flag, Matrix, Scalar, Vector
from .algebra import (
    UNROLL,
    cholesky,
    dot,
    matvec,
    norm,
    solve_lower,
    solve_upper,
    vecmat,
)
from .elimination import solve_shifted


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
        return self.own._replace(p=vecmat(self.own.p, self.rows))

    @property
    def own(self) -> Newton:
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
        p, alpha = solve_secular(self._shifted, self.own, self.grad, radius, alpha)
        return vecmat(p, self.rows), alpha


class Subspace(eqx.Module):
    """A model known by its product with any vector and solved on a small subspace."""

    spectral: Spectral
    product: Callable[[Vector], Vector]
    newton: Newton

    def step(self, radius: Scalar, alpha: Scalar) -> tuple[Vector, Scalar]:
        return self.spectral.step(radius, alpha)


class Factored(eqx.Module):
    """B itself, factored anew for each alpha; its spectrum, where that loses digits.

    Then `basis` is V', `matrix` diag(lam) and `grad` V'g, on which elimination is exact
    and leaves null directions out. Otherwise `basis` is I; None where a spectrum is
    never asked for.
    """

    matrix: Matrix
    grad: Vector
    basis: Matrix | None
    own: Newton  # the Newton step in these coordinates

    @staticmethod
    def of_matrix(
        b: Matrix,
        g: Vector,
        sound: Flag | bool = True,
        spectrum: Callable[[Array], Spectral] | None = None,
    ) -> "Factored":
        """From B and g; `spectrum(one)` is asked where elimination is not `sound`.

        `one` is 1, to multiply by (see `only_where`).
        """
        plain = Factored(b, g, None, _newton(b, g))
        if spectrum is None:
            return plain

        def turned(one):
            other = spectrum(one)
            return other.rows, jnp.diag(other.eigvals), other.grad, other.own

        sound &= plain.own.rank == len(g)
        eye = jnp.eye(len(g), dtype=b.dtype)
        basis, b, g, own = only_where(~sound, turned, (eye, b, g, plain.own))
        return Factored(b, g, basis, own)

    @property
    def newton(self) -> Newton:
        return self.own._replace(p=self._back(self.own.p))

    def product(self, s: Vector) -> Vector:
        if self.basis is None:
            return matvec(self.matrix, s)
        return self._back(matvec(self.matrix, matvec(self.basis, s)))

    def step(self, radius: Scalar, alpha: Scalar) -> tuple[Vector, Scalar]:
        """The subproblem's solution and its alpha."""

        def solve(alpha):
            return _shifted(self.matrix, self.grad, alpha)[:2]

        p, alpha = solve_secular(solve, self.own, self.grad, radius, alpha)
        return self._back(p), alpha

    def _back(self, p: Vector) -> Vector:
        return p if self.basis is None else vecmat(p, self.basis)


def _newton(b: Matrix, g: Vector) -> Newton:
    return Newton(*_shifted(b, g, jnp.zeros_like(g[0])))


def _shifted(b: Matrix, g: Vector, alpha: Scalar) -> tuple[Vector, Scalar, Count]:
    """p = -(B + alpha I)^-1 g, p'dp/dalpha and the rank, by elimination or a library.

    A single large matrix has to be positive definite, or diagonal and g 0 where it is.
    """
    if len(g) <= UNROLL or g.ndim > 1:
        return solve_shifted(b, g, alpha)
    eye = jnp.eye(len(g), dtype=g.dtype)
    null = jnp.diagonal(b) + alpha == 0
    lower, definite = cholesky(b + jnp.where(null, 1, alpha) * eye)
    p = -solve_upper(lower, solve_lower(lower, g))
    q = solve_lower(lower, p)
    rank = len(g) - jnp.sum(null, dtype=jnp.int32)
    return p, -dot(q, q), jnp.where(definite, rank, 0)
