"""`curve_fit_batch`: SciPy's answer for every fit, and what belongs to many of them.

Statuses of single fits, slices and devices, single precision, and the result. Starts
from neighbours and bad input have files of their own.
"""

import functools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxfit
from jaxfit import CurveFitBatchResult, Status, curve_fit_batch
from jaxfit._basics import threads


ROOT = Path(__file__).resolve().parents[2]
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
COVARIANCE = 0.0025 * np.exp(-np.abs(np.subtract.outer(X, X)) / 0.3)
XS = X + RNG.uniform(0.0, 0.2, Y.shape)  # per fit
XK = np.stack([X, np.cos(5 * X)])  # k = 2 rows for all
XKS = np.stack([XS, RNG.normal(size=Y.shape)], -2)  # and per fit
MASK = RNG.uniform(size=Y.shape) > 0.25
UPPER = np.stack([np.full(SHAPE, INF), np.linspace(1.0, 2.0, P).reshape(SHAPE)], -1)
LENGTHS = [12, 5, 9, 3, 12, 7]


def decay(x, a, b, *, xp=jnp):
    return a * xp.exp(-b * x)


def wave(x, a, b, *, xp=jnp):
    return a * xp.exp(-b * x[0]) + 0.1 * x[1]


def named(x, a, b, *, xp=jnp):
    return a * xp.exp(-b * x["t"]) + 0.1 * x["u"]


def level(x, a, *, xp=jnp):
    return a * xp.exp(-x)


def blurred(x, a, b, *, xp=jnp):
    """Every prediction depends on three rows of x."""
    return xp.convolve(a * xp.exp(-b * x), xp.array([0.2, 0.5, 0.3]), mode="same")


def soft(z, *, xp=jnp):
    t = 1 + z
    return xp.stack([2 * (t**0.5 - 1), t**-0.5, -0.5 * t**-1.5])


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
    np.testing.assert_array_equal(
        result.perr, np.sqrt(np.diagonal(result.pcov, axis1=-2, axis2=-1))
    )
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


def lists(*arrays):
    """The first so many data of some fits each, as lists of unequal lengths."""
    flat = [a.reshape(P, *a.shape[2:]) for a in arrays]
    return [[a[i][..., :k] for i, k in enumerate(LENGTHS)] for a in flat]


@pytest.fixture(scope="module")
def plain():
    return fit()


# --- Every fit is SciPy's ----------------------------------------------------------


def test_a_result_is_scipys_pair(plain):
    popt, pcov = plain
    assert isinstance(plain, tuple) and len(plain) == 2
    assert popt is plain.popt and pcov is plain.pcov
    assert popt.shape == (*SHAPE, 2) and pcov.shape == (*SHAPE, 2, 2)
    assert popt.dtype == pcov.dtype == plain.cost.dtype == np.float64
    as_scipy(plain, lambda i: {"y": Y[i]})


def test_the_tolerances_of_every_day_give_scipys_six_digits(plain):
    result = curve_fit_batch(decay, X, Y, P0, devices=1)
    close(result.popt, plain.popt, 1e-6)
    close(result.perr, plain.perr, 1e-5)
    assert result.nfev.max() < 15


@pytest.mark.parametrize(
    "shape",
    [
        (),
        (1,),
        (7,),
        (2, 2, 5),
    ],
)
def test_any_leading_axes(shape, plain):
    """One program serves them all, and they are the same fits."""
    size = int(np.prod(shape))
    result = fit(ydata=Y.reshape(P, M)[:size].reshape(*shape, M))
    assert result.shape == shape
    assert result.popt.shape == (*shape, 2) and result.pcov.shape == (*shape, 2, 2)
    assert np.shape(result.status) == np.shape(result.cost) == shape
    popt, pcov = plain.popt.reshape(P, 2), plain.pcov.reshape(P, 2, 2)
    np.testing.assert_array_equal(result.popt.reshape(-1, 2), popt[:size])
    np.testing.assert_array_equal(result.pcov.reshape(-1, 2, 2), pcov[:size])
    assert result.compile_time < 1


@pytest.mark.parametrize(
    ("options", "of"),
    [
        (
            {"f": wave, "xdata": XK, "p0": STARTS, "mask": MASK[0, 0]},
            lambda i: {"x": XK, "p0": STARTS[i], "mask": MASK[0, 0]},
        ),
        (
            {"f": wave, "xdata": list(XKS[0, 0]), "sigma": COVARIANCE, "mask": MASK},
            lambda i: {"x": XKS[0, 0], "sigma": COVARIANCE, "mask": MASK[i]},
        ),
        (
            {"f": wave, "xdata": XKS, "sigma": 0.05, "bounds": (-1, [9.0, 1.2])},
            lambda i: {"x": XKS[i], "sigma": 0.05, "bounds": (-1, [9.0, 1.2])},
        ),
        (
            {"f": wave, "xdata": (XS, X), "sigma": SIGMA, "bounds": (-INF, UPPER)},
            lambda i: {
                "x": np.stack([XS[i], X]),
                "sigma": SIGMA[i],
                "bounds": (-INF, UPPER[i]),
            },
        ),
        (
            {"f": named, "xdata": {"t": X, "u": XS}, "sigma": SIGMA[0, 0]},
            lambda i: {"x": np.stack([X, XS[i]]), "sigma": SIGMA[0, 0]},
        ),
    ],
    ids=["k rows", "list of k", "k rows per fit", "tuple", "dict"],
)
def test_shared_and_per_fit_in_any_combination(options, of):
    result = fit(**options, clip_p0=True, absolute_sigma=True)

    def theirs(i):
        given = of(i)
        x, sigma = given.pop("x"), given.get("sigma")
        use = given.pop("mask", np.ones(M, bool))
        if np.ndim(sigma) == 2:
            given["sigma"] = sigma[np.ix_(use, use)]
        elif sigma is not None:
            given["sigma"] = np.broadcast_to(sigma, M)[use]
        given["p0"] = np.minimum(given.get("p0", P0), [INF, 0.9])
        data = {"x": x[:, use], "y": Y[i][use], "absolute_sigma": True}
        return {"f": wave, **data, **given}

    as_scipy(result, theirs, 1e-6)


