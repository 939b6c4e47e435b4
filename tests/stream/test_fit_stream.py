"""Streamed fits: the answer of a fit in memory, in as few passes as promised."""

import contextlib
import io
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streamed import HARD, X_ILL, Y_ILL, Y_ODD, Y_PEAK, stream
from streams import (
    GRAM,
    SIGMA,
    START,
    M,
    T,
    Watched,
    Y,
    agree,
    chunks,
    decay,
    dense,
    peak,
    same_bits,
    same_path,
)

import jaxfit
from jaxfit import TRF, Status
from jaxfit._stream.passes import Pass


ROOT = Path(__file__).resolve().parents[2]


def power(x, p):
    """Three columns that are nearly in one plane where x is nearly 1."""
    return p[0] + p[1] * x ** p[2]


@pytest.fixture(scope="module")
def reference():
    return dense(y=Y_ODD, sigma=SIGMA, **HARD)


@pytest.fixture(scope="module")
def plain():
    return dense()


# --- The answer of a fit in memory -------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_any_chunk_size(reference, size):
    source = jaxfit.ArraySource(T, Y_ODD, SIGMA)
    found = stream(source, chunk_size=size, **HARD)
    agree(found.solution, reference)
    same_path(found.solution, reference)
    np.testing.assert_array_equal(found.solution.active_mask, [0, 0, 1])
    assert found.info["chunk_size"] == size


def test_any_lengths_and_order_of_chunks(reference):
    ends = [0, 1, 2, 90, 90, 97, 180, M]  # one of them without rows
    pieces = list(itertools.pairwise(ends))
    uneven = [(T[i:j], Y_ODD[i:j], SIGMA[i:j]) for i, j in pieces]
    in_order = stream(uneven, **HARD)
    agree(in_order.solution, reference)
    # Blocks are made of rows, wherever chunks end.
    same_bits(in_order, stream(jaxfit.ArraySource(T, Y_ODD, SIGMA), **HARD))
    for order in (uneven[::-1], [uneven[i] for i in (3, 0, 6, 4, 1, 5, 2)]):
        found = stream(order, **HARD)
        agree(found.solution, reference)
        same_path(found.solution, reference)


def test_any_number_of_workers_finds_the_same_bits(reference, monkeypatch):
    """Four blocks, so that of five workers one has nothing to do."""
    source = jaxfit.ArraySource(T, Y_ODD, SIGMA)
    found = []
    for workers in (1, 3, 5):
        monkeypatch.setattr(
            "jaxfit._stream.fit_stream.cores", lambda workers=workers: workers
        )
        found.append(stream(source, **HARD))
        assert found[-1].info["workers"] == workers
        same_bits(found[-1], found[0])
    agree(found[0].solution, reference)
    same_path(found[0].solution, reference)


def test_a_block_that_is_late_is_still_added_in_its_turn(monkeypatch):
    """The first blocks of a pass end after all others."""
    monkeypatch.setattr("jaxfit._stream.fit_stream.cores", lambda: 3)
    source = jaxfit.ArraySource(T, Y_ODD, SIGMA)
    expected = stream(source, **HARD)
    summed, late = Pass.summed, []

    def slow(self, partial, fixed, block):
        if block.number < 2:
            late.append(block.number)
            time.sleep(0.03 * (2 - block.number))
        return summed(self, partial, fixed, block)

    monkeypatch.setattr(Pass, "summed", slow)
    same_bits(stream(source, **HARD), expected)
    assert late


@pytest.mark.smoke
def test_a_gaussian_peak():
    given = {"model": peak, "p0": np.array([1.0, 1.5, 1.0])}
    expected = dense(y=Y_PEAK, **given)
    found = stream(chunks(50, T, Y_PEAK), **given)
    agree(found.solution, expected)
    same_path(found.solution, expected)


def test_an_ill_conditioned_problem():
    """Its columns have condition 2e6: only the triangle of J knows its inverse.

    Parameters are known to 1e-10 of their size or error. The residuals are some 1e-9 of
    y, so that they are known to 1e-6, and so are the cost and what is scaled by it.
    """
    given = {"model": power, "p0": np.array([0.5, 2.5, 2.9])}
    solver = TRF(linear_solver="qr")
    expected = dense(x=X_ILL, y=Y_ILL, solver=solver, **given)
    j = jax.jacobian(lambda p: power(X_ILL, p))(expected.params)
    condition = np.linalg.cond(j / np.linalg.norm(j, axis=0))
    assert condition > 1e6
    found = stream(chunks(50, X_ILL, Y_ILL), solver=solver, **given)
    rounding = np.finfo(float).eps * np.abs(Y_ILL).max() / 1e-9  # of a residual
    agree(found.solution, expected, 1e-10, rounding, rounding)
    assert isinstance(found.solution.linearisation, jaxfit.Triangle)
    assert found.solution.success and expected.success


