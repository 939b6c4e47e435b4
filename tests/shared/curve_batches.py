"""Batches of decays, and SciPy's answer for each of their fits."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxfit import CurveFitBatchResult, curve_fit_batch


NAN, INF = np.nan, np.inf
SLOW = pytest.mark.slow
M, SHAPE, P = 12, (4, 5), 20
X = np.linspace(0.0, 3.0, M)
RNG = np.random.default_rng(11)
TRUE = np.stack([RNG.uniform(1.0, 3.0, SHAPE), RNG.uniform(0.7, 1.9, SHAPE)], -1)
Y = TRUE[..., :1] * np.exp(-TRUE[..., 1:] * X) + 0.05 * RNG.normal(size=(*SHAPE, M))
P0 = [2.0, 1.0]
STARTS = TRUE * RNG.uniform(0.8, 1.2, TRUE.shape)
SIGMA = RNG.uniform(0.02, 0.1, Y.shape)
XS = X + RNG.uniform(0.0, 0.2, Y.shape)  # per fit
MASK = RNG.uniform(size=Y.shape) > 0.25
UPPER = np.stack([np.full(SHAPE, INF), np.linspace(1.0, 2.0, P).reshape(SHAPE)], -1)


def decay(x, a, b, *, xp=jnp):
    return a * xp.exp(-b * x)


def fit(f=decay, xdata=X, ydata=Y, p0=P0, **options) -> CurveFitBatchResult:
    """To nearly all digits, on one device and in threads, as most users run it."""
    tight = {"ftol": 1e-14, "xtol": 1e-14, "gtol": 1e-14, "devices": 1}
    return curve_fit_batch(f, xdata, ydata, p0, **{**tight, **options})


def scipy_fit(f=decay, x=X, y=Y[0, 0], p0=P0, **options):
    """SciPy's answer, to nearly all digits; its complex step is as good as exact."""
    tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15, "x_scale": "jac"}
    f = functools.partial(f, xp=np)
    options = {"method": "trf", "jac": "cs", **tight, **options}
    return scipy.optimize.curve_fit(f, x, y, p0, **options)


def close(actual, desired, rtol=1e-7, atol=0.0):
    np.testing.assert_allclose(actual, desired, rtol=rtol, atol=atol)


def as_scipy(result, of, rtol=1e-7):
    """Every fit is what SciPy makes of the options `of(index)`."""
    assert result.success.all()
    variances = np.diagonal(result.pcov, axis1=-2, axis2=-1)
    np.testing.assert_allclose(result.perr, np.sqrt(variances), rtol=1e-14)
    for i in np.ndindex(result.shape):
        popt, pcov = scipy_fit(**of(i))
        close(result.popt[i], popt, rtol, 1e-10)
        close(result.pcov[i], pcov, 100 * rtol, 1e-7 * np.abs(pcov).max())


def same_bits(a, b, where=...):
    """Two results, or some of their fits, bit by bit."""
    for name in ("popt", "pcov", "perr", "cost", "optimality", "active_mask"):
        np.testing.assert_array_equal(getattr(a, name)[where], getattr(b, name)[where])
    for name in ("status", "nfev", "njev", "nit", "num_data", "dof"):
        np.testing.assert_array_equal(getattr(a, name)[where], getattr(b, name)[where])