@SLOW
@pytest.mark.parametrize(
    ("options", "of"),
    [
        ({"p0": STARTS}, lambda i: {"p0": STARTS[i]}),
        ({"xdata": XS}, lambda i: {"x": XS[i]}),
        ({"f": wave, "xdata": XK}, lambda i: {"f": wave, "x": XK}),
        ({"f": wave, "xdata": XKS}, lambda i: {"f": wave, "x": XKS[i]}),
    ],
    ids=["p0", "x", "k rows", "k rows per fit"],
)
def test_one_thing_alone_per_fit(options, of):
    as_scipy(fit(**options), lambda i: {"y": Y[i], **of(i)})


@SLOW
def test_an_x_of_the_shape_of_y_can_be_shared():
    """As many rows of x as there are fits."""
    y, x = Y[0, :2], XK
    as_scipy(fit(wave, x, y, shared_x=True), lambda i: {"f": wave, "x": x, "y": y[i]})
    as_scipy(fit(decay, x, y), lambda i: {"x": x[i], "y": y[i]})


@pytest.mark.parametrize(
    ("sigma", "absolute", "of"),
    [
        (SIGMA, False, lambda i: SIGMA[i]),
        (SIGMA[..., :1], False, lambda i: np.full(M, SIGMA[i][0])),
        pytest.param(SIGMA, True, lambda i: SIGMA[i], marks=SLOW),
        pytest.param(0.05, True, lambda i: np.full(M, 0.05), marks=SLOW),
        pytest.param(SIGMA[0, 0], False, lambda i: SIGMA[0, 0], marks=SLOW),
        pytest.param(COVARIANCE, False, lambda i: COVARIANCE, marks=SLOW),
    ],
    ids=["all", "each fit", "absolute", "one", "each datum", "covariance"],
)
def test_sigma(sigma, absolute, of):
    options = {"absolute_sigma": absolute}
    result = fit(sigma=sigma, **options)
    as_scipy(result, lambda i: {"y": Y[i], "sigma": of(i), **options})


@pytest.mark.parametrize(
    ("bounds", "of"),
    [
        (([0.0, 0.0], [INF, 1.2]), lambda i: (0, [INF, 1.2])),
        ((0.0, [INF, 1.2]), lambda i: (0, [INF, 1.2])),
        (scipy.optimize.Bounds([0, 0], [INF, 1.2]), lambda i: (0, [INF, 1.2])),
        pytest.param((-INF, UPPER), lambda i: (-INF, UPPER[i]), marks=SLOW),
        pytest.param((UPPER - 9, UPPER), lambda i: (-INF, UPPER[i]), marks=SLOW),
    ],
    ids=["lists", "a number", "Bounds", "one side per fit", "both per fit"],
)
def test_bounds(bounds, of):
    """Some fits end at them."""
    if isinstance(bounds, tuple) and np.ndim(bounds[0]) > 1:  # inf - 9
        bounds = (np.where(bounds[0] == INF, -INF, bounds[0]), bounds[1])
    result = fit(bounds=bounds, p0=[2.0, 0.9])
    active = result.active_mask[..., 1] == 1
    assert 2 < active.sum() < P - 2
    assert (result.active_mask[..., 0] == 0).all()
    options = {"p0": [2.0, 0.9]}
    as_scipy(result, lambda i: {"y": Y[i], "bounds": of(i), **options}, 1e-6)


def test_masks():
    result = fit(mask=MASK)
    as_scipy(result, lambda i: {"x": X[MASK[i]], "y": Y[i][MASK[i]]})
    np.testing.assert_array_equal(result.num_data, MASK.sum(-1))
    np.testing.assert_array_equal(result.dof, MASK.sum(-1) - 2)


def test_what_is_not_finite_is_left_out():
    y, hidden = Y.copy(), ~MASK
    y[hidden] = np.resize([NAN, INF, -INF], hidden.sum())
    result = fit(ydata=y, nan_policy="omit")
    same_bits(result, fit(mask=MASK))
    # In an x that all share, and a mask besides.
    x = X.copy()
    x[3] = NAN
    used = MASK & np.isfinite(x)
    result = fit(xdata=x, ydata=y, mask=MASK, nan_policy="omit")
    as_scipy(result, lambda i: {"x": X[used[i]], "y": Y[i][used[i]]})


@SLOW
def test_an_x_of_each_fit_that_is_not_finite_is_left_out():
    x = np.where(MASK, XS, NAN)
    result = fit(xdata=x, nan_policy="omit")
    as_scipy(result, lambda i: {"x": XS[i][MASK[i]], "y": Y[i][MASK[i]]})