def test_equal_bounds_fix_a_parameter():
    bounds = ([0, 1.3, 0], [9, 1.3, 9])
    p0 = np.array([1.0, 1.3, 0.2])
    expected = dense(p0=p0, bounds=bounds)
    found = stream(p0=p0, bounds=bounds).solution
    assert found.params[1] == 1.3 and found.covariance()[1, 1] == 0
    free = [0, 2]
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-10)
    np.testing.assert_allclose(
        found.covariance()[np.ix_(free, free)],
        expected.covariance()[np.ix_(free, free)],
        rtol=1e-8,
    )
    assert found.dof == M - 2


def test_parameters_and_x_may_be_trees():
    def model(x, p):
        return p["a"][0] * jnp.exp(-p["a"][1] * x["t"]) + p["c"] * x["w"][:, 0]

    p0 = {"a": START[:2], "c": 0.2}
    x = {"t": T, "w": np.stack([np.ones(M), T], axis=1)}
    expected = dense(model, x, p0=p0)
    source = [
        ({k: v[i : i + 50] for k, v in x.items()}, Y[i : i + 50])
        for i in range(0, M, 50)
    ]
    for given in (source, jaxfit.ArraySource(x, Y)):
        found = stream(given, model, p0).solution
        for name in ("a", "c"):
            np.testing.assert_allclose(
                found.params[name], expected.params[name], rtol=1e-10
            )
        np.testing.assert_allclose(found.covariance(), expected.covariance(), 1e-8)


def test_a_jacobian_and_a_loss_of_ones_own():
    def slopes(x, p):
        e = jnp.exp(-p[1] * x)
        return jnp.stack([e, -p[0] * x * e, jnp.ones_like(x)], axis=1)

    def loss(z):
        return 2 * (jnp.sqrt(1 + z) - 1)

    solver = TRF(linear_solver="gram", jacobian=slopes)
    options = {"loss": loss, "f_scale": 0.1, "solver": solver}
    expected = dense(y=Y_ODD, **options)
    found = stream(chunks(50, T, Y_ODD), **options)
    agree(found.solution, expected)
    same_path(found.solution, expected)


def test_limits_and_history_are_those_of_solve():
    solver = TRF(linear_solver="gram", history=True, max_steps=20, max_nfev=3)
    expected = dense(solver=solver)
    found = stream(solver=solver).solution
    same_path(found, expected)
    assert found.status == Status.MAX_STEPS
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-12)
    for name in ("cost", "step_norm", "radius", "optimality"):
        a, b = (getattr(s.history, name) for s in (found, expected))
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_a_solver_with_a_mesh(plain):
    mesh = jax.make_mesh((8,), ("rows",))
    found = stream(solver=TRF(linear_solver="gram", mesh=mesh), chunk_size=60)
    agree(found.solution, plain)
    assert found.info["workers"] == 1


# --- Passes ------------------------------------------------------------------------


def test_a_step_accepted_at_once_is_one_pass(plain):
    source = Watched(chunks(50))
    found = stream(source)
    assert found.solution.nfev == found.solution.njev  # nothing was rejected
    assert found.info["passes"] == found.solution.nfev == source.finished
    assert source.begun == source.finished + 1  # a look at the first chunk
    agree(found.solution, plain)


@pytest.mark.parametrize("trials", [1, 4])
def test_radii_after_a_rejection_cost_no_more_passes(trials):
    solver = TRF(linear_solver="gram", trials=trials)
    given = {"p0": np.array([1e3, 20.0, -100.0]), "solver": solver}
    source = Watched(chunks(50))
    found, expected = stream(source, **given), dense(**given)
    solution = found.solution
    if trials > 1:
        assert solution.nfev > solution.njev  # some were rejected
    same_path(solution, expected)
    agree(solution, expected)
    assert found.info["passes"] == source.finished <= solution.nfev
    assert found.info["passes"] < solution.nfev + solution.njev


