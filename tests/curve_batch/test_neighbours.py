"""`p0="neighbours"`: starts for maps, from coarse to fine, and what stands out mended.

A peak or a wave drifts across a batch, so far that one start for all ends in a wrong
minimum for a good part of it. What is right is what comes of starts at the truth.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfit import Status, curve_fit_batch
from jaxfit._curve_batch import slices


SLOW = pytest.mark.slow
M = 20
X = np.linspace(0.0, 10.0, M)
NOISE = 0.05


def peak(x, a, c, *, xp=jnp):
    """Flat a width or two away from its centre c."""
    return a * xp.exp(-(((x - c) / 0.6) ** 2))


def wave(x, a, w, *, xp=jnp):
    return a * xp.sin(w * x)


def fit(f, y, p0, x=X, **options):
    """In slices of one length, so that all shapes share a few programs."""
    few = {"devices": 1, "slice_size": 256, "covariance": False}
    return curve_fit_batch(f, x, y, p0, **{**few, **options})


def drifting(f, shape, first, last, x=X, seed=0):
    """The true parameters of a batch, and its data."""
    axes = np.meshgrid(*[np.linspace(0, 1, k) for k in shape], indexing="ij")
    second = first + (last - first) * sum(axes) / len(axes)
    noise = NOISE * np.random.default_rng(seed).normal(size=(*shape, M))
    true = np.stack([np.ones(shape), second], -1)
    return true, f(x, 1.0, second[..., None], xp=np) + noise


def wrong(result, reference):
    """Which fits missed the minimum that a start at the truth leads to."""
    assert reference.success.mean() > 0.99
    return ~result.success | (result.cost > 1.05 * reference.cost)


@pytest.fixture
def evaluations(monkeypatch):
    """Fits and evaluations of all passes that a call makes."""
    passes = []
    real = slices.BatchCall.fit

    def counted(self, data, *arguments):
        numbers = real(self, data, *arguments)
        passes.append((data.size, int(numbers.counts[:, 1].sum())))
        return numbers

    monkeypatch.setattr(slices.BatchCall, "fit", counted)
    return passes


PEAKS = (peak, 1.5, 8.5, [1.0, 5.0])  # the start suits the middle
CORNER = (peak, 2.0, 8.0, [1.0, 2.0])
WAVES = (wave, 0.6, 2.2, [1.0, 1.2])


@pytest.mark.parametrize(
    ("shape", "drift"),
    [
        ((24, 24), PEAKS),
        ((6, 8, 12), PEAKS),
        ((16, 40), WAVES),
        ((6, 8, 12), WAVES),
        ((400,), PEAKS),
        ((400,), CORNER),
        ((400,), WAVES),
        ((24, 24), WAVES),
    ],
    ids=[
        *("peaks 24x24", "peaks 6x8x12", "waves 16x40", "waves 6x8x12"),
        *("peaks 400", "corner 400", "waves 400", "waves 24x24"),
    ],
)
def test_a_drift_across_the_batch_is_followed(shape, drift, evaluations):
    f, first, last, start = drift
    true, y = drifting(f, shape, first, last)
    reference = fit(f, y, true)
    single = fit(f, y, start)
    assert wrong(single, reference).mean() > 0.15
    evaluations.clear()
    result = fit(f, y, "neighbours", start=start)
    # Not many more evaluations than one start for all takes, lost as it is.
    fits, calls = np.sum(evaluations, axis=0)
    assert fits < 4 * true[..., 0].size
    assert calls < 3 * single.nfev.sum()
    assert result.shape == shape
    assert wrong(result, reference).mean() < 0.005
    right = ~wrong(result, reference)
    away = np.abs(result.popt[right][:, 1] - true[right][:, 1])
    assert away.max() < 0.3


@pytest.mark.parametrize("drift", [PEAKS, WAVES], ids=["peaks", "waves"])
def test_it_begins_with_a_guess(drift):
    f, first, last, _ = drift
    true, y = drifting(f, (24, 24), first, last)
    reference = fit(f, y, true)
    for options in ({}, {"start": "auto"}):
        result = fit(f, y, "neighbours", **options)
        assert wrong(result, reference).mean() < 0.005


def test_the_result_is_that_of_any_batch():
    """Shapes, covariances and a fit from its own result, which stays."""
    f, first, last, start = PEAKS
    true, y = drifting(f, (24, 24), first, last)
    result = fit(f, y, "neighbours", start=start, covariance=True)
    reference = fit(f, y, true, covariance=True)
    assert result.popt.shape == (24, 24, 2) and result.pcov.shape == (24, 24, 2, 2)
    np.testing.assert_allclose(result.popt, reference.popt, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(result.perr, reference.perr, rtol=1e-2)
    again = result.refit(start, where=np.ones((24, 24), bool))
    assert (again.cost <= result.cost).all()


@pytest.mark.parametrize("shape", [(1,), (5,), (3, 2), (9, 1)])
def test_a_few_fits_have_no_coarser_ones(shape):
    true, y = drifting(peak, shape, 4.6, 5.4)
    result = fit(peak, y, "neighbours", start=[1.0, 5.0])
    assert result.shape == shape
    assert not wrong(result, fit(peak, y, true)).any()


def test_bounds_of_each_fit_and_what_is_fixed_are_kept():
    f, first, last, start = PEAKS
    true, y = drifting(f, (24, 24), first, last)
    limits = true - np.array([0.5, 0.7]), true + np.array([0.5, 0.7])
    result = fit(f, y, "neighbours", start=start, bounds=limits, clip_p0=True)
    assert result.success.all()
    assert ((result.popt >= limits[0]) & (result.popt <= limits[1])).all()
    assert not wrong(result, fit(f, y, true)).any()
    result = fit(f, y, "neighbours", start=start, fixed={"a": 1.02})
    assert (result.popt[..., 0] == 1.02).all()
    assert (np.abs(result.popt[..., 1] - true[..., 1]) < 0.3).mean() > 0.995


# --- Data that are missing ----------------------------------------------------


def test_fits_without_data_harm_no_other():
    """The rest is what it is without them, or another start's rounding of it."""
    f, first, last, start = PEAKS
    true, y = drifting(f, (24, 24), first, last)
    lost = np.random.default_rng(5).uniform(size=(24, 24)) < 0.1
    lost[:6, :6] = True  # a whole block and more
    y[lost] = np.nan
    result = fit(f, y, "neighbours", start=start)
    assert (result.status[lost] == Status.NONFINITE_START).all()
    assert np.isnan(result.popt[lost]).all()
    reference = fit(f, np.nan_to_num(y), true)
    assert wrong(result, reference)[~lost].mean() < 0.005
    # Data that are left out one by one.
    _, y = drifting(f, (24, 24), first, last)
    y[np.random.default_rng(6).uniform(size=y.shape) < 0.15] = np.nan
    options = {"nan_policy": "omit"}
    result = fit(f, y, "neighbours", start=start, **options)
    assert wrong(result, fit(f, y, true, **options)).mean() < 0.005