def test_a_list_of_unequal_lengths_is_fitted_as_each_alone():
    x, y = lists(XS, Y)
    result = fit(xdata=x, ydata=y)
    assert result.shape == (len(LENGTHS),)
    assert result.num_data.tolist() == LENGTHS
    as_scipy(result, lambda i: {"x": x[i[0]], "y": y[i[0]]})
    # A fit without any data, and data as lists of lists, are no exception.
    x, y = [*x[:4], X[:0], X[:4]], [*y[:4], X[:0], Y[0, 0, :4]]
    again = fit(xdata=x, ydata=[list(a) for a in y])
    assert again.status[4] == Status.TOO_FEW_DATA and np.isnan(again.popt[4]).all()
    same_bits(result, again, slice(0, 4))
    assert again.success[5]


def test_unequal_lengths_with_rows_of_x_sigma_and_masks():
    x, y, sigma, mask = lists(XKS, Y, SIGMA, MASK)
    mask[3] = np.ones(3, bool)
    result = fit(wave, x, y, sigma=sigma, mask=mask, absolute_sigma=True)

    def of(i):
        (i,), use = i, mask[i[0]]
        data = {"x": x[i][:, use], "y": y[i][use], "sigma": sigma[i][use]}
        return {"f": wave, "absolute_sigma": True, **data}

    as_scipy(result, of)
    assert result.num_data.tolist() == [int(use.sum()) for use in mask]


def test_lists_of_equal_lengths_are_read_as_those_of_unequal_lengths_are():
    x, y = list(XKS[0]), list(Y[0])
    result = fit(wave, x, y)
    as_scipy(result, lambda i: {"f": wave, "x": x[i[0]], "y": y[i[0]]})


# --- SciPy's other options ---------------------------------------------------------


def test_fixed_by_name_by_booleans_and_by_bounds():
    by_name = fit(fixed={"b": 1.2})
    assert (by_name.popt[..., 1] == 1.2).all()
    assert (by_name.pcov[..., 1, :] == 0).all() and (by_name.pcov[..., 1] == 0).all()
    assert (by_name.dof == M - 1).all()
    fixed_decay = functools.partial(decay, b=1.2)
    for i in np.ndindex(SHAPE):
        popt, pcov = scipy_fit(lambda x, a, xp: fixed_decay(x, a, xp=xp), y=Y[i], p0=1)
        close(by_name.popt[i][0], popt[0])
        close(by_name.pcov[i][0, 0], pcov[0, 0], 1e-6)
    same_bits(fit(p0=[2.0, 1.2], fixed=[False, True]), by_name)
    # Bounds that hold nothing else come to the same.
    result = fit(p0=[2.0, 1.2], bounds=([-INF, 1.2], [INF, 1.2]))
    close(result.popt, by_name.popt)
    close(result.pcov, by_name.pcov, 1e-6, 1e-12)


@SLOW
def test_equal_bounds_leave_a_degree_of_freedom():
    result = fit(p0=[2.0, 1.2], bounds=([-INF, 1.2], [INF, 1.2]))
    assert (result.dof == M - 1).all()


@SLOW
def test_held_at_starts_of_their_own():
    starts = np.stack([np.full(SHAPE, 2.0), TRUE[..., 1]], -1)
    result = fit(p0=starts, fixed=[False, True])
    np.testing.assert_array_equal(result.popt[..., 1], TRUE[..., 1])
    e = np.exp(-TRUE[..., 1:] * X)
    close(result.popt[..., 0], (e * Y).sum(-1) / (e * e).sum(-1))


@pytest.mark.parametrize("loss", ["soft_l1", pytest.param("callable", marks=SLOW)])
def test_robust_losses(loss):
    y = Y.copy()
    y[..., 4] += 0.8
    options = {"f_scale": 0.07}
    theirs = functools.partial(soft, xp=np) if loss == "callable" else loss
    ours = soft if loss == "callable" else loss
    result = fit(ydata=y, loss=ours, **options)
    as_scipy(result, lambda i: {"y": y[i], "loss": theirs, **options}, 1e-6)


def test_a_jacobian_of_the_users_is_called(plain):
    """One of twice the size shows in the covariance."""

    def slopes(x, a, b):
        return 2 * jnp.stack([jnp.exp(-b * x), -a * x * jnp.exp(-b * x)], axis=-1)

    result = fit(jac=slopes, ftol=1e-10, xtol=1e-10)
    close(result.popt, plain.popt, 1e-3)
    close(result.perr, plain.perr / 2, 1e-2)


def slopes(x, a, b):
    e = jnp.exp(-b * x)
    return jnp.stack([e, -a * x * e], axis=-1)


@pytest.mark.parametrize("held", [0, 1])
def test_a_jacobian_of_all_parameters_serves_the_free_ones(held):
    fixed = np.arange(2) == held
    result, reference = fit(jac=slopes, fixed=fixed), fit(fixed=fixed)
    close(result.popt, reference.popt, 1e-9)
    close(result.perr, reference.perr, 1e-7)
    np.testing.assert_array_equal(result.nfev, reference.nfev)


