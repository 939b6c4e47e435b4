"""Measures, errors, intervals and bands of one fit."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from curve_fits import (
    COVARIANCE,
    INF,
    NOISE,
    SIGMA,
    M,
    X,
    Y,
    close,
    decay,
    numpy_decay,
    polynomial,
)
from scipy.optimize import OptimizeWarning

from jaxfit import curve_fit


def test_measures_are_their_formulas(plain, weighted):
    for result, sigma in ((plain, np.ones(M)), (weighted, SIGMA)):
        r = Y - numpy_decay(X, *result.popt)
        chi2, k = np.sum((r / sigma) ** 2), 3
        r2 = 1 - np.sum(r**2) / np.sum((Y - Y.mean()) ** 2)
        deviance = chi2 if result is weighted else M * np.log(chi2 / M)
        expected = {
            "chi2": chi2,
            "reduced_chi2": chi2 / (M - k),
            "r2": r2,
            "adjusted_r2": 1 - (1 - r2) * (M - 1) / (M - k),
            "rmse": np.sqrt(np.mean(r**2)),
            "mae": np.mean(np.abs(r)),
            "aic": deviance + 2 * k,
            "aicc": deviance + 2 * k + 2 * k * (k + 1) / (M - k - 1),
            "bic": deviance + k * np.log(M),
        }
        assert vars(result.measures).keys() == expected.keys()
        for name, value in expected.items():
            close(getattr(result, name), value, 1e-11)
        close(result.cost, chi2 / 2, 1e-12)
        close(result.residuals, r, atol=1e-14)
        close(result.weighted_residuals, -r / sigma, atol=1e-12)
        assert (result.num_data, result.dof) == (M, M - k)
    r = Y - numpy_decay(X, *curve_fit(decay, X, Y, sigma=COVARIANCE).popt)
    correlated = curve_fit(decay, X, Y, sigma=COVARIANCE)
    close(correlated.chi2, r @ np.linalg.solve(COVARIANCE, r), 1e-9)


def test_differences_of_information_criteria_are_those_of_the_likelihood():
    """Two models of one set of data, their likelihoods by scipy.stats."""

    def log_likelihood(result, sigma):
        return scipy.stats.norm.logpdf(Y, result.fitted, sigma).sum()

    for sigma, absolute in ((np.ones(M), False), (SIGMA, True)):
        options = {"sigma": sigma, "absolute_sigma": absolute}
        a = curve_fit(decay, X, Y, **options)
        b = curve_fit(decay, X, Y, **options, fixed={"b": 1.4})
        logs = [log_likelihood(fit, sigma if absolute else fit.rmse) for fit in (a, b)]
        close(a.aic - b.aic, -2 * (logs[0] - logs[1]) + 2, 1e-9)
        close(a.bic - b.bic, -2 * (logs[0] - logs[1]) + np.log(M), 1e-9)


def test_errors_correlations_and_names(plain):
    assert plain.names == ("a", "b", "c")
    assert plain.params == dict(zip("abc", plain.popt.tolist(), strict=True))
    close(plain.perr, np.sqrt(np.diag(plain.pcov)), 1e-14)
    error = np.sqrt(np.diag(plain.pcov))
    close(plain.correlation, plain.pcov / np.outer(error, error), 1e-12)
    close(np.diag(plain.correlation), 1, 1e-12)
    for name, value, error in zip("abc", plain.popt, plain.perr, strict=True):
        assert f"{name}={value:.6g} ± {error:.2g}" in repr(plain)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_confidence_intervals_are_students(plain, weighted, level):
    for result, law in ((plain, scipy.stats.t(M - 3)), (weighted, scipy.stats.norm)):
        half = law.ppf(0.5 + level / 2) * result.perr
        expected = np.stack([result.popt - half, result.popt + half], axis=1)
        close(result.confidence_interval(level), expected, 1e-12)


def delta_error(result, x):
    """The error of the curve by the delta method, its gradient by differences."""
    step = 1e-6
    gradient = [
        (numpy_decay(x, *(p + step * e)) - numpy_decay(x, *(p - step * e))) / (2 * step)
        for p in [result.popt]
        for e in np.eye(3)
    ]
    return np.sqrt(np.einsum("im,ij,jm->m", gradient, result.pcov, gradient))


@pytest.mark.parametrize("level", [0.68, 0.95])
def test_bands_are_the_delta_method(plain, weighted, level):
    new = np.linspace(-1.0, 6.0, 11)
    for result, law in ((plain, scipy.stats.t(M - 3)), (weighted, scipy.stats.norm)):
        q = law.ppf(0.5 + level / 2)
        for x in (None, new):
            at = X if x is None else x
            value, error = numpy_decay(at, *result.popt), delta_error(result, at)
            band = result.confidence_band(x, level)
            close(band, [value - q * error, value + q * error], 1e-7)
            # A new datum has its own noise besides.
            noise = SIGMA if x is None else 0.1
            sigma = None if x is None else 0.1
            if result is plain:
                noise, sigma = np.sqrt(2 * plain.cost / (M - 3)), None
            half = q * np.sqrt(error**2 + noise**2)
            band = result.prediction_band(x, level, sigma=sigma)
            close(band, [value - half, value + half], 1e-7)
    with pytest.raises(ValueError, match="`sigma` must be given"):
        weighted.prediction_band(new)


def test_relative_deviations_scale_with_the_noise():
    """With sigma known up to a factor, chi2 tells the factor."""
    result = curve_fit(decay, X, Y, sigma=10 * SIGMA)
    low, high = result.prediction_band(sigma=10 * SIGMA)
    noise = 10 * SIGMA * np.sqrt(result.reduced_chi2)
    half = scipy.stats.t(M - 3).ppf(0.975) * np.hypot(delta_error(result, X), noise)
    close((high - low) / 2, half, 1e-7)
    np.testing.assert_array_equal(result.prediction_band(), (low, high))


def test_bands_are_infinite_where_the_data_do_not_determine_the_curve():
    with pytest.warns(OptimizeWarning, match="do not determine p1"):
        result = curve_fit(polynomial, np.zeros(6), 1 + 0.1 * NOISE[:6], [1, 1])
    low, high = result.confidence_band(np.array([0.0, 2.0]))
    half = scipy.stats.t(4).ppf(0.975) * np.std(NOISE[:6], ddof=1) * 0.1 / np.sqrt(6)
    close((high - low)[0] / 2 * np.sqrt(4 / 5), half, 1e-7)
    assert low[1] == -INF and high[1] == INF
