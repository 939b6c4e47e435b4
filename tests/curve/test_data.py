"""Data of `curve_fit` in all forms, with holes, in both precisions."""

import contextlib
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curve_fits import (
    COVARIANCE,
    NAN,
    NOISE,
    PLANE,
    PLANE_Y,
    SIGMA,
    M,
    X,
    Y,
    close,
    decay,
    numpy_decay,
    same,
    scipy_fit,
    surface,
    with_holes,
)

from jaxfit import curve_fit


# --- Data in all forms ------------------------------------------------------------


def columns(x, a, b, c):
    return a * x[:, 0] + b * x[:, 1] ** 2 + c


def named(x, a, b, c):
    return a * x["u"] + b * x["v"] ** 2 + c * x["scale"]


@pytest.mark.parametrize(
    ("model", "xdata"),
    [
        (surface, PLANE),
        (surface, PLANE.tolist()),
        (surface, tuple(PLANE)),
        (surface, jnp.asarray(PLANE)),
        (columns, PLANE.T),
        (named, {"u": PLANE[0], "v": PLANE[1], "scale": 1.0}),
    ],
    ids=["k by M", "list", "tuple", "jax", "M by k", "dictionary"],
)
def test_predictors(model, xdata):
    result = curve_fit(model, xdata, PLANE_Y)
    design = np.stack([PLANE[0], PLANE[1] ** 2, np.ones(M)], axis=1)
    best, *_ = np.linalg.lstsq(design, PLANE_Y)
    close(result.popt, best, 1e-10)
    r = design @ best - PLANE_Y
    close(result.pcov, np.linalg.inv(design.T @ design) * (r @ r) / (M - 3), 1e-9)
    close(result.fitted, design @ best)
    close(result.residuals, -r, atol=1e-13)
    close(result.predict(xdata), design @ best)


def test_predictions_at_other_points():
    result = curve_fit(surface, PLANE, PLANE_Y)
    for m in (1, 7, 100):
        new = np.stack([np.linspace(-1, 2, m), np.linspace(3, 5, m)])
        value = result.predict(new)
        assert value.shape == (m,)
        close(value, surface(new, *result.popt), 1e-12)


def test_data_of_every_kind_are_fitted_in_double_precision(plain):
    """Lists, integers, JAX and narrow NumPy arrays: SciPy makes float64 of them."""
    for x, y in (
        (X.tolist(), Y.tolist()),
        (jnp.asarray(X), jnp.asarray(Y)),
        (tuple(X), tuple(Y)),
    ):
        result = curve_fit(decay, x, y)
        assert result.popt.dtype == np.float64
        np.testing.assert_array_equal(result.popt, plain.popt)
    single = curve_fit(decay, X.astype(np.float32), Y.astype(np.float32))
    assert single.popt.dtype == np.float64
    same(single, scipy_fit(x=X.astype(np.float32), y=Y.astype(np.float32)))
    x, y = np.arange(6), [9, 5, 3, 2, 2, 1]
    same(curve_fit(decay, x, y), scipy_fit(x=x.astype(float), y=y))


def test_a_model_without_x():
    """SciPy passes whatever xdata is; here it may be None."""

    def spectrum(x, a, b):
        return jnp.array([a, a * b, a * b**2, a * b**3]) if x is None else x

    y = [3.0, 1.6, 0.7, 0.4]
    result = curve_fit(spectrum, None, y)
    powers = np.arange(4)
    reference = scipy_fit(lambda x, a, b: a * b**powers, powers, y, None)
    same(result, reference, 1e-6)
    close(result.fitted, result.popt[0] * result.popt[1] ** powers)