def shifted(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def test_scales_are_those_of_the_free_parameters():
    """Beside a parameter that is held a fit goes as that of a smaller model."""
    p0, scale = np.array([0.1, 2.0, 1.0]), np.array([1e-3, 1.0, 30.0])

    def begun(f=shifted, free=(0, 1, 2), sizes=scale, **options):
        few = {"x_scale": sizes, "p0": p0[list(free)], "max_nfev": 5}
        result = fit(f, **{**few, **options})
        assert (result.nfev == 5).all()
        return result.popt

    def without_a(x, b, c):
        return shifted(x, p0[0], b, c)

    def without_c(x, a, b):
        return shifted(x, a, b, p0[2])

    reference = begun(without_a, (1, 2), scale[1:])
    close(begun(fixed=[True, False, False])[..., 1:], reference, 1e-9)
    other = begun(without_a, (1, 2), scale[:2])
    assert np.abs(other / reference - 1).max() > 1e-6  # these scales matter
    reference = begun(without_c, (0, 1), scale[:2])
    close(begun(fixed=[False, False, True])[..., :2], reference, 1e-9)


def test_tolerances_and_the_number_of_evaluations(plain):
    loose = fit(ftol=1e-2, xtol=1e-2, gtol=0.0)
    assert loose.nfev.sum() < plain.nfev.sum()
    assert 0 < np.abs(loose.popt - plain.popt).max() < 0.05
    assert loose.compile_time < 1  # numbers are no part of a program
    few = fit(max_nfev=2)
    assert (few.status == Status.MAX_STEPS).all() and (few.nfev == 2).all()
    assert np.isfinite(few.popt).all() and not few.success.any()
    assert len(few.failed[0]) == P


@SLOW
def test_scales():
    as_scipy(fit(x_scale=[1.0, 3.0]), lambda i: {"y": Y[i]})


@SLOW
def test_without_covariance(plain):
    result = fit(covariance=False)
    popt, pcov = result
    assert pcov is None and result.perr is None and result.pcov is None
    close(popt, plain.popt, 1e-9)


@SLOW
def test_models_with_arrays_of_their_own_and_of_one_parameter(plain):
    weights = np.exp(0.1 * X)

    def weighted(x, a, b):
        return a * jnp.exp(-b * x) * (weights * jnp.asarray(np.exp(-0.1 * X)))

    close(fit(weighted).popt, plain.popt)
    as_scipy(fit(level, p0=1.0), lambda i: {"f": level, "y": Y[i], "p0": 1})
    assert fit(level, p0=[1.0]).popt.shape == (*SHAPE, 1)


def test_a_model_that_couples_rows():
    y = Y[0]
    as_scipy(fit(blurred, ydata=y), lambda i: {"f": blurred, "y": y[i]})


@SLOW
def test_more_parameters_than_the_lanes_do_by_arithmetic():
    """A polynomial of degree 12, whose parameters have no names."""
    x = np.linspace(-1.0, 1.0, 30)
    basis = np.polynomial.chebyshev.chebvander(x, 12)
    y = RNG.normal(size=(3, 30))

    def series(x, *p):
        return jnp.asarray(basis) @ jnp.stack(p)

    result = fit(series, x, y, np.zeros(13))
    close(result.popt, np.linalg.lstsq(basis, y.T)[0].T, 1e-8, 1e-10)
    assert result.names[0] == "p0" and list(result.params)[12] == "p12"


@SLOW
def test_a_start_is_guessed_or_the_models_own(plain):
    class Decay:
        def estimate_p0(self, xdata, ydata):
            assert xdata.shape == ydata.shape == (M,)
            return [ydata.max(), 1.0]

        def __call__(self, x, a, b):
            return decay(x, a, b)

    close(fit(p0="auto").popt, plain.popt, 1e-6)
    close(fit(Decay(), p0=None).popt, plain.popt, 1e-6)


def test_the_models_own_estimate_is_given_rows_with_data():
    class Decay:
        def estimate_p0(self, xdata, ydata):
            assert xdata.shape == ydata.shape == (M - 2,)
            return [ydata.max(), 1.0]

        def __call__(self, x, a, b):
            return decay(x, a, b)

    mask = np.arange(M) > 1
    y = np.where(mask, Y[:8], np.nan)
    found = curve_fit_batch(Decay(), X, y, mask=mask, devices=1)
    assert found.success.all()
    given = curve_fit_batch(decay, X, y, [1.0, 1.0], mask=mask, devices=1)
    close(found.popt, given.popt, 1e-6)


# --- Precision and what is passed in -----------------------------------------------


def test_single_precision_comes_within_a_fraction_of_a_standard_error(plain):
    """The promise: a twentieth of a standard error at worst, where noise is seen."""
    single = curve_fit_batch(decay, X, Y, P0, dtype="float32", devices=1)
    assert {a.dtype for a in (*single, single.perr, single.cost)} == {
        np.dtype(np.float32)
    }
    assert single.success.all()
    away = np.abs(single.popt - plain.popt) / plain.perr
    assert away.max() < 0.05 and np.median(away) < 0.005
    close(single.perr, plain.perr, 1e-2)
    # JAX's arrays in single precision ask for it by themselves.
    result = curve_fit_batch(decay, X, jnp.asarray(Y, jnp.float32), P0, devices=1)
    same_bits(result, single)
    assert curve_fit_batch(decay, X, Y.astype(np.float32), P0, devices=1)[0].dtype == (
        np.float64
    )


def test_a_polish_ends_in_double_precision(plain):
    result = curve_fit_batch(decay, X, Y, P0, polish=True, devices=1)
    assert result.popt.dtype == result.pcov.dtype == np.float64
    # As near as the tolerances of every day come: a ten-thousandth of an error.
    assert (np.abs(result.popt - plain.popt) < 1e-4 * plain.perr).all()
    close(result.pcov, plain.pcov, 1e-4, 1e-7 * plain.pcov.max())
    tight = fit(polish=True)
    close(tight.popt, plain.popt, 1e-7)
    assert tight.success.all() and tight.nfev.max() < 40
    single = curve_fit_batch(
        decay, X, Y, P0, dtype=np.float32, covariance=False, devices=1
    )
    assert (result.nfev > single.nfev).all()  # those of both passes


def test_numpy_in_and_numpy_out(plain):
    for name in ("popt", "pcov", "perr", "cost", "optimality", "status", "nfev"):
        assert type(getattr(plain, name)) is np.ndarray
    result = fit(xdata=jnp.asarray(X), ydata=jnp.asarray(Y), p0=jnp.asarray(P0))
    assert type(result.popt) is np.ndarray
    same_bits(result, plain)


def test_nothing_that_is_passed_in_is_written_to_or_returned():
    arrays = {
        "xdata": XS.copy(),
        "ydata": Y.copy(),
        "p0": STARTS.copy(),
        "sigma": SIGMA.copy(),
        "mask": MASK.copy(),
        "bounds": np.stack([np.zeros((*SHAPE, 2)), np.full((*SHAPE, 2), 9.0)]),
    }
    before = {name: a.copy() for name, a in arrays.items()}
    for a in arrays.values():
        a.flags.writeable = False
    result = fit(**arrays, nan_policy="omit", clip_p0=True)
    assert result.success.all()
    result.popt[...] = 7.0
    result.pcov[...] = 7.0
    for name, a in arrays.items():
        np.testing.assert_array_equal(a, before[name])
        assert not any(np.shares_memory(a, out) for out in result)


def test_memory_maps_integers_and_strides(plain, tmp_path):
    y = np.memmap(tmp_path / "y", np.float64, "w+", shape=Y.shape)
    y[...] = Y
    same_bits(
        fit(ydata=np.memmap(tmp_path / "y", mode="r", shape=Y.shape, dtype=float)),
        plain,
    )
    same_bits(fit(ydata=np.moveaxis(np.moveaxis(Y, -1, 0).copy(), 0, -1)), plain)
    same_bits(fit(xdata=np.repeat(X, 2)[::2], ydata=np.asfortranarray(Y)), plain)
    same_bits(fit(ydata=Y.astype(">f8")), plain)
    same_bits(fit(ydata=Y.tolist()), plain)
    counts = np.rint(1000 * Y).astype(np.int32)
    result = fit(ydata=counts, p0=[2000, 1])
    assert result.popt.dtype == np.float64
    same_bits(result, fit(ydata=counts.astype(float), p0=[2000.0, 1.0]))


# --- The status of a fit is its own ------------------------------------------------

SEVERAL = {
    "xdata": XS,
    "p0": STARTS,
    "sigma": SIGMA,
    "mask": MASK,
    "bounds": (np.zeros((*SHAPE, 2)), UPPER),
    "clip_p0": True,
}


def spoilt(name, index, value):
    """The options with one fit's `name` replaced."""
    side = None
    if name == "bounds":
        index, side = index
    options = {"ydata": Y, **SEVERAL}
    values = options[name] if side is None else options[name][side]
    values = values.copy()
    values[index] = value
    if side is not None:
        both = list(options[name])
        both[side] = values
        values = tuple(both)
    return {**options, name: values}


@pytest.fixture(scope="module")
def clean():
    return fit(**SEVERAL)


@pytest.mark.parametrize(
    ("name", "at", "value", "status"),
    [
        ("ydata", (1, 2), NAN, Status.NONFINITE_START),
        ("ydata", (3, 4), INF, Status.NONFINITE_START),
        ("xdata", (0, 0), NAN, Status.NONFINITE_START),
        ("sigma", (0, 1), NAN, Status.NONFINITE_START),
        ("sigma", (0, 1), 0.0, Status.NONFINITE_START),
        ("mask", (2, 2), False, Status.TOO_FEW_DATA),
        ("mask", (2, 2), np.arange(M) == 5, Status.TOO_FEW_DATA),
        ("p0", (3, 1), [2.0, -900.0], Status.NONFINITE_START),
    ],
)
def test_a_fit_that_cannot_be_done_changes_no_bit_of_the_others(
    name, at, value, status, clean
):
    options = spoilt(name, at, value)
    if name == "p0":  # where it blows up is far outside
        options["bounds"] = (np.full((*SHAPE, 2), -INF), UPPER)
        clean = fit(**{**SEVERAL, "bounds": options["bounds"]})
    result = fit(**options)
    assert result.status[at] == status
    assert not result.success[at]
    assert np.isnan(result.popt[at]).all() and np.isnan(result.pcov[at]).all()
    assert np.isnan(result.perr[at]).all()
    others = np.ones(SHAPE, bool)
    others[at] = False
    same_bits(result, clean, others)
    assert [tuple(i) for i in np.transpose(result.failed)] == [at]
    assert result.outcomes[status] == 1


def test_a_start_outside_its_own_bounds(clean):
    options = spoilt("p0", (1, 1), [-1.0, 1.0])
    result = fit(
        **{
            **options,
            "clip_p0": False,
            "p0": np.where(
                np.arange(P).reshape(*SHAPE, 1) == 6, -1.0, np.clip(STARTS, 0, UPPER)
            ),
        }
    )
    assert result.status[1, 1] == Status.INFEASIBLE_START
    assert np.isnan(result.popt[1, 1]).all()
    others = np.ones(SHAPE, bool)
    others[1, 1] = False
    same_bits(result, clean, others)
    # Clipping saves it.
    assert fit(**options).success.all()


def test_a_start_that_is_not_finite(clean):
    result = fit(**spoilt("p0", (3, 0), [2.0, NAN]))
    assert result.status[3, 0] < 0 and np.isnan(result.popt[3, 0]).all()
    others = np.ones(SHAPE, bool)
    others[3, 0] = False
    same_bits(result, clean, others)


def test_data_that_are_not_finite_under_a_mask_are_not_seen(clean):
    hidden = ~MASK
    y, x, sigma = (np.where(hidden, NAN, a) for a in (Y, XS, SIGMA))
    result = fit(**{**SEVERAL, "ydata": y, "xdata": x, "sigma": sigma})
    same_bits(result, clean)


def test_all_fits_can_fail():
    result = fit(ydata=np.full_like(Y, NAN))
    assert not result.success.any() and np.isnan(result.popt).all()
    assert result.outcomes == {Status.NONFINITE_START: P}
    assert fit(ydata=np.full_like(Y, NAN), nan_policy="omit").outcomes == {
        Status.TOO_FEW_DATA: P
    }


# --- Slices, lanes, devices --------------------------------------------------------


@pytest.mark.bits
@pytest.mark.parametrize(
    "options",
    [
        {"slice_size": 6},
        {"devices": None},
        pytest.param({"lanes": 3}, marks=SLOW),
        pytest.param({"lanes": 256}, marks=SLOW),
        pytest.param({"slice_size": 6, "lanes": 100}, marks=SLOW),
        pytest.param({"devices": 3}, marks=SLOW),
    ],
    ids=str,
)
def test_slices_and_devices_change_no_bit_and_lanes_rounding_only(options, plain):
    """Slices leave a remainder; there are eight devices, conftest.py's.

    Another number of lanes is another program, which may round its sums otherwise.
    """
    result = fit(**options)
    if "lanes" in options:
        for name in ("popt", "pcov", "perr", "cost"):
            ours, theirs = getattr(result, name), getattr(plain, name)
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-14)
        for name in ("success", "active_mask"):
            np.testing.assert_array_equal(getattr(result, name), getattr(plain, name))
    else:
        same_bits(result, plain)
    assert 0 < result.lane_efficiency <= 1


