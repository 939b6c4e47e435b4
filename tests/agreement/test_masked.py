"""What does not count: NumPy's masks, `mask=`, deviations of inf, at every door."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit


T = np.linspace(0, 5, 30)
TRUTH = [2.5, 1.3, 0.5]
START = [1.0, 1.0, 0.0]
Y = 2.5 * np.exp(-1.3 * T) + 0.5
OUT = np.isin(np.arange(30), [0, 7, 29])


def decay(t, a, b, c):
    return a * jnp.exp(-b * t) + c


def problem(x, y, sigma=None, mask=None):
    return jaxfit.curve_problem(
        lambda t, p: decay(t, *p), x, y, np.array(START), sigma=sigma, mask=mask
    )


def by_curve_fit(x, y, sigma=None, **options):
    fit = jaxfit.curve_fit(decay, x, y, START, sigma, **options)
    return fit.popt, fit.num_data


def by_fitter(x, y, sigma=None, **options):
    fit = jaxfit.CurveFit(decay, method="trf")(x, y, START, sigma, **options)
    return fit.popt, fit.num_data


def by_batch(x, y, sigma=None, **options):
    twice = np.ma.stack if np.ma.isMaskedArray(y) else np.stack
    fit = jaxfit.curve_fit_batch(decay, x, twice([y, y]), START, sigma, **options)
    return fit.popt[1], fit.num_data[1]


def by_list(x, y, sigma=None, **options):
    """Of unequal lengths: each fit has its own x, sigma and mask."""
    lists = {k: [v, v[:-1]] for k, v in options.items()}
    sigma = None if sigma is None else [sigma, sigma[:-1]]
    fit = jaxfit.curve_fit_batch(decay, [x, x[:-1]], [y, y[:-1]], START, sigma, **lists)
    return fit.popt[0], fit.num_data[0]


def by_solve(x, y, sigma=None, **options):
    solution = jaxfit.solve(problem(x, y, sigma, **options))
    return solution.params, solution.num_rows


def by_memory(x, y, sigma=None, **options):
    fit = jaxfit.fit_large_dataset(decay, x, y, START, sigma, **options)
    return fit.popt, fit.info["rows_used"]


def by_stream(x, y, sigma=None, **options):
    fit = jaxfit.fit_large_dataset(
        decay, x, y, START, sigma, strategy="streamed", chunk_size=8, **options
    )
    return fit.popt, fit.info["rows_used"]


DOORS = {
    "curve_fit": by_curve_fit,
    "CurveFit": by_fitter,
    "batch": by_batch,
    "batch of unequal lengths": by_list,
    "solve": by_solve,
    "memory": by_memory,
    "stream": by_stream,
}


def spoilt(array, by):
    array = array.copy()
    array[OUT] = by
    return array


@pytest.mark.parametrize("door", DOORS)
def test_masked_arrays_and_masks_leave_data_out(door):
    fit = DOORS[door]
    wild = spoilt(Y, 1e6)
    hidden = np.ma.array(wild, mask=OUT)
    far = np.ma.array(spoilt(T, -1e3), mask=OUT)
    sure = np.ma.array(spoilt(np.ones(30), 1e-9), mask=OUT)
    for given in (
        {"x": T, "y": hidden},
        {"x": far, "y": wild},
        {"x": T, "y": wild, "sigma": sure},
        {"x": T, "y": wild, "mask": ~OUT},
        {"x": T, "y": np.where(OUT, np.nan, Y), "mask": ~OUT},
    ):
        popt, count = fit(**given)
        np.testing.assert_allclose(popt, TRUTH, rtol=1e-5)
        assert count == 27


@pytest.mark.parametrize("door", DOORS)
def test_masks_add_up(door):
    y = np.ma.array(spoilt(Y, 1e6), mask=OUT)
    y.data[3] = -50.0
    x = np.ma.array(T, mask=np.arange(30) == 11)
    popt, count = DOORS[door](x=x, y=y, mask=np.arange(30) != 3)
    np.testing.assert_allclose(popt, TRUTH, rtol=1e-5)
    assert count == 25


@pytest.mark.parametrize("door", DOORS)
def test_a_deviation_of_inf_is_a_weight_of_0(door):
    """The datum is counted, as in SciPy, though it says nothing."""
    sigma = spoilt(0.1 + 0 * T, np.inf)
    popt, count = DOORS[door](x=T, y=spoilt(Y, 100.0), sigma=sigma)
    np.testing.assert_allclose(popt, TRUTH, rtol=1e-5)
    assert count == 30


def test_a_deviation_of_inf_is_counted_in_the_errors_as_scipy_does():
    from scipy.optimize import curve_fit

    rng = np.random.default_rng(0)
    y = 2 * T + 1 + rng.normal(size=30)
    sigma = spoilt(np.ones(30), np.inf)
    want = curve_fit(lambda t, a, b: a * t + b, T, y, sigma=sigma)
    found = jaxfit.curve_fit(lambda t, a, b: a * t + b, T, y, sigma=sigma)
    np.testing.assert_allclose(found.popt, want[0], rtol=1e-7)
    np.testing.assert_allclose(found.pcov, want[1], rtol=1e-5)


@pytest.mark.parametrize("policy", [None, "raise", "omit", "propagate"])
def test_masks_and_nan_policy(policy):
    y = np.ma.array(spoilt(Y, np.nan), mask=OUT)
    fit = jaxfit.curve_fit(decay, T, y, START, nan_policy=policy)
    np.testing.assert_allclose(fit.popt, TRUTH, rtol=1e-5)
    assert fit.num_data == 27 and not fit.used[OUT].any() and fit.used[~OUT].all()
    assert np.isnan(fit.residuals[OUT]).all()
    y.data[4] = np.nan
    if policy == "omit":
        fit = jaxfit.curve_fit(decay, T, y, START, nan_policy=policy)
        assert fit.num_data == 26
    elif policy != "propagate":
        with pytest.raises(ValueError, match="`ydata` is nan at index 4"):
            jaxfit.curve_fit(decay, T, y, START, nan_policy=policy)


def test_masks_in_trees_and_of_several_rows_of_x():
    x = np.ma.array(np.stack([T, T**2]))
    x.data[1, 7] = 1e9
    x[1, 7] = np.ma.masked
    x.data[0, 9] = -1e9
    x[0, 9] = np.ma.masked
    y = 3 * T + 2 * T**2
    fit = jaxfit.curve_fit(lambda x, a, b: a * x[0] + b * x[1], x, y, [1.0, 1.0])
    np.testing.assert_allclose(fit.popt, [3, 2], rtol=1e-6)
    assert fit.num_data == 28
    tree = {"a": np.ma.array(spoilt(3 * T, 1e6), mask=OUT), "b": 2 * T**2}
    fit = jaxfit.curve_fit(
        lambda t, a, b: {"a": a * t, "b": b * t**2}, T, tree, [1.0, 1.0]
    )
    np.testing.assert_allclose(fit.popt, [3, 2], rtol=1e-6)
    assert fit.num_data == 57
    solution = jaxfit.solve(
        jaxfit.curve_problem(
            lambda t, p: {"a": p[0] * t, "b": p[1] * t**2}, T, tree, np.ones(2)
        )
    )
    np.testing.assert_allclose(solution.params, [3, 2], rtol=1e-6)
    assert solution.num_rows == 57


def test_masked_integers():
    t = np.ma.array(np.arange(10), mask=np.arange(10) == 3)
    y = np.ma.array(np.where(np.arange(10) == 5, 99, 2 * np.arange(10) + 1))
    y[5] = np.ma.masked
    for found in (
        jaxfit.curve_fit(lambda t, a, b: a * t + b, t, y).popt,
        jaxfit.curve_fit_batch(lambda t, a, b: a * t + b, t, [y, y], [1, 1]).popt[0],
    ):
        np.testing.assert_allclose(found, [2, 1], rtol=1e-7)


@pytest.mark.parametrize(
    ("mask", "error", "text"),
    [
        (np.ones(30), TypeError, "`mask` must be boolean, got float64"),
        (np.ones(29, bool), ValueError, r"`mask` has shape \(29,\)"),
        (np.zeros(30, bool), ValueError, "no data"),
    ],
)
def test_masks_that_are_none(mask, error, text):
    with pytest.raises(error, match=text):
        jaxfit.curve_fit(decay, T, Y, START, mask=mask)


@pytest.mark.parametrize("method", ["trf", "lm"])
def test_residuals_of_least_squares_that_do_not_count(method):
    y = np.where(OUT, np.nan, Y + 0.01 * np.sin(40 * T))
    found = jaxfit.least_squares(
        lambda p: decay(T, *p) - y, START, method=method, mask=~OUT
    )
    want = jaxfit.least_squares(lambda p: (decay(T, *p) - y)[~OUT], START)
    np.testing.assert_allclose(found.x, want.x, rtol=1e-6)
    assert found.success and (found.fun[OUT] == 0).all()
    with pytest.raises(ValueError, match="`mask` has 29 entries for 30 residuals"):
        jaxfit.least_squares(lambda p: decay(T, *p) - Y, START, mask=~OUT[:-1])
    with pytest.raises(TypeError, match="`mask` must be boolean, got int64"):
        jaxfit.least_squares(lambda p: decay(T, *p) - Y, START, mask=1 * OUT)


def test_what_is_no_number_is_refused_by_type():
    fields = np.zeros(5, dtype=[("a", float), ("b", float)])
    with pytest.raises(TypeError, match=r"`xdata` .* with fields a, b"):
        jaxfit.curve_fit(lambda x, a: a + 0 * x, fields, np.ones(5))
    with pytest.raises((TypeError, ValueError), match="`xdata` must hold numbers"):
        jaxfit.curve_fit(lambda x, a: a + 0 * x, np.array([object()] * 5), np.ones(5))


# --- Data of several shapes -----------------------------------------------------


def test_y_longer_than_x():
    """As SciPy allows: one curve below the other, as complex data are fitted."""
    y = np.concatenate([2 * T, 3 * T**2])

    def f(t, a, b):
        return jnp.concatenate([a * t, b * t**2])

    fit = jaxfit.curve_fit(f, T, y, [1.0, 1.0])
    np.testing.assert_allclose(fit.popt, [2, 3], rtol=1e-7)
    assert fit.num_data == 60 and fit.residuals.shape == (60,)
    batch = jaxfit.curve_fit_batch(f, T, np.stack([y, 2 * y]), [1.0, 1.0])
    np.testing.assert_allclose(batch.popt, [[2, 3], [4, 6]], rtol=1e-6)
    with pytest.raises(ValueError, match="`xdata` has 30 entries and `ydata` has 29"):
        jaxfit.curve_fit(decay, T, Y[:-1], START)


@pytest.mark.parametrize("container", [tuple, list])
@pytest.mark.parametrize("returned", [tuple, list, jnp.stack])
def test_several_arrays_as_y(container, returned):
    def f(t, a, b):
        return returned([a * t, b * t**2])

    y = container([2 * T, 3 * T**2])
    sigma = container([0.1 + 0 * T, 0.2 + T])
    fit = jaxfit.curve_fit(f, T, y, [1.0, 1.0], sigma)
    np.testing.assert_allclose(fit.popt, [2, 3], rtol=1e-7)
    assert fit.num_data == 60
    assert np.abs(np.concatenate(fit.residuals)).max() < 1e-9
    by_steps = jaxfit.curve_fit(f, T, y, [1.0, 1.0], sigma, jac="2-point")
    np.testing.assert_allclose(by_steps.popt, [2, 3], rtol=1e-6)


@pytest.mark.parametrize("container", [tuple, list])
def test_arrays_of_several_lengths_as_y(container):
    def f(t, a, b):
        return a * t, b * t[:7] ** 2

    y = container([2 * T, 3 * T[:7] ** 2])
    fit = jaxfit.curve_fit(f, T, y, [1.0, 1.0], container([1 + T, 1 + T[:7]]))
    np.testing.assert_allclose(fit.popt, [2, 3], rtol=1e-7)
    assert fit.num_data == 37 and len(fit.residuals) == 2
    used = container([T > 1, T[:7] > 0])
    fit = jaxfit.curve_fit(f, T, y, [1.0, 1.0], mask=used)
    assert fit.num_data == int(sum(part.sum() for part in used))


def test_one_datum_with_a_covariance():
    fit = jaxfit.curve_fit(
        lambda x, a: a * x,
        np.array([3.0]),
        np.array([6.0]),
        [1.0],
        sigma=np.array([[4.0]]),
        absolute_sigma=True,
    )
    np.testing.assert_allclose(fit.perr, 2 / 3, rtol=1e-7)
    batch = jaxfit.curve_fit_batch(
        lambda x, a: a * x,
        np.array([3.0]),
        np.array([[6.0], [9.0]]),
        [1.0],
        sigma=np.array([[4.0]]),
        absolute_sigma=True,
    )
    np.testing.assert_allclose(batch.perr, [[2 / 3], [2 / 3]], rtol=1e-6)


# --- No data --------------------------------------------------------------------


def slope(x, p):
    return p * x


def nothing(y, mask):
    return jaxfit.curve_problem(slope, T, y, jnp.ones(1), mask=mask)


def test_no_datum_at_all_is_too_few():
    """A residual without rows has a minimum everywhere."""
    none = np.zeros(30, bool)
    solution = jaxfit.solve(nothing(Y, none))
    assert solution.status == jaxfit.Status.TOO_FEW_DATA and not solution.success
    masks = jnp.asarray([none, ~none])
    many = jax.vmap(lambda mask: jaxfit.solve(nothing(Y, mask)))(masks)
    lanes = jaxfit.solve_batch([nothing(Y, mask) for mask in masks])
    for found in (many, lanes):
        assert found.status[0] == jaxfit.Status.TOO_FEW_DATA
        assert found.status[1] > 0
    with pytest.raises(jaxfit.FitError, match="fewer data"):
        jaxfit.fit_large_dataset(
            lambda x, a: a * x,
            T,
            np.full(30, np.nan),
            [1.0],
            strategy="streamed",
            nan_policy="omit",
        )
