"""Whichever door a problem comes in by, it leaves with the same answer.

Thirty problems, odd ones among them: far and tiny starts, data of any size, without
noise, with outliers, constant, beside a huge offset, of which a parameter says nothing.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit
from jaxfit import FitError, Status


M = 24
T = np.linspace(0.2, 5.0, M)
FREE, POSITIVE = (-np.inf, np.inf), (0.0, np.inf)


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def saturation(x, a, b):
    return a * x / (b + x)


def peak(x, a, centre, width, c):
    return a * jnp.exp(-0.5 * ((x - centre) / width) ** 2) + c


# Each with its bounds, the range of its truth, and which parameters are in units of y.
MODELS = {
    "decay": (decay, FREE, [1.0, 0.5, 0.2], [3.0, 2.0, 1.0], [1, 0, 1]),
    "saturation": (saturation, POSITIVE, [1.0, 0.5], [5.0, 3.0], [1, 0]),
    "peak": (peak, FREE, [1.0, 2.0, 0.5, 0.1], [4.0, 3.0, 1.0, 0.5], [1, 0, 0, 1]),
}
ODDITIES = (
    "plain",
    "again",
    "far start",
    "tiny start",
    "tiny unit",
    "huge unit",
    "no noise",
    "outliers",
    "constant",
    "offset",
)


def problem(name, oddity):
    """y, a start and bounds: always the same ones."""
    _, bounds, lower, upper, sized = MODELS[name]
    f = MODELS[name][0]
    rng = np.random.default_rng([*MODELS].index(name) * 100 + ODDITIES.index(oddity))
    truth = rng.uniform(lower, upper)
    with jax.enable_x64(True):
        y = np.asarray(f(T, *truth))
    start = truth * rng.uniform(0.8, 1.25, truth.size)
    noise = 0.02 * rng.normal(size=M)
    if oddity != "no noise":
        y = y + noise
    if oddity == "far start":
        start = 2.5 * truth
    if oddity == "tiny start":  # of what has the unit of y
        start = np.where(sized, 1e-9, 1.0) * start
    unit = {"tiny unit": 1e-18, "huge unit": 1e14}.get(oddity, 1.0)
    y, start = y * unit, np.where(sized, unit, 1.0) * start
    if oddity == "outliers":
        y[[3, 11]] += [1.0, -2.0]
    if oddity == "constant":
        y = np.full(M, 2.0)
    if oddity == "offset":
        y = y + 1e6
        if name != "saturation":  # from 0 a decay would become a straight line
            start[-1] += 1e6
    return y, start, bounds


# --- The doors: parameters, cost, status and standard errors ------------------------


def by_curve_fit(name, y, start, bounds):
    try:
        result = jaxfit.curve_fit(MODELS[name][0], T, y, start, bounds=bounds)
    except FitError as error:
        result = error.result
    return result.popt, result.cost, result.status, result.perr


@functools.cache
def residual_of(name):
    return lambda p, x, y: MODELS[name][0](x, *p) - y


def by_least_squares(name, y, start, bounds):
    result = jaxfit.least_squares(residual_of(name), start, bounds=bounds, args=(T, y))
    return result.x, result.cost, result.status, None


@functools.cache
def kernel_model(name):
    return lambda x, p: MODELS[name][0](x, *p)


@jax.jit
def solved(curve):
    solution = jaxfit.solve(curve)
    return solution, jnp.sqrt(jnp.diagonal(solution.covariance()))


def by_solve(name, y, start, bounds):
    limits = None if bounds == FREE else bounds
    curve = jaxfit.curve_problem(kernel_model(name), T, y, start, bounds=limits)
    solution, errors = solved(curve)
    return solution.params, solution.cost, solution.status, errors


def by_batch(name, y, start, bounds):
    other, begin, _ = problem(name, "plain")
    result = jaxfit.curve_fit_batch(
        MODELS[name][0], T, [other, y], [begin, start], bounds=bounds, devices=1
    )
    return result.popt[1], result.cost[1], result.status[1], result.perr[1]


def by_stream(name, y, start, bounds):
    limits = None if bounds == FREE else bounds
    chunks = [(T[:10], y[:10]), (T[10:], y[10:])]
    fit = jaxfit.fit_stream(
        kernel_model(name), chunks, start, bounds=limits, chunk_size=16
    )
    solution = fit[0]
    return solution.params, solution.cost, solution.status, None


DOORS = (by_curve_fit, by_least_squares, by_batch, by_stream)


@pytest.mark.filterwarnings("ignore::scipy.optimize.OptimizeWarning")
@pytest.mark.parametrize("oddity", ODDITIES)
@pytest.mark.parametrize("name", MODELS)
def test_all_doors_lead_to_the_same_answer(name, oddity):
    y, start, bounds = problem(name, oddity)
    params, cost, status, errors = by_solve(name, y, start, bounds)
    determined = np.isfinite(errors)
    noise = 1e-20 * float(y @ y)  # what rounding makes of a cost
    for door in DOORS:
        found, its_cost, its_status, its_errors = door(name, y, start, bounds)
        says = f"{door.__name__}: {its_status}, solve: {Status(int(status)).name}"
        if door is by_least_squares and its_status > 0 >= status:
            # It tries SciPy's scale before it gives up.
            assert its_cost < cost, says
            continue
        assert (its_status > 0) == bool(status > 0), says
        if status <= 0:
            continue
        np.testing.assert_allclose(its_cost, cost, 1e-6, noise, err_msg=says)
        if oddity == "constant":  # nothing is known but the curve
            with jax.enable_x64(True):
                curve = MODELS[name][0](T, *np.asarray(found))
            np.testing.assert_allclose(curve, y, 1e-6, err_msg=says)
            continue
        away = np.abs(found - params)[determined]
        size = np.abs(params)[determined]
        assert np.all(away <= 0.01 * errors[determined] + 1e-7 * size), says
        if its_errors is not None:
            np.testing.assert_array_equal(np.isfinite(its_errors), determined, says)
            np.testing.assert_allclose(
                its_errors[determined],
                errors[determined],
                0.01,
                1e-7 * size.max(initial=0),
                err_msg=says,
            )
