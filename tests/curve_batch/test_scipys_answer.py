"""`curve_fit_batch`: every fit is SciPy's."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from curve_batches import (
    INF,
    MASK,
    NAN,
    P0,
    RNG,
    SHAPE,
    SIGMA,
    SLOW,
    STARTS,
    UPPER,
    XS,
    M,
    P,
    X,
    Y,
    as_scipy,
    close,
    decay,
    fit,
    same_bits,
)

import jaxfit
from jaxfit import CurveFitBatchResult, Status, curve_fit_batch


COVARIANCE = 0.0025 * np.exp(-np.abs(np.subtract.outer(X, X)) / 0.3)
XK = np.stack([X, np.cos(5 * X)])  # k = 2 rows for all
XKS = np.stack([XS, RNG.normal(size=Y.shape)], -2)  # and per fit
LENGTHS = [12, 5, 9, 3, 12, 7]


def wave(x, a, b, *, xp=jnp):
    return a * xp.exp(-b * x[0]) + 0.1 * x[1]


def named(x, a, b, *, xp=jnp):
    return a * xp.exp(-b * x["t"]) + 0.1 * x["u"]


def lists(*arrays):
    """The first so many data of some fits each, as lists of unequal lengths."""
    flat = [a.reshape(P, *a.shape[2:]) for a in arrays]
    return [[a[i][..., :k] for i, k in enumerate(LENGTHS)] for a in flat]


@pytest.mark.smoke
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
def test_any_leading_axes(shape, plain, without_kept_programs):
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
