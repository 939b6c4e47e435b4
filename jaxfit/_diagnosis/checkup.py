"""The numbers that analysers of a fit look at, on the host, each made when asked for.

Errors and correlations are those of `jaxfit.covariance` (Gauss-Newton, active bounds
dropped), of a fit that did not converge too.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from .._basics.names import names_of
from .._problem.curve import Curve, Factor
from .._problem.problem import Problem
from .._programs.program import program
from .._solve.covariance import (
    Directions,
    correlation_of,
    directions,
    masked,
    scaled,
)
from .._solve.hessian import hessian
from .._solve.noise import CostNoise
from .._solve.solution import Solution
from .._solve.solver import TRF
from .._trf.linearisation import Gram
from .._trf.triangle import Triangle
from .._uncertainty.weighted_rows import (
    Rows,
    held_at,
    leverage,
    noise_variance,
    rows_at,
)
from .._uncertainty.words import combinations, plainest


class Checkup:
    """A fit as NumPy arrays: m residuals that count, n parameters.

    **Attributes:** `problem`, `solution`, `solver`, `noise`, `names`; `x` and `start`,
    (n,); `fixed` and `active`, (n,) booleans, and `free`, which are neither.
    """

    def __init__(
        self,
        problem: Problem,
        solution: Solution,
        solver: TRF,
        noise: CostNoise,
        names: Any = None,
    ):
        self.problem, self.solution, self.solver = problem, solution, solver
        self.noise, self.names = noise, names_of(problem.params, names)
        self.x = np.asarray(ravel_pytree(solution.params)[0])
        self.start = np.asarray(ravel_pytree(problem.params)[0])
        fixed, active = held_at(problem, solution, True)
        self.fixed, self.active = np.asarray(fixed), np.asarray(active)
        self.free = ~self.fixed & ~self.active

    @functools.cached_property
    def _seen(self) -> "_Seen":
        seen = jax.device_get(_look(self.problem, self.solution, self.solver))
        used = seen.rows.used
        rows = Rows(*(a[used] for a in seen.rows))
        return seen._replace(rows=rows, leverage=seen.leverage[used])

    @property
    def _rows(self) -> Any:
        return self._seen.rows

    def _rows_of(self, x: np.ndarray) -> Any:
        rows = jax.device_get(_rows_at(self.problem, x, self.solver))
        return Rows(*(a[rows.used] for a in rows))

    @functools.cached_property
    def where(self) -> np.ndarray:
        """The indices of the residuals that count, (m,)."""
        if self.problem.mask is None:
            return np.arange(len(self.residual))
        return np.flatnonzero(np.asarray(ravel_pytree(self.problem.mask)[0]))

    @property
    def residual(self) -> np.ndarray:
        """Residuals at the solution, (m,), as the problem states them."""
        return self._rows.residual

    @property
    def jacobian(self) -> np.ndarray:
        """Their derivatives, (m, n), as the loss weighs them."""
        return self._rows.jacobian

    @property
    def influence(self) -> np.ndarray:
        """The residuals as a robust loss lets them count, (m,)."""
        return self._rows.influence

    @property
    def weighted(self) -> np.ndarray:
        """The residuals whose product with the Jacobian is the gradient, (m,)."""
        return self._rows.weighted

    @property
    def is_robust(self) -> bool:
        """Whether the loss holds outliers down."""
        return self.problem.loss.rho is not None

    @functools.cached_property
    def jacobian_at_start(self) -> np.ndarray:
        """The same at the start, (m, n)."""
        return self._rows_of(self.start).jacobian

    @functools.cached_property
    def norms(self) -> np.ndarray:
        """The lengths of the columns of the Jacobian, (n,)."""
        with np.errstate(over="ignore"):
            return np.linalg.norm(self.jacobian, axis=0)

    @property
    def is_finite(self) -> bool:
        """Whether residuals and derivatives at the solution are finite."""
        rows = self._rows
        return bool(np.isfinite(rows.residual).all() and np.isfinite(self.norms).all())

    @functools.cached_property
    def _spectrum(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """U, s and V' of J with columns of length 1; of free parameters only."""
        norms = self.norms[self.free]
        columns = self.jacobian[:, self.free] / np.where(norms > 0, norms, 1)
        m, k = columns.shape
        # Rows of 0, where there are fewer than parameters, so that V is square.
        return np.linalg.svd(np.pad(columns, ((0, max(0, k - m)), (0, 0))), False)

    @property
    def singular_values(self) -> np.ndarray:
        """Of J with columns of length 1, of free parameters, the largest first."""
        return self._spectrum[1]

    @property
    def cut(self) -> float:
        """Singular values at or below this are rounding."""
        s = self.singular_values
        eps = float(np.finfo(s.dtype).eps)
        return max(self.jacobian.shape) * eps * float(s[0]) if s.size else 0.0

    @functools.cached_property
    def directions(self) -> np.ndarray:
        """The directions of the singular values as rows, (k, n), in scaled units."""
        rows = np.zeros((len(self.singular_values), self.x.size))
        rows[:, self.free] = self._spectrum[2]
        return rows

    @property
    def rank(self) -> int:
        """The number of directions that the data determine."""
        return int((self.singular_values > self.cut).sum())

    @property
    def condition(self) -> float:
        """The condition number of J with columns of length 1."""
        s = self.singular_values
        if not s.size:
            return 1.0
        full = self.rank == int(self.free.sum())
        return float(s[0] / s[-1]) if full and s[-1] > 0 else np.inf

    @property
    def hat(self) -> np.ndarray:
        """The leverage of each residual, (m,)."""
        return self._seen.leverage

    @property
    def dof(self) -> int:
        """Degrees of freedom."""
        return int(self.solution.dof)

    @property
    def noise_deviation(self) -> float:
        """The standard deviation of a residual; 1 where the noise is known."""
        return 1.0 if self.noise == "known" else float(np.sqrt(self._seen.variance))

    @functools.cached_property
    def inverse(self) -> np.ndarray:
        """(J'J)^-1 on what is determined, (n, n); 0 for parameters that are not free.

        What is not determined has an infinite variance.
        """
        w = self._seen.ways.determined
        return masked(w.T @ w, self._seen.ways.lost)

    @functools.cached_property
    def errors(self) -> np.ndarray:
        """Standard errors, (n,); 0 where not free, inf where not determined."""
        return np.sqrt(np.diag(scaled(self.inverse, self.noise_deviation**2)))

    @functools.cached_property
    def correlation(self) -> np.ndarray:
        """Correlations of the parameters, (n, n); NaN where there are none."""
        return correlation_of(self.inverse)

    @functools.cached_property
    def offset(self) -> np.ndarray:
        """How far the minimum still is, by a Gauss-Newton step, in errors, (n,).

        0 for parameters that are not free or not determined.
        """
        w = self._seen.ways.determined
        out = w.T @ (w @ (self.jacobian.T @ self.weighted))
        known = (self.errors > 0) & np.isfinite(self.errors)
        return np.where(known, np.abs(out) / np.where(known, self.errors, 1), 0)

    def depends_on(self, i: int) -> bool:
        """Whether parameter i, made NaN, changes any residual."""
        x = self.x.copy()
        x[i] = np.nan
        return not np.array_equal(self.residual_at(x), self.residual)

    def residual_at(self, x: np.ndarray) -> np.ndarray:
        """Residuals at other parameters, (m,), NaN where the model has none."""
        with jax.debug_nans(False):
            return self._rows_of(x).residual

    def without(self, i: int) -> tuple[np.ndarray, float]:
        """What is lost where parameter i is 0.

        **Returns:** the parameters on which nothing depends then, as (n,) booleans, and
        by how much chi2 rises, in variances of the noise, once the others have made a
        Gauss-Newton step; inf where the model is not defined.
        """
        x = self.x.copy()
        x[i] = 0
        with jax.debug_nans(False):
            rows = self._rows_of(x)
        r, j = rows.weighted, rows.jacobian
        if not (np.isfinite(r).all() and np.isfinite(j).all()):
            return np.zeros_like(self.free), np.inf
        norms = np.linalg.norm(j, axis=0)
        empty = self.free & (norms <= 1e-9 * self.norms) & (self.norms > 0)
        empty[i] = False
        rest = self.free & ~empty
        rest[i] = False
        unit = np.where(norms[rest] > 0, norms[rest], 1)
        step = np.linalg.lstsq(j[:, rest] / unit, -r)[0]
        moved = r + j[:, rest] / unit @ step
        rise = float(moved @ moved - self.weighted @ self.weighted)
        return empty, rise / self.noise_deviation**2

    @functools.cached_property
    def hessian(self) -> np.ndarray:
        """The exact Hessian of the cost at the solution, (n, n)."""
        return np.asarray(hessian(self.problem, self.solution.params))

    @functools.cached_property
    def is_exact(self) -> bool:
        """Whether residuals are no more than rounding of the numbers they come from."""
        r, size = self.residual, 0.0
        if isinstance(self.problem.residual, Curve):
            data = self.problem.args
            y = data.weigh(data.y)
            size = float(np.linalg.norm(ravel_pytree(y)[0]))
        jacobian = np.abs(self.jacobian)
        moved = float(np.linalg.norm(jacobian @ np.abs(self.x)))
        # Where all is 0 in the end, what is left is rounding of where it began.
        began = float(np.linalg.norm(jacobian @ np.abs(self.start)))
        size = max(size, moved, began / 64)
        eps = float(np.finfo(r.dtype).eps)
        return float(np.linalg.norm(r)) <= 64 * eps * size

    @functools.cached_property
    def fitted(self) -> np.ndarray | None:
        """What a curve's model predicts, (m,); None for another residual."""
        if not isinstance(self.problem.residual, Curve):
            return None
        data = self.problem.args
        if isinstance(data.sigma, Factor):
            return None
        moved = self.residual
        if data.sigma is not None:
            wide = jax.tree.map(
                lambda s, y: np.broadcast_to(s, np.shape(y)), data.sigma, data.y
            )
            moved = moved * np.asarray(ravel_pytree(wide)[0])[self.where]
        return np.asarray(ravel_pytree(data.y)[0])[self.where] + moved

    @property
    def by_gram(self) -> bool:
        """Whether the fit ended with J'J rather than a triangle of J."""
        return isinstance(self.solution.linearisation, Gram)

    def named(self, which: Any) -> tuple[str, ...]:
        """The names of the parameters that an array of booleans marks."""
        return tuple(self.names[i] for i in np.flatnonzero(which))

    @functools.cached_property
    def null(self) -> np.ndarray:
        """Directions along which the data determine nothing, as rows, (k - rank, n).

        In units of the parameters: how much each changes. Of all bases of these
        directions it is the one that rounding cannot change (`words`).
        """
        unit = 1 / np.where(self.norms > 0, self.norms, 1)
        return plainest(self.directions[self.rank :] * unit, unit)

    def in_words(self, directions: Any) -> tuple[str, ...]:
        """Directions as combinations of named parameters."""
        return combinations(np.asarray(directions), self.names)


class _Seen(NamedTuple):
    """The rows at a solution, and what is made of them."""

    rows: Rows
    leverage: Any
    ways: Directions
    variance: Any


@program
def _look(problem: Problem, solution: Solution, solver: TRF) -> _Seen:
    rows = rows_at(problem, ravel_pytree(solution.params)[0], solver)
    held = solution.held
    costs = 0.5 * rows.weighted**2
    root = Triangle.of_rows(costs, rows.weighted, rows.jacobian.T)
    return _Seen(
        rows=rows,
        leverage=leverage(rows, held),
        ways=directions(root.total(), held),
        variance=noise_variance(
            "estimated", solution, rows if problem.loss.rho is not None else None
        ),
    )


_rows_at = program(rows_at)
