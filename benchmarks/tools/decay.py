"""The small fit that several scripts share, y = a exp(-b x) + c, and how it is done.

Every fit starts at ones. The functions returned here are compiled by `jax.jit` and take
x and y; both libraries are handed the same model.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxfit


TRUE = (2.5, 1.3, 0.5)
START = (1.0, 1.0, 1.0)


def model(x: Array, params: Array) -> Array:
    """The model in jax.numpy."""
    return params[0] * jnp.exp(-params[1] * x) + params[2]


def numpy_model(x: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    """The model as a user of SciPy writes it."""
    return a * np.exp(-b * x) + c


def data(m: int) -> tuple[np.ndarray, np.ndarray]:
    """x in [0, 4] and y with normal noise of 0.05."""
    x = np.linspace(0.0, 4.0, m)
    noise = 0.05 * np.random.default_rng(0).standard_normal(m)
    return x, numpy_model(x, *TRUE) + noise


def jaxfit_problem(x: Any, y: Any, bounds: Any = None) -> jaxfit.Problem:
    """The problem for `jaxfit.solve`."""
    return jaxfit.curve_problem(model, x, y, jnp.array(START), bounds=bounds)


def optimistix_fit(
    tolerance: float, count: Callable[[], Any] = lambda: None
) -> Callable[[Array, Array], Array]:
    """Parameters by Levenberg-Marquardt; `count` is called whenever the model is."""
    import optimistix  # which scripts without peers do not need

    solver = optimistix.LevenbergMarquardt(rtol=tolerance, atol=tolerance)

    def residual(params, args):
        count()
        x, y = args
        return model(x, params) - y

    def fit(x, y):
        start = jnp.array(START)
        return optimistix.least_squares(
            residual, solver, start, (x, y), throw=False
        ).value

    return jax.jit(fit)
