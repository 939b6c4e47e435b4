"""The weighted rows of a problem at its solution, their leverage, their noise.

Near a point a fit is a linear least squares problem with rows j_i and residuals r_i, as
the loss weighs them (`_problem.loss`). Let psi = r rho'(z) be the influence of a
residual and psi' its derivative, floored as there. Then a row's share in the gradient
is psi_i j_i, and in J'J it is psi'_i j_i j_i'. Weighted rows are sqrt(psi') j and psi /
sqrt(psi').
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._basics.types import Scalar, Vector
from .._problem.forms import TRIANGLE
from .._problem.objective import Objective
from .._problem.placement import all_on_auto_axes
from .._problem.problem import Problem
from .._solve.covariance import dense
from .._solve.noise import Noise, huber_squares, variance_of
from .._solve.solution import Solution
from .._solve.solver import TRF
from .._trf.linearisation import Dense


# 1 over the 75th percentile of the normal distribution: the standard deviation over
# the median of |z|.
MAD = 1.482602218505602


class Rows(NamedTuple):
    """m rows; those that are masked are 0 throughout."""

    residual: Float[Array, " m"]  # r, as the problem states it
    used: Bool[Array, " m"]
    influence: Float[Array, " m"]  # psi; r without a robust loss
    slope: Float[Array, " m"]  # psi'; 1 without a robust loss
    weighted: Float[Array, " m"]  # psi / sqrt(psi')
    jacobian: Float[Array, "m n"]  # sqrt(psi') J

    @property
    def scores(self) -> Float[Array, "m n"]:
        """Each row's share in the gradient of the cost."""
        return self.weighted[:, None] * self.jacobian


def rows_at(problem: Problem, x: Vector, solver: TRF | None = None) -> Rows:
    """The rows at parameters x; the solver tells how to differentiate."""
    solver = TRF() if solver is None else solver
    return _rows_at(problem, solver.replaced(mesh=None, chunk_size=None), x)


@all_on_auto_axes
def _rows_at(problem: Problem, solver: TRF, x: Vector) -> Rows:
    objective = Objective.of(problem, x, solver, TRIANGLE)
    r, jacobian = objective.rows_at(x)
    _, weighted, scale = problem.loss.robustify(r)
    one = jnp.ones_like(r)
    scale = one if scale is None else scale
    used = jnp.ones(r.shape, bool) if objective.mask is None else objective.mask
    return Rows(r, used, weighted * scale, scale**2, weighted, jacobian)


def noise_variance(
    noise: Noise,
    solution: Solution,
    rows: Rows | None,
    dof: Int[Array, ""] | None = None,
) -> Scalar:
    """The variance of a residual, as `_solve.noise` has it; NaN where dof < 1.

    `rows` are needed where `needs_rows` says so; `dof` is the solution's if None.
    """
    dof = solution.dof if dof is None else dof
    if noise == "known":
        return jnp.ones_like(solution.cost)
    if noise == "robust":
        assert rows is not None
        middle = jnp.nanmedian(jnp.where(rows.used, jnp.abs(rows.residual), jnp.nan))
        squares = (MAD * middle) ** 2 * solution.num_rows
    elif rows is not None:
        slope = jnp.sum(jnp.where(rows.used, rows.slope, 0))
        influence = jnp.sum(rows.influence**2)
        squares = huber_squares(influence, slope, solution.num_rows)
    else:
        squares = 2 * solution.cost
    return variance_of(squares, dof.astype(solution.cost.dtype))


def needs_rows(noise: Noise, problem: Problem) -> bool:
    """Whether `noise_variance` looks at the rows."""
    return noise == "robust" or (noise == "estimated" and problem.loss.rho is not None)


def leverage(rows: Rows, held: Bool[Array, " n"]) -> Float[Array, " m"]:
    """The diagonal of the hat matrix of the weighted rows, at most 1 - sqrt(eps)."""
    jacobian = jnp.where(held, 0, rows.jacobian)
    lengths = jnp.sqrt(jnp.sum(jacobian**2, axis=0))
    scaled = jacobian / jnp.where(lengths > 0, lengths, 1)
    u, s, _ = jnp.linalg.svd(scaled, full_matrices=False)
    eps = jnp.finfo(s.dtype).eps
    kept = s > max(scaled.shape) * eps * s[0]
    return jnp.clip(jnp.sum(jnp.where(kept, u, 0) ** 2, axis=1), 0, 1 - jnp.sqrt(eps))


def held_at(
    problem: Problem, solution: Solution, drop_active: bool
) -> tuple[Bool[Array, " n"], Bool[Array, " n"]]:
    """Which parameters are fixed, and which of the others are held by an active bound.

    The latter are none where active bounds are not to be dropped.
    """
    n = solution.num_params
    fixed = jnp.zeros(n, bool) if solution.fixed is None else solution.fixed
    if not drop_active or problem.bounds is None:
        return fixed, jnp.zeros(n, bool)
    return fixed, solution.held & ~fixed


def dense_for(what: str, solution: Solution) -> Dense:
    """The linearisation of a solution, which `jaxfit.<what>` needs.

    **Raises:** `ValueError` after a matrix-free fit, which has none.
    """
    return dense(solution.linearisation, f", which jaxfit.{what} needs")
