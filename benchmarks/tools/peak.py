"""The fit of five parameters that the scripts on accelerators share: a peak on a slope.

Made where it is fitted, for what has 100 million points is not sent there.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import jaxfit


TRUTH = (3.0, 0.4, 1.0, 0.5, 0.1)
START = (2.0, 0.1, 1.5, 0.0, 0.0)
NOISE = 0.05
BOUNDS = ((0.0, -3.0, 0.1, -5.0, -5.0), (9.0, 3.0, 9.0, 5.0, 5.0))


def model(x: Any, p: Any) -> Any:
    """The model for `jaxfit.curve_problem`."""
    return p[0] * jnp.exp(-(((x - p[1]) / p[2]) ** 2)) + p[3] + p[4] * x


def data(m: int, dtype: Any) -> tuple[Array, Array]:
    """x in [-3, 3] and y with normal noise, made on the device; to be compiled."""
    x = jnp.linspace(-3, 3, m, dtype=dtype)
    truth = jnp.asarray(TRUTH, dtype)
    noise = jax.random.normal(jax.random.key(0), (m,), dtype)
    return x, model(x, truth) + NOISE * noise


def problem(x: Array, y: Array, bounded: bool = False) -> jaxfit.Problem:
    """The problem for `jaxfit.solve`, in the precision of y."""
    bounds = [jnp.asarray(side, y.dtype) for side in BOUNDS] if bounded else None
    return jaxfit.curve_problem(model, x, y, jnp.asarray(START, y.dtype), bounds=bounds)
