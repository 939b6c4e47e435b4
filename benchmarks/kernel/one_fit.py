"""How long does one warm fit take?

One float64 fit of a exp(-b x) + c at 100, 10,000 and 1,000,000 points, parameters and
their covariance brought back as NumPy arrays. Peers in the same run:
scipy.optimize.curve_fit(method="lm") with a NumPy model, and optimistix
LevenbergMarquardt (rtol = atol = 1e-8), which gives no covariance.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from tools.decay import START, data, jaxfit_problem, numpy_model, optimistix_fit
from tools.measure import interleave
from tools.report import report, table, target

import jaxfit


LIMITS = {100: 0.5, 10_000: 0.5, 1_000_000: 0.2}
LOOSE = jaxfit.TRF(ftol=1e-8, xtol=1e-8, gtol=1e-8)


@jax.jit
def solve(problem: jaxfit.Problem, solver: jaxfit.TRF) -> tuple[Any, Any]:
    """Parameters and covariance, compiled together."""
    solution = jaxfit.solve(problem, solver)
    return solution.params, solution.covariance()


def calls(m: int) -> dict[str, Callable[[], Any]]:
    """One call of each peer; each returns parameters as its first item."""
    x, y = data(m)
    xs, ys = jnp.asarray(x), jnp.asarray(y)
    problem, default = jaxfit_problem(xs, ys), jaxfit.TRF()
    optimistix = optimistix_fit(1e-8)

    def scipy_fit():
        return scipy.optimize.curve_fit(numpy_model, x, y, p0=START, method="lm")

    return {
        "SciPy curve_fit, lm": scipy_fit,
        "optimistix LM, 1e-8": lambda: [np.asarray(optimistix(xs, ys))],
        "jaxfit": lambda: jax.device_get(solve(problem, default)),
        "jaxfit, 1e-8": lambda: jax.device_get(solve(problem, LOOSE)),
        "jaxfit, problem built each time": lambda: jax.device_get(
            solve(jaxfit_problem(x, y), default)
        ),
    }


def main(quick: bool) -> dict[str, Any]:
    rounds = 3 if quick else 15
    targets, rows = [], []
    for m, limit in LIMITS.items():
        peers = calls(m)
        tight = solve(jaxfit_problem(*data(m)), jaxfit.TRF(0.0, 1e-15, 0.0))[0]
        times = interleave(peers, rounds, 0.02 if quick else 0.2)
        for name, call in peers.items():
            result = call()
            error = float(np.max(np.abs(result[0] / np.asarray(tight) - 1)))
            ratio = times.ratio(name, "SciPy curve_fit, lm")
            rows.append([name, m, 1e3 * times.median(name), ratio, error])
        ratio = times.ratio("jaxfit", "SciPy curve_fit, lm")
        asked = f"{m:,} points: time over SciPy's, at most {limit}"
        targets.append(target(asked, ratio, at_most=limit))
    notes = [
        "Ratios are medians over rounds in which every library was timed in turn.",
        "'jaxfit, 1e-8' sets ftol, xtol and gtol to 1e-8; the default asks for all the "
        "digits that float64 has.",
        "The relative error is that of the worst parameter against a fit at the "
        "tightest settings.",
    ]
    columns = ["library", "points", "ms", "over SciPy", "relative error"]
    return report(
        __doc__,
        targets,
        [table("One fit of three parameters, warm", columns, rows)],
        notes,
    )
