"""The Hessian of the cost, exact or Gauss-Newton."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from .._basics.checks import one_of
from .._basics.types import Matrix, Vector
from .._problem.placement import on_auto_axes
from .._problem.problem import Problem
from .._problem.sharded import objective_of
from .._programs.program import program
from .solver import TRF


Kind = Literal["exact", "gauss_newton"]


def hessian(problem: Problem, params: Any = None, *, kind: str = "exact") -> Matrix:
    """The Hessian of the cost with respect to the parameters, shape (n, n).

    Rows and columns are in the order of `ravel_pytree(params)`. Its inverse at a
    solution is another covariance than `Solution.covariance`, one that knows
    the curvature of the model and of a robust loss.

    **Arguments:**

    - `problem`: a [`jaxfit.Problem`][].
    - `params`: where to take it, in the structure of `problem.params`, such as
        `solution.params`; the start if None.
    - `kind`: "exact" second derivatives, or "gauss_newton": J'J with the row scales of
        a robust loss (Triggs et al. 2000, section 4.3).

    **Raises:** `ValueError` for another `kind` or parameters of another structure.
    """
    kind = one_of("kind", kind, Kind)
    if params is None:
        params = problem.params
    got, want = jax.tree.structure(params), jax.tree.structure(problem.params)
    if got != want:
        raise ValueError(f"`params` has structure {got} but the problem has {want}.")
    start, _ = ravel_pytree(problem.params)
    x = ravel_pytree(params)[0].astype(start.dtype)
    if x.shape != start.shape:
        raise ValueError(f"`params` has {x.size} numbers but the problem {start.size}.")
    at = _exact if kind == "exact" else _gauss_newton
    return at(problem, TRF(linear_solver="gram"), x)


@program
@on_auto_axes
def _exact(
    problem: Problem, solver: TRF, x: Vector, axes: tuple[str, ...] | None
) -> Matrix:
    objective = objective_of(problem, x, solver, axes)
    return jax.hessian(lambda x: objective.cost(x))(x)


@program
@on_auto_axes
def _gauss_newton(
    problem: Problem, solver: TRF, x: Vector, axes: tuple[str, ...] | None
) -> Matrix:
    objective = objective_of(problem, x, solver, axes)
    return jax.vmap(objective.linearise(x).product)(jnp.eye(x.size, dtype=x.dtype))
