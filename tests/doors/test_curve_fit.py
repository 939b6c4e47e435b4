"""`curve_fit`: SciPy's answers for SciPy's calls, and what SciPy has not."""

import contextlib
import copy
import functools
import io
import json
import pickle
import re
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from scipy.optimize import OptimizeWarning

import jaxfit
from jaxfit import CurveFit, CurveFitResult, curve_fit


M = 40
X = np.linspace(0.0, 4.0, M)
NOISE = np.random.default_rng(3).normal(size=200)
Y = 2.5 * np.exp(-1.3 * X) + 0.5 + 0.05 * NOISE[:M]
SIGMA = 0.03 + 0.02 * X
COVARIANCE = 0.0025 * np.exp(-np.abs(np.subtract.outer(X, X)) / 0.3)
BOUNDS = ([0.0, 0.0, 0.0], [3.0, 1.2, 1.0])  # the second one is met
NAN, INF = np.nan, np.inf


def decay(x, a, b, c=0.5, *, xp=jnp):
    return a * xp.exp(-b * x) + c


def slopes(x, a, b, c, *, xp=jnp):
    e = xp.exp(-b * x)
    return xp.stack([e, -a * x * e, xp.ones_like(x)], axis=-1)


numpy_decay = functools.partial(decay, xp=np)
numpy_slopes = functools.partial(slopes, xp=np)


def scipy_fit(f=numpy_decay, x=X, y=Y, jac=numpy_slopes, **options):
    """SciPy's answer, to nearly all digits; one sigma for all becomes one for each."""
    if np.size(options.get("sigma")) == 1 and options.get("sigma") is not None:
        options["sigma"] = np.full(len(y), np.squeeze(options["sigma"]))
    tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15, "x_scale": "jac"}
    return scipy.optimize.curve_fit(
        f, x, y, jac=jac, **{"method": "trf", **tight, **options}
    )


def close(actual, desired, rtol=1e-7, atol=0.0):
    np.testing.assert_allclose(actual, desired, rtol=rtol, atol=atol)


def same(result, reference, rtol=1e-7):
    """popt and pcov of two fits."""
    close(result[0], reference[0], rtol)
    close(result[1], reference[1], 10 * rtol, 1e-12 * np.abs(reference[1]).max())


