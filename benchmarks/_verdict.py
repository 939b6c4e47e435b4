"""What became of a fit, judged by a solver that is none of those compared.

Everything is computed in NumPy and float64 in the units in which a problem was made,
where its parameters, data and residuals are of ordinary size.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from _everyday import Everyday, Run


RIGHT, TOLD, OTHER, SILENT = "right", "told", "another minimum", "silent"
VERDICTS = (RIGHT, TOLD, OTHER, SILENT)
GAIN = 1e-6  # costs that differ by less than this part are the same
ERRORS = 0.1  # and parameters that differ by less than this part of their error


@dataclass(frozen=True)
class Answer:
    """What a fit said: why it is not to be trusted ("" if it is), and its numbers."""

    says: str
    params: np.ndarray | None


@dataclass(frozen=True)
class Verdict:
    """One of VERDICTS, with what it rests on, in the units of the truth."""

    kind: str
    says: str
    params: np.ndarray | None
    excess: float  # the cost over the least one

    def line(self, run: Run) -> str:
        """All that one wants to know about a run that is not right."""
        found = "nothing" if self.params is None else f"{self.params:}"
        best = reference(run.of)[0]
        told = f"; {self.says}" if self.says else ""
        return (
            f"{self.kind.upper()}: {run.name}: cost {self.excess:.8g} of the least, "
            f"{found} for {best}{told}"
        )


def verdict(run: Run, answer: Answer, bounded: bool) -> Verdict:
    """Judge an answer given in the units of the run; `bounded` if at 0."""
    best, least, errors = reference(run.of)
    if answer.params is None:
        return Verdict(TOLD, answer.says, None, np.nan)
    params = np.asarray(answer.params, float) / run.scale
    cost = _cost(run.of, params)
    if answer.says:
        kind = TOLD
    elif cost <= least * (1 + GAIN) or np.all(np.abs(params - best) <= ERRORS * errors):
        kind = RIGHT
    else:
        kind = OTHER if is_minimum(run.of, params, bounded) else SILENT
    return Verdict(kind, answer.says, params, cost / least)


@functools.cache
def reference(of: Everyday) -> tuple[np.ndarray, float, np.ndarray]:
    """The minimum next to the truth: parameters, cost and standard errors."""
    params, cost = descend(of, np.array(of.truth), False, stop_at=-np.inf)
    jacobian = _jacobian(of)(params)
    variance = 2 * cost / (jacobian.shape[0] - params.size)
    covariance = variance * np.linalg.inv(jacobian.T @ jacobian)
    return params, cost, np.sqrt(np.diag(covariance))


def is_minimum(of: Everyday, params: np.ndarray, bounded: bool) -> bool:
    """Whether nothing next to the point has a cost that is lower by a part GAIN."""
    cost = _cost(of, params)
    if not np.isfinite(cost):
        return False
    lower = cost * (1 - GAIN)
    return descend(of, params, bounded, stop_at=lower)[1] >= lower


def descend(
    of: Everyday, params: np.ndarray, bounded: bool, stop_at: float, steps: int = 300
) -> tuple[np.ndarray, float]:
    """Levenberg and Marquardt's way down, on and off bounds at 0.

    A parameter on its bound is held there if the cost falls beyond it. Each step tries
    dampings from none to a step too short to matter, and takes the best.
    """
    y = of.data[1]
    cost = _cost(of, params)
    if bounded:  # what a solver keeps strictly inside
        near = np.abs(params) <= 1e-12 * np.array(of.truth)
        moved = np.where(near, 0.0, params)
        if _cost(of, moved) <= cost * (1 + 1e-9):
            params = moved
    for _ in range(steps):
        residual, jacobian = of.numpy(of.data[0], *params) - y, _jacobian(of)(params)
        finite = np.isfinite(residual) & np.isfinite(jacobian).all(axis=1)
        residual, jacobian = residual[finite], jacobian[finite]
        gradient = jacobian.T @ residual
        held = bounded & (params <= 0) & (gradient > 0)
        norms = np.linalg.norm(jacobian, axis=0)
        free = np.flatnonzero(~held & (norms > 0))
        if not free.size:
            break
        u, s, vt = np.linalg.svd(jacobian[:, free] / norms[free], full_matrices=False)
        z = u.T @ residual
        best, best_cost = params, cost
        for damping in (0.0, *10.0 ** np.arange(-12, 9)):
            with np.errstate(all="ignore"):
                factors = np.where(s > 1e-14 * s[0], s / (s**2 + damping), 0.0)
            trial = params.copy()
            trial[free] -= (vt.T @ (factors * z)) / norms[free]
            if bounded:
                trial = np.maximum(trial, 0)
            trial_cost = _cost(of, trial)
            if trial_cost < best_cost:
                best, best_cost = trial, trial_cost
        gained = cost - best_cost
        params, cost = best, best_cost
        if cost < stop_at or gained <= 1e-15 * cost:
            break
    return params, cost


def _cost(of: Everyday, params: np.ndarray) -> float:
    x, y = of.data
    with np.errstate(all="ignore"):
        cost = 0.5 * float(np.sum((of.numpy(x, *params) - y) ** 2))
    return cost if np.isfinite(cost) else np.inf


@functools.cache
def _jacobian(of: Everyday) -> Callable[[np.ndarray], np.ndarray]:
    x = of.data[0]
    derivative = jax.jit(jax.jacfwd(lambda p: of.jax(x, *p)))

    def jacobian(params: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(derivative(np.asarray(params, float)))

    return jacobian
