"""Nothing about a fit depends on the units of its data and of its parameters.

In units that are powers of two not even the rounding does: every number of a fit is the
same but for the unit. The units are data of the model, so that few programs serve all
examples.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfit import FitError, curve_fit, curve_fit_batch


M, N = 30, 3
T = np.linspace(0.0, 4.0, M)
TRUTH = np.array([2.5, 1.3, 0.5])
Y = TRUTH[0] * np.exp(-TRUTH[1] * T) + TRUTH[2]
Y = Y + 0.03 * np.random.default_rng(2).normal(size=M)
STARTS = {"near": 1.2 * TRUTH, "3 x truth": 3 * TRUTH, "tiny": 1e-9 * TRUTH}
FREE, POSITIVE = (-np.inf, np.inf), (0.0, np.inf)
common = settings(max_examples=12, deadline=None, derandomize=True, database=None)


def decay(x, a, b, c):
    """In units of y, of x and of each parameter, which are rows of x."""
    t, uy, ux, ua, ub, uc = x
    return uy * (a / ua * jnp.exp(-b / ub * (t / ux)) + c / uc)


def in_units(y, x, params, dtype=np.float64):
    """x, y and the units of the parameters as an array."""
    units = np.array([y, x, *params])
    rows = np.concatenate([(T * x)[None], np.repeat(units[:, None], M, 1)])
    return rows.astype(dtype), (Y * y).astype(dtype), units[2:].astype(dtype)


def one(rows, y, p0, bounds):
    """What became of a fit, whether it raises or not, by `curve_fit`."""
    try:
        result = curve_fit(decay, rows, y, p0, bounds=bounds)
    except FitError as error:
        result = error.result
    return result.popt, result.perr, result.status, result.nfev, result.njev


def lane(rows, y, p0, bounds):
    """The same by `curve_fit_batch`."""
    twice = jnp.stack([y, y]) if isinstance(y, jax.Array) else np.stack([y, y])
    result = curve_fit_batch(decay, rows, twice, p0, bounds=bounds, devices=1)
    fields = result.popt, result.perr, result.status, result.nfev, result.njev
    return tuple(field[0] for field in fields)


def same(found, reference, units, rtol):
    popt, perr, *counts = found
    np.testing.assert_array_equal(counts, reference[2:])
    np.testing.assert_allclose(popt / units, reference[0], rtol, 1e-30)
    np.testing.assert_allclose(perr / units, reference[1], 10 * rtol)


def powers(limit):
    each = st.integers(-limit, limit)
    return st.tuples(each, each, *N * [each])


@pytest.mark.filterwarnings("ignore::scipy.optimize.OptimizeWarning")
@pytest.mark.parametrize("bounds", [FREE, POSITIVE], ids=["free", "positive"])
@pytest.mark.parametrize("door", [one, lane])
@pytest.mark.parametrize("start", STARTS)
def test_units_of_powers_of_two_change_no_number(start, door, bounds):
    p0 = STARTS[start]
    rows, y, _ = in_units(1.0, 1.0, np.ones(N))
    reference = door(rows, y, p0, bounds)

    @common
    @given(powers(66))
    def check(exponents):
        rows, y, units = in_units(*_split(2.0, exponents))
        same(door(rows, y, p0 * units, bounds), reference, units, 1e-12)

    check()


@pytest.mark.parametrize("bounds", [FREE, POSITIVE], ids=["free", "positive"])
@pytest.mark.parametrize("door", [one, lane])
def test_single_precision_within_its_range(door, bounds):
    p0 = np.float32(STARTS["near"])

    def single(y, x, params):
        rows, y, units = in_units(y, x, params, np.float32)
        answer = door(jnp.array(rows), jnp.array(y), jnp.array(p0 * units), bounds)
        assert answer[0].dtype == np.float32
        return answer, units

    reference, _ = single(1.0, 1.0, np.ones(N))

    @common
    @given(powers(25))
    def check(exponents):
        answer, units = single(*_split(2.0, exponents))
        same(answer, reference, units, 1e-5)

    check()


@pytest.mark.parametrize("bounds", [FREE, POSITIVE], ids=["free", "positive"])
@pytest.mark.parametrize("door", [one, lane])
def test_units_of_powers_of_ten_change_the_rounding_only(door, bounds):
    p0 = STARTS["near"]
    rows, y, _ = in_units(1.0, 1.0, np.ones(N))
    popt, perr, status, *_ = door(rows, y, p0, bounds)
    assert status > 0

    @common
    @given(powers(20))
    def check(exponents):
        rows, y, units = in_units(*_split(10.0, exponents))
        found = door(rows, y, p0 * units, bounds)
        assert found[2] > 0
        assert np.all(np.abs(found[0] / units - popt) < 1e-3 * perr)
        np.testing.assert_allclose(found[1] / units, perr, 1e-4)

    check()


def _split(base, exponents):
    y, x, *params = base ** np.array(exponents, float)
    return y, x, np.array(params)


# --- What else says the same in other words -----------------------------------------


def plain(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def turned(x, c, a, b):
    return plain(x, a, b, c)


@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (0.0, 2.0)])
def test_the_order_of_the_parameters_is_a_matter_of_names(bounds):
    p0 = np.array([1.0, 1.0, 0.1])
    reference = curve_fit(plain, T, Y, p0, bounds=bounds)
    result = curve_fit(turned, T, Y, p0[[2, 0, 1]], bounds=bounds)
    np.testing.assert_allclose(result.popt[[1, 2, 0]], reference.popt, 1e-7)
    np.testing.assert_allclose(result.perr[[1, 2, 0]], reference.perr, 1e-5)
    assert result.status > 0 < reference.status
    assert abs(result.nfev - reference.nfev) <= 2


@pytest.mark.parametrize("kind", [list, tuple, np.asarray, jnp.asarray, np.flip])
@pytest.mark.parametrize("door", ["one", "batch"])
def test_the_container_of_the_data_says_nothing(kind, door):
    x, y, p0 = kind(T), kind(Y), np.ones(N)
    reference = curve_fit(plain, T, Y, p0, bounds=POSITIVE)
    if door == "one":
        result = curve_fit(plain, x, y, kind(p0), bounds=POSITIVE)
        popt, perr = result.popt, result.perr
    else:
        rows = kind([y, y]) if kind in (list, tuple) else jnp.stack([y, y])
        result = curve_fit_batch(plain, x, rows, kind(p0), bounds=POSITIVE, devices=1)
        popt, perr = result.popt[0], result.perr[0]
    assert np.all(np.abs(popt - reference.popt) < 1e-3 * reference.perr)
    np.testing.assert_allclose(perr, reference.perr, 1e-3)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int16", "int64", "uint8"])
def test_numbers_of_any_kind_are_the_numbers_they_are(dtype):
    """Whatever NumPy holds them in, the fit is in double precision."""
    x, y = np.arange(M).astype(dtype), np.round(40 * Y).astype(dtype)
    p0 = np.array([50.0, 0.1, 10.0])
    result = curve_fit(plain, x, y, p0)
    reference = curve_fit(plain, x.astype(float), y.astype(float), p0)
    np.testing.assert_array_equal(result.popt, reference.popt)
    np.testing.assert_array_equal(result.pcov, reference.pcov)


@pytest.mark.parametrize("held", range(1, 2**N - 1))
@pytest.mark.parametrize("door", ["one", "batch"])
def test_every_subset_of_parameters_can_be_held(held, door):
    """The others are at the minimum of theirs, and the errors those of J alone."""
    fixed = np.array([bool(held >> i & 1) for i in range(N)])
    p0 = np.array([2.3, 1.2, 0.45])
    if door == "one":
        result = curve_fit(plain, T, Y, p0, fixed=fixed)
        popt, perr = result.popt, result.perr
    else:
        result = curve_fit_batch(plain, T, Y[None], p0, fixed=fixed, devices=1)
        popt, perr = result.popt[0], result.perr[0]
    np.testing.assert_array_equal(popt[fixed], p0[fixed])
    np.testing.assert_array_equal(perr[fixed], 0)
    with jax.enable_x64(True):
        slopes = np.stack(jax.jacfwd(plain, argnums=(1, 2, 3))(T, *popt), 1)[:, ~fixed]
        residual = np.asarray(plain(T, *popt)) - Y
    step, *_ = np.linalg.lstsq(slopes, -residual, rcond=None)
    variance = residual @ residual / (M - (~fixed).sum())
    errors = np.sqrt(np.diag(np.linalg.inv(slopes.T @ slopes)) * variance)
    np.testing.assert_allclose(perr[~fixed], errors, 1e-6)
    assert np.all(np.abs(step) < 1e-3 * errors)


@pytest.mark.parametrize("unit", [1e-17, 3e-18, 1e-20, 1e-30])
def test_squares_below_the_smallest_number_are_told(unit):
    x = np.linspace(0, 4, 50, dtype=np.float32)
    noise = np.random.default_rng(0).standard_normal(50)
    y = (unit * (2 * np.exp(-1.3 * x) + 0.5 + 0.01 * noise)).astype(np.float32)

    def model(x, a, b, c):
        return a * jnp.exp(-b * x) + c

    start = [2 * unit, 1.0, unit]
    with pytest.raises(FitError, match=r"hardly a number of float32.*double"):
        curve_fit(model, jnp.asarray(x), jnp.asarray(y), start)
    batch = curve_fit_batch(model, jnp.asarray(x), jnp.asarray(y)[None], start)
    assert not batch.success.any()