def text(**options):
    """A fit, and what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        result = curve_fit(**{"f": decay, "xdata": X, "ydata": Y, **options})
    return result, out.getvalue()


@pytest.fixture(scope="module")
def plain():
    return curve_fit(decay, X, Y)


@pytest.fixture(scope="module")
def weighted():
    return curve_fit(decay, X, Y, sigma=SIGMA, absolute_sigma=True)


# --- SciPy's arguments -------------------------------------------------------------


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


# --- Data in all forms -------------------------------------------------------------


def surface(x, a, b, c):
    return a * x[0] + b * x[1] ** 2 + c


def columns(x, a, b, c):
    return a * x[:, 0] + b * x[:, 1] ** 2 + c


def named(x, a, b, c):
    return a * x["u"] + b * x["v"] ** 2 + c * x["scale"]


PLANE = np.stack([X, np.sin(3 * X)])
PLANE_Y = surface(PLANE, 1.5, -0.7, 0.3) + 0.05 * NOISE[:M]


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


# --- Models in all forms -----------------------------------------------------------


def polynomial(x, *p):
    return sum(value * x**i for i, value in enumerate(p))


def test_a_model_of_any_number_of_parameters():
    result = curve_fit(polynomial, X, Y, p0=np.ones(4))
    assert result.names == ("p0", "p1", "p2", "p3")
    close(result.popt, np.polyfit(X, Y, 3)[::-1], 1e-9)


def test_parameters_with_defaults_are_fitted_unless_p0_is_shorter(plain):
    """As in SciPy: the names make the number, and a shorter p0 leaves defaults."""
    assert plain.names == ("a", "b", "c")
    part = curve_fit(decay, X, Y, p0=[1.0, 1.0])
    assert part.names == ("a", "b")
    same(part, scipy_fit(lambda x, a, b: numpy_decay(x, a, b, 0.5), jac=None), 1e-6)


class Offset:
    """A model as an object: what it holds is part of it."""

    def __init__(self, c):
        self.c = c

    def __call__(self, x, a, b):
        return decay(x, a, b, self.c)

    def method(self, x, a, b):
        return decay(x, a, b, self.c)


@pytest.mark.parametrize("form", ["object", "partial", "jitted method"])
def test_callables(form):
    model = {
        "object": Offset(0.4),
        "partial": functools.partial(decay, c=0.4),
        "jitted method": jax.jit(Offset(0.4).method),
    }[form]
    p0 = [1.0, 1.0] if form == "partial" else None
    result = curve_fit(model, X, Y, p0)
    reference = scipy_fit(lambda x, a, b: numpy_decay(x, a, b, 0.4), jac=None)
    same(result, reference, 1e-6)
    assert result.names[:2] == ("a", "b")


class Shifted(eqx.Module):
    """A Module: its arrays are data of the program."""

    c: jax.Array

    def __call__(self, x, a, b):
        return decay(x, a, b, self.c)


def test_the_arrays_of_a_module_are_data():
    results = [curve_fit(Shifted(jnp.asarray(c)), X, Y) for c in (0.4, 0.6)]
    assert results[0].compile_time > 0
    assert results[1].compile_time == 0
    for result, c in zip(results, (0.4, 0.6), strict=True):
        fixed = functools.partial(numpy_decay, c=c)
        reference = scipy_fit(fixed, jac=None, p0=[1, 1])
        same(result, reference, 1e-6)


def test_a_fitter_is_curve_fit_kept(plain):
    fitter = CurveFit(decay)
    first, again = fitter(X, Y), fitter(X, 2 * Y, [1, 1, 1])
    assert again.compile_time == 0 and again.run_time > 0
    np.testing.assert_array_equal(first.popt, plain.popt)
    close(again.popt, plain.popt * [2, 1, 2], 1e-8)
    options = {"sigma": SIGMA, "bounds": BOUNDS}
    same(CurveFit(decay, method="dogbox")(X, Y, **options), scipy_fit(**options))


# --- Data that are left out --------------------------------------------------------

HOLES = [3, 11, 30]


def with_holes():
    x, y = X.copy(), Y.copy()
    x[HOLES[0]], y[HOLES[1]], y[HOLES[2]] = NAN, NAN, -INF
    keep = np.isfinite(x) & np.isfinite(y)
    return x, y, keep


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


# --- Fixed parameters --------------------------------------------------------------


def smaller(x, a, c):
    return decay(x, a, 1.4, c)


@pytest.mark.parametrize("way", ["values", "mask", "bounds"])
def test_a_fixed_parameter_is_a_smaller_model(way):
    free = [True, False, True]
    options = {
        "values": {"fixed": {"b": 1.4}},
        "mask": {"fixed": [False, True, False], "p0": [1.0, 1.4, 1.0]},
        "bounds": {"bounds": ([-INF, 1.4, -INF], [INF, 1.4, INF])},
    }[way]
    result = curve_fit(decay, X, Y, sigma=SIGMA, **options)
    reference = curve_fit(smaller, X, Y, sigma=SIGMA)
    assert result.popt[1] == 1.4
    close(result.popt[free], reference.popt, 1e-12)
    close(result.pcov[np.ix_(free, free)], reference.pcov, 1e-11)
    np.testing.assert_array_equal(result.pcov[1], 0)
    np.testing.assert_array_equal(result.pcov[:, 1], 0)
    assert result.fixed.tolist() == [False, True, False]
    assert result.dof == reference.dof == M - 2
    assert result.perr[1] == 0 and np.isnan(result.correlation[1]).all()
    for name, value in vars(reference.measures).items():
        close(getattr(result, name), value, 1e-11)
    for band in ("confidence_band", "prediction_band"):
        close(getattr(result, band)(), getattr(reference, band)(), 1e-9)


@pytest.mark.parametrize("held", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_a_jacobian_of_all_parameters_serves_the_free_ones(held):
    """The columns are those of the free parameters, wherever the others stand."""
    fixed = np.isin(np.arange(3), held)
    options = {"p0": [2.4, 1.4, 0.45], "fixed": fixed}
    result = curve_fit(decay, X, Y, jac=slopes, **options)
    reference = curve_fit(decay, X, Y, **options)
    close(result.popt, reference.popt, 1e-10)
    close(result.pcov, reference.pcov, 1e-8)
    assert result.nfev == reference.nfev


def test_fixing_and_bounding_go_together():
    options = {"fixed": {"c": 0.45}, "bounds": (0, [3.0, 1.1, 9.0])}
    result = curve_fit(decay, X, Y, jac=slopes, x_scale=[1.0, 2.0, 3.0], **options)
    reference = scipy_fit(
        lambda x, a, b: numpy_decay(x, a, b, 0.45),
        jac=None,
        bounds=(0, [3.0, 1.1]),
    )
    close(result.popt, [*reference[0], 0.45], 1e-6)
    close(result.pcov[:2, :2], reference[1], 1e-5)
    assert result.active_mask.tolist() == [0, 1, 0]


# --- Starts ------------------------------------------------------------------------


class Estimating:
    """A model that knows where to begin."""

    asked = 0

    def __call__(self, x, height, centre, width):
        return height * jnp.exp(-0.5 * ((x - centre) / width) ** 2)

    def estimate_p0(self, x, y):
        self.asked += 1
        return [y.max(), x[np.argmax(y)], 0.1 * np.ptp(x)]


OUT = np.arange(60) % 7 == 3  # what is left out, far from the peak


def test_a_model_may_estimate_its_start():
    model = Estimating()
    x = np.linspace(400.0, 700.0, 60)
    y = np.asarray(model(x, 3e4, 532.0, 6.0)) + 300 * NOISE[:60]
    result = curve_fit(model, x, y)
    assert model.asked == 1
    close(result.popt, [3e4, 532.0, 6.0], 0.05)
    curve_fit(model, x, y, p0=[2e4, 530.0, 5.0])
    assert model.asked == 1


@pytest.mark.parametrize(
    "left_out",
    [
        lambda y: (np.where(OUT, np.nan, y), {"nan_policy": "omit"}),
        lambda y: (np.where(OUT, 1e9, y), {"mask": ~OUT}),
        lambda y: (np.ma.array(np.where(OUT, 1e9, y), mask=OUT), {}),
    ],
)
def test_the_models_own_estimate_is_given_data_that_count_as_arrays(left_out):
    x = np.linspace(400.0, 700.0, 60)
    y = np.asarray(Estimating()(x, 3e4, 532.0, 6.0)) + 300 * NOISE[:60]
    model = Estimating()
    y, options = left_out(y)
    xdata = x if options.get("nan_policy") else x.tolist()
    for fit in (curve_fit, lambda f, *args, **more: CurveFit(f)(*args, **more)):
        result = fit(model, xdata, y, **options)
        close(result.popt, [3e4, 532.0, 6.0], 0.05)
    assert model.asked == 2


def test_a_host_functions_own_estimate_is_asked():
    class OnTheHost(Estimating):
        def __call__(self, x, height, centre, width):
            return height * np.exp(-0.5 * ((x - centre) / width) ** 2)

    model = OnTheHost()
    x = np.linspace(400.0, 700.0, 60)
    y = model(x, 3e4, 532.0, 6.0) + 300 * NOISE[:60]
    result = curve_fit(jaxfit.from_numpy(model), x, y)
    assert model.asked == 1
    close(result.popt, [3e4, 532.0, 6.0], 0.05)


def test_an_estimate_that_is_no_method_is_refused():
    def model(x, a):
        return a * x

    model.estimate_p0 = [1.0]
    with pytest.raises(TypeError, match="`estimate_p0` of the model must be a method"):
        curve_fit(model, np.arange(5.0), np.arange(5.0))


def gaussian(x, height, centre, width, offset, *, xp=jnp):
    return height * xp.exp(-0.5 * ((x - centre) / width) ** 2) + offset


def lorentzian(x, height, centre, width, offset, *, xp=jnp):
    return height * width**2 / ((x - centre) ** 2 + width**2) + offset


def sigmoid(x, top, rate, middle, *, xp=jnp):
    return top / (1 + xp.exp(-rate * (x - middle)))


def wave(x, amp, omega, phase, offset, *, xp=jnp):
    return amp * xp.sin(omega * x + phase) + offset


AWKWARD = [
    (gaussian, (400.0, 700.0), (3e4, 532.0, 6.0, 1500.0)),
    (gaussian, (1e-6, 2e-6), (-3e-9, 1.3e-6, 4e-8, 5e-9)),
    (lorentzian, (2.4e9, 2.5e9), (0.8, 2.447e9, 2e6, 0.1)),
    (decay, (0.0, 5e3), (2e3, 3e-3, 100.0)),
    (sigmoid, (1900.0, 2020.0), (8e6, 0.08, 1965.0)),
    (wave, (0.0, 240.0), (7.0, 0.08, 1.0, 15.0)),
]


@pytest.mark.parametrize(("model", "span", "true"), AWKWARD)
def test_a_guessed_start_finds_the_basin(model, span, true):
    x = np.linspace(*span, 60)
    f = functools.partial(model, xp=np)
    clean = f(x, *true)
    y = clean + 0.02 * np.ptp(clean) * NOISE[:60]
    best, _ = scipy_fit(f, x, y, "3-point", p0=true)
    least = 0.5 * np.sum((f(x, *best) - y) ** 2)
    guessed = curve_fit(model, x, y, p0="auto")
    assert guessed.cost < least * (1 + 1e-9)


def test_a_guessed_start_finds_what_ones_do_not():
    """Five of the six end nowhere, or far from the minimum, from SciPy's start."""
    lost = 0
    for model, span, true in AWKWARD:
        x = np.linspace(*span, 60)
        clean = model(x, *true, xp=np)
        y = clean + 0.02 * np.ptp(clean) * NOISE[:60]
        least = 0.5 * np.sum((y - clean) ** 2)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                lost += curve_fit(model, x, y).cost > 2 * least
        except (jaxfit.FitError, ValueError):
            lost += 1
    assert lost >= 4