def test_the_account_of_a_fit(plain):
    found = stream(jaxfit.ArraySource(T, Y))
    info, solution = found.info, found.solution
    assert info["strategy"] == "streamed" and info["status"] == solution.status
    assert info["message"] == solution.message and info["nfev"] == solution.nfev
    assert info["num_rows"] == info["rows_used"] == M
    assert info["rows_not_finite"] == info["retries"] == info["checkpoints"] == 0
    assert info["success_rate"] == 1 and not info["resumed"]
    whole = T.nbytes + Y.nbytes
    first = 64 * 16  # which is read once more
    assert info["bytes_read"] == info["passes"] * whole + first
    assert info["chunks_read"] == info["passes"] * 4 + 1
    assert info["seconds_reading"] > 0 and info["seconds"] > 0
    np.testing.assert_allclose(
        info["bytes_per_second"], info["bytes_read"] / info["seconds"]
    )
    assert 0 < info["peak_memory_gb"] < 100
    assert info["device_peak_memory_gb"] is None or info["device_peak_memory_gb"] > 0
    assert info["workers"] >= 1 and info["checkpoint_seconds"] == 0


# --- The bar -----------------------------------------------------------------------


def test_a_progress_bar_shows_passes():
    pytest.importorskip("tqdm")
    shown = io.StringIO()
    with contextlib.redirect_stderr(shown):
        found = stream(jaxfit.ArraySource(T, Y), progress=True)
    assert f"pass {found.info['passes']}" in shown.getvalue()
    assert "cost" in shown.getvalue() and "/4" in shown.getvalue()


def test_a_progress_bar_needs_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"progress=True needs tqdm: pip install"):
        stream(progress=True)


# --- Precision ---------------------------------------------------------------------


SINGLE = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
import jaxfit
import streams

x, y = (a.astype(np.float32) for a in (streams.T, streams.Y))
narrow = jaxfit.fit_stream(
    streams.decay, streams.chunks(50, x, y), jnp.asarray(streams.START, jnp.float32),
    chunk_size=64,
)
dtypes = [str(narrow.solution.params.dtype), str(jnp.ones(1).dtype)]
with jax.enable_x64(True):
    wide = jaxfit.fit_stream(
        streams.decay, streams.chunks(50), streams.START, chunk_size=64
    )
dtypes.append(str(wide.solution.params.dtype))
door = jaxfit.fit_large_dataset(
    lambda x, a, b, c: streams.decay(x, (a, b, c)), streams.T, streams.Y,
    streams.START, strategy="streamed", chunk_size=64,
)
dtypes.append(str(door.popt.dtype))
print(json.dumps({
    "dtypes": dtypes,
    "wide": np.asarray(wide.solution.params).tolist(),
    "door": door.popt.tolist(),
    "narrow": np.asarray(narrow.solution.params).tolist(),
    "success": bool(narrow.solution.success),
    "x64": bool(jax.config.jax_enable_x64),
}))
"""


def test_a_process_in_single_precision(plain):
    """float32 where it is asked for, float64 in a context and at the door."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "shared")])
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("JAX_ENABLE_X64", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SINGLE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["dtypes"] == ["float32", "float32", "float64", "float64"]
    assert not found["x64"] and found["success"]
    for name in ("wide", "door"):
        np.testing.assert_allclose(found[name], plain.params, rtol=1e-9)
    error = np.sqrt(np.diag(plain.covariance()))
    assert (np.abs(np.array(found["narrow"]) - plain.params) < 0.05 * error).all()


def test_float32_data_of_a_fit_in_float64(plain):
    x, y = T.astype(np.float32), Y.astype(np.float32)
    expected = dense(x=x.astype(float), y=y.astype(float))
    found = stream(chunks(50, x, y)).solution
    assert found.params.dtype == np.float64
    agree(found, expected)


# --- Models ------------------------------------------------------------------------


def test_a_model_that_uses_the_number_of_rows_is_refused():
    """In a chunk the number is another."""
    with pytest.raises(ValueError, match=r"`model` does not treat rows one by one"):
        stream(model=lambda x, p: p[0] * x / len(x), p0=START[:1])


def test_a_jitted_model_with_an_array_of_its_own():
    offsets = np.linspace(0, 1, 4)

    @jax.jit
    def model(x, p):
        return decay(x, p) + jnp.sum(jnp.cos(x[:, None] * jnp.asarray(offsets)), axis=1)

    y = Y + np.cos(T[:, None] * offsets).sum(axis=1)
    agree(stream(chunks(50, T, y), model).solution, dense(model, y=y))


def test_solver_is_gram_unless_it_says_qr():
    for solver, kind in (
        (None, jaxfit.Gram),
        (TRF(), jaxfit.Gram),
        (GRAM, jaxfit.Gram),
    ):
        found = stream(solver=solver).solution
        assert isinstance(found.linearisation, kind)
