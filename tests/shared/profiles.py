"""Problems to profile, and how they are refitted by SciPy."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.stats

import jaxfit


# The first level is one standard deviation, which is where MINOS looks.
LEVELS = (0.6826894921370859, 0.95)
REACH = scipy.stats.norm.ppf(0.5 + 0.5 * np.array(LEVELS))
M, SIGMA = 20, 0.05
INF = np.inf


class Case(NamedTuple):
    """A model of four parameters, of which some are free."""

    model: Callable
    x: np.ndarray
    truth: tuple[float, ...]
    free: tuple[int, ...]
    lower: tuple[float, ...] = (-INF,) * 4
    upper: tuple[float, ...] = (INF,) * 4
    seed: int = 20


def grid(low, high):
    return np.linspace(low, high, M)


def decays(xp, x, p):
    """Linear in the amplitudes where the rates are fixed."""
    return p[0] * xp.exp(-p[2] * x) + p[1] * xp.exp(-p[3] * x)


FLOOR = (-INF, 0.0, -INF, -INF)
CASES = {
    "decay": Case(decays, grid(0, 3), (2.0, 0.5, 1.3, 0.0), (0, 1, 2)),
    "two decays": Case(decays, grid(0, 3), (1.0, 1.5, 0.4, 3.0), (0, 1, 2, 3), seed=26),
    # The base would be negative, and stays at its bound all along the intervals.
    "at a bound": Case(decays, grid(0, 3), (1.0, -0.3, 0.8, 0.0), (0, 1, 2), FLOOR),
    "michaelis": Case(
        lambda xp, x, p: p[0] * x / (p[1] + x),
        grid(0.1, 2),
        (1.0, 1.0, 0.0, 0.0),
        (0, 1),
        seed=21,
    ),
    "peak": Case(
        lambda xp, x, p: p[0] * xp.exp(-0.5 * ((x - p[2]) / p[3]) ** 2) + p[1],
        grid(-3, 3),
        (0.4, 0.2, 0.3, 0.8),
        (0, 1, 2, 3),
        seed=22,
    ),
    "logistic": Case(
        lambda xp, x, p: p[0] / (1 + xp.exp(-p[2] * (x - p[1]))),
        grid(-2, 2),
        (1.0, 0.3, 2.0, 0.0),
        (0, 1, 2),
    ),
    "power": Case(
        lambda xp, x, p: p[0] * xp.exp(p[1] * xp.log(x)),
        grid(0.1, 2),
        (0.5, 1.7, 0.0, 0.0),
        (0, 1),
    ),
    "rational": Case(
        lambda xp, x, p: (p[0] + p[1] * x) / (1 + p[2] * x),
        grid(0, 5),
        (0.2, 1.0, 0.7, 0.0),
        (0, 1, 2),
    ),
    "sine": Case(
        lambda xp, x, p: p[0] * xp.sin(p[1] * x + p[2]),
        grid(0, 2),
        (0.3, 2.5, 0.4, 0.0),
        (0, 1, 2),
    ),
    # All of the rise is before the first datum: it may be as fast as it likes.
    "open": Case(
        lambda xp, x, p: p[0] * (1 - xp.exp(-p[1] * x)),
        grid(1, 4),
        (1.0, 3.0, 0.0, 0.0),
        (0, 1),
        seed=29,
    ),
    # The base leaves its bound within the intervals of the others.
    "off a bound": Case(
        decays, grid(0, 3), (1.0, -0.05, 0.8, 0.0), (0, 1, 2), FLOOR, seed=28
    ),
    # Bounds of the rate between one and two standard errors away.
    "near bounds": Case(
        decays,
        grid(0, 3),
        (2.0, 0.5, 1.3, 0.0),
        (0, 1, 2),
        (-INF, -INF, 1.20, -INF),
        (INF, INF, 1.40, INF),
    ),
    "linear": Case(decays, grid(0, 3), (2.0, 0.5, 1.3, 0.0), (0, 1)),
    # Above a slope of 1.3 there is no model.
    "wall": Case(
        lambda xp, x, p: p[0] + p[1] * x + 0 * xp.log(1.3 - p[1]),
        grid(-0.1, 0.1),
        (1.0, 1.0, 0.0, 0.0),
        (0, 1),
        seed=28,
    ),
    # The cost has a second minimum, near 1, which is the lower one.
    "two minima": Case(
        lambda xp, x, p: (
            SIGMA * ((x == 0) * (p[0] ** 2 - 1) + (x == 1) * 0.4 * (p[0] - 2))
        ),
        np.arange(float(M)),
        (-1.0, 0.0, 0.0, 0.0),
        (0,),
    ),
    # All but gone before the first datum.
    "fading": Case(decays, grid(1, 4), (2.4, 0.0, 3.0, 0.0), (0, 2), seed=4),
    # A second valley, of negative amplitude and no rate, beyond a ridge.
    "ridge": Case(decays, grid(1, 4), (1.8, 0.0, 3.0, 0.0), (0, 1, 2), seed=1),
}
MODELS = list(dict.fromkeys(case.model for case in CASES.values()))


def tree(values):
    """Four numbers as the problem's parameters: amp, base, rate[0], rate[1]."""
    return {"amp": values[0], "base": values[1], "rate": np.array(values[2:])}