def test_a_guess_stays_within_the_bounds():
    x = np.linspace(400.0, 700.0, 60)
    y = gaussian(x, 3e4, 532.0, 6.0, 1500.0, xp=np) + 600 * NOISE[:60]
    bounds = ([0, 450, 0, 0], [INF, 600, 50, INF])
    result = curve_fit(gaussian, x, y, p0="auto", bounds=bounds, fixed={"offset": 1500})
    close(result.popt, [3e4, 532.0, 6.0, 1500.0], 0.1)
    assert result.popt[3] == 1500.0


# --- Precision ---------------------------------------------------------------------


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


# --- The result --------------------------------------------------------------------


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


def test_the_summary_is_an_aligned_table(plain, weighted):
    lines = plain.summary().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("parameter"))
    table = lines[start : start + 4]
    assert [line.split()[0] for line in table[1:]] == ["a", "b", "c"]
    head = "value", "std. error", "95% from", "to"
    for title in head:  # columns are flush to the right
        end = table[0].index(title) + len(title)
        assert all(
            line[end - 1].isdigit() and line[end : end + 1] in " " for line in table[1:]
        )
    intervals = plain.confidence_interval()
    for i, line in enumerate(table[1:]):
        numbers = [plain.popt[i], plain.perr[i], *intervals[i]]
        assert line.split()[1:] == [f"{value:.6g}" for value in numbers]
    whole = "\n".join(lines)
    assert plain.message in whole and f"{plain.aic:.6g}" in whole
    assert "90% from" in plain.summary(0.9)
    assert "absolute_sigma=True" in weighted.summary()
    special = curve_fit(
        decay, X, Y, bounds=BOUNDS, sigma=SIGMA, fixed={"c": 0.5}
    ).summary()
    assert re.search(r"(?m)^b .* at its upper bound$", special)
    assert re.search(r"(?m)^c .* fixed$", special)


