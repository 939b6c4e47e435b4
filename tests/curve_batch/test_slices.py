"""Slices, lanes and devices of a batch; what is kept when Ctrl-C ends it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from curve_batches import P0, SLOW, M, P, Y, fit, same_bits

from jaxfit import Status
from jaxfit._programs import slices


ROOT = Path(__file__).resolve().parents[2]


# --- Slices, lanes, devices -------------------------------------------------------


@pytest.mark.bits
@pytest.mark.parametrize(
    "options",
    [
        {"slice_size": 6},
        {"devices": None},
        pytest.param({"lanes": 3}, marks=SLOW),
        pytest.param({"lanes": 256}, marks=SLOW),
        pytest.param({"slice_size": 6, "lanes": 100}, marks=SLOW),
        pytest.param({"devices": 3}, marks=SLOW),
    ],
    ids=str,
)
def test_slices_and_devices_change_no_bit_and_lanes_rounding_only(options, plain):
    """Slices leave a remainder; there are eight devices, conftest.py's.

    Another number of lanes is another program, which may round its sums otherwise.
    """
    result = fit(**options)
    if "lanes" in options:
        for name in ("popt", "pcov", "perr", "cost"):
            ours, theirs = getattr(result, name), getattr(plain, name)
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-14)
        for name in ("success", "active_mask"):
            np.testing.assert_array_equal(getattr(result, name), getattr(plain, name))
    else:
        same_bits(result, plain)
    assert 0 < result.lane_efficiency <= 1


@SLOW
def test_the_length_of_the_queue_changes_no_bit(plain):
    result = fit(ydata=MANY)
    for i in (0, len(MANY) // 2, len(MANY) - P):
        part = slice(i, i + P)
        np.testing.assert_array_equal(result.popt[part], plain.popt.reshape(P, 2))
        np.testing.assert_array_equal(result.pcov[part], plain.pcov.reshape(P, 2, 2))


IN_ANOTHER = """
import json, sys
import jax
import jax.numpy as jnp
import numpy as np
import jaxfit

before = jax.config.jax_enable_x64, jnp.ones(1).dtype.name
y = np.memmap(sys.argv[1], np.float64, "r", shape=(20, 12))
x = np.linspace(0.0, 3.0, 12)
result = jaxfit.curve_fit_batch(
    lambda x, a, b: a * jnp.exp(-b * x), x, y, [2.0, 1.0],
    ftol=1e-14, xtol=1e-14, gtol=1e-14,
)
single = jaxfit.curve_fit_batch(
    lambda x, a, b: a * jnp.exp(-b * x), x, y, [2.0, 1.0], dtype="float32"
)
assert before == (jax.config.jax_enable_x64, jnp.ones(1).dtype.name)
print(json.dumps({
    "before": before,
    "devices": len(jax.devices()),
    "dtypes": [result.popt.dtype.name, single.popt.dtype.name],
    "popt": [value.hex() for value in result.popt.ravel().tolist()],
    "single": single.popt.tolist(),
}))
"""


@pytest.mark.bits
def test_a_process_in_single_precision_with_one_device_finds_the_same(plain, tmp_path):
    Y.tofile(tmp_path / "y")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IN_ANOTHER, str(tmp_path / "y")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1", "XLA_FLAGS": ""},
        timeout=240,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["before"] == [False, "float32"]
    assert found["devices"] == 1
    assert found["dtypes"] == ["float64", "float32"]
    assert found["popt"] == [value.hex() for value in plain.popt.ravel().tolist()]
    away = np.abs(found["single"] - plain.popt.reshape(P, 2))
    assert (away < 0.05 * plain.perr.reshape(P, 2)).all()


def test_a_bar_shows_the_fits(capsys):
    pytest.importorskip("tqdm")
    result = fit(slice_size=6, progress=True)
    shown = capsys.readouterr().err
    assert "fits" in shown and "20.0/20.0" in shown
    assert result.success.all()


# --- Ctrl-C -----------------------------------------------------------------------


MANY = np.broadcast_to(Y.reshape(1, P, M), (60, P, M)).reshape(-1, M)


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C comes when the first slice is done; whether another pass begins."""
    calls = []
    real = slices.wait

    def wait(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(slices, "wait", wait)
    return calls


def test_what_is_done_when_ctrl_c_comes_is_returned(interrupted, plain):
    result = fit(ydata=MANY, slice_size=6)
    done = result.status != Status.STOPPED
    assert 6 <= done.sum() < len(MANY)
    assert result.success[done].all()
    expected = np.broadcast_to(plain.popt.reshape(P, 2), (60, P, 2)).reshape(-1, 2)
    np.testing.assert_array_equal(result.popt[done], expected[done])
    for a in (result.popt, result.pcov, result.perr, result.cost):
        assert np.isnan(a[~done]).all()
    assert (result.nfev[~done] == 0).all()
    assert result.outcomes[Status.STOPPED] == (~done).sum()
    np.testing.assert_array_equal(result.failed[0], np.flatnonzero(~done))
    # The rest can be made later.
    again = result.refit(P0, where=~done)
    np.testing.assert_array_equal(again.popt, expected)


@SLOW
def test_ctrl_c_ends_both_passes_of_a_polish(interrupted):
    result = fit(ydata=MANY, slice_size=6, polish=True)
    assert (result.status == Status.STOPPED).any()


@SLOW
def test_ctrl_c_ends_a_pass_over_neighbours(interrupted):
    result = fit(ydata=MANY, slice_size=6, p0="neighbours", start=P0)
    assert (result.status == Status.STOPPED).sum() > len(MANY) // 2
