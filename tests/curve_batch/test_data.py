"""Precision of a batch, and the kinds of arrays that it is passed."""

import jax.numpy as jnp
import numpy as np
from curve_batches import (
    MASK,
    P0,
    SHAPE,
    SIGMA,
    STARTS,
    XS,
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
from jaxfit._curve_batch.data import BatchData, Part


def test_single_precision_comes_within_a_fraction_of_a_standard_error(plain):
    """The promise: a twentieth of a standard error at worst, where noise is seen."""
    single = curve_fit_batch(decay, X, Y, P0, dtype="float32", devices=1)
    assert {a.dtype for a in (*single, single.perr, single.cost)} == {
        np.dtype(np.float32)
    }
    assert single.success.all()
    away = np.abs(single.popt - plain.popt) / plain.perr
    assert away.max() < 0.05 and np.median(away) < 0.005
    close(single.perr, plain.perr, 1e-2)
    # JAX's arrays in single precision ask for it by themselves.
    result = curve_fit_batch(decay, X, jnp.asarray(Y, jnp.float32), P0, devices=1)
    same_bits(result, single)
    assert curve_fit_batch(decay, X, Y.astype(np.float32), P0, devices=1)[0].dtype == (
        np.float64
    )


def test_a_polish_ends_in_double_precision(plain):
    result = curve_fit_batch(decay, X, Y, P0, polish=True, devices=1)
    assert result.popt.dtype == result.pcov.dtype == np.float64
    # As near as the tolerances of every day come: a ten-thousandth of an error.
    assert (np.abs(result.popt - plain.popt) < 1e-4 * plain.perr).all()
    close(result.pcov, plain.pcov, 1e-4, 1e-7 * plain.pcov.max())
    tight = fit(polish=True)
    close(tight.popt, plain.popt, 1e-7)
    assert tight.success.all() and tight.nfev.max() < 40
    single = curve_fit_batch(
        decay, X, Y, P0, dtype=np.float32, covariance=False, devices=1
    )
    assert (result.nfev > single.nfev).all()  # those of both passes


def test_a_polish_is_of_the_numbers_that_were_given():
    """A tenth is another number in single precision, and so are most data."""
    result = fit(p0=[2.0, 0.1], fixed=[False, True], polish=True)
    same = fit(p0=[2.0, 0.1], fixed=[False, True])
    assert (result.popt[..., 1] == 0.1).all()
    close(result.popt, same.popt, 1e-8)
    # An active bound, which rounds to a smaller number.
    above = float(np.nextafter(np.float32(3.3), np.float32(4))) - 1e-8
    bounds = [[above, -np.inf], [np.inf, np.inf]]
    result = fit(p0=[4.0, 1.0], bounds=bounds, polish=True)
    assert result.success.all() and (result.active_mask[..., 0] == -1).all()
    assert (result.popt[..., 0] >= above).all()
    close(result.popt[..., 0], above, 1e-12)
    # Fits of unequal lengths are padded; of a thousand single precision sees 6e-5.
    ragged = [1000 + row[: M - i % 3] for i, row in enumerate(Y[0])]
    lists = {"xdata": [X[: len(row)] for row in ragged], "ydata": ragged}

    def raised(x, a, b):
        return 1000 + decay(x, a, b)

    close(fit(raised, **lists, polish=True).popt, fit(raised, **lists).popt, 1e-7)


def test_a_polish_begins_where_single_precision_ended():
    """But for what is held, and for fits that came to nothing."""
    data = BatchData(
        x=Part(X, False),
        y=Part(Y.reshape(P, M), True),
        sigma=None,
        mask=None,
        start=Part(np.array(P0), False),
        limits=None,
        free=(0,),
        shape=SHAPE,
        rows_last=False,
        omit=False,
        dtype=np.dtype(float),
        f_scale=1.0,
    )
    found = np.full((P, 2), 7, np.float32)
    found[3, 0] = np.nan
    start = data.starting(found, ~np.isnan(found)).start
    assert start.per_fit and start.value.dtype == float
    wanted = np.tile([7, P0[1]], (P, 1))
    wanted[3] = P0
    np.testing.assert_array_equal(start.value, wanted)


def test_numpy_in_and_numpy_out(plain):
    for name in ("popt", "pcov", "perr", "cost", "optimality", "status", "nfev"):
        assert type(getattr(plain, name)) is np.ndarray
    result = fit(xdata=jnp.asarray(X), ydata=jnp.asarray(Y), p0=jnp.asarray(P0))
    assert type(result.popt) is np.ndarray
    same_bits(result, plain)


def test_nothing_that_is_passed_in_is_written_to_or_returned():
    arrays = {
        "xdata": XS.copy(),
        "ydata": Y.copy(),
        "p0": STARTS.copy(),
        "sigma": SIGMA.copy(),
        "mask": MASK.copy(),
        "bounds": np.stack([np.zeros((*SHAPE, 2)), np.full((*SHAPE, 2), 9.0)]),
    }
    before = {name: a.copy() for name, a in arrays.items()}
    for a in arrays.values():
        a.flags.writeable = False
    result = fit(**arrays, nan_policy="omit", clip_p0=True)
    assert result.success.all()
    result.popt[...] = 7.0
    result.pcov[...] = 7.0
    for name, a in arrays.items():
        np.testing.assert_array_equal(a, before[name])
        assert not any(np.shares_memory(a, out) for out in result)


def test_memory_maps_integers_and_strides(plain, tmp_path):
    y = np.memmap(tmp_path / "y", np.float64, "w+", shape=Y.shape)
    y[...] = Y
    same_bits(
        fit(ydata=np.memmap(tmp_path / "y", mode="r", shape=Y.shape, dtype=float)),
        plain,
    )
    same_bits(fit(ydata=np.moveaxis(np.moveaxis(Y, -1, 0).copy(), 0, -1)), plain)
    same_bits(fit(xdata=np.repeat(X, 2)[::2], ydata=np.asfortranarray(Y)), plain)
    same_bits(fit(ydata=Y.astype(">f8")), plain)
    same_bits(fit(ydata=Y.tolist()), plain)
    counts = np.rint(1000 * Y).astype(np.int32)
    result = fit(ydata=counts, p0=[2000, 1])
    assert result.popt.dtype == np.float64
    same_bits(result, fit(ydata=counts.astype(float), p0=[2000.0, 1.0]))