def every_number(result):
    names = "popt pcov covariance perr fixed active_mask correlation".split()  # noqa: SIM905
    return [getattr(result, name) for name in names]


@pytest.mark.filterwarnings("ignore::scipy.optimize.OptimizeWarning")
@pytest.mark.parametrize("kind", ["plain", "lost", "nan", "omitted"])
def test_a_result_survives_json_pickle_and_copy(kind):
    x, y = X, Y
    options = {
        "plain": {"sigma": SIGMA},
        "lost": {"f": lambda x, a, b, c: a * x + b * x + c},
        "nan": {"nan_policy": "propagate"},
        "omitted": {"nan_policy": "omit", "sigma": COVARIANCE},
    }[kind]
    if kind in ("nan", "omitted"):
        x, y, _ = with_holes()
        x = X if kind == "nan" else x
    result = curve_fit(**{"f": decay, "xdata": x, "ydata": y, **options})
    f = options.get("f", decay)
    text = result.to_json(data=True)
    assert "NaN" not in text and "Infinity" not in text
    for other in (
        CurveFitResult.from_json(text, model=f),
        CurveFitResult.from_dict(json.loads(result.to_json(data=True)), f),
        pickle.loads(pickle.dumps(result)),
        copy.copy(result),
        copy.deepcopy(result),
    ):
        assert type(other) is CurveFitResult and len(other) == 2
        for a, b in zip(every_number(result), every_number(other), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(other[1], result[1])
        np.testing.assert_equal(vars(other.measures), vars(result.measures))
        assert other.summary() == result.summary()
        assert other.undetermined == result.undetermined
        assert other.to_json(data=True) == text
        np.testing.assert_array_equal(other.xdata, result.xdata)
    again = CurveFitResult.from_json(result.to_json(), model=f)
    np.testing.assert_array_equal(again.predict(X), result.predict(X))
    if kind == "plain":
        close(again.confidence_band(X), result.confidence_band(X), 1e-13)


def test_a_result_with_five_parts_keeps_them_when_copied_or_pickled():
    five = curve_fit(decay, X, Y, full_output=True)
    assert len(copy.deepcopy(five)) == 5
    assert len(pickle.loads(pickle.dumps(five))) == 5


def test_a_result_is_not_to_be_changed():
    plain = curve_fit(decay, X, Y)
    with pytest.raises(AttributeError):
        plain.popt = np.zeros(3)
    with pytest.raises(AttributeError):
        plain.note = "mine"
    with pytest.raises(AttributeError):
        del plain.popt
    with pytest.raises(TypeError):
        plain[0] = np.zeros(3)


def test_a_result_keeps_the_data_as_they_were():
    x, y, sigma = X.copy(), Y.copy(), SIGMA.copy()
    result = curve_fit(decay, x, y, sigma=sigma)
    before = result.chi2, result.fitted
    result = curve_fit(decay, x, y, sigma=sigma)
    x[:], y[:], sigma[:] = 0, 0, 1
    np.testing.assert_array_equal(result.xdata, X)
    np.testing.assert_array_equal(result.ydata, Y)
    np.testing.assert_array_equal(result.sigma, SIGMA)
    np.testing.assert_array_equal(result.fitted, before[1])
    assert result.chi2 == before[0]


def test_data_as_long_as_a_bucket_are_not_cut():
    """40 rows are padded to 64; an array of 64 numbers that are no rows stays whole."""
    knots = np.linspace(-2.0, 2.0, 64)

    def model(x, a, b):
        near = jnp.exp(-((x["t"][:, None] - x["knots"]) ** 2))
        return a * near.sum(axis=1) + b * x["t"]

    x = {"t": X, "knots": knots}
    y = 0.3 * np.exp(-((X[:, None] - knots) ** 2)).sum(1) + 0.2 * X + 0.05 * NOISE[:M]
    result = curve_fit(model, x, y)
    assert result.xdata["knots"].shape == (64,) and result.xdata["t"].shape == (M,)
    close(result.fitted, model(x, *result.popt), 1e-12)


def test_pictures(plain, weighted):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for result, bands in ((plain, 2), (weighted, 1)):
        above, below = result.plot(level=0.9)
        curve = above.get_lines()[1]
        close(curve.get_ydata(), numpy_decay(curve.get_xdata(), *result.popt), 1e-10)
        labels = [text.get_text() for text in above.get_legend().get_texts()]
        assert "90% confidence" in labels and len(above.collections) >= bands
        assert ("90% prediction" in labels) == (bands == 2)
        close(below.get_lines()[0].get_ydata(), result.residuals, 1e-12)
        plt.close("all")
    _, own = plt.subplots(2, 1)
    assert plain.plot(axes=own)[0] is own[0]
    x, y, keep = with_holes()
    _, below = curve_fit(decay, x, y, sigma=COVARIANCE, nan_policy="omit").plot()
    assert len(below.get_lines()[0].get_ydata()) == keep.sum()
    surface_fit = curve_fit(surface, PLANE, PLANE_Y)
    with pytest.raises(ValueError, match=r"`xdata` has shape \(2, 40\)"):
        surface_fit.plot()
    plt.close("all")


# --- A fit that is watched ---------------------------------------------------------


def scipy_text(**options):
    out = io.StringIO()
    tolerances = dict.fromkeys(("ftol", "xtol", "gtol"), 1e-8)
    with contextlib.redirect_stdout(out):
        scipy.optimize.curve_fit(
            numpy_decay,
            X,
            Y,
            jac=numpy_slopes,
            method="trf",
            x_scale="jac",
            **{**tolerances, **options},
        )
    return out.getvalue()


@pytest.mark.parametrize("verbose", [1, 2])
def test_the_table_is_scipys(verbose):
    """From near the minimum, where both methods take the same Gauss-Newton steps."""
    options = {"p0": [2.0, 1.0, 0.3], "verbose": verbose}
    options |= {"ftol": 1e-5, "xtol": 1e-12, "gtol": 1e-12}
    result, table = text(**options, method="trf")
    assert table == scipy_text(**options)
    assert len(table.splitlines()) == 2 + (verbose == 2) * (result.nit + 2)
    same(result, scipy_fit(), 1e-3)


def test_the_table_of_a_longer_path_has_scipys_columns():
    tolerances = dict.fromkeys(("ftol", "xtol", "gtol"), 1e-8)
    _, ours = text(verbose=2, method="trf", **tolerances)
    lines, theirs = ours.splitlines(), scipy_text(verbose=2).splitlines()
    assert len(lines) == len(theirs) and lines[0] == theirs[0]
    for a, b in zip(lines[1:-2], theirs[1:-2], strict=True):
        assert re.sub(r"[0-9]", "0", a) == re.sub(r"[0-9]", "0", b)
        close([float(v) for v in a.split()], [float(v) for v in b.split()], 0.02)


def test_nothing_is_printed_unless_asked():
    assert text()[1] == text(verbose=0)[1] == ""


@pytest.mark.bits
@pytest.mark.parametrize(
    "options",
    [{"bounds": BOUNDS, "sigma": SIGMA}, {"nan_policy": "omit", "loss": "huber"}],
    ids=["bounded", "masked and robust"],
)
def test_a_watched_fit_is_the_same_fit(options):
    y = with_holes()[1] if "nan_policy" in options else Y
    seen = []
    watched = curve_fit(decay, X, y, callback=seen.append, **options)
    unwatched = curve_fit(decay, X, y, **options)
    for name in ("popt", "pcov", "cost", "nfev", "njev", "nit", "status", "optimality"):
        np.testing.assert_array_equal(getattr(watched, name), getattr(unwatched, name))
    assert len(seen) == watched.nit
    close(seen[-1], watched.popt, 1e-12)


def test_a_callback_is_told_of_every_step():
    """By x alone or by SciPy's `intermediate_result`; with all parameters."""
    points, results = [], []

    def by_result(intermediate_result):
        results.append(intermediate_result)

    options = {"fixed": {"c": 0.5}, "method": "trf"}
    curve_fit(decay, X, Y, callback=lambda xk: points.append(xk), **options)
    done = curve_fit(decay, X, Y, callback=by_result, **options)
    assert len(points) == len(results) == done.nit > 2
    for i, (x, result) in enumerate(zip(points, results, strict=True)):
        np.testing.assert_array_equal(x, result.x)
        assert x.shape == (3,) and x[2] == 0.5
        assert result.nit == i + 1 and result.fun.shape == (M,)
        close(result.fun, numpy_decay(X, *x) - Y, atol=1e-13)
        close(result.cost, 0.5 * result.fun @ result.fun, 1e-12)
    costs = [result.cost for result in results]
    assert np.all(np.diff(costs) < 1e-14)
    assert [r.nfev for r in results] == sorted({r.nfev for r in results})


@pytest.mark.parametrize("how", ["raise", "return"])
def test_a_callback_can_stop_the_fit(how):
    points = []

    def stop(x):
        points.append(x)
        if len(points) == 2:
            if how == "return":
                return True
            raise StopIteration

    result = curve_fit(decay, X, Y, callback=stop)
    assert result.status == -2 and not result.success and len(points) == 2
    assert result.nit == 2 and "callback" in result.message
    np.testing.assert_array_equal(result.popt, points[-1])
    close(result.cost, 0.5 * np.sum((numpy_decay(X, *points[-1]) - Y) ** 2), 1e-12)


def test_an_error_in_a_callback_is_the_callers():
    def fail(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        curve_fit(decay, X, Y, callback=fail)


def test_a_progress_bar_counts_the_steps(capfd):
    pytest.importorskip("tqdm")
    result = curve_fit(decay, X, Y, progress=True)
    err = capfd.readouterr().err
    assert f"{result.nit}step" in err.replace(" ", "") and "cost" in err


def test_times_are_told(plain):
    def model(x, a, b, c):
        return decay(x, a, b, c) + 0.0

    first = curve_fit(model, X, Y, [1, 1, 1])
    again = curve_fit(model, X, Y + 0.01, [1, 1, 2])
    assert first.compile_time > first.run_time > 0
    assert again.compile_time == 0 < again.run_time < first.compile_time
