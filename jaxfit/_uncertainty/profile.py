"""Profile-likelihood intervals of single parameters.

Where a model is not linear in its parameters, or a bound is near, standard errors are
symmetric and wrong. A profile interval holds a parameter, fits all others anew, and
ends where the cost has risen by what the level allows (Venzon and Moolgavkar 1988,
Applied Statistics 37; MINOS in James and Roos 1975). All parameters, sides and levels
are lanes of one batch (`crossings`).
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from .._basics.checks import one_of
from .._basics.names import indices_of, names_of
from .._basics.precision import in_own_precision
from .._basics.types import Scalar, Vector
from .._problem.placement import on_auto_axes
from .._problem.problem import Problem
from .._problem.sharded import objective_of
from .._programs.by_work import ByWork
from .._solve.covariance import directions
from .._solve.noise import CostNoise
from .._solve.solution import Solution
from .._solve.solver import TRF
from .conditions import KNOWN, converged, rows_of
from .crossings import Ends, Rays, Side, crossings
from .distributions import check_levels, reach
from .plots import plot_profile
from .weighted_rows import dense_for, held_at, needs_rows, noise_variance, rows_at


LEVELS = (0.68, 0.95)
_MOST_STEPS = 500


class Profile(eqx.Module):
    """Profile intervals of k parameters at some levels.

    **Attributes:**

    - `estimate`, `errors`: (k,), the solution and its standard errors.
    - `lower`, `upper`: (k, levels): -inf and inf where the data set no limit, a bound
        where it comes first, NaN where the search failed.
    - `lower_side`, `upper_side`: (k, levels), a [`jaxfit.Side`][] each: the reason.
    - `lower_params`, `upper_params`: (k, levels, n), the fits at the ends.
    - `levels`: the probabilities; `names`: the parameters'.
    """

    estimate: Float[Array, " k"]
    errors: Float[Array, " k"]
    lower: Float[Array, "k levels"]
    upper: Float[Array, "k levels"]
    lower_side: Int[Array, "k levels"]
    upper_side: Int[Array, "k levels"]
    lower_params: Float[Array, "k levels n"]
    upper_params: Float[Array, "k levels n"]
    reach: Float[Array, " levels"]  # in standard errors of a linear model
    levels: tuple[float, ...] = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)

    @in_own_precision
    def interval(self, name: str, level: float) -> tuple[float, float]:
        """The interval of one parameter at one of the levels.

        **Raises:** `ValueError` for a name or a level that is not in the profile.
        """
        (i,) = indices_of([name], self.names)
        if level not in self.levels:
            raise ValueError(f"`level` must be one of {self.levels}, got {level!r}.")
        j = self.levels.index(level)
        return float(self.lower[i, j]), float(self.upper[i, j])

    @in_own_precision
    def summary(self) -> str:
        """A table of intervals, with the reasons of sides that are no crossings."""
        head = ["parameter", "estimate", "std. error"]
        for level in self.levels:
            head += [f"{100 * level:g}% from", "to"]
        rows, notes = [head], []
        for i, name in enumerate(self.names):
            row = [name, f"{float(self.estimate[i]):.6g}", f"{self.errors[i]:.3g}"]
            for j, level in enumerate(self.levels):
                row += [f"{self.lower[i, j]:.6g}", f"{self.upper[i, j]:.6g}"]
                sides = (("below", self.lower_side), ("above", self.upper_side))
                for where, side in sides:
                    end = Side(int(side[i, j]))
                    if end != Side.CROSSED and float(self.errors[i]) > 0:
                        at = f"{name}, {where}, {100 * level:g}%"
                        notes.append(f"  {at}: {end.message}")
            rows.append(row)
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0])]
                + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
            )
            for row in rows
        ]
        return "\n".join([*lines, *([""] if notes else []), *notes])

    def plot(self, axes: Any = None) -> Any:
        """The roots of the rise over each parameter, by matplotlib.

        A straight line is a linear model; what bends is why intervals are asymmetric.
        """
        return plot_profile(self, axes)


def profile(
    problem: Problem,
    solution: Solution,
    params: Any = None,
    levels: float | Sequence[float] = LEVELS,
    *,
    noise: CostNoise = "estimated",
    solver: TRF | None = None,
    names: Sequence[str] | None = None,
) -> Profile:
    """Profile-likelihood intervals.

    **Arguments:**

    - `problem`, `solution`: a problem and what [`jaxfit.solve`][] made of it.
    - `params`: names or indices of the parameters; all of them if None.
    - `levels`: probabilities, such as 0.95.
    - `noise`: "known" where residuals are in units of their standard deviations: the
        cost may rise by half the quantile of chi2. "estimated": by that of F with dof
        degrees of freedom, in units of the estimated variance.
    - `solver`: of the fits on the way; the default [`jaxfit.TRF`][] if None.
    - `names`: what to call the parameters, if not by the PyTree's keys.

    **Returns:** a [`jaxfit.Profile`][]. A fixed parameter has the interval of its
    value. The search takes steps of about a standard error: a ridge of the cost that is
    narrower may be stepped over.

    **Raises:** `ValueError` for a solution that did not converge or is matrix-free, a
    level that is not between 0 and 1, a parameter that does not exist, and dof < 1
    where the noise is estimated.
    """
    noise = one_of("noise", noise, CostNoise)
    ok = converged("profile", problem, solution, noise == "estimated", KNOWN)
    dense_for("profile", solution)
    known = names_of(problem.params, names)
    which, given = indices_of(params, known), check_levels(levels)
    solver = quiet(solver)
    work = 2 * len(which) * len(given) * rows_of(solution)
    values, sides, points, reached, estimate, errors = _intervals.of(work)(
        problem, solver, solution, ok, which, given, noise
    )
    return Profile(
        estimate=estimate,
        errors=errors,
        lower=values[0],
        upper=values[1],
        lower_side=sides[0],
        upper_side=sides[1],
        lower_params=points[0],
        upper_params=points[1],
        reach=reached,
        levels=given,
        names=tuple(known[i] for i in which),
    )


def quiet(solver: TRF | None) -> TRF:
    """The solver of the fits on the way, which record nothing.

    They start close to their ends: one that takes so long goes astray, and is made
    nearer to the solution.
    """
    solver = TRF(max_steps=_MOST_STEPS) if solver is None else solver
    if solver.linear_solver == "matrix_free":
        solver = solver.replaced(linear_solver="auto")
    return solver.replaced(history=False)


def variance_at(problem, solution, noise, solver):
    """The variance of a residual, traced."""
    rows = None
    if needs_rows(noise, problem):
        rows = rows_at(problem, ravel_pytree(solution.params)[0], solver)
    return noise_variance(noise, solution, rows)


@on_auto_axes
def ends_of(
    problem: Problem,
    solver: TRF,
    x: Vector,
    cost: Scalar,
    variance: Scalar,
    rays: Rays,
    axes: tuple[str, ...] | None,
) -> Ends:
    """The ends of rays from the solution x."""
    objective = objective_of(problem, x, solver, axes)
    return crossings(objective, problem.bounds, solver, x, cost, variance, rays)


def _limits(
    problem: Problem,
    solver: TRF,
    solution: Solution,
    ok: Any,
    which: tuple[int, ...],
    levels: tuple[float, ...],
    noise: CostNoise,
) -> tuple[Any, Any, Any, Array, Array, Array]:
    """The limits of each parameter at each level: value, side and all parameters.

    Each of these is a pair, of the lower and of the upper side.
    """
    x = ravel_pytree(solution.params)[0]
    variance = variance_at(problem, solution, noise, solver)
    variance = jnp.where(ok & (variance > 0), variance, jnp.nan)
    far = reach(jnp.array(levels), None if noise == "known" else solution.dof)
    far = far.astype(x.dtype)
    held, ray, errors = jax.vmap(lambda i: _towards(problem, solution, x, i, variance))(
        jnp.array(which)
    )
    signs = jnp.array([-1.0, 1.0], x.dtype)
    shape = (2, len(which), len(levels))

    def lanes(a, *rest):
        return jnp.broadcast_to(a, shape + rest).reshape(-1, *rest)

    rays = Rays(
        lanes(held[None, :, None], x.size),
        lanes((signs[:, None, None] * ray)[:, :, None], x.size),
        lanes(far),
    )
    ends = ends_of(problem, solver, x, solution.cost, variance, rays)
    side, found = ends.side.reshape(shape), ends.params.reshape(*shape, -1)
    each = np.arange(len(which))
    values = found[:, each, :, list(which)].swapaxes(0, 1)
    lost = jnp.inf * signs[:, None, None]
    values = jnp.where(side == Side.OPEN, lost, values)
    if problem.lower is not None and problem.upper is not None:
        limits = jnp.stack([problem.lower, problem.upper])[:, list(which), None]
        values = jnp.where(side == Side.BOUND, limits, values)
    bad = (side == Side.FAILED) | (side == Side.LOWER_MINIMUM) | ~ok
    values = jnp.where(bad, jnp.nan, values)
    estimate = x[jnp.array(which)]
    return tuple(values), tuple(side), tuple(found), far, estimate, errors


_intervals = ByWork(_limits, static=(4, 5, 6))


def _towards(problem: Problem, solution: Solution, x: Vector, i, variance):
    """Parameter i held; how all move with it by one standard error; and that error.

    Of a parameter that the data do not determine the step is its own size.
    """
    here = jnp.arange(x.size) == i
    fixed, active = held_at(problem, solution, True)
    held = fixed | (active & ~here)
    w, _, unit, lost = directions(dense_for("profile", solution), held)
    column = w.T @ (w @ here.astype(x.dtype))
    error = jnp.sqrt(column[i] * variance)
    size = jnp.where(x[i] != 0, jnp.abs(x[i]), jnp.where(unit[i] > 0, unit[i], 1))
    usable = ~lost[i] & (error > 0)
    ray = column / jnp.where(usable, jnp.sqrt(column[i]), 1) * jnp.sqrt(variance)
    ray = jnp.where(usable, ray, jnp.where(here, size, 0))
    is_fixed = fixed[i]
    error = jnp.where(is_fixed, 0, jnp.where(usable, error, jnp.inf))
    return here, jnp.where(is_fixed, jnp.where(here, 1, 0), ray), error
