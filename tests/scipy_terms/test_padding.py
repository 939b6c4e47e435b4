"""Data are padded to few lengths: few programs serve all, and no fit changes."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxfit
from jaxfit import CurveFit, curve_fit, curve_problem
from jaxfit._scipy.padding import bucket
from jaxfit._scipy.pcov import pcov_of


NOISE = np.random.default_rng(5).normal(size=5000)
TRUE = (2.5, 1.3, 0.5)


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def data(m, noise=0.05):
    x = np.linspace(0.0, 4.0, m)
    return x, TRUE[0] * np.exp(-TRUE[1] * x) + TRUE[2] + noise * NOISE[:m]


def close(actual, desired, rtol=1e-9, atol=0.0):
    np.testing.assert_allclose(actual, desired, rtol=rtol, atol=atol)


# --- The lengths -------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 2**31), st.integers(0, 2**20))
def test_buckets_are_few_and_never_much_longer_than_the_data(m, more):
    length = bucket(m)
    assert m <= length and length % 8 == 0
    assert length == 64 if m <= 64 else length < 2 * m
    assert bucket(m + more) >= length
    assert bucket(length) == length
    if m > 8192:
        assert length - m <= 0.125 * m
    else:
        assert length & (length - 1) == 0


def test_the_number_of_buckets():
    lengths = {bucket(m) for m in range(1, 10**6, 37)}
    assert len(lengths) <= 8 + 8 * 7  # powers to 8,192, then eight steps each


# --- Few programs for many lengths -------------------------------------------------


def test_a_hundred_lengths_need_at_most_eight_programs():
    """Through `curve_fit` and a fitter, which share them."""

    def model(x, a, b, c):
        return decay(x, a, b, c)

    lengths = np.unique(np.linspace(50, 5000, 100).astype(int))
    assert len(lengths) == 100
    fitter, compiled = CurveFit(model), []
    for i, m in enumerate(np.random.default_rng(1).permutation(lengths).tolist()):
        fit = fitter if i % 2 else functools.partial(curve_fit, model)
        result = fit(*data(m))
        if result.compile_time > 0:
            compiled.append(m)
        close(result.popt, TRUE, 0.2)
        assert result.num_data == result.used.size == result.xdata.size == m
    assert len(compiled) == len({bucket(int(m)) for m in lengths}) <= 8


# --- The same fit ------------------------------------------------------------------


def model_of_vector(x, p):
    return decay(x, *p)


LIMITS = np.zeros(3), np.array([3.0, 1.2, 1.0])


@pytest.mark.parametrize(
    ("m", "options"),
    [(50, {}), (50, {"bounds": LIMITS}), (65, {"bounds": LIMITS, "sigma": True})],
    ids=["plain", "bounded", "weighted"],
)
def test_a_padded_fit_is_the_fit_of_the_kernel(m, options):
    x, y = data(m)
    options = dict(options)
    if "sigma" in options:
        options["sigma"] = 0.03 + 0.02 * x
    result = curve_fit(decay, x, y, **options)
    solution = kernel(x, y, options)
    close(result.popt, solution.params, 1e-11)
    close(result.cost, solution.cost, 1e-13)
    scale = 2 * result.cost / (m - 3)
    reference = np.asarray(pcov_of(solution, True)) * scale
    close(result.pcov, reference, 1e-10, 1e-13 * np.abs(reference).max())
    assert result.nfev == solution.nfev and result.status == solution.status


def kernel(x, y, options):
    problem = curve_problem(model_of_vector, x, y, starting(options), **options)
    return jax.jit(jaxfit.solve)(problem)


def starting(options):
    lower, upper = options.get("bounds", (np.zeros(3), np.full(3, 2.0)))
    return 0.5 * (lower + upper)


@pytest.mark.smoke
def test_what_is_added_never_counts():
    """Copies of a row where the model is not finite are as harmless as any."""

    def pole(x, a, b, c):
        return a * jnp.log(x) + b * jnp.sqrt(x) + c / x

    x = np.linspace(3.0, 0.0, 61)
    design = np.stack([np.log(x[:-1]), np.sqrt(x[:-1]), 1 / x[:-1]], axis=1)
    y = np.append(design @ [1.0, 2.0, 3.0] + 0.1 * NOISE[:60], np.nan)
    result = curve_fit(pole, x, y, nan_policy="omit")
    best, *_ = np.linalg.lstsq(design, y[:60])
    close(result.popt, best, 1e-9)
    assert np.isfinite(result.pcov).all() and result.num_data == 60
    # And a model whose derivative is infinite in the last row, which does count.
    steep = curve_fit(pole, x[:60], y[:60])
    close(steep.popt, best, 1e-9)
    close(steep.pcov, result.pcov, 1e-9)


def test_rows_of_every_leaf_are_padded_and_others_are_not():
    def model(x, a, b):
        u, v = x["u"], x["v"]
        return a * u @ x["weights"] + b * v * x["scale"]

    u, v = NOISE[:120].reshape(60, 2), NOISE[200:260]
    weights = np.array([1.0, -2.0])
    x = {"u": u, "v": v, "weights": weights, "scale": 2.0}
    y = 3 * u @ weights - v + 0.1 * NOISE[300:360]
    design = np.stack([u @ weights, 2 * v], axis=1)
    fitter = CurveFit(model)
    for m in (60, 50):
        part = {**x, "u": u[:m], "v": v[:m]}
        result = fitter(part, y[:m])
        best, *_ = np.linalg.lstsq(design[:m], y[:m])
        close(result.popt, best, 1e-11)
    assert result.compile_time == 0


# --- Models that are not to be padded ----------------------------------------------


def total(x, a, b):
    return a * jnp.cumsum(x) / 10 + b


def centred(x, a, b):
    return a * (x - x.mean()) ** 2 + b


def per_row(x, a, b):
    return a * x / len(x) + b * x**2


def counted(x, a, b):
    return a * x + b * jnp.arange(len(x)) ** 2


def sized(x, a, b):
    return a * x + b if len(x) > 55 else a * x**2 + b


def neighbour(x, a, b):
    return a * jnp.roll(x, 1) + b * x**2


def interpolated(x, a, b):
    return a * jnp.interp(1.5 * x, x, x**2) + b


COUPLED = [total, centred, per_row, counted, sized, neighbour, interpolated]


@pytest.mark.parametrize("model", COUPLED, ids=lambda model: model.__name__)
def test_a_model_that_couples_its_rows_gives_the_right_answer(model):
    """All are linear in a and b, so that NumPy knows the answer."""
    m = 50
    x = np.linspace(0.5, 3.0, m)
    design = np.stack([model(jnp.asarray(x), *e) for e in np.eye(2)], axis=1)
    y = design @ [1.5, -0.4] + 0.1 * NOISE[:m]
    best, *_ = np.linalg.lstsq(design, y)
    result = curve_fit(model, x, y)
    close(result.popt, best, 1e-9)
    r = design @ best - y
    close(result.pcov, np.linalg.inv(design.T @ design) * (r @ r) / (m - 2), 1e-8)
    close(result.fitted, design @ best, 1e-9)
    low, high = result.confidence_band()
    close((low + high) / 2, design @ best, 1e-9)


def test_a_coupled_model_is_compiled_for_each_length():
    fitter = CurveFit(centred)
    for m in (41, 42):
        x, y = data(m)
        assert fitter(x, y).compile_time > 0
    assert fitter(x, y).compile_time == 0


def test_a_jacobian_that_couples_its_rows_is_not_padded():
    def jac(x, a, b):
        """Right for the data's own rows, by way of all of them."""
        same = jnp.cumsum(jnp.full_like(x, 1 / len(x)))[-1]
        return jnp.stack([jnp.exp(-b * x), -a * x * jnp.exp(-b * x)], axis=1) * same

    def model(x, a, b):
        return a * jnp.exp(-b * x)

    x, y = data(50)
    result, plain = curve_fit(model, x, y, jac=jac), curve_fit(model, x, y)
    close(result.popt, plain.popt, 1e-8)
    close(result.pcov, plain.pcov, 1e-7)


def test_a_covariance_of_the_data_is_not_padded():
    x, y = data(50)
    sigma = 0.0025 * np.exp(-np.abs(np.subtract.outer(x, x)))
    result = curve_fit(decay, x, y, sigma=sigma)
    solution = kernel(x, y, {"sigma": sigma})
    close(result.popt, solution.params, 1e-9)
    assert result.sigma.shape == (50, 50) and result.fitted.shape == (50,)


def test_arrays_inside_a_model_are_no_rows():
    """A Module with as many weights as data: they are neither padded nor cut."""

    class Weighted(eqx.Module):
        weights: jax.Array

        def __call__(self, x, a, b):
            return a * x * self.weights + b

    x, y = data(50)
    weights = 1 + NOISE[:50] ** 2
    design = np.stack([x * weights, np.ones(50)], axis=1)
    best, *_ = np.linalg.lstsq(design, y)
    result = curve_fit(Weighted(weights), x, y)
    close(result.popt, best, 1e-10)
    closed = curve_fit(lambda x, a, b: a * x * weights + b, x, y)
    close(closed.popt, best, 1e-10)
