"""A way down that tries much and trusts nothing: is a point a minimum?

In NumPy and float64, for problems whose numbers are of ordinary size. It shares no line
with the solvers that it judges, and is a hundred times slower.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


DAMPINGS = (0.0, *10.0 ** np.arange(-12, 9))


@dataclass(frozen=True)
class Squares:
    """Half the sum of squares of a residual, in a box.

    Parameters within `near` of a bound may be taken for on it, as solvers stay inside.
    """

    residual: Callable[[np.ndarray], np.ndarray]
    jacobian: Callable[[np.ndarray], np.ndarray]
    lower: np.ndarray
    upper: np.ndarray
    near: np.ndarray

    def cost(self, params: np.ndarray) -> float:
        with np.errstate(all="ignore"):
            cost = 0.5 * float(np.sum(np.asarray(self.residual(params)) ** 2))
        return cost if np.isfinite(cost) else np.inf


def is_minimum(
    problem: Squares, params: np.ndarray, part: float, least: float = 0.0
) -> bool:
    """Whether nothing next to the point has a cost lower by this part, plus `least`."""
    cost = problem.cost(params)
    if not np.isfinite(cost):
        return False
    lower = cost * (1 - part) - least
    return lower <= 0 or descend(problem, params, stop_at=lower)[1] >= lower


def descend(
    problem: Squares, params: np.ndarray, stop_at: float, steps: int = 300
) -> tuple[np.ndarray, float]:
    """Levenberg and Marquardt's way down to `stop_at`, on and off the bounds.

    A parameter on its bound is held there if the cost falls beyond it. Each step tries
    dampings from none to a step too short to matter, and takes the best.
    """
    params, cost = _on_bounds(problem, params)
    for _ in range(steps):
        with np.errstate(all="ignore"):
            residual = np.asarray(problem.residual(params))
        jacobian = problem.jacobian(params)
        finite = np.isfinite(residual) & np.isfinite(jacobian).all(axis=1)
        residual, jacobian = residual[finite], jacobian[finite]
        gradient = jacobian.T @ residual
        held = (params <= problem.lower) & (gradient > 0)
        held |= (params >= problem.upper) & (gradient < 0)
        norms = np.linalg.norm(jacobian, axis=0)
        free = np.flatnonzero(~held & (norms > 0))
        if not free.size:
            break
        u, s, vt = np.linalg.svd(jacobian[:, free] / norms[free], full_matrices=False)
        z = u.T @ residual
        best, best_cost = params, cost
        for damping in DAMPINGS:
            factors = np.zeros_like(s)
            seen = s > 1e-14 * s[0]
            factors[seen] = s[seen] / (s[seen] ** 2 + damping)
            trial = params.copy()
            trial[free] -= (vt.T @ (factors * z)) / norms[free]
            trial = np.clip(trial, problem.lower, problem.upper)
            trial_cost = problem.cost(trial)
            if trial_cost < best_cost:
                best, best_cost = trial, trial_cost
        gained = cost - best_cost
        params, cost = best, best_cost
        if cost < stop_at or gained <= 1e-15 * cost:
            break
    return params, cost


def _on_bounds(problem: Squares, params: np.ndarray) -> tuple[np.ndarray, float]:
    """Put on its bound what a solver keeps strictly inside, if that costs nothing."""
    cost = problem.cost(params)
    moved = np.where(params - problem.lower <= problem.near, problem.lower, params)
    moved = np.where(problem.upper - moved <= problem.near, problem.upper, moved)
    moved_cost = problem.cost(moved)
    return (moved, moved_cost) if moved_cost <= cost * (1 + 1e-9) else (params, cost)
