"""The main job: `python -m jaxfit` fits the 27 NIST data sets from both starts.

It prints correct digits of parameters and standard errors, steps and times, then fits
10,000 data sets in one batch and prints the rate. It exits with 1 if a fit misses
its certified values.
"""

import math
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ._problem.problem import Problem, curve_problem
from ._solve.solution import Solution
from ._solve.solve import solve
from ._solve.solver import TRF
from .datasets import NistDataset, nist, nist_names


DIGITS = 6  # asked of every parameter and standard error
# Its residuals are rounding errors of the data: its standard errors measure those of
# the machine that fits, and are certified in higher precision only.
NO_STANDARD_ERROR = ("Lanczos1",)


def correct_digits(value, certified) -> float:
    """The least number of correct digits of any entry, at most NIST's eleven."""
    error = np.max(np.abs(np.asarray(value) - certified) / np.abs(certified))
    return 0.0 if not error < 1 else min(11.0, -math.log10(max(error, 1e-11)))


def twice(fit: Callable, problem: Problem) -> tuple[Solution, float, float]:
    """The solution, and the seconds of the first call and of the second."""

    def timed() -> tuple[Solution, float]:
        begun = time.perf_counter()
        solution = jax.block_until_ready(fit(problem))
        return solution, time.perf_counter() - begun

    (solution, first), (_, warm) = timed(), timed()
    return solution, first, warm


def fit_nist(data: NistDataset, start: int) -> tuple[str, bool]:
    """Fit one data set from one start: a line of the report, and whether it passed."""
    problem = data.problem(start)
    solution, first, warm = twice(solve, problem)
    params = correct_digits(solution.params, data.certified)
    std_dev = jnp.sqrt(jnp.diag(solution.covariance()))
    errors = correct_digits(std_dev, data.std_dev)
    passed = params >= DIGITS and (errors >= DIGITS or data.name in NO_STANDARD_ERROR)
    line = (
        f"{data.name:<10}{data.difficulty:<9}{start + 1:>5}{params:>9.1f}{errors:>9.1f}"
        f"{int(solution.num_steps):>7}{int(solution.nfev):>7}{first:>9.2f}"
        f"{1e6 * warm:>9.0f}  {'' if passed else 'MISSED ' + solution.message}"
    )
    return line.rstrip(), passed


def fit_batch(count: int = 10_000, points: int = 100) -> str:
    """Fit `count` noisy decays in one vmapped call: a line with the rate."""
    x = jnp.linspace(0, 4, points)
    keys = jax.random.split(jax.random.key(0), count)
    truth = jnp.array([2.5, 1.3, 0.5])

    def decay(x, p):
        return p[0] * jnp.exp(-p[1] * x) + p[2]

    def problem(key):
        y = decay(x, truth) + 0.05 * jax.random.normal(key, x.shape)
        return curve_problem(decay, x, y, jnp.ones(3), bounds=(0.0, 10.0))

    problems = jax.jit(jax.vmap(problem))(keys)
    solver = TRF(linear_solver="gram")
    fit = jax.jit(jax.vmap(lambda problem: solve(problem, solver)))
    solutions, first, warm = twice(fit, problems)
    mean = np.round(np.mean(solutions.params, axis=0), 3)
    return (
        f"{int(jnp.sum(solutions.success))} of {count} bounded fits of {points} points "
        f"converged, {count / warm:,.0f} fits/s ({first:.2f} s with compilation); "
        f"mean parameters {mean}, truth {np.asarray(truth)}"
    )


def main() -> int:
    """Run the job; 0 if every fit reached its certified values."""
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, float64")
    print(
        f"{'data set':<10}{'level':<9}{'start':>5}{'digits':>9}{'std err':>9}"
        f"{'steps':>7}{'nfev':>7}{'first s':>9}{'warm us':>9}"
    )
    missed = 0
    for name in nist_names():
        data = nist(name)
        for start in (0, 1):
            line, passed = fit_nist(data, start)
            print(line, flush=True)
            missed += not passed
    print(f"{54 - missed} of 54 runs with {DIGITS} or more correct digits")
    print(fit_batch())
    return min(missed, 1)


if __name__ == "__main__":
    # The certified values have 11 digits: a program's own choice, never the library's.
    jax.config.update("jax_enable_x64", True)
    sys.exit(main())
