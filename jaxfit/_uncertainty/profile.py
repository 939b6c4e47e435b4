"""Profile likelihood: asymmetric intervals and joint regions of parameters.

Where a model is not linear in its parameters, or a bound is near, standard errors are
symmetric and wrong. A profile interval holds a parameter, fits all others anew, and
ends where the cost has risen by what the level allows (Venzon and Moolgavkar 1988,
Applied Statistics 37; MINOS in James and Roos 1975). All parameters, sides and levels
are lanes of one batch (`crossings`).
"""

from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from .._basics.checks import is_concrete, one_of, positive_int
from .._basics.names import indices_of, names_of
from .._basics.precision import in_own_precision
from .._basics.types import Scalar, Vector
from .._problem.placement import on_auto_axes
from .._problem.problem import Problem
from .._problem.sharded import objective_of
from .._programs.program import program
from .._solve.covariance import directions
from .._solve.solution import Solution
from .._solve.solver import TRF
from .conditions import KNOWN, converged
from .crossings import Ends, Rays, Side, crossings
from .distributions import reach
from .plots import plot_contour, plot_profile
from .weighted_rows import dense, held_at, needs_rows, noise_variance, rows_at


ProfileNoise = Literal["estimated", "known"]
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


class Contour(eqx.Module):
    """Joint regions of two parameters.

    **Attributes:** `points`, (levels, points, 2), the edge of each region, closed where
    the first follows the last; `side`, (levels, points), a [`jaxfit.Side`][] each;
    `estimate`, (2,); `levels`; `names`, of the two.
    """

    points: Float[Array, "levels points 2"]
    side: Int[Array, "levels points"]
    estimate: Float[Array, " 2"]
    levels: tuple[float, ...] = eqx.field(static=True)
    names: tuple[str, str] = eqx.field(static=True)

    def plot(self, axes: Any = None) -> Any:
        """The regions, by matplotlib."""
        return plot_contour(self, axes)


