"""The door of the kernel: `solve(problem) -> Solution`, one traced function."""

from typing import Any

import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from .._basics.precision import in_own_settings
from .._basics.status import Status
from .._basics.trees import unravel_as
from .._basics.types import Scalar, Vector
from .._basics.varying import axes_of, varying
from .._problem.placement import on_auto_axes
from .._problem.problem import Problem, check_problem
from .._problem.sharded import objective_of
from .._programs.program import program
from .._trf.bounds import Bounds
from .._trf.matrix_free import Slope
from .._trf.state import State
from .derivative import minimise
from .noise import squares_of
from .solution import Solution
from .solver import TRF


@in_own_settings
def solve(problem: Problem, solver: TRF | None = None) -> Solution:
    """Solve a bounded nonlinear least squares problem.

    A pure function of one PyTree: `jax.jit`, `jax.vmap`, `jax.pmap`, `jax.grad` and
    sharding apply to it, in any order. Called plainly, it compiles itself once for
    each structure of problem.

    **Arguments:**

    - `problem`: a [`jaxfit.Problem`][] or the result of [`jaxfit.curve_problem`][].
    - `solver`: a [`jaxfit.TRF`][] with tolerances and choices; the default if None.

    **Returns:** a [`jaxfit.Solution`][]. Its derivative with respect to the problem's
    arrays (but `params`, the start) is that of the solution, by the implicit function
    theorem; "How a fit flows" in the documentation has the formulas.

    **Raises:** `TypeError` or `ValueError` where shapes or types do not fit, when the
    function is traced. What depends on values is an outcome in `Solution.status`.
    """
    check_problem(problem)
    if solver is not None and not isinstance(solver, TRF):
        raise TypeError(f"`solver` must be a jaxfit.TRF or None, got {solver!r}.")
    if problem.loss.f_scale.ndim:
        raise ValueError(
            "`problem` is a stack of problems: solve it by jax.vmap(jaxfit.solve)."
        )
    return _solve(problem, _DEFAULT if solver is None else solver)


_DEFAULT = TRF()  # made once: it costs as much as a quarter of a small fit


@program
@on_auto_axes
def _solve(problem: Problem, solver: TRF, axes: tuple[str, ...] | None) -> Solution:
    spread = axes_of(problem)
    problem, solver = varying((problem, solver), spread)
    start, _ = ravel_pytree(problem.params)
    objective = objective_of(problem, start, solver, axes)
    state = minimise(objective, problem.bounds, start, solver)
    return solution_of(problem, state, squares_of(problem, objective, state.x))


def solution_of(problem: Problem, state: State, squares: Scalar | None) -> Solution:
    """What the last state of a fit tells its user.

    `squares` are what the noise of a robust fit is estimated from (`noise`).
    """
    _, unravel = ravel_pytree(problem.params)
    x, lin, bounds = state.x, state.evidence, problem.bounds
    # Without data every point is a minimum, and none is a solution.
    none = (state.num_rows == 0) & (state.status != Status.STOPPED)
    status = jnp.where(none, Status.TOO_FEW_DATA, state.status)
    status = status.astype(state.status.dtype)
    active, fixed = jnp.zeros(x.shape, jnp.int32), None
    if bounds is not None:
        fixed, active = bounds.fixed, active_bounds(bounds, x, lin)
    return Solution(
        params=unravel(x),
        cost=lin.cost,
        optimality=state.optimality,
        counts=jnp.stack([status, state.nfev, state.njev, state.num_steps]),
        active_mask=unravel_as(problem.params, active),
        grad=unravel(lin.grad),
        linearisation=None if isinstance(lin, Slope) else lin,
        num_rows=state.num_rows,
        num_params=x.size,
        fixed=fixed,
        history=state.history,
        differenced=lin.differenced > 0,
        squares=squares,
    )


def active_bounds(bounds: Bounds, x: Vector, lin: Any) -> Array:
    """Which bounds are active at x, by the natural length of each parameter there.

    `lin` is the summary of a linearisation at x.
    """
    norms = lin.column_norms
    return bounds.active(x, jnp.sqrt(2 * lin.cost) / jnp.where(norms > 0, norms, 1))
