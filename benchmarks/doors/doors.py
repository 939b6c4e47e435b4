"""What does the SciPy-shaped door cost?

Warm calls of jaxfit.curve_fit, CurveFit and least_squares on the fit of a exp(-b x) + c
at 100 to 1,000,000 points, NumPy arrays in and out, with and without bounds, and of a
NumPy model by from_numpy. Beside them, in the same run: the kernel alone
(jax.jit(jaxfit.solve) of a problem that is already built) and scipy.optimize.curve_fit
and least_squares with a NumPy model. And the first call of each in a new process.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from tools.decay import START, data, jaxfit_problem, numpy_model
from tools.measure import fresh, interleave
from tools.report import report, table, target

import jaxfit
from jaxfit import (  # before any clock starts
    CurveFit,
    curve_fit,
    from_numpy,
    least_squares,
)


POINTS = (100, 1_000, 10_000, 1_000_000)
BOUNDED_POINTS = (100, 10_000)
BOUNDS = (0.0, 10.0)
KERNEL, TRF, LM = "kernel alone", "SciPy curve_fit, trf", "SciPy curve_fit, lm"
CURVE_FIT, FITTER = "jaxfit.curve_fit", "jaxfit.CurveFit, kept"
NUMPY = "jaxfit.curve_fit, from_numpy"
SQUARES, SCIPY_SQUARES = "jaxfit.least_squares", "SciPy least_squares, trf"
ANOTHER = "jaxfit.curve_fit, 90 points after that"
BOUNDED = ", bounded"
FIRST = (TRF, CURVE_FIT, CURVE_FIT + BOUNDED, ANOTHER, NUMPY, SCIPY_SQUARES, SQUARES)


def model(x, a, b, c):
    """The model as a user of jaxfit's doors writes it."""
    return a * jnp.exp(-b * x) + c


def residual(params, x, y):
    """The residual for `jaxfit.least_squares`."""
    return model(x, *params) - y


def numpy_residual(params, x, y):
    """The residual for SciPy."""
    return numpy_model(x, *params) - y


host_model = from_numpy(numpy_model)
solve = jax.jit(jaxfit.solve)


def calls(m: int, bounded: bool) -> dict[str, Callable[[], Any]]:
    """One call of each, by name; each returns when its result is there."""
    x, y = data(m)
    problem = jaxfit_problem(x, y, BOUNDS if bounded else None)
    fitter = CurveFit(model)
    more: dict[str, Any] = {"bounds": BOUNDS} if bounded else {}
    args = {"args": (x, y), **more}
    scipy_fit = scipy.optimize.curve_fit
    scipy_squares = scipy.optimize.least_squares
    out = {
        KERNEL: lambda: jax.block_until_ready(solve(problem)),
        CURVE_FIT: lambda: curve_fit(model, x, y, START, **more),
        FITTER: lambda: fitter(x, y, START, **more),
        NUMPY: lambda: curve_fit(host_model, x, y, START, **more),
        TRF: lambda: scipy_fit(numpy_model, x, y, START, method="trf", **more),
        LM: lambda: scipy_fit(numpy_model, x, y, START, method="lm"),
        SQUARES: lambda: least_squares(residual, START, **args),
        SCIPY_SQUARES: lambda: scipy_squares(numpy_residual, START, **args),
    }
    if bounded:
        del out[LM]  # it has no bounds
    return {name + bounded * BOUNDED: call for name, call in out.items()}


def measured(m: int, quick: bool) -> dict[str, list[float]]:
    """Milliseconds of each call; over the kernel's, over SciPy's trf, over its lm."""
    out = {}
    rounds = 3 if quick else 5 if m > 100_000 else 11
    for bounded in (False, True) if m in BOUNDED_POINTS else (False,):
        peers = calls(m, bounded)
        times = interleave(peers, rounds, 0.01 if quick else 0.08)
        end = bounded * BOUNDED
        for name in peers:
            squares = name in (SQUARES + end, SCIPY_SQUARES + end)
            row = [1e3 * times.median(name), times.ratio(name, KERNEL + end)]
            row.append(times.ratio(name, (SCIPY_SQUARES if squares else TRF) + end))
            if not squares and not bounded:
                row.append(times.ratio(name, LM))
            out[name] = row + [None] * (4 - len(row))
    return out


def first_call(name: str) -> float:
    """Seconds of the first call of a door in this process; JAX itself is awake."""
    x, _ = data(100)
    jax.block_until_ready(jax.jit(lambda a: a + 1)(jnp.asarray(x)))
    jax.block_until_ready(jnp.linalg.qr(np.ones((4, 2))))
    if name == ANOTHER:
        calls(100, False)[CURVE_FIT]()
        call = calls(90, False)[CURVE_FIT]
    else:
        call = calls(100, name.endswith(BOUNDED))[name]
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def first_calls(quick: bool) -> list[list[Any]]:
    """Rows of the first call of each, and over SciPy's."""
    seconds: dict[str, list[float]] = {name: [] for name in FIRST}
    for _ in range(1 if quick else 3):
        for name in FIRST:
            seconds[name].append(fresh("doors.doors", "first_call", name))
    rows = []
    for name, all_ in seconds.items():
        peer = SCIPY_SQUARES if "least_squares" in name else TRF
        median = statistics.median(all_)
        over = median / statistics.median(seconds[peer])
        rows.append([name, 1e3 * median, over, 1e3 * min(all_), 1e3 * max(all_)])
    return rows


def main(quick: bool) -> dict[str, Any]:
    sizes = POINTS[:2] if quick else POINTS
    times = {m: measured(m, quick) for m in sizes}
    targets = []
    for asked, column, limit in (
        ("over the kernel's, at most 3", 1, 3.0),
        ("over SciPy's trf, at most 1", 2, 1.0),
    ):
        for name in (CURVE_FIT, FITTER, CURVE_FIT + BOUNDED, FITTER + BOUNDED):
            ratio = times[100][name][column]
            targets.append(target(f"{name}, 100 points: {asked}", ratio, at_most=limit))
    for name in (SQUARES, SQUARES + BOUNDED):
        asked = f"{name}, 100 points: over SciPy's, at most 1"
        targets.append(target(asked, times[100][name][2], at_most=1.0))
    rows = [[name, m, *row] for m in times for name, row in times[m].items()]
    return report(
        __doc__,
        targets,
        [
            table(
                "One fit of three parameters, warm",
                ["call", "points", "ms", "over kernel", "over trf", "over lm"],
                rows,
            ),
            table(
                "The first call in a new process, 100 points",
                ["call", "ms", "over SciPy", "fastest", "slowest"],
                first_calls(quick),
            ),
        ],
        [
            "Ratios are medians over rounds in which every call was timed in turn. "
            "Those of least_squares are over SciPy's least_squares.",
            "The kernel alone returns its solution on the device, without a covariance "
            "and without building or checking the problem.",
            "The doors' fits are at their defaults: curve_fit to nearly all digits "
            "that float64 has, least_squares to 1e-8, as all of SciPy's.",
            f"Bounds are {BOUNDS[0]:g} and {BOUNDS[1]:g} for every parameter; none is "
            "active at the minimum.",
            "First calls are timed after imports, with JAX awake and no compilation "
            "cache. Lengths 90 and 100 share one program.",
            "from_numpy calls back to the host for every evaluation and differentiates "
            "by differences, as SciPy does.",
            "NLSQ's fitter is in the section 'Reusable': it needs another Python.",
        ],
    )
