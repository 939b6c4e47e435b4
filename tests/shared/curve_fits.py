"""Decays with noise, and SciPy's answer for them."""

import contextlib
import functools
import io

import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.stats

from jaxfit import curve_fit


M = 40
X = np.linspace(0.0, 4.0, M)
NOISE = np.random.default_rng(3).normal(size=200)
Y = 2.5 * np.exp(-1.3 * X) + 0.5 + 0.05 * NOISE[:M]
SIGMA = 0.03 + 0.02 * X
COVARIANCE = 0.0025 * np.exp(-np.abs(np.subtract.outer(X, X)) / 0.3)
BOUNDS = ([0.0, 0.0, 0.0], [3.0, 1.2, 1.0])  # the second one is met
NAN, INF = np.nan, np.inf


def decay(x, a, b, c=0.5, *, xp=jnp):
    return a * xp.exp(-b * x) + c


def slopes(x, a, b, c, *, xp=jnp):
    e = xp.exp(-b * x)
    return xp.stack([e, -a * x * e, xp.ones_like(x)], axis=-1)


numpy_decay = functools.partial(decay, xp=np)
numpy_slopes = functools.partial(slopes, xp=np)


def scipy_fit(f=numpy_decay, x=X, y=Y, jac=numpy_slopes, **options):
    """SciPy's answer, to nearly all digits; one sigma for all becomes one for each."""
    if np.size(options.get("sigma")) == 1 and options.get("sigma") is not None:
        options["sigma"] = np.full(len(y), np.squeeze(options["sigma"]))
    tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15, "x_scale": "jac"}
    return scipy.optimize.curve_fit(
        f, x, y, jac=jac, **{"method": "trf", **tight, **options}
    )


def close(actual, desired, rtol=1e-7, atol=0.0):
    np.testing.assert_allclose(actual, desired, rtol=rtol, atol=atol)


def same(result, reference, rtol=1e-7):
    """popt and pcov of two fits."""
    close(result[0], reference[0], rtol)
    close(result[1], reference[1], 10 * rtol, 1e-12 * np.abs(reference[1]).max())


def text(**options):
    """A fit, and what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        result = curve_fit(**{"f": decay, "xdata": X, "ydata": Y, **options})
    return result, out.getvalue()


def surface(x, a, b, c):
    return a * x[0] + b * x[1] ** 2 + c


PLANE = np.stack([X, np.sin(3 * X)])
PLANE_Y = surface(PLANE, 1.5, -0.7, 0.3) + 0.05 * NOISE[:M]


def polynomial(x, *p):
    return sum(value * x**i for i, value in enumerate(p))


HOLES = [3, 11, 30]


def with_holes():
    x, y = X.copy(), Y.copy()
    x[HOLES[0]], y[HOLES[1]], y[HOLES[2]] = NAN, NAN, -INF
    keep = np.isfinite(x) & np.isfinite(y)
    return x, y, keep