def any_model(x, p):
    """The model of any case, so that one program serves all of them."""
    branches = [lambda x, p, f=model: f(jnp, x, p) for model in MODELS]
    flat = jnp.concatenate([jnp.stack([p["amp"], p["base"]]), p["rate"]])
    return jax.lax.switch(x["model"], branches, x["x"], flat)


def decay_model(x, p):
    """The decays alone, which compile faster."""
    return decays(jnp, x, [p["amp"], p["base"], *p["rate"]])


@cache
def data(name):
    case = CASES[name]
    if name == "two minima":
        return np.zeros(M)
    noise = np.random.default_rng(case.seed).normal(size=M)
    return case.model(np, case.x, case.truth) + SIGMA * noise


@cache
def box(name):
    """Bounds that fix what is not free at its true value."""
    case = CASES[name]
    free = np.isin(np.arange(4), case.free)
    return np.where(free, case.lower, case.truth), np.where(
        free, case.upper, case.truth
    )


def problem_of(name, alone=False, y=None):
    """The problem of a case; `alone` is without the models of the others."""
    case = CASES[name]
    lower, upper = box(name)
    model, x = any_model, {"x": case.x, "model": MODELS.index(case.model)}
    if alone:
        model, x = decay_model, case.x
    return jaxfit.curve_problem(
        model,
        x,
        data(name) if y is None else y,
        tree(np.clip(case.truth, lower, upper)),
        sigma=SIGMA,
        bounds=(tree(lower), tree(upper)),
    )


@cache
def solved(name, alone=False):
    solution = jaxfit.solve(problem_of(name, alone))
    assert solution.success
    return solution


def flat(params):
    return np.asarray(jax.flatten_util.ravel_pytree(params)[0])


@cache
def profiled(name):
    """The intervals of all parameters where the noise is known."""
    problem, solution = problem_of(name), solved(name)
    return jaxfit.profile(problem, solution, levels=LEVELS, noise="known")


def chi2(name, p):
    """Twice the cost, by NumPy."""
    r = (CASES[name].model(np, CASES[name].x, p) - data(name)) / SIGMA
    return r @ r


def profiled_chi2(name, held):
    """Twice the least cost with some parameters held, by SciPy from the solution."""
    case = CASES[name]
    p = flat(solved(name).params).copy()
    p[list(held)] = list(held.values())
    free = [i for i in case.free if i not in held]
    if not free:
        return chi2(name, p)

    def residual(z):
        p[free] = z
        return (case.model(np, case.x, p) - data(name)) / SIGMA

    lower, upper = (side[free] for side in box(name))
    start = np.clip(p[free], lower + 1e-3, upper - 1e-3)
    tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15, "x_scale": "jac"}
    best = scipy.optimize.least_squares(
        residual, start, jac="3-point", bounds=(lower, upper), **tight
    )
    return 2 * best.cost


def linear_fit():
    """The amplitudes, (X'X)^-1 and the residuals of the linear case, by NumPy."""
    x = CASES["linear"].x
    design = np.stack([np.exp(-1.3 * x), np.ones(M)], axis=1) / SIGMA
    inverse = np.linalg.inv(design.T @ design)
    best = inverse @ design.T @ data("linear") / SIGMA
    return best, inverse, design @ best - data("linear") / SIGMA


# Of two parameters together, where the cost has risen as far as at LEVELS for one.
JOINT = tuple(1 - np.exp(-0.5 * REACH**2))
POINTS = 40


@cache
def edges(name):
    """The region of the amplitudes where the noise is known."""
    return jaxfit.contour(
        problem_of(name, True),
        solved(name, True),
        ["amp", "base"],
        JOINT,
        points=POINTS,
        noise="known",
    )


@cache
def wide_edges(name):
    """The region of amplitude and rate where the noise is estimated."""
    problem, solution = problem_of(name, True), solved(name, True)
    return jaxfit.contour(problem, solution, ("rate[0]", 0), LEVELS, points=24)
