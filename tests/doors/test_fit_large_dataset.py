"""`fit_large_dataset`: the answer of `curve_fit`, whichever way the data go."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import OptimizeWarning
from streams import SIGMA, M, T, Watched, Y, chunks

import jaxfit
from jaxfit import TRF, FitError, LargeFit, Plan, Status, fit_large_dataset
from jaxfit._programs.kept import STORE


WAYS = ["in_memory", "chunked", "streamed"]
BOUNDS = ([0.0, 0.0, 0.0], [9.0, 9.0, 0.45])  # the last one is met


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def plane(x, a, b):
    return a * x[0] + b * x[1]


def fit(strategy, x=T, y=Y, f=decay, **options):
    if strategy == "streamed":
        options.setdefault("chunk_size", M)
    return fit_large_dataset(f, x, y, strategy=strategy, **options)


def same(found, expected, rtol=1e-7):
    """Within the tolerances of two solvers that end in different ways."""
    popt, pcov = expected
    np.testing.assert_allclose(found.popt, popt, rtol=rtol)
    np.testing.assert_allclose(
        found.pcov, pcov, rtol=100 * rtol, atol=1e-9 * np.abs(pcov).max()
    )


@functools.cache
def reference(**options):
    named = {"bounds": BOUNDS, "sigma": SIGMA}
    return jaxfit.curve_fit(
        decay, T, Y, **{k: named.get(k, v) for k, v in options.items()}
    )


@pytest.mark.parametrize("strategy", WAYS)
def test_a_second_fit_compiles_nothing(strategy):
    def again():
        # Written anew each time, with the same code.
        return fit(strategy, f=lambda x, a, b, c: a * jnp.exp(-b * x) + c)

    again()
    programs = len(STORE)
    again()
    assert len(STORE) == programs


@pytest.mark.parametrize("strategy", WAYS)
def test_the_answer_is_that_of_curve_fit(strategy):
    # Of several blocks, the last one padded.
    found = fit(strategy, **({"chunk_size": 64} if strategy == "streamed" else {}))
    same(found, reference())
    assert isinstance(found, LargeFit) and isinstance(found, tuple) and len(found) == 3
    popt, pcov, info = found
    assert popt.dtype == pcov.dtype == np.float64
    assert info["strategy"] == strategy == info["plan"].strategy
    np.testing.assert_array_equal(info["solution"].params, popt)
    options = {"sigma": SIGMA, "bounds": BOUNDS, "absolute_sigma": True}
    found = fit(strategy, **options)
    same(found, reference(sigma=True, bounds=True, absolute_sigma=True))
    assert found.info["solution"].active_mask[2] == 1


@pytest.mark.parametrize("strategy", ["in_memory", "streamed"])
def test_fixed_parameters(strategy):
    expected = jaxfit.curve_fit(decay, T, Y, fixed={"b": 1.25})
    found = fit(strategy, fixed={"b": 1.25})
    same(found, expected)
    assert found.popt[1] == 1.25 and (found.pcov[1] == 0).all()
    assert found.info["solution"].params.shape == (2,)
    if strategy == "in_memory":
        inf = np.inf
        bounds = ([-inf, 1.25, -inf], [inf, 1.25, inf])
        same(fit(strategy, bounds=bounds), expected)
        same(fit(strategy, p0=[1, 1.25, 1], fixed=[False, True, False]), expected)


def test_all_ways_agree():
    """To rounding, with one solver."""
    p0 = [1.0, 1.0, 0.2]
    solver = TRF(linear_solver="gram")
    results = [
        fit(way, p0=p0, solver=solver, loss="huber", f_scale=0.05) for way in WAYS
    ]
    for found in results[1:]:
        same(found, results[0][:2], 1e-10)
        assert found.info["nfev"] == results[0].info["nfev"]


@pytest.mark.parametrize("strategy", ["in_memory", "streamed"])
def test_rows_may_come_last(strategy):
    x = np.stack([T, np.cos(T)])
    y = 2 * T - np.cos(T) + 0.01 * (Y - Y.mean())
    expected = jaxfit.curve_fit(plane, x, y)
    same(fit(strategy, x, y, plane), expected)
    same(fit(strategy, x.tolist(), y.tolist(), plane), expected)
    source = jaxfit.ArraySource(x, y, rows_last=True)
    same(fit(strategy, source, None, plane), expected)


def test_rows_first_tuples_and_dictionaries():
    u = np.cos(T)
    y = 2 * T - u + 0.01 * (Y - Y.mean())
    expected = jaxfit.curve_fit(plane, np.stack([T, u]), y)
    forms = [
        ((T, u), plane),
        (np.stack([T, u], axis=1), lambda x, a, b: a * x[:, 0] + b * x[:, 1]),
        ({"t": T, "u": u}, lambda x, a, b: a * x["t"] + b * x["u"]),
    ]
    for x, f in forms:
        same(fit("in_memory", x, y, f), expected)
    x, f = forms[2]
    same(fit("streamed", x, y, f), expected)


def test_a_source_of_unknown_length_is_streamed():
    found = fit_large_dataset(decay, Watched(chunks(50)), chunk_size=64)
    same(found, reference())
    assert found.info["strategy"] == "streamed" and found.info["num_rows"] == M
    for strategy in ("in_memory", "chunked"):
        with pytest.raises(
            ValueError, match=f"`strategy` is '{strategy}', and the num"
        ):
            fit(strategy, Watched(chunks(50)), None)


def test_a_table_in_memory_and_streamed():
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"t": T, "y": Y, "s": SIGMA})
    source = jaxfit.TableSource(table, "t", "y", "s")
    expected = reference(sigma=True, bounds=True, absolute_sigma=True)
    for way in ("in_memory", "streamed"):
        same(fit(way, source, None, bounds=BOUNDS, absolute_sigma=True), expected)


def test_one_sigma_for_all():
    expected = jaxfit.curve_fit(decay, T, Y, sigma=0.05, absolute_sigma=True)
    for way in ("in_memory", "streamed"):
        same(fit(way, sigma=0.05, absolute_sigma=True), expected)


@pytest.mark.parametrize(
    ("strategy", "dtype"),
    [
        ("in_memory", np.uint8),
        ("in_memory", np.float32),
        ("streamed", np.int16),
        ("streamed", np.float32),
    ],
)
def test_narrow_data_are_computed_in_float64(strategy, dtype):
    """As in curve_fit: no overflow of small integers, no rounding to 1e-7."""

    def square(x, a, b):
        return a * x**2 + b

    x = np.arange(200).astype(dtype)
    if dtype == np.float32:
        x = x / np.float32(3)
    y = 3 * x.astype(float) ** 2 + 1
    expected = jaxfit.curve_fit(square, x, y)
    found = fit(strategy, x, y, square)
    np.testing.assert_allclose(found.popt, expected.popt, rtol=1e-9)


@pytest.mark.parametrize("strategy", WAYS)
def test_what_is_told(strategy):
    info = fit(strategy).info
    assert info["status"] > 0 and info["message"] == Status(info["status"]).message
    assert info["num_rows"] == info["rows_used"] == M
    assert info["rows_not_finite"] == info["retries"] == 0
    assert info["success_rate"] == 1.0 and info["chunks_read"] >= 1
    assert info["bytes_read"] >= T.nbytes + Y.nbytes
    assert info["bytes_per_second"] > 0 and info["seconds"] > 0
    assert 0 < info["peak_memory_gb"] < 100
    assert isinstance(info["plan"], Plan) and info["nfev"] > 1
    solution = info["solution"]
    if strategy == "streamed":
        assert info["passes"] == info["nfev"] and info["chunk_size"] == M
        assert not info["resumed"] and info["checkpoints"] == 0
    else:
        assert info["passes"] == solution.nfev + solution.njev
        assert info["chunk_size"] is None and info["workers"] == 1


# --- Rows that are not finite ----------------------------------------------------


@pytest.mark.parametrize("strategy", WAYS)
def test_nan_policies(strategy):
    y = Y.copy()
    y[[10, 190]] = np.nan, np.inf
    good = np.isfinite(y)
    with pytest.raises(ValueError, match="row 10 of the source"):
        fit(strategy, y=y)
    found = fit(strategy, y=y, nan_policy="omit")
    same(found, jaxfit.curve_fit(decay, T[good], Y[good]))
    assert found.info["rows_used"] == M - 2 and found.info["rows_not_finite"] == 2
    with pytest.raises(
        FitError, match=r"Optimal parameters not found: .*not finite"
    ) as e:
        fit(strategy, y=y, nan_policy="propagate")
    assert e.value.result.info["status"] == Status.NONFINITE_START


# --- Failures --------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["in_memory", "streamed"])
def test_a_fit_without_a_minimum_is_an_error(strategy):
    with pytest.raises(FitError, match="maximum number of steps") as caught:
        fit(strategy, p0=[1e3, 20.0, -100.0], solver=TRF(max_steps=2))
    result = caught.value.result
    assert isinstance(result, LargeFit) and result.info["status"] == Status.MAX_STEPS


@pytest.mark.parametrize("strategy", ["in_memory", "streamed"])
def test_parameters_that_the_data_do_not_determine(strategy):
    def twice(x, a, b):
        return (a + b) * x

    with pytest.warns(OptimizeWarning, match="Covariance .*could not be estimated"):
        found = fit(strategy, T, 2 * T + 0.1 * Y, twice)
    assert np.isinf(found.pcov).all()


def test_fewer_data_than_parameters():
    with pytest.raises((TypeError, ValueError), match=r"parameters=3 .* points=2"):
        fit("in_memory", T[:2], Y[:2])


@pytest.mark.parametrize(
    ("rows", "strategy"), [(M - 50, w) for w in WAYS] + [(M + 50, w) for w in WAYS]
)
def test_a_source_must_have_as_many_rows_as_it_says(rows, strategy):
    source = Watched(chunks(50))
    source.num_rows = rows
    with pytest.raises(jaxfit.SourceChangedError, match="rows in this pass"):
        fit(strategy, source, None)


# --- Precision -------------------------------------------------------------------


@pytest.fixture
def single_precision():
    """JAX as it is before anyone asks for double precision."""
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", True)


@pytest.mark.parametrize("strategy", ["in_memory", "streamed"])
def test_jax_keeps_its_precision(single_precision, strategy):
    found = fit(strategy)
    assert found.popt.dtype == found.pcov.dtype == np.float64
    np.testing.assert_allclose(found.popt, reference().popt, rtol=1e-7)
    assert not jax.config.jax_enable_x64 and jnp.ones(1).dtype == jnp.float32
    narrow = fit(strategy, p0=jnp.ones(3, jnp.float32))
    assert narrow.popt.dtype == narrow.pcov.dtype == np.float32
    error = np.sqrt(np.diag(reference().pcov))
    assert (np.abs(narrow.popt - reference().popt) < 0.05 * error).all()
    assert not jax.config.jax_enable_x64


# --- Options that are passed on --------------------------------------------------


def test_what_only_a_streamed_fit_does(tmp_path):
    found = fit("streamed", checkpoint=tmp_path, warm_up=True)
    assert found.info["warm_up_steps"] > 0 and found.info["checkpoints"] > 0
    again = fit("streamed", checkpoint=tmp_path)
    assert again.info["resumed"]
    np.testing.assert_array_equal(again.popt, found.popt)
    same(found, reference())
    with pytest.raises(jaxfit.CheckpointError):
        fit("streamed", checkpoint=tmp_path, f=lambda x, a, b, c: decay(x, a, b, c) + 1)


def test_small_data_stay_in_memory():
    assert fit("auto").info["strategy"] == "in_memory"
    with pytest.raises(ValueError, match=r"`memory_limit` of 0.1 GB is too small"):
        fit("auto", memory_limit_gb=0.1)


def test_models_that_mix_rows_are_for_the_memory():
    def cumulated(x, a):
        return a * jnp.cumsum(x)

    found = fit("in_memory", T, 2 * np.cumsum(T), cumulated)
    np.testing.assert_allclose(found.popt, 2, rtol=1e-12)
    with pytest.raises(
        ValueError, match=r"`cumsum` works along the rows.*jaxfit.curve_fit"
    ):
        fit("streamed", T, 2 * np.cumsum(T), cumulated)


class Estimating:
    """A model with a start of its own, far from 1."""

    def __init__(self):
        self.given = []

    def __call__(self, x, a, b, c):
        return a * jnp.exp(-b * (x - 1000.0)) + c

    def estimate_p0(self, x, y):
        self.given.append((x, y))
        return [np.ptp(y), 1.0 / np.std(x), y.min()]


@pytest.mark.parametrize("strategy", WAYS)
@pytest.mark.parametrize("chunked", [False, True])
def test_the_models_own_estimate_is_asked(strategy, chunked):
    model, x, y = Estimating(), T + 1000, Y.copy()
    y[5] = np.nan
    options = {"chunk_size": 64} if strategy == "streamed" else {}
    chunks = [(x[:100], y[:100]), (x[100:], y[100:])]
    data = (chunks, None) if chunked else (x, y)
    found = fit(strategy, *data, model, nan_policy="omit", **options)
    ((given_x, given_y),) = model.given
    np.testing.assert_array_equal(given_x, np.delete(x, 5))
    np.testing.assert_array_equal(given_y, np.delete(y, 5))
    expected = jaxfit.curve_fit(model, x, y, nan_policy="omit")
    same(found, expected, 1e-6)
    model.given.clear()
    fit(strategy, *data, model, p0=expected.popt, nan_policy="omit", **options)
    assert model.given == []


def test_the_models_own_estimate_sees_x_as_the_model_does():
    class Plane:
        def __call__(self, x, a, b):
            return a * x[0] + b * x[1]

        def estimate_p0(self, x, y):
            assert x.shape == (2, y.size)
            return [3.0, 5.0]

    x = np.stack([T, np.sin(T)])
    found = fit("streamed", x, 2 * x[0] - x[1], Plane(), chunk_size=64)
    np.testing.assert_allclose(found.popt, [2.0, -1.0], rtol=1e-9)