def test_masked_data_are_not_averaged():
    f, first, last, start = PEAKS
    true, y = drifting(f, (24, 24), first, last)
    mask = np.random.default_rng(7).uniform(size=y.shape) > 0.15
    reference = fit(f, y, true, mask=mask)
    y[~mask] = 1e3
    result = fit(f, y, "neighbours", start=start, mask=mask)
    assert wrong(result, reference).mean() < 0.005


def test_blocks_whose_centre_is_masked_are_fitted_to_the_others():
    f, first, last, start = PEAKS
    true, y = drifting(f, (24, 24), first, last)
    mask = np.ones(y.shape, bool)
    mask[2::4, 2::4] = False  # the centres of blocks of 4 x 4
    mask[8::16, 8::16] = False  # and of 16 x 16
    result = fit(f, y, "neighbours", start=start, mask=mask)
    some = mask.any(axis=-1)
    assert (result.status[~some] == Status.TOO_FEW_DATA).all()
    assert wrong(result, fit(f, y, true))[some].mean() < 0.005


# --- x per fit, single precision ----------------------------------------------


def test_an_x_of_each_fit():
    f, first, last, start = PEAKS
    x = X + np.random.default_rng(8).uniform(0.0, 0.3, (24, 24, 1))
    true, y = drifting(f, (24, 24), first, last, x=x)
    reference = fit(f, y, true, x=x)
    assert wrong(fit(f, y, start, x=x), reference).mean() > 0.2
    result = fit(f, y, "neighbours", x=x, start=start)
    assert wrong(result, reference).mean() < 0.005


@SLOW
def test_in_single_precision_with_a_polish():
    f, first, last, start = PEAKS
    true, y = drifting(f, (24, 24), first, last)
    reference = fit(f, y, true)
    result = fit(f, y, "neighbours", start=start, polish=True)
    assert result.popt.dtype == np.float64
    assert wrong(result, reference).mean() < 0.005
    single = fit(f, y, "neighbours", start=start, dtype="float32")
    assert single.popt.dtype == np.float32
    assert wrong(single, reference).mean() < 0.005
