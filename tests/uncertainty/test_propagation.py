"""Errors of derived values in closed form and against lmfit; numbers in writing."""

import decimal
import math
import re

import jax
import jax.numpy as jnp
import lmfit
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.flatten_util import ravel_pytree

import jaxfit
from jaxfit import TRF, pretty, propagate


M = 16
X = np.linspace(0.0, 3.0, M)
RNG = np.random.default_rng(21)
Y = 2.0 * np.exp(-1.1 * X) + 0.05 * RNG.standard_normal(M)
PLACES = np.linspace(-0.5, 4.0, 7)
TIGHT = TRF(ftol=0.0, xtol=1e-15, gtol=1e-15)


def decay(x, p):
    return p["a"] * jnp.exp(-p["b"] * x)


def problem(y=Y):
    return jaxfit.curve_problem(decay, X, y, {"a": 1.5, "b": 1.0})


def close(actual, desired, rtol=1e-9, atol=1e-14):
    np.testing.assert_allclose(actual, desired, rtol=rtol, atol=atol)


@pytest.fixture(scope="module")
def solution():
    return jaxfit.solve(problem(), TIGHT)


@pytest.fixture(scope="module")
def covariance(solution):
    return jaxfit.covariance(problem(), solution)


# --- Derived values --------------------------------------------------------------


def test_parameters_themselves_keep_their_covariance(covariance):
    found = propagate(lambda p: p, covariance)
    close(ravel_pytree(found.errors)[0], covariance.errors)
    close(found.covariance(), covariance.matrix)
    close(found.correlation(), covariance.correlation)
    jax.tree.map(np.testing.assert_array_equal, found.value, covariance.params)


def test_the_delta_method_in_closed_form(covariance):
    a, b = (float(covariance.params[k]) for k in "ab")
    (vaa, vab), (_, vbb) = np.asarray(covariance.matrix)
    found = propagate(
        lambda p: {
            "area": p["a"] / p["b"],
            "half": jnp.log(2) / p["b"],
            "pair": jnp.stack([p["a"] * p["b"], 3 * p["a"] - p["b"]]),
        },
        covariance,
    )
    close(found.value["area"], a / b)
    close(found.value["half"], np.log(2) / b)
    close(found.value["pair"], [a * b, 3 * a - b])
    area = vaa / b**2 + vbb * a**2 / b**4 - 2 * vab * a / b**3
    close(found.errors["area"], np.sqrt(area))
    close(found.errors["half"], np.log(2) / b**2 * np.sqrt(vbb))
    product = b**2 * vaa + a**2 * vbb + 2 * a * b * vab
    difference = 9 * vaa + vbb - 6 * vab
    close(found.errors["pair"], np.sqrt([product, difference]))


def test_correlations_of_derived_values(covariance):
    a, b = (float(covariance.params[k]) for k in "ab")
    found = propagate(
        lambda p: (p["a"] * p["b"], {"u": -2 * p["b"], "same": p["b"] + 1}), covariance
    )
    # In the order of the leaves: the product, "same", "u".
    slopes = np.array([[b, a], [0, 1], [0, -2]])
    expected = slopes @ np.asarray(covariance.matrix) @ slopes.T
    close(found.covariance(), expected)
    size = np.sqrt(np.diagonal(expected))
    close(found.correlation(), expected / np.outer(size, size))
    close(found.correlation()[1, 2], -1)


def test_a_constant_is_exact_and_correlates_with_nothing(covariance):
    found = propagate(lambda p: {"c": jnp.asarray(3.0), "b": p["b"]}, covariance)
    assert float(found.errors["c"]) == 0
    close(found.errors["b"], covariance.errors[1])
    close(found.correlation(), [[1, np.nan], [np.nan, np.nan]])
    assert found.pretty()["c"] == "3 (exact)"


def test_values_may_be_taken_elsewhere(covariance):
    there = {"a": 3.0, "b": -0.5}
    found = propagate(lambda p: p["a"] * p["b"], covariance, there)
    close(found.value, -1.5)
    gradient = np.array([-0.5, 3.0])
    close(found.errors, np.sqrt(gradient @ covariance.matrix @ gradient))


