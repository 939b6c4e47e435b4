"""Healthy models are left alone."""

import jax.numpy as jnp
import numpy as np
import pytest
from health import (
    CLEAN,
    LINE,
    START,
    WIDE,
    T,
    X,
    biexp,
    checked,
    decay,
    gauss,
    line,
    quadratic,
    rate,
    some_decay,
)

from jaxfit import Problem, curve_problem


SIGMA = np.full(60, 0.05)


# --- Healthy models ----------------------------------------------------------------


def known_decay(rng):
    return some_decay(rng, sigma=SIGMA)


def masked_decay(rng):
    y = CLEAN + 0.05 * rng.standard_normal(60)
    y[[3, 17, 40]] = np.nan, np.nan, 50
    mask = np.ones(60, bool)
    mask[[3, 17, 40]] = False
    return curve_problem(decay, T, y, START, mask=mask)


def robust_decay(rng):
    y = CLEAN + 0.05 * rng.standard_normal(60)
    y[rng.choice(60, 3, replace=False)] += 1
    return curve_problem(decay, T, y, START, sigma=SIGMA, loss="soft_l1")


def peak(x, p):
    return gauss(x, p) + p["slope"] * x + p["offset"]


def peak_on_a_line(rng):
    y = 3 * np.exp(-0.5 * ((WIDE - 0.4) / 0.8) ** 2) + 0.1 * WIDE + 1
    y = y + 0.1 * rng.standard_normal(100)
    start = {"height": 2, "centre": 0, "width": 1, "slope": 0, "offset": 0}
    start = {name: np.float32(value) for name, value in start.items()}
    return curve_problem(peak, WIDE.astype(np.float32), y.astype(np.float32), start)


def lorentzians(x, p):
    place = (x[:, None] - p["centre"]) / p["width"]
    return jnp.sum(p["height"] / (1 + place**2), axis=1)


def two_lorentzians(rng):
    x = np.linspace(0, 20, 150)
    true = {"height": [2.0, 3.0], "centre": [6.0, 14.0], "width": [0.9, 1.2]}
    true = {name: np.array(value) for name, value in true.items()}
    y = lorentzians(x, true) + 0.05 * rng.standard_normal(150)
    start = {"height": np.ones(2), "centre": np.array([5.0, 15.0]), "width": np.ones(2)}
    return curve_problem(lorentzians, x, y, start)


def michaelis_menten(rng):
    s = np.repeat([0.3, 0.6, 1.2, 2.5, 5, 10, 20, 40], 3)
    y = rate(s, {"vmax": 10, "km": 3}) + 0.2 * rng.standard_normal(24)
    start = {"vmax": 5.0, "km": 1.0}
    return curve_problem(rate, s, y, start, bounds=(0.0, np.inf))


def logistic(d, p):
    rise = 1 + 10 ** (p["hill"] * (p["ec50"] - d))
    return p["bottom"] + (p["top"] - p["bottom"]) / rise


def dose_response(rng):
    d = np.repeat(np.linspace(-3, 3, 13), 3)
    y = logistic(d, {"bottom": 5, "top": 100, "hill": 1.2, "ec50": 0.3})
    y = y + 3 * rng.standard_normal(39)
    start = {"bottom": 0.0, "top": 90.0, "hill": 1.0, "ec50": 0.0}
    return curve_problem(logistic, d, y, start)


def damped(t, p):
    turn = 2 * jnp.pi * p["f"] * t + p["phase"]
    return p["a"] * jnp.exp(-t / p["tau"]) * jnp.sin(turn)


def damped_sine(rng):
    t = np.linspace(0, 10, 120)
    y = damped(t, {"a": 2, "tau": 4, "f": 0.5, "phase": 0.7})
    y = y + 0.1 * rng.standard_normal(120)
    return curve_problem(damped, t, y, {"a": 1.5, "tau": 3.0, "f": 0.51, "phase": 0.5})


def power(x, p):
    return p["a"] * x ** p["b"]


def power_law(rng):
    x = np.geomspace(1, 100, 40)
    sigma = 0.05 * 3 * x**-1.5
    y = 3 * x**-1.5 + sigma * rng.standard_normal(40)
    start = {"a": 1.0, "b": -1.0}
    return curve_problem(power, x, y, start, sigma=sigma)


def rate_at(kelvin, p):
    return jnp.exp(p["ln_k"] - p["energy"] / 8.314e-3 * (1 / kelvin - 1 / 320))


def arrhenius(rng):
    kelvin = np.linspace(280, 360, 24)
    true = np.asarray(rate_at(kelvin, {"ln_k": 0.5, "energy": 50}))
    y = true * (1 + 0.04 * rng.standard_normal(24))
    start = {"ln_k": 0.0, "energy": 40.0}
    return curve_problem(rate_at, kelvin, y, start, sigma=0.04 * true)


def two_exponentials(rng):
    t = np.geomspace(0.02, 12, 60)
    y = 2 * np.exp(-5 * t) + np.exp(-0.3 * t) + 0.02 * rng.standard_normal(60)
    return curve_problem(biexp, t, y, {"a1": 1.0, "k1": 3.0, "a2": 1.0, "k2": 0.5})


def spot(grid, p):
    square = (grid[0] - p["x"]) ** 2 + (grid[1] - p["y"]) ** 2
    return p["height"] * jnp.exp(-0.5 * square / p["width"] ** 2) + p["back"]


def image(rng):
    grid = np.stack(np.meshgrid(np.arange(16.0), np.arange(16.0)))
    y = spot(grid, {"height": 20, "x": 7.3, "y": 8.1, "width": 2, "back": 3})
    y = y + rng.standard_normal((16, 16))
    start = {"height": 15.0, "x": 8.0, "y": 8.0, "width": 2.5, "back": 0.0}
    return curve_problem(spot, grid, y, start, sigma=np.ones((16, 16)))


def straight_line(rng):
    return curve_problem(line, X, 2 * X + 1 + 0.5 * rng.standard_normal(30), LINE)


def parabola(rng):
    x = np.linspace(-1, 3, 40, dtype=np.float32)
    y = 1 - 2 * x + 0.5 * x**2 + 0.1 * rng.standard_normal(40)
    start = np.ones(3, np.float32)
    return curve_problem(quadratic, x, y.astype(np.float32), start)


def far_from_the_line(p, data):
    x, y = data
    return (y - p["slope"] * x - p["intercept"]) / 0.5


def residual_of_a_line(rng):
    y = 2 * X + 1 + 0.5 * rng.standard_normal(30)
    return Problem(far_from_the_line, LINE, (X, y))


KNOWN = [known_decay, robust_decay, power_law, arrhenius, image, residual_of_a_line]
HEALTHY = [
    *KNOWN,
    some_decay,
    masked_decay,
    peak_on_a_line,
    two_lorentzians,
    michaelis_menten,
    dose_response,
    damped_sine,
    two_exponentials,
    straight_line,
    parabola,
]


@pytest.mark.parametrize("make", HEALTHY, ids=lambda make: make.__name__)
def test_healthy_models_are_left_alone(make):
    for seed in range(3):
        problem = make(np.random.default_rng([seed, 2026]))
        kind = "known" if make in KNOWN else "estimated"
        report = checked(problem, noise=kind)
        assert report.healthy, report.summary()
        assert np.isfinite(report.correlation).all()
