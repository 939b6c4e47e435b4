"""How fast is a fitter that is kept, beside NLSQ's?

Warm calls of jaxfit.CurveFit and of nlsq.CurveFit(flength=200), both handed the same
jax.numpy model a exp(-b x) + c, 200 points in NumPy arrays, and both compiled once;
scipy.optimize.curve_fit is in the same run. NLSQ needs Python 3.12, so this script runs
in an environment of its own, and its result says in which.
"""

import logging
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import nlsq
import numpy as np
import scipy.optimize
from tools.decay import START, data, numpy_model
from tools.measure import interleave
from tools.report import report, table, target

import jaxfit


POINTS = 200
LOOSE = {"ftol": 1e-8, "xtol": 1e-8, "gtol": 1e-8}
OURS, THEIRS = "jaxfit.CurveFit", "nlsq.CurveFit"
TRF, LM = "SciPy curve_fit, trf", "SciPy curve_fit, lm"


def model(x, a, b, c):
    """The model for jaxfit and NLSQ."""
    return a * jnp.exp(-b * x) + c


def calls(m: int) -> dict[str, Callable[[], Any]]:
    """One call of each at m points, at most 200, with popt as the first item."""
    x, y = data(m)
    start = np.array(START)
    ours, loose = jaxfit.CurveFit(model), jaxfit.CurveFit(model, **LOOSE)
    theirs = nlsq.CurveFit(flength=POINTS)
    scipy_fit = scipy.optimize.curve_fit
    return {
        OURS: lambda: ours(x, y, start),
        OURS + ", 1e-8": lambda: loose(x, y, start),
        THEIRS: lambda: tuple(theirs.curve_fit(model, x, y, p0=start)),
        TRF: lambda: scipy_fit(numpy_model, x, y, start, method="trf"),
        LM: lambda: scipy_fit(numpy_model, x, y, start, method="lm"),
    }


def main(quick: bool) -> dict[str, Any]:
    logging.disable(logging.CRITICAL)  # NLSQ writes a line a step
    rows, ratios = [], {}
    for m in (POINTS, 150):
        peers = calls(m)
        times = interleave(peers, 3 if quick else 15, 0.02 if quick else 0.2)
        best = jaxfit.curve_fit(model, *data(m), START, ftol=0.0, xtol=1e-15)[0]
        for name, call in peers.items():
            error = float(np.max(np.abs(call()[0] / best - 1)))
            ratio = times.ratio(THEIRS, name)
            rows.append([name, m, 1e3 * times.median(name), ratio, error])
            ratios[name, m] = ratio
    return report(
        __doc__,
        [
            target(
                f"{POINTS} points: NLSQ's time over jaxfit's, at least 5",
                ratios[OURS, POINTS],
                at_least=5.0,
            ),
        ],
        [
            table(
                "One fit of three parameters, warm",
                ["call", "points", "ms", "NLSQ's time over it", "relative error"],
                rows,
            ),
        ],
        [
            "Ratios are medians over rounds in which every call was timed in turn.",
            "NLSQ's default tolerances are 1e-8, jaxfit's near the limits of float64; "
            "'1e-8' gives jaxfit those of NLSQ.",
            "150 points share the program of 200 in both: NLSQ pads to `flength`, "
            "jaxfit to 256.",
            "NLSQ's log is switched off, which spares it time.",
            "The relative error is that of the worst parameter against a fit at the "
            "tightest settings.",
        ],
    )