def test_bands_in_closed_form(covariance):
    band = propagate(lambda p: decay(PLACES, p), covariance)
    a, b = (float(covariance.params[k]) for k in "ab")
    e = np.exp(-b * PLACES)
    slopes = np.stack([e, -a * PLACES * e], axis=1)
    variance = np.einsum("ij,jk,ik->i", slopes, covariance.matrix, slopes)
    close(band.errors, np.sqrt(variance))
    close(band.value, a * e)
    assert band.slopes.shape == (PLACES.size, 2)


@pytest.mark.parametrize("sigma", [1, 2])
def test_bands_are_lmfits(covariance, sigma):
    """Which widens them by the quantile of Student's t that `sigma` means."""
    model = lmfit.Model(lambda x, a, b: a * np.exp(-b * x))
    tight = {"ftol": 1e-15, "xtol": 1e-15, "epsfcn": 1e-14}
    result = model.fit(Y, x=X, a=1.5, b=1.0, fit_kws=tight)
    band = propagate(lambda p: decay(PLACES, p), covariance)
    level = scipy.special.erf(sigma / np.sqrt(2))
    quantile = scipy.stats.t.ppf(0.5 + 0.5 * level, M - 2)
    theirs = result.eval_uncertainty(x=PLACES, sigma=sigma, dscale=1e-3)
    close(quantile * band.errors, theirs, 1e-6)


@pytest.fixture(scope="module")
def twofold():
    """A fit that sees the sum of two amplitudes only, and covariances of that sum."""

    def twice(x, p):
        return (p["a"] + p["d"]) * jnp.exp(-p["b"] * x)

    there = jaxfit.curve_problem(twice, X, Y, {"a": 1.0, "b": 1.0, "d": 0.5})
    solution = jaxfit.solve(there, TIGHT)
    p = {k: float(v) for k, v in solution.params.items()}
    a, e = p["a"] + p["d"], np.exp(-p["b"] * X)
    j, r = np.stack([e, -a * X * e], axis=1), a * e - Y
    bend = np.array([[0, r @ (-X * e)], [r @ (-X * e), r @ (a * X**2 * e)]])
    fisher, exact = np.linalg.inv(j.T @ j), np.linalg.inv(j.T @ j + bend)
    h = np.einsum("ij,jk,ik->i", j, fisher, j)
    scores = j * (r / (1 - h))[:, None]
    sandwich = exact @ scores.T @ scores @ exact
    expected = {"gauss_newton": fisher, "hessian": exact, "sandwich": sandwich}
    return there, solution, expected


@pytest.mark.parametrize("kind", ["gauss_newton", "hessian", "sandwich"])
def test_what_depends_on_the_undetermined_is_infinite(twofold, kind):
    """And what does not has the error of a fit to one amplitude."""
    there, solution, expected = twofold
    noise = None if kind == "sandwich" else "known"
    c = jaxfit.covariance(there, solution, kind=kind, noise=noise)
    found = propagate(
        lambda p: {"a": p["a"], "b": p["b"], "d": -p["d"], "sum": p["a"] + p["d"]}, c
    )
    lost = np.array([True, False, True, False])
    errors = ravel_pytree(found.errors)[0]
    np.testing.assert_array_equal(np.isposinf(errors), lost)
    whole = np.asarray(found.covariance())
    np.testing.assert_array_equal(np.isposinf(whole), np.diag(lost))
    unknown = (lost[:, None] | lost) & ~np.diag(lost)
    np.testing.assert_array_equal(np.isnan(whole), unknown)
    assert found.pretty()["a"].endswith("(not determined)")
    matrix = expected[kind]
    close(errors[3], np.sqrt(matrix[0, 0]), 1e-6)
    close(errors[1], np.sqrt(matrix[1, 1]), 1e-6)
    close(whole[3, 1], matrix[0, 1], 1e-6)
    correlation = np.asarray(found.correlation())
    np.testing.assert_array_equal(np.isnan(correlation), lost[:, None] | lost)
    close(correlation[1, 3], matrix[0, 1] / np.sqrt(matrix[0, 0] * matrix[1, 1]), 1e-6)


