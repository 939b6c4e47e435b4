"""Conditions of a question about uncertainty: a problem and its converged solution.

On concrete values the answer is an error that says what to do; inside a trace it is a
flag, and what is computed of a fit that failed is NaN.
"""

from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool

from .._basics.checks import is_concrete
from .._basics.status import Status
from .._problem.problem import Problem, check_problem
from .._solve.solution import Solution


def converged(
    what: str,
    problem: Problem,
    solution: Solution,
    needs_dof: bool = False,
    way_out: str = "fix parameters, or give more data.",
) -> Bool[Array | np.ndarray, ""]:
    """Whether `what` can be told of a solution, to be used where it is traced.

    **Raises:** `TypeError` or `ValueError` where the two are no problem and a solution
    of it, where concrete values tell that the fit did not converge or, with
    `needs_dof`, that there are no more data than free parameters (`way_out` is what to
    do then).
    """
    instead = f"take jax.vmap of jaxfit.{what}, or one fit of it."
    check_pair(what, problem, solution, instead)
    if is_concrete((solution.counts, solution.num_rows, solution.active_mask)):
        status, dof = status_of(solution), dof_of(solution)
        if status <= 0:
            raise ValueError(
                f"jaxfit.{what} is of a fit that converged, and this one ended with "
                f"status {Status(status).name}: {Status(status).message} "
                "jaxfit.diagnose(problem, solution) may tell why."
            )
        if needs_dof and dof <= 0:
            raise ValueError(
                f"jaxfit.{what} needs more data than free parameters, and here dof is "
                f"{dof}: {way_out}"
            )
        return np.array(True)
    return solution.success & (solution.dof > 0) if needs_dof else solution.success


def check_pair(what: str, problem: Any, solution: Any, instead: str) -> None:
    """Check that two arguments are a problem and a solution of it.

    **Raises:** `TypeError`, and `ValueError` for a batch (`instead` is what to do then)
    and for parameters of another structure.
    """
    check_problem(problem)
    check_solution("solution", solution, instead)
    same_params("solution.params", solution.params, problem.params)


def check_solution(name: str, solution: Any, instead: str) -> None:
    """Check that an argument is the solution of one fit.

    **Raises:** `TypeError`, or `ValueError` for a batch.
    """
    if not isinstance(solution, Solution):
        raise TypeError(
            f"`{name}` must be a jaxfit.Solution, as jaxfit.solve returns it, got "
            f"{type(solution).__name__}."
        )
    if solution.counts.ndim > 1:
        raise ValueError(
            f"`{name}` holds a batch of shape {solution.counts.shape[:-1]}: {instead}"
        )


KNOWN = (
    "give noise='known' if residuals are in units of their standard deviations, or "
    "fix parameters."
)


def status_of(solution: Solution) -> int:
    """The status of a concrete solution, inside a trace of something else too."""
    return int(np.asarray(solution.counts)[0])


def dof_of(solution: Solution) -> int:
    """Its degrees of freedom, as `status_of`."""
    held = 0
    if solution.fixed is not None:
        leaves = jax.tree.leaves(solution.active_mask)
        held = sum(int(np.count_nonzero(np.asarray(leaf))) for leaf in leaves)
    return int(np.asarray(solution.num_rows)) - solution.num_params + held


def rows_of(solution: Solution) -> float:
    """The number of residuals, infinite where it is not known yet."""
    known = is_concrete(solution.num_rows)
    return float(np.asarray(solution.num_rows)) if known else np.inf


def same_params(name: str, params: Any, like: Any) -> None:
    """Refuse parameters that are not structured like the problem's.

    **Raises:** `ValueError`.
    """
    got, want = jax.tree.structure(params), jax.tree.structure(like)
    if got != want:
        raise ValueError(f"`{name}` has structure {got} but the problem has {want}.")
    sizes = [ravel_pytree(tree)[0].size for tree in (params, like)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"`{name}` has {sizes[0]} numbers but the problem has {sizes[1]}."
        )
