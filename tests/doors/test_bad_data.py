"""Data, sigma, starts and bounds that `curve_fit` and `least_squares` refuse."""

import numpy as np
import pytest
from refusals import put
from spoilt_calls import INF, NAN, M, X, Y, fit, minimise, refused


pytestmark = pytest.mark.usefixtures("without_type_checks")


def plane(x, a, b):
    return a * x[0] + b * x[1]


def test_the_calls_that_the_others_spoil_are_fine():
    result, same = fit(), minimise()
    assert result.success and same.success
    np.testing.assert_allclose(result.popt, same.x, rtol=1e-6)


# --- Data --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"xdata": [], "ydata": []}, ValueError, "`ydata` must not be empty"),
        ({"ydata": np.zeros((0, 3))}, ValueError, "`ydata` must not be empty"),
        ({"ydata": {"a": []}}, ValueError, "`ydata` must not be empty"),
        ({"xdata": []}, ValueError, "`xdata` ... 0 ... `ydata` ... 12 ... each datum"),
        ({"xdata": X[:-1]}, ValueError, "`xdata` ... 11 ... `ydata` ... 12 ... each"),
        ({"xdata": put(X, 3, NAN)}, ValueError, "`xdata` is nan at index 3 ... omit"),
        ({"xdata": put(X, 3, -INF)}, ValueError, "`xdata` is -inf at index 3 ... omit"),
        ({"ydata": put(Y, 4, NAN)}, ValueError, "`ydata` is nan at index 4 ... omit"),
        ({"ydata": put(Y, [4, 7], INF)}, ValueError, "`ydata` is inf at index 4. "),
        (
            {"f": plane, "xdata": put(np.ones((2, M)), (1, 5), NAN)},
            ValueError,
            "`xdata` is nan at index (1, 5) ... nan_policy='omit'",
        ),
        (
            {"xdata": {"t": X, "u": put(X, 8, INF)}},
            ValueError,
            "`xdata['u']` is inf at index 8 ... nan_policy='omit'",
        ),
        (
            {"ydata": {"a": Y, "b": put(Y, 2, NAN)}},
            ValueError,
            "`ydata['b']` is nan at index 2 ... nan_policy='omit'",
        ),
        (
            {"ydata": put(Y, 4, NAN), "nan_policy": "raise"},
            ValueError,
            "The input contains nan values: `ydata` is nan at index 4 ... omit",
        ),
        ({"xdata": X + 0j}, TypeError, "`xdata` must be real, got complex128: fit re"),
        ({"ydata": Y + 1j}, TypeError, "`ydata` must be real, got complex128: fit re"),
        ({"sigma": 1j}, TypeError, "`sigma` must be real, got complex128"),
        ({"p0": [1j, 1]}, TypeError, "`p0` must be real, got complex128"),
        ({"xdata": "X"}, TypeError, "`xdata` must be an array or a number, got str"),
        ({"xdata": ["a"] * M}, ValueError, "`xdata` must hold numbers, got"),
        ({"ydata": "Y"}, ValueError, "`ydata` must hold numbers, got 'Y'"),
        ({"ydata": ["1"] * M}, ValueError, "`ydata` must hold numbers, got ['1'"),
        ({"sigma": "1"}, ValueError, "`sigma` must hold numbers, got '1'"),
        ({"p0": ["a", "b"]}, ValueError, "`p0` must hold numbers, got ['a', 'b']"),
    ],
)
def test_data(options, error, text):
    refused(error, text, **options)


def test_data_that_are_not_checked_are_found_by_the_fit():
    says = "Residuals are not finite in the initial point"
    refused(ValueError, says, ydata=put(Y, 4, NAN), check_finite=False)
    refused(ValueError, says, ydata=put(Y, 4, INF), nan_policy="raise")


def test_an_unknown_nan_policy():
    refused(ValueError, "nan_policy ... 'raise' ... 'omit' ... 's'", nan_policy="s")


# --- Sigma -------------------------------------------------------------------------


COVARIANCE = 0.01 * np.exp(-np.abs(np.subtract.outer(np.arange(M), np.arange(M))))


@pytest.mark.parametrize("bad", [0.0, -1.0, NAN, -INF])
def test_deviations_must_be_positive(bad):
    text = f"`sigma` must be positive and finite, got {bad}"
    refused(ValueError, text, sigma=bad)
    refused(ValueError, "`sigma` must be positive and finite, got inf", sigma=INF)
    refused(ValueError, f"{text} at index 2", sigma=put(np.ones(M), [2, 5], bad))
    # What nan_policy leaves out may have any deviation; the others may not.
    holed = {"ydata": put(Y, 1, NAN), "nan_policy": "omit"}
    sigma = put(np.ones(M), [1, 5], bad)
    refused(ValueError, f"{text} at index 5", sigma=sigma, **holed)


@pytest.mark.parametrize(
    "shape", [(11,), (13,), (2,), (M, M - 1), (M, 1), (1, M), (M, M, 1)]
)
def test_sigma_of_a_wrong_shape(shape):
    text = f"`sigma` has incorrect shape ... {shape} ... (12,) ... (M, M) covariance"
    refused(ValueError, text, sigma=np.ones(shape))