def test_it_can_be_jitted_and_batched(covariance):
    data = np.stack([Y, Y + 0.1 * np.cos(3 * X), 2 * Y])

    @jax.jit
    @jax.vmap
    def lanes(y):
        there = problem(y)
        c = jaxfit.covariance(there, jaxfit.solve(there, TIGHT))
        return propagate(lambda p: p["a"] / p["b"], c), c

    found, c = lanes(data)
    close(found.value[0], covariance.params["a"] / covariance.params["b"], 1e-7)
    a, b = (np.asarray(c.params[k]) for k in "ab")
    slopes = np.stack([1 / b, -a / b**2], axis=1)
    variance = np.einsum("ij,ijk,ik->i", slopes, c.matrix, slopes)
    close(found.errors, np.sqrt(variance))
    # Twice the data have twice the noise, and their rate is the same.
    close(found.errors[2], 2 * found.errors[0], 1e-6)


def test_the_derivative_of_an_error_is_that_of_the_covariance():
    """The error of a parameter is the root of its variance, and so by the data."""

    @jax.jit
    @jax.jacfwd
    def slopes(y):
        there = problem(y)
        c = jaxfit.covariance(there, jaxfit.solve(there, TIGHT))
        return propagate(lambda p: p["b"], c).errors, jnp.sqrt(c.matrix[1, 1])

    of_error, of_variance = slopes(Y)
    assert np.abs(of_variance).max() > 0.01
    close(of_error, of_variance, 1e-6, 1e-9)


# --- Names -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "names"),
    [
        (lambda p: p["a"], ["value"]),
        (lambda p: jnp.stack([p["a"], p["b"]]), ["value[0]", "value[1]"]),
        (lambda p: (p["a"], p["b"]), ["value[0]", "value[1]"]),
        (lambda p: {"rate": p["b"], "area": p["a"]}, ["area", "rate"]),
        (lambda p: {"u": {"v": p["a"]}, "w": p["b"][None]}, ["u.v", "w[0]"]),
        (lambda p: decay(PLACES[:2], p), ["value[0]", "value[1]"]),
    ],
)
def test_derived_values_have_names(covariance, fn, names):
    found = propagate(fn, covariance)
    values, errors = (ravel_pytree(t)[0] for t in (found.value, found.errors))
    shown = found.pretty()
    assert list(shown) == names
    for text, value, error in zip(shown.values(), values, errors, strict=True):
        assert text == pretty(value, error)
    assert str(found).splitlines() == [f"{k} = {v}" for k, v in shown.items()]
    short = found.pretty("short")
    assert short == {
        k: pretty(v, e, "short") for k, v, e in zip(names, values, errors, strict=True)
    }


