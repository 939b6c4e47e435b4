"""SciPy's `pcov`: s^2 (J'J)^-1 with s^2 = 2 cost / (m - n), or 1 for absolute sigma.

n counts the parameters that are not fixed. An active bound is disregarded, and the cost
of a robust loss is taken for a sum of squares, as `scipy.optimize.curve_fit` does. The
covariance that takes both into account is `Solution.covariance`.
"""

from typing import Any

from .._solve.covariance import covariance, dense, scaled
from .._solve.noise import variance_of
from .._solve.solution import Solution


def scale_of(cost: Any, dof: Any, absolute_sigma: bool) -> Any:
    """SciPy's s^2 with dof = m - n; NaN where dof < 1."""
    return 1.0 if absolute_sigma else variance_of(2 * cost, dof)


def dof_of(solution: Any) -> Any:
    """SciPy's m - n of a solution, or of each of a batch."""
    fixed = 0 if solution.fixed is None else solution.fixed.sum(axis=-1)
    return solution.num_rows - solution.num_params + fixed


def pcov_of(solution: Solution, absolute_sigma: bool) -> Any:
    """SciPy's covariance of a solution; undetermined parameters as `masked` has it."""
    lin = dense(solution.linearisation, " and has no covariance")
    inverse = covariance(lin, solution.fixed)
    scale = scale_of(solution.cost, dof_of(solution), absolute_sigma)
    return scaled(inverse, scale)
