"""Fits to be diagnosed."""

import jax.numpy as jnp
import numpy as np

import jaxfit
from jaxfit import curve_problem


T = np.linspace(0, 5, 60)
X = np.linspace(0, 10, 30)
WIDE = np.linspace(-5, 5, 100)


def noise(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size)


def decay(t, p):
    return p["a"] * jnp.exp(-p["k"] * t) + p["c"]


def twofold(t, p):
    return p["a"] * p["b"] * jnp.exp(-p["k"] * t) + p["c"] + p["d"]


def biexp(t, p):
    fast = p["a1"] * jnp.exp(-p["k1"] * t)
    return fast + p["a2"] * jnp.exp(-p["k2"] * t)


def line(x, p):
    return p["slope"] * x + p["intercept"]


def quadratic(x, p):
    return p[0] + p[1] * x + p[2] * x**2


def gauss(x, p):
    return p["height"] * jnp.exp(-0.5 * ((x - p["centre"]) / p["width"]) ** 2)


START = {"a": 2.0, "k": 1.0, "c": 0.0}
LINE = {"slope": 1.0, "intercept": 0.0}
CLEAN = 2.5 * np.exp(-1.3 * T) + 0.5
NOISY = CLEAN + 0.05 * noise(60)


def checked(problem, solver=None, **options):
    return jaxfit.diagnose(problem, jaxfit.solve(problem, solver), **options)


def some_decay(rng, **options):
    y = CLEAN + 0.05 * rng.standard_normal(60)
    return curve_problem(decay, T, y, START, **options)


def rate(s, p):
    return p["vmax"] * s / (p["km"] + s)
