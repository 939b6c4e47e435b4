"""Joint profile-likelihood regions of two parameters.

The edge of a region is where the cost, minimised over all other parameters, has risen
by what the level allows two parameters together (Bates and Watts 1988, section 6.1).
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from .._basics.checks import is_concrete, one_of, positive_int
from .._basics.names import indices_of, names_of
from .._problem.problem import Problem
from .._programs.by_work import ByWork
from .._solve.covariance import directions
from .._solve.noise import CostNoise
from .._solve.solution import Solution
from .._solve.solver import TRF
from .conditions import KNOWN, converged, rows_of
from .crossings import Rays, Side
from .distributions import check_levels, reach
from .plots import plot_contour
from .profile import LEVELS, ends_of, quiet, variance_at
from .weighted_rows import dense_for, held_at


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


def contour(
    problem: Problem,
    solution: Solution,
    params: Sequence[Any],
    levels: float | Sequence[float] = LEVELS,
    *,
    points: int = 48,
    noise: CostNoise = "estimated",
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
    noise = one_of("noise", noise, CostNoise)
    ok = converged("contour", problem, solution, noise == "estimated", KNOWN)
    dense_for("contour", solution)
    known = names_of(problem.params, names)
    which, given = indices_of(params, known), check_levels(levels)
    if len(which) != 2:
        raise ValueError(f"`params` must be two, got {[known[i] for i in which]}.")
    points = positive_int("points", points)
    i, j = which
    work = len(given) * points * rows_of(solution)
    edge, side, block, estimate = _region.of(work)(
        problem, quiet(solver), solution, ok, (i, j), given, points, noise
    )
    if is_concrete(block) and not np.isfinite(np.asarray(block)).all():
        raise ValueError(
            f"{known[i]} and {known[j]} have no joint region: one of them is fixed or "
            "not determined by the data."
        )
    return Contour(
        points=edge,
        side=side,
        estimate=estimate,
        levels=given,
        names=(known[i], known[j]),
    )


def _edge(
    problem: Problem,
    solver: TRF,
    solution: Solution,
    ok: Any,
    pair: tuple[int, int],
    levels: tuple[float, ...],
    points: int,
    noise: CostNoise,
) -> tuple[Array, Array, Array, Array]:
    """The edge of each level's region along its rays, and how each of them ended.

    With the linear model's edge, and the estimate.
    """
    x = ravel_pytree(solution.params)[0]
    variance = variance_at(problem, solution, noise, solver)
    variance = jnp.where(ok & (variance > 0), variance, jnp.nan)
    far = reach(jnp.array(levels), None if noise == "known" else solution.dof, 2)
    far = far.astype(x.dtype)
    two = jnp.array(pair)
    fixed, active = held_at(problem, solution, True)
    held = jnp.zeros(x.size, bool).at[two].set(True)
    w = directions(dense_for("contour", solution), fixed | (active & ~held)).determined
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
    ends = ends_of(problem, solver, x, solution.cost, variance, rays)
    found = ends.params[:, two].reshape(*shape, 2)
    side = ends.side.reshape(shape)
    bad = (side == Side.FAILED) | (side == Side.LOWER_MINIMUM) | (side == Side.OPEN)
    found = jnp.where((bad | ~ok)[..., None], jnp.nan, found)
    return found, side, edge, x[two]


_region = ByWork(_edge, static=(4, 5, 6, 7))