@SLOW
def test_the_length_of_the_queue_changes_no_bit(plain):
    result = fit(ydata=MANY)
    for i in (0, len(MANY) // 2, len(MANY) - P):
        part = slice(i, i + P)
        np.testing.assert_array_equal(result.popt[part], plain.popt.reshape(P, 2))
        np.testing.assert_array_equal(result.pcov[part], plain.pcov.reshape(P, 2, 2))


IN_ANOTHER = """
import json, sys
import jax
import jax.numpy as jnp
import numpy as np
import jaxfit

before = jax.config.jax_enable_x64, jnp.ones(1).dtype.name
y = np.memmap(sys.argv[1], np.float64, "r", shape=(20, 12))
x = np.linspace(0.0, 3.0, 12)
result = jaxfit.curve_fit_batch(
    lambda x, a, b: a * jnp.exp(-b * x), x, y, [2.0, 1.0],
    ftol=1e-14, xtol=1e-14, gtol=1e-14,
)
single = jaxfit.curve_fit_batch(
    lambda x, a, b: a * jnp.exp(-b * x), x, y, [2.0, 1.0], dtype="float32"
)
assert before == (jax.config.jax_enable_x64, jnp.ones(1).dtype.name)
print(json.dumps({
    "before": before,
    "devices": len(jax.devices()),
    "dtypes": [result.popt.dtype.name, single.popt.dtype.name],
    "popt": [value.hex() for value in result.popt.ravel().tolist()],
    "single": single.popt.tolist(),
}))
"""


@pytest.mark.bits
def test_a_process_in_single_precision_with_one_device_finds_the_same(plain, tmp_path):
    Y.tofile(tmp_path / "y")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IN_ANOTHER, str(tmp_path / "y")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1", "XLA_FLAGS": ""},
        timeout=240,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["before"] == [False, "float32"]
    assert found["devices"] == 1
    assert found["dtypes"] == ["float64", "float32"]
    assert found["popt"] == [value.hex() for value in plain.popt.ravel().tolist()]
    away = np.abs(found["single"] - plain.popt.reshape(P, 2))
    assert (away < 0.05 * plain.perr.reshape(P, 2)).all()


def test_a_bar_shows_the_fits(capsys):
    pytest.importorskip("tqdm")
    result = fit(slice_size=6, progress=True)
    shown = capsys.readouterr().err
    assert "fits" in shown and "20.0/20.0" in shown
    assert result.success.all()


# --- Ctrl-C ------------------------------------------------------------------------

MANY = np.broadcast_to(Y.reshape(1, P, M), (60, P, M)).reshape(-1, M)


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C comes when the first slice is done; whether another pass begins."""
    calls = []
    real = threads.wait

    def wait(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(threads, "wait", wait)
    return calls


def test_what_is_done_when_ctrl_c_comes_is_returned(interrupted, plain):
    result = fit(ydata=MANY, slice_size=6)
    done = result.status != Status.STOPPED
    assert 6 <= done.sum() < len(MANY)
    assert result.success[done].all()
    expected = np.broadcast_to(plain.popt.reshape(P, 2), (60, P, 2)).reshape(-1, 2)
    np.testing.assert_array_equal(result.popt[done], expected[done])
    for a in (result.popt, result.pcov, result.perr, result.cost):
        assert np.isnan(a[~done]).all()
    assert (result.nfev[~done] == 0).all()
    assert result.outcomes[Status.STOPPED] == (~done).sum()
    np.testing.assert_array_equal(result.failed[0], np.flatnonzero(~done))
    # The rest can be made later.
    again = result.refit(P0, where=~done)
    np.testing.assert_array_equal(again.popt, expected)


@SLOW
def test_ctrl_c_ends_both_passes_of_a_polish(interrupted):
    result = fit(ydata=MANY, slice_size=6, polish=True)
    assert (result.status == Status.STOPPED).any()


@SLOW
def test_ctrl_c_ends_a_pass_over_neighbours(interrupted):
    result = fit(ydata=MANY, slice_size=6, p0="neighbours", start=P0)
    assert (result.status == Status.STOPPED).sum() > len(MANY) // 2


# --- The result --------------------------------------------------------------------


def test_maps_by_name(plain):
    assert plain.names == ("a", "b") and list(plain.params) == ["a", "b"]
    np.testing.assert_array_equal(plain.params["b"], plain.popt[..., 1])
    assert plain.shape == plain.params["a"].shape == SHAPE
    close(
        plain.cost,
        0.5
        * ((decay(X, *np.moveaxis(plain.popt, -1, 0)[..., None], xp=np) - Y) ** 2).sum(
            -1
        ),
    )


def test_counts_and_types(plain):
    for name in ("status", "nfev", "njev", "nit", "num_data", "dof"):
        a = getattr(plain, name)
        assert a.shape == SHAPE and a.dtype == np.int32
    assert (plain.num_data == M).all() and (plain.dof == M - 2).all()
    assert (plain.nfev > plain.nit - 1).all() and (plain.njev <= plain.nfev).all()
    assert plain.success.dtype == bool and plain.active_mask.dtype == np.int8
    assert plain.run_time >= 0 and plain.compile_time >= 0
    assert isinstance(plain.lane_efficiency, float)


def test_outcomes_and_summary():
    y = Y.copy()
    y[0, :2] = NAN
    result = fit(ydata=y)
    assert sum(result.outcomes.values()) == P
    assert result.outcomes[Status.NONFINITE_START] == 2
    assert list(result.outcomes.values()) == sorted(
        result.outcomes.values(), reverse=True
    )
    first, *rest = result.summary().splitlines()
    assert first == "20 fits, 18 of them converged"
    (line,) = [line for line in rest if "NONFINITE_START" in line]
    assert line.split()[:2] == ["2", "10%"]
    assert Status.NONFINITE_START.message in line


def test_attributes_are_not_to_be_changed(plain):
    with pytest.raises(AttributeError, match="popt"):
        plain.popt = 3
    with pytest.raises(AttributeError, match="something"):
        plain.something = 3
    with pytest.raises(AttributeError, match="`chi2`"):
        plain.chi2  # noqa: B018
    assert not hasattr(plain, "chi2")


def test_a_batch_without_axes_is_one_fit():
    result = fit(ydata=Y[0, 0])
    assert result.success and result.summary().startswith("1 fits, 1 of")
    assert result.outcomes
    assert result.failed[0].size == 0
    assert fit(ydata=Y[0, 0] * NAN).status[()] == Status.NONFINITE_START


def test_a_result_can_be_pickled(plain):
    again = pickle.loads(pickle.dumps(plain))
    same_bits(again, plain)


# --- Refits ------------------------------------------------------------------------


def waves(x, a, w):
    return a * jnp.sin(w * x)


WAVES = np.stack([np.full(30, 1.5), np.linspace(1.0, 4.0, 30)], -1)
WAVE_Y = WAVES[:, :1] * np.sin(WAVES[:, 1:] * X) + 0.02 * RNG.normal(size=(30, M))


def test_a_refit_makes_the_failed_ones_again(plain):
    y = Y.reshape(P, M).copy()
    starts = STARTS.reshape(P, 2).copy()
    starts[[3, 7]] = NAN
    y[11] = NAN
    first = fit(ydata=y, p0=starts)
    assert first.failed[0].tolist() == [3, 7, 11]
    second = first.refit(p0=P0)
    assert second.failed[0].tolist() == [11]
    close(second.popt[[3, 7]], plain.popt.reshape(P, 2)[[3, 7]])
    others = np.ones(P, bool)
    others[[3, 7]] = False
    same_bits(second, first, others)
    assert first.failed[0].tolist() == [3, 7, 11] and np.isnan(first.popt[3]).all()
    # Starts for each of them, or for the whole batch, or nothing left to do.
    same_bits(first.refit(p0=np.broadcast_to(P0, (3, 2))), second)
    same_bits(first.refit(p0=np.broadcast_to(P0, (P, 2))), second)
    same_bits(second.refit(p0=P0), second)
    assert plain.refit(P0).popt.shape == plain.popt.shape
    same_bits(plain.refit(np.broadcast_to(P0, (*SHAPE, 2))), plain)


def test_a_refit_never_makes_a_fit_worse():
    first = fit(waves, ydata=WAVE_Y, p0=[1.0, 1.5])
    wrong = np.abs(first.popt[:, 1] - WAVES[:, 1]) > 0.2
    assert 5 < wrong.sum() < 25
    result = first
    for frequency in (2.0, 2.5, 3.0, 3.5):
        better = result.refit([1.0, frequency], where=np.ones(30, bool))
        assert (better.cost <= result.cost).all() and better.success.all()
        result = better
    assert (result.cost < first.cost).sum() >= wrong.sum() - 2
    assert (np.abs(result.popt[:, 1] - WAVES[:, 1]) < 0.2).all()
    # Only where it is asked for.
    better = first.refit([1.0, 3.0], where=np.arange(30) > 14)
    same_bits(better, first, slice(0, 15))
    assert (better.cost[15:] < first.cost[15:]).any()
    start = np.broadcast_to([2.0, NAN], (30, 2))
    same_bits(first.refit(start, where=np.ones(30, bool)), first)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"p0": [1.0, 1.0, 1.0]}, r"`p0` has shape \(3,\)"),
        ({"p0": np.ones((3, 2))}, r"`p0` has shape \(3, 2\)"),
        ({"p0": P0, "where": np.ones(3, bool)}, r"`where` must be booleans of shape"),
        ({"p0": P0, "where": np.ones(SHAPE)}, r"`where` must be booleans of shape"),
    ],
)
def test_refits_of_other_shapes_are_refused(options, text, plain):
    with pytest.raises(ValueError, match=text):
        plain.refit(**options)


@SLOW
def test_a_refit_keeps_what_is_fixed():
    starts = STARTS.copy()
    starts[1, 1, 0] = NAN
    first = fit(p0=starts, fixed={"b": 1.2})
    again = first.refit([2.0, 5.0])
    assert again.success.all()
    assert (again.popt[..., 1] == 1.2).all()


@SLOW
def test_a_refit_in_both_precisions_of_a_polish(plain):
    starts = STARTS.copy()
    starts[0, 0] = NAN
    first = curve_fit_batch(decay, X, Y, starts, polish=True, devices=1)
    assert not first.success[0, 0]
    result = first.refit(P0)
    assert result.success.all() and result.popt.dtype == np.float64
    close(result.popt, plain.popt, 1e-6)


def test_it_is_at_the_top_of_the_package():
    assert jaxfit.curve_fit_batch is curve_fit_batch
    assert jaxfit.CurveFitBatchResult is CurveFitBatchResult


def test_as_many_data_as_parameters():
    """The start is as long as the data, and is no row of them."""
    x = np.array([0.0, 1.0, 2.0])
    y = np.stack([1 + x, 2 + x**2])

    def any_number(x, *p):
        return jnp.polyval(jnp.stack(p), x)

    result = jaxfit.curve_fit_batch(any_number, x, y, np.ones(3))
    np.testing.assert_allclose(result.popt, [[0, 1, 1], [1, 0, 2]], atol=1e-7)
    held = jaxfit.curve_fit_batch(
        lambda x, a, b, c: a * x**2 + b * x + c, x, y, [1, 0, 5], fixed={"a": 1.0}
    )
    assert held.popt[1] == pytest.approx([1, 0, 2], abs=1e-7)


# --- What the data do not determine ------------------------------------------------


def test_undetermined_parameters_of_a_batch_are_marked_and_counted():
    x = np.linspace(0, 5, 30)

    def both(x, a, b, c):
        return a + (b + c) * x

    y = np.stack([1 + 2 * x, 2 - x]) + 0.1 * np.sin(9 * x)
    result = curve_fit_batch(both, x, y, [1.0, 1.0, 1.0])
    assert result.success.all()
    want = np.array([[False, True, True]] * 2)
    np.testing.assert_array_equal(result.undetermined, want)
    assert np.isinf(result.perr[want]).all()
    assert result.summary().splitlines()[-1] == (
        "2 that converged have parameters that the data do not determine: "
        "b in 2, c in 2"
    )
    again = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(again.undetermined, want)


def test_of_a_healthy_batch_nothing_is_undetermined():
    result = curve_fit_batch(decay, X, Y, P0)
    assert result.undetermined.shape == (*SHAPE, 2) and not result.undetermined.any()
    assert "not determine" not in result.summary()
    assert curve_fit_batch(decay, X, Y, P0, covariance=False).undetermined is None


def test_a_held_parameter_is_not_undetermined():
    def both(x, a, b, c):
        return a + (b + c) * x

    y = 1 + 2 * X + 0.1 * np.sin(9 * X)
    bounds = ([-9, 0.5, -9], [9, 0.5, 9])
    result = curve_fit_batch(both, X, y, [1.0, 0.5, 1.0], bounds=bounds)
    assert not result.undetermined.any()
