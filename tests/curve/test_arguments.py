"""`curve_fit`: SciPy's answers for SciPy's arguments."""

import functools
import gc
import weakref

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from curve_fits import (
    BOUNDS,
    COVARIANCE,
    INF,
    SIGMA,
    M,
    X,
    Y,
    close,
    decay,
    numpy_decay,
    same,
    scipy_fit,
    slopes,
)

from jaxfit import FitError, curve_fit


@pytest.mark.smoke
def test_a_result_is_scipys_pair(plain):
    popt, pcov = plain
    assert isinstance(plain, tuple) and len(plain) == 2
    assert popt is plain.popt and pcov is plain.pcov
    assert popt.dtype == pcov.dtype == np.float64
    same(plain, scipy_fit())
    # What SciPy chooses when nothing is said: MINPACK.
    same(plain, scipy.optimize.curve_fit(numpy_decay, X, Y, xtol=1e-12), rtol=1e-5)


@pytest.mark.parametrize(
    "sigma",
    [0.05, [0.05], SIGMA, SIGMA.tolist(), COVARIANCE, 3 * np.eye(M)],
    ids=["one", "list of one", "each", "list", "covariance", "diagonal"],
)
def test_sigma(sigma):
    for absolute in (False, True):
        options = {"sigma": sigma, "absolute_sigma": absolute}
        same(curve_fit(decay, X, Y, **options), scipy_fit(**options))


@pytest.mark.parametrize("method", ["lm", "trf", "dogbox"])
def test_methods(method):
    same(curve_fit(decay, X, Y, method=method), scipy_fit())
    same(curve_fit(decay, X, Y, [2, 1, 0], method=method), scipy_fit(p0=[2, 1, 0]))


@pytest.mark.parametrize("method", [None, "trf", "dogbox"])
def test_bounds(method):
    options = {"bounds": BOUNDS, "sigma": SIGMA}
    result, reference = curve_fit(decay, X, Y, method=method, **options), scipy_fit()
    assert reference[0][1] > 1.2  # where the fit would go without the bound
    same(result, scipy_fit(**options))
    assert result.active_mask.tolist() == [0, 1, 0]
    limits = scipy.optimize.Bounds(*BOUNDS)
    np.testing.assert_array_equal(
        curve_fit(decay, X, Y, sigma=SIGMA, bounds=limits).popt, result.popt
    )
    options["bounds"] = (0, [INF, 1.2, INF])
    same(curve_fit(decay, X, Y, method=method, **options), scipy_fit(**options))


@pytest.mark.parametrize("loss", ["huber", "callable"])
def test_robust_losses(loss):
    """Outliers weigh less; SciPy's Jacobian differs where they have no curvature."""

    def stacked(z, xp=jnp):
        t = 1 + z
        return xp.stack([2 * (t**0.5 - 1), t**-0.5, -0.5 * t**-1.5])

    y = Y.copy()
    y[[7, 20]] += [1.0, -0.7]
    ours, theirs = loss, loss
    if loss == "callable":
        ours, theirs = stacked, functools.partial(stacked, xp=np)
    tight = dict.fromkeys(("ftol", "xtol", "gtol"), 1e-13)
    reference = scipy_fit(y=y, loss=theirs, f_scale=0.1, **tight)
    result = curve_fit(decay, X, y, loss=ours, f_scale=0.1)
    close(result.popt, reference[0], 1e-5)
    close(result.pcov, reference[1], 1e-2)
    assert np.abs(scipy_fit(y=y)[0] - reference[0]).max() > 0.03


@pytest.mark.parametrize("jac", [slopes, "2-point", "3-point", "cs"])
def test_jacobians(jac):
    """At a bound too, where differences are taken to one side."""
    options = {"bounds": BOUNDS, "sigma": SIGMA}
    result = curve_fit(decay, X, Y, jac=jac, **options)
    same(result, scipy_fit(**options), {"2-point": 3e-7}.get(jac, 1e-8))


