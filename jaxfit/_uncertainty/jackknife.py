"""The jackknife: the fit without each datum in turn.

With x_i the fit without datum i, its covariance is (m - 1) / m sum (x_i - mean)^2
(Efron and Tibshirani 1993, An introduction to the bootstrap, chapter 11).
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, PyTree

from .._basics.checks import positive_int
from .._basics.precision import in_own_precision
from .._basics.trees import as_rows, unravel_as
from .._basics.types import Matrix
from .._batch.refits import refits
from .._batch.solve_batch import mesh_of
from .._problem.problem import Problem
from .._programs.program import program
from .._solve.solution import Solution
from .._solve.solver import TRF
from .bootstrap import converged_only, solver_of_refits, squares_about_mean
from .conditions import converged
from .resampling import shifted, solver_for, starting_from
from .weighted_rows import rows_at


class Jackknife(eqx.Module):
    """Fits that leave out one of m residuals each.

    **Attributes:** `params`, like the problem's with the residuals along the first
    axis; NaN where one was masked or its fit failed; `status`, (m,), a
    [`jaxfit.Status`][] each; `estimate`, the solution.
    """

    params: PyTree[Array]
    status: Int[Array, " m"]
    estimate: PyTree[Array]

    @in_own_precision
    def covariance(self) -> Matrix:
        """(m - 1) / m times the sum of squares of the fits about their mean."""
        squares, count = squares_about_mean(as_rows(self.params))
        return squares * (count - 1) / count

    @in_own_precision
    def errors(self) -> PyTree[Array]:
        """Standard errors, like the parameters."""
        return unravel_as(self.estimate, jnp.sqrt(jnp.diagonal(self.covariance())))

    @in_own_precision
    def bias(self) -> PyTree[Array]:
        """(m - 1) times the mean of the fits less the estimate."""
        rows = as_rows(self.params)
        count = jnp.sum(~jnp.isnan(rows[:, 0]))
        mean = jnp.nanmean(rows, axis=0)
        apart = (count - 1) * (mean - ravel_pytree(self.estimate)[0])
        return unravel_as(self.estimate, apart)


class _Without(eqx.Module):
    """The problem without one residual, by its number; `whole` has all of them."""

    whole: Problem
    used: Bool[Array, " m"]

    def __call__(self, i: Int[Array, ""]) -> Problem:
        others = self.used & (jnp.arange(self.used.size) != i)
        return eqx.tree_at(
            lambda p: p.mask, self.whole, others, is_leaf=lambda leaf: leaf is None
        )


def jackknife(
    problem: Problem,
    solution: Solution,
    *,
    solver: TRF | None = None,
    lanes: int | None = None,
    devices: int | Sequence[Any] | None = None,
    mesh: Mesh | None = None,
) -> Jackknife:
    """Leave out each residual in turn and fit the others, from the solution.

    [`jaxfit.influence`][] tells the same to first order without a single fit.

    **Arguments:** as of [`jaxfit.bootstrap`][].

    **Returns:** a [`jaxfit.Jackknife`][].

    **Raises:** `ValueError` for a solution that did not converge.
    """
    ok = converged("jackknife", problem, solution)
    lanes = None if lanes is None else positive_int("lanes", lanes)
    mesh = mesh_of(devices, mesh)
    make = _without(problem, solution, solver)
    m = make.used.size
    fits = solver_for(problem, solver_of_refits(solver, m), "residual", False)
    found, status, _ = refits(make, m, m, fits, lanes, mesh)
    found = converged_only(found, status, ok & make.used)
    return Jackknife(unravel_as(solution.params, found), status, solution.params)


@program
def _without(problem, solution, solver) -> _Without:
    rows = rows_at(problem, ravel_pytree(solution.params)[0], solver)
    whole = shifted(
        starting_from(problem, solution.params), jnp.zeros_like(rows.residual)
    )
    return _Without(whole, rows.used)
