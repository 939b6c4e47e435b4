"""Refits of a batch: the failed ones made again, none made worse."""

import jax.numpy as jnp
import numpy as np
import pytest
from curve_batches import (
    NAN,
    P0,
    RNG,
    SHAPE,
    SLOW,
    STARTS,
    M,
    P,
    X,
    Y,
    close,
    decay,
    fit,
    same_bits,
)

from jaxfit import curve_fit_batch


def waves(x, a, w):
    return a * jnp.sin(w * x)


WAVES = np.stack([np.full(30, 1.5), np.linspace(1.0, 4.0, 30)], -1)
WAVE_Y = WAVES[:, :1] * np.sin(WAVES[:, 1:] * X) + 0.02 * RNG.normal(size=(30, M))


def test_a_refit_makes_the_failed_ones_again(plain):
    y = Y.reshape(P, M).copy()
    starts = STARTS.reshape(P, 2).copy()
    starts[[3, 7]] = NAN
    y[11] = NAN
    first = fit(ydata=y, p0=starts)
    assert first.failed[0].tolist() == [3, 7, 11]
    second = first.refit(p0=P0)
    assert second.failed[0].tolist() == [11]
    close(second.popt[[3, 7]], plain.popt.reshape(P, 2)[[3, 7]])
    others = np.ones(P, bool)
    others[[3, 7]] = False
    same_bits(second, first, others)
    assert first.failed[0].tolist() == [3, 7, 11] and np.isnan(first.popt[3]).all()
    # Starts for each of them, or for the whole batch, or nothing left to do.
    same_bits(first.refit(p0=np.broadcast_to(P0, (3, 2))), second)
    same_bits(first.refit(p0=np.broadcast_to(P0, (P, 2))), second)
    same_bits(second.refit(p0=P0), second)
    assert plain.refit(P0).popt.shape == plain.popt.shape
    same_bits(plain.refit(np.broadcast_to(P0, (*SHAPE, 2))), plain)


def test_a_refit_never_makes_a_fit_worse():
    first = fit(waves, ydata=WAVE_Y, p0=[1.0, 1.5])
    wrong = np.abs(first.popt[:, 1] - WAVES[:, 1]) > 0.2
    assert 5 < wrong.sum() < 25
    result = first
    for frequency in (2.0, 2.5, 3.0, 3.5):
        better = result.refit([1.0, frequency], where=np.ones(30, bool))
        assert (better.cost <= result.cost).all() and better.success.all()
        result = better
    assert (result.cost < first.cost).sum() >= wrong.sum() - 2
    assert (np.abs(result.popt[:, 1] - WAVES[:, 1]) < 0.2).all()
    # Only where it is asked for.
    better = first.refit([1.0, 3.0], where=np.arange(30) > 14)
    same_bits(better, first, slice(0, 15))
    assert (better.cost[15:] < first.cost[15:]).any()
    start = np.broadcast_to([2.0, NAN], (30, 2))
    same_bits(first.refit(start, where=np.ones(30, bool)), first)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"p0": [1.0, 1.0, 1.0]}, r"`p0` has shape \(3,\)"),
        ({"p0": np.ones((3, 2))}, r"`p0` has shape \(3, 2\)"),
        ({"p0": P0, "where": np.ones(3, bool)}, r"`where` must be booleans of shape"),
        ({"p0": P0, "where": np.ones(SHAPE)}, r"`where` must be booleans of shape"),
    ],
)
def test_refits_of_other_shapes_are_refused(options, text, plain):
    with pytest.raises(ValueError, match=text):
        plain.refit(**options)


@SLOW
def test_a_refit_keeps_what_is_fixed():
    starts = STARTS.copy()
    starts[1, 1, 0] = NAN
    first = fit(p0=starts, fixed={"b": 1.2})
    again = first.refit([2.0, 5.0])
    assert again.success.all()
    assert (again.popt[..., 1] == 1.2).all()


@SLOW
def test_a_refit_in_both_precisions_of_a_polish(plain):
    starts = STARTS.copy()
    starts[0, 0] = NAN
    first = curve_fit_batch(decay, X, Y, starts, polish=True, devices=1)
    assert not first.success[0, 0]
    result = first.refit(P0)
    assert result.success.all() and result.popt.dtype == np.float64
    close(result.popt, plain.popt, 1e-6)