def test_a_callable_jacobian_is_what_is_used():
    """Twice the derivative makes a quarter of the covariance."""

    def twice(x, a, b, c):
        return 2 * slopes(x, a, b, c)

    result = curve_fit(decay, X, Y, jac=twice)
    same(result, (scipy_fit()[0], scipy_fit()[1] / 4), 1e-6)


def test_the_names_of_leastsq():
    old = {"maxfev": 500, "diag": [1.0, 2.0, 4.0], "epsfcn": 1e-10}
    new = {"max_nfev": 500, "x_scale": [1.0, 0.5, 0.25], "diff_step": 1e-5}
    a, b = (curve_fit(decay, X, Y, jac="2-point", **names) for names in (old, new))
    assert a.nfev == b.nfev
    np.testing.assert_array_equal(a.popt, b.popt)
    same(a, scipy_fit(), 1e-4)


def test_tr_solver_lsmr_has_a_covariance(plain):
    same(curve_fit(decay, X, Y, method="trf", tr_solver="lsmr"), plain)


def test_full_output_is_scipys_five(plain):
    five = curve_fit(decay, X, Y, full_output=True)
    popt, pcov, info, message, status = five
    same((popt, pcov), plain)
    assert (message, status) == (plain.message, plain.status) and status in (1, 2, 3, 4)
    close(info["fvec"], numpy_decay(X, *popt) - Y, atol=1e-14)
    assert info["nfev"] == plain.nfev
    # As scipy.optimize.leastsq documents: fjac and ipvt make the covariance.
    n = popt.size
    r = np.triu(info["fjac"].T[:n, :])
    order = info["ipvt"] - 1
    assert info["fjac"].shape == (n, M) and sorted(order) == [0, 1, 2]
    inverse = np.linalg.inv(r.T @ r)[np.ix_(np.argsort(order), np.argsort(order))]
    close(inverse * (info["fvec"] @ info["fvec"]) / (M - n), pcov, 1e-9)
    assert np.abs(info["qtf"]).max() < 1e-6  # the gradient in the columns of R
    trf = curve_fit(decay, X, Y, full_output=True, method="trf", sigma=SIGMA)
    assert set(trf[2]) == {"nfev", "fvec"} and len(trf) == 5
    close(trf[2]["fvec"], (numpy_decay(X, *trf[0]) - Y) / SIGMA)


# --- What equal calls remember ----------------------------------------------------


def test_equal_options_of_other_types_are_told_apart():
    """1, 1.0 and True are equal: the fitter of one must not serve the other."""
    with pytest.raises(FitError):
        curve_fit(decay, X, Y, [1.0] * 3, max_nfev=1)
    with pytest.raises(ValueError, match="`max_nfev` must be None or positive integer"):
        curve_fit(decay, X, Y, [1.0] * 3, max_nfev=True)


def test_a_call_like_the_last_one_is_looked_at_by_value():
    curve_fit(decay, X, Y, [1.0] * 3)
    with pytest.raises(ValueError, match="`ydata` is nan at index 3"):
        curve_fit(decay, X, np.where(np.arange(X.size) == 3, np.nan, Y), [1.0] * 3)
    with pytest.raises(ValueError, match="`p0` must be finite"):
        curve_fit(decay, X, Y, [1.0, np.nan, 1.0])
    with pytest.raises(ValueError, match="`sigma` must be positive"):
        curve_fit(decay, X, Y, [1.0] * 3, sigma=np.zeros(X.size))


def test_what_is_remembered_of_a_call_keeps_no_data():
    x, y, start = X.copy(), Y.copy(), np.array([1.0] * 3)
    watched = [weakref.ref(a) for a in (x, y, start)]
    for _ in range(2):
        curve_fit(decay, x, y, start)
    del x, y, start
    gc.collect()
    assert [ref() for ref in watched] == [None] * 3
