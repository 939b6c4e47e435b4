"""How fast are 10,000 fits of 100 points as one batch?

The fits of 'Lanes', a exp(-b x) + c from ones, by jaxfit.curve_fit_batch, NumPy arrays
in and out, with covariances. Peers: scipy.optimize.curve_fit in a loop, and optimistix
LevenbergMarquardt in blocks by lax.map.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.optimize
from tools.decay import START, numpy_model, optimistix_fit
from tools.measure import interleave
from tools.pixels import ON_GPU, device, rate, speedup
from tools.report import report, table, target

import jaxfit
from many.lanes import data, lanes


LOOP = 200
F64 = "jaxfit, float64"
SETTINGS: dict[str, dict[str, Any]] = {
    F64: {},
    "jaxfit, float64, bounded": {"bounds": (-10.0, 10.0)},
    "jaxfit, float32": {"dtype": "float32"},
    "jaxfit, float32, polished": {"polish": True},
}
TIGHT = {"ftol": 1e-12, "xtol": 1e-12, "gtol": 1e-12}
SCIPY = "SciPy curve_fit, lm, loop"
BLOCKS = (1_000, 10_000) if ON_GPU else (50, 100, 250, 1_000)
# As in `batch`.
SHARE, ENOUGH = 0.999, 1e-3


def model(x, a, b, c):
    """The model as a user of jaxfit's doors writes it."""
    return a * jnp.exp(-b * x) + c


def scipy_loop(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The parameters, one fit after the other."""
    fit = scipy.optimize.curve_fit
    return np.array([fit(numpy_model, x, row, p0=START)[0] for row in y])


def main(quick: bool) -> dict[str, Any]:
    count = 2_000 if quick else 10_000
    rounds = 3 if quick else 11
    x, y = data(count)
    xs, ys = jnp.asarray(x), jnp.asarray(y)

    def with_setting(more):
        return lambda: jaxfit.curve_fit_batch(model, x, y, START, **more).popt

    def with_blocks(fit):
        return lambda: np.asarray(fit(xs, ys))

    calls = {name: with_setting(more) for name, more in SETTINGS.items()}
    blocks = [block for block in BLOCKS if count % block == 0]
    for tolerance in (1e-8, 1e-6, 1e-4):
        for block in blocks[-2:] if quick else blocks:
            name = f"optimistix LM, {tolerance:g}, blocks of {block:,}"
            calls[name] = with_blocks(lanes(optimistix_fit(tolerance), block))
    calls[SCIPY] = lambda: scipy_loop(x, y[:LOOP])
    times = interleave(calls, rounds, 0.05 if quick else 0.3)
    fits = dict.fromkeys(calls, count) | {SCIPY: LOOP}

    exact = jaxfit.curve_fit_batch(model, x, y, START, **TIGHT)
    rows, good = [], []
    for name, call in calls.items():
        popt = call()
        flat = np.abs(popt - exact.popt[: len(popt)]) / exact.perr[: len(popt)]
        flat = np.max(flat, axis=1)
        share = float(np.mean(flat <= ENOUGH))
        if share >= SHARE:
            good.append(name)
        row = [name, rate(times, name, fits), speedup(times, name, SCIPY, fits)]
        rows.append([*row, float(np.median(flat)), float(flat.max()), share])

    def best(names):
        return max(names, key=lambda name: rate(times, name, fits), default=None)

    peers = [name for name in calls if name.startswith("optimistix")]
    theirs = best(name for name in peers if name in good)
    fastest = best(peers)
    same = best(name for name in peers if name.startswith("optimistix LM, 1e-08"))
    over = speedup(times, F64, theirs, fits) if theirs else float("nan")
    hasty = speedup(times, F64, fastest, fits)
    agreed = np.max(np.abs(calls[SCIPY]() / exact.popt[:LOOP] - 1))
    defaults = np.max(np.abs(calls[F64]() / exact.popt - 1))
    return report(
        __doc__,
        [
            target(
                "float64: fits a second over SciPy's loop, 30",
                speedup(times, F64, SCIPY, fits),
                at_least=30.0,
            ),
            target(
                "float64: fits a second over optimistix LM's best block at 1e-8, 10",
                speedup(times, F64, same, fits),
                at_least=10.0,
            ),
            target(
                "float64: fits a second over optimistix LM's best of all good, 10",
                over,
                at_least=10.0,
            ),
        ],
        [
            table(
                f"{count:,} fits of 100 points and three parameters, warm",
                [
                    "call",
                    "fits/s",
                    "over SciPy",
                    "median error",
                    "worst error",
                    "share of good fits",
                ],
                rows,
            ),
        ],
        [
            f"{F64} is compared with {theirs}: the fastest of which {SHARE:.1%} of the "
            f"fits are good, every parameter within {ENOUGH:g} standard errors of a "
            f"fit at tolerances of 1e-12. It does {hasty:.1f} times as many fits a "
            f"second as {fastest}, the fastest whatever its accuracy. Errors are in "
            "standard errors.",
            f"The largest relative difference from a fit at 1e-12 is {defaults:.1e} at "
            f"jaxfit's defaults and {agreed:.1e} at SciPy's, on its {LOOP} fits.",
            f"The loop over SciPy is timed on {LOOP} fits; it has covariances, "
            "optimistix has none.",
            device(),
        ],
    )