@pytest.mark.parametrize(
    ("sigma", "text"),
    [
        (np.ones((M, M)), "`sigma` must be positive definite ... eigenvalue"),
        (np.zeros((M, M)), "`sigma` must be positive definite ... eigenvalue"),
        (-COVARIANCE, "`sigma` must be positive definite ... eigenvalue"),
        (
            put(COVARIANCE, (2, 5), 0.0),
            "`sigma` must be symmetric ... at (2, 5) ... at (5, 2) ... covariance",
        ),
        (put(COVARIANCE, (3, 1), NAN), "`sigma` must be finite, got nan at ... (3, 1)"),
        (put(COVARIANCE, (7, 7), INF), "`sigma` must be finite, got inf at ... (7, 7)"),
    ],
    ids=["ones", "zeros", "negative", "skew", "nan", "inf"],
)
def test_covariances_of_the_data(sigma, text):
    refused(ValueError, text, sigma=sigma)


def test_a_covariance_is_singular_even_if_its_factor_is_finite_by_rounding():
    rng = np.random.default_rng(0)
    while True:
        half = rng.normal(size=(M, M - 1))
        sigma = half @ half.T
        try:
            np.linalg.cholesky(sigma)
        except np.linalg.LinAlgError:
            continue
        break
    refused(ValueError, "`sigma` must be positive definite", sigma=sigma)


# --- Starts and bounds -------------------------------------------------------------


@pytest.mark.parametrize(
    ("p0", "text"),
    [
        ([1.0], "`p0` has 1 ent ... wants 2 parameters (amp, rate): give one start"),
        ([1.0] * 3, "`p0` has 3 ent ... wants 2 parameters (amp, rate): give one"),
        ([], "`p0` has 0 ent ... wants 2 parameters (amp, rate): give one start"),
        (1.0, "`p0` has 1 ent ... wants 2 parameters (amp, rate): give one start"),
        ([[1.0, 1.0]], "`p0` must have one dimension, got shape (1, 2)"),
        ([1.0, NAN], "`p0` must be finite, got nan at index 1"),
        ([-INF, NAN], "`p0` must be finite, got -inf at index 0"),
        ("Auto", "`p0` must be ... 'auto', got 'Auto'"),
    ],
)
def test_starts(p0, text):
    refused(ValueError, text, p0=p0)


def test_starts_of_models_with_defaults_or_any_number_of_parameters():
    def model(x, a, b, c=0.0, *more):
        raise AssertionError("not to be traced")

    with pytest.raises(ValueError, match=r"`p0` has 1 ent.* 3 .*\(a, b, c, \.\.\.\)"):
        fit(f=model, p0=[1.0])
    for vague in (lambda x, *p: p[0] * x, lambda x: x):
        with pytest.raises(ValueError, match=r"number of fit parameters.*give `p0`"):
            fit(f=vague)


@pytest.mark.parametrize(
    ("bounds", "error", "text"),
    [
        (([0, 0, 0], 9), ValueError, "`bounds[0]` has shape (3,) for 2 ... amp, rate"),
        ((0, [9.0]), ValueError, "`bounds[1]` has shape (1,) for 2 ... amp, rate"),
        ((0, 1, 2), ValueError, "`bounds` must contain 2 elements ... (0, 1, 2)"),
        (3.0, ValueError, "`bounds` must contain 2 elements ... 3.0"),
        (
            ([0, 4], [4, 0]),
            ValueError,
            "less than each ... [4.0, 0.0] ... `rate` ... 1",
        ),
        ((0, [4, NAN]), ValueError, "`bounds` is NaN ... `rate` (index 1)"),
        ((NAN, 4), ValueError, "`bounds` is NaN ... `amp` (index 0)"),
        ((INF, INF), ValueError, "[inf, inf] for `amp` (index 0)"),
        ((0, "4"), ValueError, "`bounds[1]` must hold numbers"),
        ((0, 4j), TypeError, "`bounds[1]` must be real"),
    ],
)
def test_bounds(bounds, error, text):
    refused(error, text, bounds=bounds)
    refused(error, text.replace("amp, rate", "x[0], x[1]"), call=minimise_named(bounds))


def minimise_named(bounds):
    """least_squares has no names: `amp` is x[0] and `rate` is x[1]."""

    def call():
        try:
            minimise(bounds=bounds)
        except (TypeError, ValueError) as err:
            words = str(err).replace("`x[0]`", "`amp`").replace("`x[1]`", "`rate`")
            raise type(err)(words) from err

    return call


def test_a_start_outside_its_bounds_is_refused_or_clipped():
    bounds = ([0.0, 0.0], [4.0, 1.0])
    text = "`p0` has rate = 5.0 (index 1), outside [0.0, 1.0]"
    refused(ValueError, text, p0=[1, 5], bounds=bounds)
    text = "`x0` has x[1] = 5.0 (index 1), outside [0.0, 1.0]"
    refused(ValueError, text, call=minimise, x0=[1, 5], bounds=bounds)
    clipped = fit(p0=[1, 5], bounds=bounds, clip_p0=True)
    inside = fit(p0=[1, 0.5], bounds=bounds)
    np.testing.assert_allclose(clipped.popt, inside.popt, rtol=1e-6)
    assert clipped.active_mask.tolist() == [0, 1]