# --- Numbers in writing ----------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        # The examples of the Particle Data Group.
        (0.827, 0.119, "0.83 +- 0.12"),
        (0.827, 0.367, "0.8 +- 0.4"),
        (0.827, 0.950, "0.8 +- 1.0"),
        # The ends of its ranges: 100 to 354, 355 to 949, 950 to 999.
        (1.23456, 0.0100, "1.235 +- 0.010"),
        (1.23456, 0.0354, "1.235 +- 0.035"),
        (1.23456, 0.0355, "1.23 +- 0.04"),
        (1.23456, 0.0949, "1.23 +- 0.09"),
        (1.23456, 0.0950, "1.23 +- 0.10"),
        (1.23456, 0.0999, "1.23 +- 0.10"),
        (1.23456, 0.09999, "1.23 +- 0.10"),
        (1.23456, 0.1, "1.23 +- 0.10"),
        # Whole numbers and beyond.
        (-1.5, 0.2, "-1.50 +- 0.20"),
        (12.3456, 1.2, "12.3 +- 1.2"),
        (12.3456, 9.6, "12 +- 10"),
        (123.456, 12.3, "123 +- 12"),
        (123.456, 4.56, "123 +- 5"),
        (123.456, 45.6, "(1.2 +- 0.5)e+02"),
        (123.456, 99.0, "(1.2 +- 1.0)e+02"),
        (0.4, 300.0, "(0.0 +- 3.0)e+02"),
        (999999.7, 0.22, "999999.70 +- 0.22"),
        # One power of ten for both.
        (1234567.0, 0.5, "(1.2345670 +- 0.0000005)e+06"),
        (1e10, 2.2e7, "(1.0000 +- 0.0022)e+10"),
        (-6.02214076e23, 1.1e18, "(-6.022141 +- 0.000011)e+23"),
        (1.6e-19, 2.5e-21, "(1.600 +- 0.025)e-19"),
        (0.001234, 0.00002, "0.001234 +- 0.000020"),
        (0.0001234, 0.000002, "(1.234 +- 0.020)e-04"),
        (1.7e308, 1.2e307, "(1.70 +- 0.12)e+308"),
        (1e-300, 1.2e-302, "(1.000 +- 0.012)e-300"),
        # Zero, and what is not a number.
        (0.0, 0.1, "0.00 +- 0.10"),
        (0.0, 5e-5, "(0 +- 5)e-05"),
        (0.0, 0.0, "0 (exact)"),
        (2.5, 0.0, "2.5 (exact)"),
        (1.23456789, math.inf, "1.23457 (not determined)"),
        (0.0, math.inf, "0 (not determined)"),
        (math.nan, 0.1, "nan +- 0.1"),
        (1.5, math.nan, "1.5 +- nan"),
        (math.nan, math.nan, "nan +- nan"),
        (math.inf, 1.0, "inf +- 1"),
        (-math.inf, math.inf, "-inf +- inf"),
    ],
)
def test_values_and_errors_in_writing(value, error, text):
    assert pretty(value, error) == text
    assert pretty(jnp.asarray(value), np.float64(error)) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.23456, 0.0123, "1.235(12)"),
        (1.23456, 0.056, "1.23(6)"),
        (1.23456, 0.096, "1.23(10)"),
        (12.3456, 1.2, "12.3(1.2)"),
        (12.3456, 0.96, "12.3(1.0)"),
        (123.456, 12.3, "123(12)"),
        (-1.6e-19, 2.5e-21, "-1.600(25)e-19"),
        (0.0, 0.00025, "0.0(2.5)e-04"),
        (1.5, 0.0, "1.5 (exact)"),
        (1.5, math.inf, "1.5 (not determined)"),
        (math.nan, 1.0, "nan +- 1"),
    ],
)
def test_the_short_way_of_writing(value, error, text):
    assert pretty(value, error, "short") == text


def pdg(error):
    """The rounded error and the power of its last digit, in decimal arithmetic."""
    error = decimal.Decimal(error)
    first = error.adjusted()
    leading = int((error.scaleb(2 - first)).to_integral_value())
    if leading >= 950:
        return decimal.Decimal(1).scaleb(first + 1), first
    last = first - 1 if leading <= 354 else first
    return error.scaleb(-last).to_integral_value().scaleb(last), last


def test_random_numbers_follow_the_rule():
    rng = np.random.default_rng(0)
    values = rng.choice([-1, 1], 2000) * 10.0 ** rng.uniform(-12, 12, 2000)
    errors = np.abs(values) * 10.0 ** rng.uniform(-7, 3, 2000)
    number = r"(-?[\d.]+)"
    pattern = re.compile(rf"\(?{number} \+- {number}\)?(?:e([+-]\d+))?")
    for value, error in zip(values, errors, strict=True):
        match = pattern.fullmatch(pretty(value, error))
        assert match, (value, error)
        power = int(match[3] or 0)
        shown, spread = (decimal.Decimal(match[i]).scaleb(power) for i in (1, 2))
        rounded, last = pdg(float(error))
        assert spread == rounded, (value, error)
        # Both show the same last digit, and no value is further off than half of it.
        assert shown.as_tuple().exponent == spread.as_tuple().exponent == last
        off = abs(shown - decimal.Decimal(float(value)))
        assert off <= decimal.Decimal("0.500001").scaleb(last)


@pytest.mark.parametrize("error", [1e-308, 1e-315, 5e-324])
def test_the_least_numbers_there_are_can_be_written(error):
    assert pretty(1.0, error).startswith("1")
    assert pretty(0.0, error).startswith(("0", "(0"))
