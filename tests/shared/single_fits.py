"""A decay with noise, alone and in lanes, and SciPy's answer for it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import jaxfit
from jaxfit import curve_problem


T = np.linspace(0.0, 3.0, 30)
NOISE = 0.05 * np.sin(17.0 * np.arange(30.0))
Y = 2.5 * np.exp(-1.3 * T) + 0.5 + NOISE
START = np.array([1.0, 1.0, 0.0])
LANES = 16
SHIFTS = np.linspace(0.8, 1.2, LANES)


def decay(x, p):
    return p[0] * jnp.exp(-p[1] * x) + p[2]


def scipy_fit(fun, start, **kwargs):
    """The same fit by SciPy, to nearly all digits."""
    tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15, "x_scale": "jac"}
    return scipy.optimize.least_squares(fun, start, jac="3-point", **tight, **kwargs)


def numpy_decay(p):
    return p[0] * np.exp(-p[1] * T) + p[2] - Y


@eqx.filter_jit
def covariance(solution, scaled=True):
    return solution.covariance(scaled)


def close(actual, desired, rtol=1e-9, atol=1e-12):
    np.testing.assert_allclose(actual, desired, rtol=rtol, atol=atol)


def stack(*problems):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)


@jax.jit
@jax.vmap
def bounded_fit(start, lower, upper):
    """A lane with its own start and bounds, so that none of its values is known."""
    problem = curve_problem(decay, T, Y, start, bounds=(lower, upper))
    return jaxfit.solve(problem)
