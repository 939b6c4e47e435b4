"""Fixed parameters and starts of `curve_fit`."""

import functools
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from curve_fits import (
    INF,
    NOISE,
    SIGMA,
    M,
    X,
    Y,
    close,
    decay,
    numpy_decay,
    scipy_fit,
    slopes,
)

import jaxfit
from jaxfit import CurveFit, curve_fit


# --- Fixed parameters -------------------------------------------------------------


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


# --- Starts -----------------------------------------------------------------------


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
