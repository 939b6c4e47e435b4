"""The variance of a residual, s^2 = S / dof, and the three words for its origin.

    known       s^2 = 1: residuals are in units of their standard deviations
    estimated   S = 2 cost = sum(r^2); with a robust loss
                S = sum(psi^2) / mean(psi'), so that s^2 (J' psi' J)^-1 is the
                asymptotic covariance of the estimate (Huber 1981, section 7.6)
    robust      s = 1.4826 median|r|, times sqrt(m / dof), which outliers hardly move

psi is the slope of the cost by a residual, psi' its derivative as the loss floors it.
dof is `Solution.dof`. It counts a parameter at an active bound as it counts a fixed
one: given which bounds are active, that makes s^2 unbiased (Meyer and Woodroofe 2000,
Annals of Statistics 28, on the degrees of freedom of constrained fits).
"""

import math
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from .._basics.types import Scalar, Vector
from .._problem.objective import Objective
from .._problem.problem import Problem
from .._problem.sharded import Spread


Noise = Literal["estimated", "known", "robust"]
# Where the median of residuals is not asked for.
CostNoise = Literal["estimated", "known"]


def variance_of(squares: Any, dof: Any) -> Any:
    """s^2 = S / dof, NaN where dof < 1; of Python's, NumPy's or traced numbers."""
    if isinstance(squares, float) and isinstance(dof, int):
        return squares / dof if dof > 0 else math.nan
    xp = jnp if any(isinstance(a, jnp.ndarray) for a in (squares, dof)) else np
    return xp.where(dof > 0, squares / xp.where(dof > 0, dof, 1), xp.nan)


def squares_of(
    problem: Problem, objective: Objective | Spread, x: Vector
) -> Scalar | None:
    """S of a robust loss at parameters x; None without one, as it is 2 cost then."""
    if problem.loss.rho is None:
        return None
    return huber_squares(*objective.influence_sums(x), objective.num_rows)


def huber_squares(influence: Scalar, slope: Scalar, count: Any) -> Scalar:
    """S = sum(psi^2) / mean(psi') of `count` residuals, from both sums."""
    return influence * count / slope
