"""Calls that are fine, to be spoilt in one argument.

Every message names the argument, the first index that is wrong, and a way out.
"""

import jax.numpy as jnp
import numpy as np
import refusals

from jaxfit import curve_fit, least_squares


M = 12
X = np.linspace(0.0, 2.0, M)
Y = 2.5 * np.exp(-1.3 * X) + 0.1 * np.sin(9 * X)
NAN, INF = np.nan, np.inf


def decay(x, amp, rate):
    return amp * jnp.exp(-rate * x)


def residual(p, x, y):
    return p[0] * jnp.exp(-p[1] * x) - y


def fit(**options):
    """A call of curve_fit that is fine but for `options`."""
    return curve_fit(**{"f": decay, "xdata": X, "ydata": Y, **options})


def minimise(**options):
    """The same of least_squares."""
    good = {"fun": residual, "x0": [1.0, 1.0], "args": (X, Y)}
    return least_squares(**{**good, **options})


def refused(error, text, call=fit, **options):
    refusals.refused(error, text, call, **options)
