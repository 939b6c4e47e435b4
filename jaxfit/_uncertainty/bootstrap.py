"""The bootstrap: fits of data drawn anew.

Every replicate is a problem of its own, fitted from the solution, and all of them are
one batch (`solve_batch`), in slices so that their data never take more than a bounded
part of memory. Efron and Tibshirani (1993), An introduction to the bootstrap; Wu
(1986, Annals of Statistics 14) for regression.
"""

from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.special import ndtr, ndtri
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from .._basics.checks import one_of, positive_int
from .._basics.precision import in_own_precision
from .._basics.trees import as_rows, unravel_as
from .._basics.types import Matrix, Scalar, Vector
from .._batch.refits import refits
from .._batch.solve_batch import mesh_of
from .._problem.problem import Problem
from .._problem.traced import why_not_rowwise
from .._programs.program import program
from .._solve.covariance import directions
from .._solve.noise import CostNoise
from .._solve.solution import Solution
from .._solve.solver import TRF
from .conditions import KNOWN, converged
from .distributions import check_levels
from .influence import influence
from .resampling import (
    Resampling,
    drawn_rows,
    drawn_shift,
    picked,
    shifted,
    solver_for,
    starting_from,
)
from .weighted_rows import (
    Rows,
    dense_for,
    held_at,
    leverage,
    needs_rows,
    noise_variance,
    rows_at,
)


Interval = Literal["percentile", "basic", "bca"]