def profile(
    problem: Problem,
    solution: Solution,
    params: Any = None,
    levels: float | Sequence[float] = LEVELS,
    *,
    noise: ProfileNoise = "estimated",
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
        degrees of freedom, in units of 2 cost / dof.
    - `solver`: of the fits on the way; the default [`jaxfit.TRF`][] if None.
    - `names`: what to call the parameters, if not by the PyTree's keys.

    **Returns:** a [`jaxfit.Profile`][]. A fixed parameter has the interval of its
    value. The search takes steps of about a standard error: a ridge of the cost that is
    narrower may be stepped over.

    **Raises:** `ValueError` for a solution that did not converge or is matrix-free, a
    level that is not between 0 and 1, a parameter that does not exist, and dof < 1
    where the noise is estimated.
    """
    noise = one_of("noise", noise, ProfileNoise)
    ok = converged("profile", problem, solution, noise == "estimated", KNOWN)
    dense("profile", solution)
    known = names_of(problem.params, names)
    which, given = indices_of(params, known), check_levels(levels)
    solver = _quiet(solver)
    ends, reached, estimate, errors = _intervals(
        problem, solver, solution, ok, which, given, noise
    )
    shape = (2, len(which), len(given))
    side = ends.side.reshape(shape)
    found = ends.params.reshape(*shape, -1)
    values = found[:, np.arange(len(which)), :, list(which)].swapaxes(0, 1)
    lost = jnp.array([-jnp.inf, jnp.inf], values.dtype)[:, None, None]
    values = jnp.where(side == Side.OPEN, lost, values)
    if problem.lower is not None and problem.upper is not None:
        limits = jnp.stack([problem.lower, problem.upper])[:, list(which), None]
        values = jnp.where(side == Side.BOUND, limits, values)
    bad = (side == Side.FAILED) | (side == Side.LOWER_MINIMUM) | ~ok
    values = jnp.where(bad, jnp.nan, values)
    return Profile(
        estimate=estimate,
        errors=errors,
        lower=values[0],
        upper=values[1],
        lower_side=side[0],
        upper_side=side[1],
        lower_params=found[0],
        upper_params=found[1],
        reach=reached,
        levels=given,
        names=tuple(known[i] for i in which),
    )


def contour(
    problem: Problem,
    solution: Solution,
    params: Sequence[Any],
    levels: float | Sequence[float] = LEVELS,
    *,
    points: int = 48,
    noise: ProfileNoise = "estimated",
    solver: TRF | None = None,
    names: Sequence[str] | None = None,
) -> Contour:
    """The joint region of two parameters, all others fitted anew at its edge.

    The edge is looked for along `points` rays that are evenly spread over the ellipse
    of the linear model. Levels are those of both parameters together: the projection of
    a region is wider than the interval of the same level.

    **Arguments:** as of [`jaxfit.profile`][], but that `params` are two.

    **Returns:** a [`jaxfit.Contour`][].

    **Raises:** as [`jaxfit.profile`][], and `ValueError` where there are not two
    parameters that are free and determined.
    """
    noise = one_of("noise", noise, ProfileNoise)
    ok = converged("contour", problem, solution, noise == "estimated", KNOWN)
    dense("contour", solution)
    known = names_of(problem.params, names)
    which, given = indices_of(params, known), check_levels(levels)
    if len(which) != 2:
        raise ValueError(f"`params` must be two, got {[known[i] for i in which]}.")
    points = positive_int("points", points)
    i, j = which
    ends, block, estimate = _region(
        problem, _quiet(solver), solution, ok, (i, j), given, points, noise
    )
    if is_concrete(block) and not np.isfinite(np.asarray(block)).all():
        raise ValueError(
            f"{known[i]} and {known[j]} have no joint region: one of them is fixed or "
            "not determined by the data."
        )
    edge = ends.params[:, (i, j)].reshape(len(given), points, 2)
    side = ends.side.reshape(len(given), points)
    bad = (side == Side.FAILED) | (side == Side.LOWER_MINIMUM) | (side == Side.OPEN)
    return Contour(
        points=jnp.where((bad | ~ok)[..., None], jnp.nan, edge),
        side=side,
        estimate=estimate,
        levels=given,
        names=(known[i], known[j]),
    )


def check_levels(levels: Any) -> tuple[float, ...]:
    """Probabilities as a tuple.

    **Raises:** `ValueError` where there are none, or one is not between 0 and 1.
    """
    values = np.atleast_1d(np.asarray(levels, float)).tolist()
    if not values:
        raise ValueError("`levels` is empty: give one or more, such as 0.95.")
    for level in values:
        if not 0 < level < 1:
            raise ValueError(
                f"`levels` must be between 0 and 1, got {level!r}: 0.95 is 95%."
            )
    return tuple(values)


def _quiet(solver: TRF | None) -> TRF:
    """The solver of the fits on the way, which record nothing.

    They start close to their ends: one that takes so long goes astray, and is made
    nearer to the solution.
    """
    solver = TRF(max_steps=_MOST_STEPS) if solver is None else solver
    if solver.linear_solver == "matrix_free":
        solver = solver.replaced(linear_solver="auto")
    return solver.replaced(history=False)


def _variance(problem, solution, noise, solver):
    rows = None
    if needs_rows(noise, problem):
        rows = rows_at(problem, ravel_pytree(solution.params)[0], solver)
    return noise_variance(noise, solution, rows)


@on_auto_axes
def _ends(
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


@program(static=(4, 5, 6))
def _intervals(
    problem: Problem,
    solver: TRF,
    solution: Solution,
    ok: Any,
    which: tuple[int, ...],
    levels: tuple[float, ...],
    noise: ProfileNoise,
) -> tuple[Ends, Array, Array, Array]:
    """The ends of both sides of each parameter at each level."""
    x = ravel_pytree(solution.params)[0]
    variance = _variance(problem, solution, noise, solver)
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
    ends = _ends(problem, solver, x, solution.cost, variance, rays)
    return ends, far, x[jnp.array(which)], errors


def _towards(problem: Problem, solution: Solution, x: Vector, i, variance):
    """Parameter i held; how all move with it by one standard error; and that error.

    Of a parameter that the data do not determine the step is its own size.
    """
    here = jnp.arange(x.size) == i
    fixed, active = held_at(problem, solution, True)
    held = fixed | (active & ~here)
    w, _, unit, lost = directions(dense("profile", solution), held)
    column = w.T @ (w @ here.astype(x.dtype))
    error = jnp.sqrt(column[i] * variance)
    size = jnp.where(x[i] != 0, jnp.abs(x[i]), jnp.where(unit[i] > 0, unit[i], 1))
    usable = ~lost[i] & (error > 0)
    ray = column / jnp.where(usable, jnp.sqrt(column[i]), 1) * jnp.sqrt(variance)
    ray = jnp.where(usable, ray, jnp.where(here, size, 0))
    is_fixed = fixed[i]
    error = jnp.where(is_fixed, 0, jnp.where(usable, error, jnp.inf))
    return here, jnp.where(is_fixed, jnp.where(here, 1, 0), ray), error


@program(static=(4, 5, 6, 7))
def _region(
    problem: Problem,
    solver: TRF,
    solution: Solution,
    ok: Any,
    pair: tuple[int, int],
    levels: tuple[float, ...],
    points: int,
    noise: ProfileNoise,
) -> tuple[Ends, Array, Array]:
    """The edge of each level's region along its rays."""
    x = ravel_pytree(solution.params)[0]
    variance = _variance(problem, solution, noise, solver)
    variance = jnp.where(ok & (variance > 0), variance, jnp.nan)
    far = reach(jnp.array(levels), None if noise == "known" else solution.dof, 2)
    far = far.astype(x.dtype)
    two = jnp.array(pair)
    fixed, active = held_at(problem, solution, True)
    held = jnp.zeros(x.size, bool).at[two].set(True)
    w = directions(dense("contour", solution), fixed | (active & ~held)).determined
    columns = (w.T @ (w @ jnp.eye(x.size, dtype=x.dtype)[:, two])) * variance
    block = columns[two]
    angle = jnp.arange(points) * (2 * jnp.pi / points)
    circle = jnp.stack([jnp.cos(angle), jnp.sin(angle)]).astype(x.dtype)
    edge = jnp.linalg.cholesky(block) @ circle
    ray = (columns @ jnp.linalg.solve(block, edge)).T
    shape = (len(levels), points)
    rays = Rays(
        jnp.broadcast_to(held, (len(levels) * points, x.size)),
        jnp.broadcast_to(ray, (*shape, x.size)).reshape(-1, x.size),
        jnp.broadcast_to(far[:, None], shape).reshape(-1),
    )
    ends = _ends(problem, solver, x, solution.cost, variance, rays)
    return ends, edge, x[two]
