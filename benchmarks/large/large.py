"""How long does a fit of 1,000,000 points take, and what does an evaluation cost?

Warm float64 fits of a exp(-b x) + c + d x + e x^2 from a start that is near, data in
NumPy arrays: jaxfit.curve_fit, and fit_large_dataset in blocks and streamed. Peers in
the same run: scipy.optimize.curve_fit(method="lm") with a NumPy model and, where it can
be imported, NLSQ's CurveFit. A bare pass over the data, exp and sum compiled by JAX, is
what an evaluation is compared with.
"""

import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from tools.measure import Timings, interleave
from tools.report import report, table, target

import jaxfit
from jaxfit._problem.objective import Objective


POINTS = 1_000_000
TRUE = (2.5, 1.3, 0.5, 0.2, -0.1)
START = (2.0, 1.0, 0.4, 0.1, 0.0)
OURS = ("jaxfit.curve_fit", "fit_large_dataset, chunked", "fit_large_dataset, streamed")
SCIPY, NLSQ = "SciPy curve_fit, lm", "nlsq.CurveFit"
LIMITS = {SCIPY: 0.12, NLSQ: 0.05}
BARE, COST, LINEARISE = "exp and sum", "cost", "linearise"
HAS_NLSQ = importlib.util.find_spec("nlsq") is not None


def model(x, a, b, c, d, e):
    """The model in jax.numpy."""
    return a * jnp.exp(-b * x) + c + d * x + e * x**2


def numpy_model(x, a, b, c, d, e):
    """The model as a user of SciPy writes it."""
    return a * np.exp(-b * x) + c + d * x + e * x**2


def data() -> tuple[np.ndarray, np.ndarray]:
    """x in [0, 4] and y with normal noise of 0.05."""
    x = np.linspace(0.0, 4.0, POINTS)
    noise = 0.05 * np.random.default_rng(0).standard_normal(POINTS)
    return x, numpy_model(x, *TRUE) + noise


def fits(x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], Any]]:
    """One call of each; each returns popt as its first item."""
    start = np.array(START)

    def large(strategy):
        return lambda: jaxfit.fit_large_dataset(model, x, y, start, strategy=strategy)

    def scipy_fit():
        return scipy.optimize.curve_fit(numpy_model, x, y, start, method="lm")

    calls: dict[str, Callable[[], Any]] = {
        OURS[0]: lambda: jaxfit.curve_fit(model, x, y, start),
        OURS[1]: large("chunked"),
        OURS[2]: large("streamed"),
        SCIPY: scipy_fit,
    }
    if HAS_NLSQ:
        import nlsq

        logging.disable(logging.CRITICAL)  # NLSQ writes a line a step
        theirs = nlsq.CurveFit()
        calls[NLSQ] = lambda: tuple(theirs.curve_fit(model, x, y, p0=start))
    return calls


def evaluations(x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], Any]]:
    """A bare pass, and the two evaluations that a fit consists of."""
    solver, point = jaxfit.TRF(linear_solver="gram"), jnp.array(START)
    xs, ys = jnp.asarray(x), jnp.asarray(y)
    problem = jaxfit.curve_problem(lambda x, p: model(x, *p), xs, ys, point)

    @jax.jit
    def bare(x, y):
        return jnp.sum(jnp.exp(-x) + y)

    @jax.jit
    def cost(problem, point):
        return Objective.of(problem, point, solver).cost(point)

    @jax.jit
    def linearise(problem, point):
        return Objective.of(problem, point, solver).linearise(point).summary()

    return {
        BARE: lambda: bare(xs, ys).block_until_ready(),
        COST: lambda: cost(problem, point).block_until_ready(),
        LINEARISE: lambda: jax.block_until_ready(linearise(problem, point)),
    }


def fit_rows(
    times: Timings, calls: dict[str, Callable[[], Any]], bare: float
) -> list[list[Any]]:
    """Rows of times, ratios, and bare passes for each visit of the data."""
    best = calls[OURS[0]]()[0]
    rows = []
    for name, call in calls.items():
        result = call()
        visits = result[2]["passes"] if name in OURS[1:] else None
        if name == OURS[0]:
            visits = result.nfev + result.njev
        seconds = times.median(name)
        rows.append(
            [
                name,
                1e3 * seconds,
                times.ratio(name, SCIPY),
                times.ratio(name, NLSQ) if HAS_NLSQ else None,
                visits,
                seconds / visits / bare if visits else None,
                float(np.max(np.abs(result[0] / best - 1))),
            ]
        )
    return rows


def main(quick: bool) -> dict[str, Any]:
    x, y = data()
    rounds, seconds = (3, 0.02) if quick else (15, 0.2)
    single = interleave(evaluations(x, y), rounds, seconds)
    calls = fits(x, y)
    times = interleave(calls, 3 if quick else 9, seconds)
    targets = [
        target(
            f"{name}: time over that of {peer}, at most {LIMITS[peer]}",
            times.ratio(name, peer),
            at_most=LIMITS[peer],
        )
        for peer in LIMITS
        if peer in calls
        for name in OURS
    ]
    targets += [
        target(
            f"bare passes that one evaluation costs, {name}: under 6",
            single.ratio(name, BARE),
            at_most=6.0,
        )
        for name in (LINEARISE, COST)
    ]
    bare = single.median(BARE)
    return report(
        __doc__,
        targets,
        [
            table(
                f"One fit of 5 parameters to {POINTS:,} points, warm",
                [
                    "call",
                    "ms",
                    "over SciPy",
                    "over NLSQ",
                    "visits of the data",
                    "bare passes a visit",
                    "relative difference",
                ],
                fit_rows(times, calls, bare),
            ),
            table(
                "One evaluation, compiled alone",
                ["evaluation", "ms", "ns a point", "over exp and sum"],
                [
                    [
                        name,
                        1e3 * single.median(name),
                        1e9 * single.median(name) / POINTS,
                        single.ratio(name, BARE),
                    ]
                    for name in single.rounds
                ],
            ),
        ],
        [
            "Ratios are medians over rounds in which every call was timed in turn.",
            "'Linearise' is the cost, the gradient and J'J at a point, by forward "
            "derivatives. The bare pass is sum(exp(-x) + y).",
            "A call visits the data for every cost and every linearisation; streamed, "
            "one visit finds both. What a call does besides counts for its visits.",
            "The relative difference is that of the worst parameter from curve_fit's.",
            "NLSQ's log is switched off, which spares it time."
            if HAS_NLSQ
            else "There is no NLSQ in this environment.",
        ],
    )