class Bootstrap(eqx.Module):
    """Fits of n resampled problems.

    **Attributes:**

    - `params`: like the problem's, with the replicates along the first axis; NaN where
        a fit failed.
    - `status`: (n,), a [`jaxfit.Status`][] each; `num_failed` counts those that met no
        tolerance. They are left out of everything below.
    - `estimate`: the solution.
    - `change`: (m, parameters), how the solution changes without each of the data, from
        [`jaxfit.influence`][]: what the BCa interval knows of skewness.
    """

    params: PyTree[Array]
    status: Int[Array, " n"]
    cost: Float[Array, " n"]
    estimate: PyTree[Array]
    change: Float[Array, "m k"]
    kind: Resampling = eqx.field(static=True)

    @property
    @in_own_precision
    def num_failed(self) -> Int[Array, ""]:
        """How many fits met no tolerance."""
        return jnp.sum(self.status <= 0)

    @property
    @in_own_precision
    def samples(self) -> Float[Array, "n k"]:
        """The replicates as rows in the order of `ravel_pytree(params)`."""
        return as_rows(self.params)

    @in_own_precision
    def covariance(self) -> Matrix:
        """The covariance of the replicates, (n, n)."""
        squares, count = squares_about_mean(self.samples)
        return squares / (count - 1)

    @in_own_precision
    def errors(self) -> PyTree[Array]:
        """Standard errors, like the parameters."""
        return unravel_as(self.estimate, jnp.sqrt(jnp.diagonal(self.covariance())))

    @in_own_precision
    def bias(self) -> PyTree[Array]:
        """The mean of the replicates less the estimate."""
        mean = jnp.nanmean(self.samples, axis=0)
        return unravel_as(self.estimate, mean - ravel_pytree(self.estimate)[0])

    @in_own_precision
    def interval(
        self, level: float = 0.95, kind: Interval = "bca"
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        """Lower and upper limits, like the parameters.

        "percentile" takes quantiles of the replicates; "basic" mirrors them at the
        estimate; "bca" corrects them for bias and skewness (Efron 1987).

        **Raises:** `ValueError` for a level that is not between 0 and 1, or a kind that
        does not exist.
        """
        (level,) = check_levels(level)
        kind = one_of("kind", kind, Interval)
        rows, centre = self.samples, ravel_pytree(self.estimate)[0]
        tails = jnp.array([(1 - level) / 2, (1 + level) / 2], centre.dtype)
        share = jnp.broadcast_to(tails[:, None], (2, centre.size))
        if kind == "bca":
            share = self._corrected(tails, rows, centre)
        ends = jax.vmap(jnp.nanquantile, in_axes=(1, 1), out_axes=1)(rows, share)
        if kind == "basic":
            ends = 2 * centre - ends[::-1]
        return unravel_as(self.estimate, ends[0]), unravel_as(self.estimate, ends[1])

    def _corrected(self, tails: Array, rows: Array, centre: Vector) -> Array:
        """The quantiles to take instead, (2, n)."""
        used = ~jnp.isnan(rows)
        count = jnp.sum(used, axis=0)
        # A replicate that equals the estimate counts half on either side.
        below = jnp.sum(used & (rows < centre), axis=0)
        below = below + 0.5 * jnp.sum(used & (rows == centre), axis=0)
        bias = ndtri(jnp.clip(below / count, 0.5 / count, 1 - 0.5 / count))
        change = jnp.nan_to_num(self.change - jnp.nanmean(self.change, axis=0))
        spread = jnp.sum(change**2, axis=0) ** 1.5
        skew = -jnp.sum(change**3, axis=0) / jnp.where(spread > 0, 6 * spread, 1)
        z = bias + ndtri(tails)[:, None]
        return ndtr(bias + z / (1 - skew * z))


def bootstrap(
    problem: Problem,
    solution: Solution,
    n: int,
    key: Array | int | np.integer,
    *,
    kind: Resampling = "residual",
    noise: CostNoise = "estimated",
    solver: TRF | None = None,
    lanes: int | None = None,
    devices: int | Sequence[Any] | None = None,
    mesh: Mesh | None = None,
) -> Bootstrap:
    """Fit n resampled problems, starting from the solution.

    **Arguments:**

    - `problem`, `solution`: a problem and what [`jaxfit.solve`][] made of it.
    - `n`: the number of replicates; 1,000 or more for intervals.
    - `key`: a key of `jax.random`, or an integer to make one of.
    - `kind`: "residual" draws residuals anew, which supposes that all have one
        distribution; "wild" changes their signs at random, which suits unequal
        variances; "pairs" draws whole data, which supposes nothing of residuals;
        "parametric" draws normal ones.
    - `noise`: of "parametric": "known" draws residuals of variance 1, "estimated" of
        the estimated variance.
    - `solver`, `lanes`, `devices`, `mesh`: as of [`jaxfit.solve_batch`][].

    **Returns:** a [`jaxfit.Bootstrap`][]. Replicate i is the same for any n, and on any
    number of devices.

    **Raises:** `ValueError` for a solution that did not converge or is matrix-free, for
    n < 1, a kind that does not exist, and dof < 1 with "parametric" and an estimated
    noise.
    """
    n, kind = positive_int("n", n), one_of("kind", kind, Resampling)
    lanes = None if lanes is None else positive_int("lanes", lanes)
    mesh = mesh_of(devices, mesh)
    noise = one_of("noise", noise, CostNoise)
    if noise == "known" and kind != "parametric":
        raise ValueError(
            f"`noise` is 'known', but kind={kind!r} takes it from the residuals: leave "
            "it out, or ask for kind='parametric'."
        )
    needs = kind == "parametric" and noise == "estimated"
    ok = converged("bootstrap", problem, solution, needs, KNOWN)
    dense_for("bootstrap", solution)
    if isinstance(key, int | np.integer):
        key = jax.random.key(int(key))
    make, change = _replicates(problem, solution, key, solver, (kind, noise))
    m = make.rows.used.size
    numbers = m * (1 if kind != "pairs" else _row_numbers(problem, m))
    fits = solver_for(problem, solver_of_refits(solver, m), kind, make.rowwise)
    found, status, cost = refits(make, n, numbers, fits, lanes, mesh)
    return Bootstrap(
        params=unravel_as(solution.params, converged_only(found, status, ok)),
        status=status,
        cost=cost,
        estimate=solution.params,
        change=change,
        kind=kind,
    )


class _Replicates(eqx.Module):
    """Resampled problems by number; `problem` starts at the solution."""

    problem: Problem
    key: Array
    rows: Rows
    order: Int[Array, " m"]
    hat: Float[Array, " m"]
    variance: Scalar
    pull: Float[Array, "k m"]
    kind: Resampling = eqx.field(static=True)
    rowwise: bool = eqx.field(static=True)

    def __call__(self, i: Int[Array, ""]) -> Problem:
        own = jax.random.fold_in(self.key, i)
        rows = self.rows
        if self.kind == "pairs":
            which = drawn_rows(own, rows.used, self.order)
            counts = jnp.arange(which.size) < jnp.sum(rows.used)
            return picked(self.problem, which, counts, self.rowwise)
        shift = drawn_shift(self.kind, own, rows, self.order, self.hat, self.variance)
        other = shifted(self.problem, shift)
        x, unravel = ravel_pytree(self.problem.params)
        start = x - self.pull @ shift
        bounds = self.problem.bounds
        if bounds is not None:
            start = jnp.clip(start, bounds.lower, bounds.upper)
        # The model may not be defined there.
        r = self.problem.residual(unravel(start), self.problem.args)
        defined = jnp.all(jnp.isfinite(ravel_pytree(r)[0]) | ~rows.used)
        return starting_from(other, unravel(jnp.where(defined, start, x)))


@program(static=(4,))
def _replicates(problem, solution, key, solver, how) -> tuple[_Replicates, Array]:
    """What makes replicates, and the change of the fit without each datum."""
    kind, noise = how
    x = ravel_pytree(solution.params)[0]
    rows = rows_at(problem, x, solver)
    fixed, dropped = held_at(problem, solution, True)
    # Where the linear model takes a shift of the residual: one evaluation less a fit.
    w = directions(dense_for("bootstrap", solution), fixed | dropped).determined
    make = _Replicates(
        problem=starting_from(problem, solution.params),
        key=key,
        rows=rows,
        order=jnp.argsort(~rows.used, stable=True),
        hat=leverage(rows, fixed | dropped),
        variance=noise_variance(
            noise, solution, rows if needs_rows(noise, problem) else None
        ),
        pull=w.T @ w @ (rows.jacobian.T * jnp.sqrt(rows.slope)),
        kind=kind,
        rowwise=kind == "pairs"
        and why_not_rowwise(problem, x, solver or TRF()) is None,
    )
    return make, influence(problem, solution, noise="known", solver=solver).change


def _row_numbers(problem: Problem, m: int) -> int:
    """The numbers in a row of the data."""
    sizes = [leaf.size // m for leaf in jax.tree.leaves(problem.args) if leaf.ndim]
    return max(1, sum(sizes))


@program
def converged_only(found, status, ok):
    return jnp.where(((status > 0) & ok)[:, None], found, jnp.nan)


def squares_about_mean(rows: Float[Array, "s n"]) -> tuple[Matrix, Int[Array, ""]]:
    """The sums of squares about the mean of the rows that are numbers; their count."""
    used = ~jnp.isnan(rows[:, :1])
    count = jnp.sum(used)
    mean = jnp.sum(jnp.where(used, rows, 0), axis=0) / count
    apart = jnp.where(used, rows - mean, 0)
    return apart.T @ apart, count


def solver_of_refits(solver: TRF | None, m: int) -> TRF:
    """The solver of the replicates, which record nothing.

    By default they stop after a step that lowers the cost by less than 1e-4 of the
    noise variance: within a hundredth of a standard error before it, and by that much
    squared after it.
    """
    solver = TRF(ftol=1e-4 / m) if solver is None else solver
    return solver.replaced(history=False, mesh=None)
