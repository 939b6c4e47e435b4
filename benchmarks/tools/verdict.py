"""What became of a fit, judged by a solver that is none of those compared.

Everything is computed in NumPy and float64 in the units in which a problem was made,
where its parameters, data and residuals are of ordinary size.
"""

import functools
from dataclasses import dataclass

import jax
import numpy as np

from tools.descent import Squares, descend, is_minimum
from tools.everyday import Everyday, Run


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
    problem = squares(run.of, bounded)
    cost = problem.cost(params)
    if answer.says:
        kind = TOLD
    elif cost <= least * (1 + GAIN) or np.all(np.abs(params - best) <= ERRORS * errors):
        kind = RIGHT
    else:
        kind = OTHER if is_minimum(problem, params, GAIN) else SILENT
    return Verdict(kind, answer.says, params, cost / least)


@functools.cache
def reference(of: Everyday) -> tuple[np.ndarray, float, np.ndarray]:
    """The minimum next to the truth: parameters, cost and standard errors."""
    problem = squares(of, False)
    params, cost = descend(problem, np.array(of.truth), stop_at=-np.inf)
    jacobian = problem.jacobian(params)
    variance = 2 * cost / (jacobian.shape[0] - params.size)
    covariance = variance * np.linalg.inv(jacobian.T @ jacobian)
    return params, cost, np.sqrt(np.diag(covariance))


@functools.cache
def squares(of: Everyday, bounded: bool) -> Squares:
    """The problem of a model in the units of the truth."""
    x, y = of.data
    derivative = jax.jit(jax.jacfwd(lambda p: of.jax(x, *p)))

    def jacobian(params: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(derivative(np.asarray(params, float)))

    truth = np.array(of.truth)
    lower = np.full(truth.size, 0.0 if bounded else -np.inf)
    return Squares(
        residual=lambda params: of.numpy(x, *params) - y,
        jacobian=jacobian,
        lower=lower,
        upper=np.full(truth.size, np.inf),
        near=1e-12 * truth,
    )