def test_several_outputs_are_one_fit():
    """As an array of two dimensions, or as a PyTree with a sigma like it."""

    def both(x, a, b, c):
        return jnp.stack([a * jnp.exp(-b * x), c * jnp.exp(-b * x)], axis=1)

    def tree(x, a, b, c):
        return {"first": a * jnp.exp(-b * x), "second": c * jnp.exp(-b * x)[:15]}

    def flat(x, a, b, c):
        e = np.exp(-b * X)
        return np.concatenate([a * e, c * e])

    y = np.stack([2.0 * np.exp(-X), 0.7 * np.exp(-X)], axis=1)
    y += 0.05 * NOISE[: 2 * M].reshape(M, 2)
    reference = scipy_fit(flat, X, y.T.ravel(), None)
    result = curve_fit(both, X, y)
    same(result, reference, 1e-6)
    assert result.fitted.shape == (M, 2) and result.num_data == 2 * M

    first, second = y[:, 0], y[:15, 1]
    sigma = {"first": SIGMA, "second": np.full(15, 0.05)}
    result = curve_fit(tree, X, {"first": first, "second": second}, sigma=sigma)
    reference = scipy_fit(
        lambda x, a, b, c: flat(x, a, b, c)[: M + 15],
        np.zeros(M + 15),
        np.concatenate([first, second]),
        None,
        sigma=np.concatenate(list(sigma.values())),
    )
    same(result, reference, 1e-6)
    assert result.num_data == M + 15
    close(result.residuals["second"], second - result.fitted["second"])
    r = np.concatenate([result.residuals[k] / sigma[k] for k in sigma])
    close(result.weighted_residuals, -r)
    close(result.chi2, r @ r)
    for band in (result.confidence_band, result.prediction_band):
        with pytest.raises(ValueError, match="one array"):
            band()


# --- Data that are left out -------------------------------------------------------


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("sigma", [0.05, SIGMA, COVARIANCE], ids=["0-D", "1-D", "2-D"])
def test_omitting_is_deleting(sigma, absolute):
    x, y, keep = with_holes()
    less = sigma
    if np.ndim(sigma) == 1:
        less = sigma[keep]
        sigma = np.where(keep, sigma, NAN)
    elif np.ndim(sigma) == 2:
        less = sigma[np.ix_(keep, keep)]
        sigma = np.where(keep[:, None] & keep, sigma, NAN)
    options = {"absolute_sigma": absolute}
    result = curve_fit(decay, x, y, sigma=sigma, nan_policy="omit", **options)
    deleted = curve_fit(decay, X[keep], Y[keep], sigma=less, **options)
    same(result, deleted, 1e-10)
    same(result, scipy_fit(x=X[keep], y=Y[keep], sigma=less, **options))
    assert (result.num_data, result.dof) == (M - 3, M - 6)
    np.testing.assert_array_equal(result.used, keep)
    close(result.cost, deleted.cost, 1e-12)
    close(result.weighted_residuals, deleted.weighted_residuals, 1e-7, 1e-9)
    np.testing.assert_array_equal(np.isnan(result.residuals), ~keep)
    for name, value in vars(deleted.measures).items():
        close(getattr(result, name), value, 1e-10)


def test_propagated_nan_makes_the_result_nan():
    _, y, _ = with_holes()
    result = curve_fit(decay, X, y, nan_policy="propagate")
    assert np.isnan(result.popt).all() and np.isnan(result.pcov).all()
    assert not result.success
    clean = curve_fit(decay, X, Y, nan_policy="propagate")
    same(clean, scipy_fit())


# --- Precision --------------------------------------------------------------------


@pytest.fixture
def single_precision():
    """JAX as it is before anyone asks for double precision."""
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", True)


@pytest.mark.parametrize("verbose", [0, 1])
def test_numpy_data_are_fitted_in_double_precision(single_precision, plain, verbose):
    with contextlib.redirect_stdout(io.StringIO()):
        result = curve_fit(decay, X, Y, verbose=verbose)
    assert result.popt.dtype == result.pcov.dtype == np.float64
    same(result, scipy_fit())
    close(result.predict(X), numpy_decay(X, *result.popt), 1e-14)
    low, _ = result.confidence_band(X)
    assert low.dtype == np.float64
    assert not jax.config.jax_enable_x64 and jnp.ones(1).dtype == jnp.float32


def test_jax_data_are_fitted_in_their_own_precision(plain):
    x, y = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)
    result = curve_fit(decay, x, y)
    assert result.popt.dtype == result.pcov.dtype == np.float32
    assert result.success
    same(result, plain, 1e-4)
    assert curve_fit(decay, X, y).popt.dtype == np.float32
    assert curve_fit(decay, x, Y).popt.dtype == np.float64
    assert jax.config.jax_enable_x64
