"""What a caller of `fit_stream` or `fit_large_dataset` can get wrong.

Every message names the argument or the chunk, and all come before the first pass.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused
from streams import START, M, T, Watched, Y, chunks, decay

import jaxfit
from jaxfit import TRF, WarmUp, fit_large_dataset, fit_stream


pytestmark = pytest.mark.usefixtures("without_type_checks")


def f(x, a, b, c):
    return decay(x, (a, b, c))


def stream(**options):
    """A call of fit_stream that is fine but for `options`."""
    good = {"model": decay, "source": chunks(50), "p0": START, "chunk_size": 64}
    return fit_stream(**{**good, **options})


def large(**options):
    return fit_large_dataset(**{"f": f, "xdata": T, "ydata": Y, **options})


def streamed(**options):
    return large(strategy="streamed", **options)


# --- Sources ---------------------------------------------------------------------

X2 = np.stack([T, T], axis=1)


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ([], ValueError, "`source` holds no rows: there are no data to fit"),
        ([(T[:0], Y[:0])] * 2, ValueError, "`source` holds no rows"),
        (3, TypeError, "`source` must give chunks ... got int ... jaxfit.ArraySource"),
        (None, TypeError, "`source` must give chunks ... got NoneType"),
        (iter(chunks(50)), TypeError, "`source` can be read only once ... generator"),
        ((c for c in chunks(50)), TypeError, "`source` can be read only once"),
        ([T, Y], ValueError, "chunk 0 of the source must be (x, y) or (x, y, sigma)"),
        ([(T,)], ValueError, "chunk 0 ... must be (x, y)"),
        ([(T, Y, Y, Y)], ValueError, "chunk 0 ... must be (x, y)"),
        ([(T, Y[1:])], ValueError, "x of chunk 0 has shape (211,) ... 210 rows"),
        ([({"t": T[1:]}, Y)], ValueError, "x['t'] of chunk 0 has shape (210,)"),
        ([(T, Y[:, None])], ValueError, "y of chunk 0 must have one dimension"),
        ([(T, Y, Y[1:])], ValueError, "sigma of chunk 0 has shape (210,)"),
        ([(T, Y, np.eye(M))], ValueError, "sigma of chunk 0 ... covariance"),
        ([(T, Y + 0j)], ValueError, "y of chunk 0 must hold real numbers ... complex"),
        ([(T, Y.astype(str))], ValueError, "y of chunk 0 must hold real numbers"),
        ([(T, 3.0)], ValueError, "y of chunk 0 must have one dimension"),
    ],
)
def test_sources(source, error, text):
    refused(error, text, stream, source=source)


@pytest.mark.parametrize(
    "second",
    [
        ({"t": T}, Y),
        (X2, Y),
        (T, Y, np.ones(M)),
        ((T, T), Y),
    ],
    ids=["a dictionary", "two columns", "with sigma", "a tuple"],
)
def test_chunks_that_are_not_like_the_first(second):
    """Found where they come, here in the first block."""
    source = [(T[:20], Y[:20]), second]
    refused(
        ValueError, "chunk 1 of the source is not like the first", stream, source=source
    )


def test_a_chunk_that_is_wrong_late():
    """It is named by its number, as it was found: in the first pass."""
    source = Watched([*chunks(50)[:4], (T, Y[1:])])
    refused(ValueError, "x of chunk 4 has shape (211,)", stream, source=source)
    assert source.begun == 2 and source.finished == 0


# --- Models ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (3, TypeError, "`model` must be callable"),
        (
            lambda x, p: p[0] * jnp.cumsum(x),
            ValueError,
            "one by one: `cumsum` works along the rows ... Write it so ... curve_fit",
        ),
        (lambda x, p: p[0] * (x - x.mean()), ValueError, "`model` does not treat rows"),
        (lambda x, p: p[0] * x[::-1], ValueError, "`model` does not treat rows"),
        (lambda x, p: p[0] * x / x.size, ValueError, "`model` does not treat rows"),
        (lambda x, p: p[0] * jnp.arange(64), ValueError, "`model` does not treat rows"),
        (
            lambda x, p: p[0],
            ValueError,
            "`model` returned shape () where `y` has (64,)",
        ),
        (lambda x, p: (x, x), ValueError, "`model` has structure"),
    ],
)
def test_models(model, error, text):
    source = Watched(chunks(50))
    refused(error, text, stream, model=model, source=source)
    assert source.finished == 0


# --- Options ---------------------------------------------------------------------

OPTIONS = [
    ({"retries": -1}, ValueError, "`retries` must be an integer from 0 on, got -1"),
    ({"retries": 1.5}, ValueError, "`retries` must be an integer from 0 on, got 1.5"),
    ({"retries": None}, ValueError, "`retries` must be an integer"),
    ({"chunk_size": 0}, ValueError, "`chunk_size` must be at least 1, got 0"),
    ({"chunk_size": 1.5}, TypeError, "`chunk_size` must be an integer, got 1.5"),
    ({"chunk_size": "big"}, ValueError, "`chunk_size` must be 'auto' ... 'big'"),
    ({"nan_policy": "drop"}, ValueError, "`nan_policy` must be one of ... 'drop'"),
    ({"nan_policy": None}, ValueError, "`nan_policy` must be one of"),
    ({"warm_up": "yes"}, TypeError, "`warm_up` must be a bool or a jaxfit.WarmUp"),
    ({"warm_up": 100}, TypeError, "`warm_up` must be a bool or a jaxfit.WarmUp"),
    ({"solver": "qr"}, TypeError, "`solver` must be a jaxfit.TRF or None, got 'qr'"),
    ({"solver": TRF(linear_solver="matrix_free")}, ValueError, "matrix"),
    ({"loss": "l2"}, ValueError, "`loss` must be one of"),
    ({"f_scale": 0.0}, ValueError, "`f_scale` must be positive"),
    ({"bounds": (0.0, [1.0, 2.0])}, ValueError, "bounds"),
    ({"bounds": (5.0, 1.0)}, ValueError, "bound"),
]


@pytest.mark.parametrize(("options", "error", "text"), OPTIONS)
def test_options_of_fit_stream(options, error, text):
    source = Watched(chunks(50))
    refused(error, text, stream, source=source, **options)
    assert source.finished == 0


@pytest.mark.parametrize(("options", "error", "text"), OPTIONS)
def test_options_of_a_streamed_fit_at_the_door(options, error, text):
    refused(error, text, streamed, **options)


@pytest.mark.parametrize(("options", "error", "text"), OPTIONS)
def test_options_are_checked_whichever_way_data_go(options, error, text):
    """A program that works on a sample works on all data."""
    refused(error, text, large, **options)


def test_a_start_outside_its_bounds():
    refused(ValueError, "`params` is outside `bounds`", stream, bounds=(5.0, 9.0))
    refused(ValueError, "`p0`", large, p0=START, bounds=(5.0, 9.0))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"f": 3}, TypeError, "`f` must be callable, got int"),
        ({"strategy": "fast"}, ValueError, "`strategy` must be ... 'fast'"),
        (
            {"xdata": chunks(50), "ydata": None, "sigma": Y},
            ValueError,
            "`sigma` comes with `ydata`",
        ),
        ({"ydata": None}, ValueError, "chunk 0 of the source must be (x, y)"),
        ({"xdata": 3.0, "ydata": None}, TypeError, "`source` must give chunks"),
        ({"xdata": None, "ydata": None}, TypeError, "`source` must give chunks"),
        ({"xdata": [], "ydata": []}, ValueError, "there are no data to fit"),
        ({"ydata": Y[1:]}, ValueError, "`x` has shape (211,), and `y` has 210 rows"),
        ({"ydata": X2}, ValueError, "`y` must have one dimension"),
        ({"ydata": "y"}, TypeError, "`y` must be an array"),
        (
            {"sigma": np.eye(M)},
            ValueError,
            "`sigma` has shape (211, 211): ... jaxfit.curve_fit",
        ),
        ({"sigma": Y[1:]}, ValueError, "`sigma` has 210 rows, and `y` has 211"),
        ({"sigma": -1.0}, ValueError, "`sigma` that is not positive"),
        ({"p0": "auto"}, ValueError, "`p0='auto'` would look at all data ... warm_up"),
        ({"p0": [1.0]}, ValueError, "p0"),
        ({"fixed": {"z": 1}}, ValueError, "`fixed` names `z`"),
        ({"fixed": [True] * 3}, ValueError, "`fixed` leaves no parameter free"),
        ({"memory_limit_gb": 0}, ValueError, "`memory_limit` must be positive, got 0"),
        (
            {"memory_limit_gb": 1e-3},
            ValueError,
            "`memory_limit` of 0.001 GB is too small",
        ),
        ({"memory_limit_gb": "1"}, ValueError, "`memory_limit` must be positive"),
    ],
)
def test_the_door(options, error, text):
    refused(error, text, large, **options)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"rows": 0}, ValueError, "`rows` must be at least 1, got 0"),
        ({"rows": 1.5}, TypeError, "`rows` must be an integer"),
        ({"max_steps": 0}, ValueError, "`max_steps` must be at least 1"),
        ({"patience": -1}, ValueError, "`patience` must be at least 1"),
        ({"patience": "3"}, TypeError, "`patience` must be an integer"),
    ],
)
def test_warm_up_numbers(options, error, text):
    refused(error, text, WarmUp, **options)


def test_a_checkpoint_that_is_no_path():
    refused(TypeError, "", stream, checkpoint=3)


def test_the_calls_that_the_others_spoil_are_fine():
    for call in (stream, large, streamed):
        params = call()[0]
        params = getattr(params, "params", params)
        np.testing.assert_allclose(params, [2.5, 1.3, 0.5], rtol=0.05)
    assert jaxfit.Source is not None
