"""Checkpoints: a fit that is ended anywhere goes on to the bit."""

import _thread
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from checkpoints import DATA, FAR, ROWS, stream
from streams import Watched, chunks, decay, same_bits

import jaxfit
from jaxfit import TRF, Status


ROOT = Path(__file__).resolve().parents[2]


def some(copies, count, seed=0):
    """So many of them, the first and the last among them."""
    inner = np.random.default_rng(seed).permutation(len(copies) - 2)[: count - 2] + 1
    return [copies[i] for i in [0, *sorted(inner), len(copies) - 1]]


# --- Any moment --------------------------------------------------------------------


def test_every_moment_goes_on_to_the_same_bits(
    moments, expected, tmp_path, monkeypatch
):
    """Within passes and at their ends, where steps were accepted and rejected."""
    source = Watched(chunks(20, *DATA), seconds=0.012)
    found = stream(source, FAR, checkpoint=tmp_path / "all")
    same_bits(found, expected)
    copies = list(moments)
    assert len(copies) > 2 * found.info["passes"]
    assert found.info["checkpoints"] == len(copies)
    within = 0
    for copy in some(copies, 24):
        with np.load(copy / "latest.npz", allow_pickle=False) as file:
            begun = int(file["partial done"]) if "partial done" in file else 0
            within += 0 < begun < 10
            passes = int(file["counters"][1])
        again = Watched(chunks(20, *DATA))
        resumed = stream(again, FAR, checkpoint=copy)
        assert resumed.info["resumed"]
        same_bits(resumed, expected)
        # No more than what was left to do, and a look at the first chunk.
        assert again.finished == expected.info["passes"] - passes
    assert within > 4


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_left_out_rows_stay_out(moments, tmp_path, monkeypatch, workers):
    """Also those that were seen before the fit ended, in its first pass."""
    monkeypatch.setattr("jaxfit._stream.fit_stream.cores", lambda: workers)
    x, y = (a.copy() for a in DATA)
    y[[50, 51, 90, 130, 170]] = np.nan
    bad = chunks(20, x, y)
    given = {"nan_policy": "omit", "solver": TRF(max_steps=10)}
    expected = stream(bad, **given)
    assert expected.info["rows_not_finite"] == 5 and expected.solution.success
    first = Watched(bad, seconds=0.03)
    stream(first, checkpoint=tmp_path / "all", **given)
    copies = list(moments)
    for copy in [*copies[:7], *some(copies[7:], 3)]:
        same_bits(stream(bad, checkpoint=copy, **given), expected)


def test_qr_bounds_loss_sigma_and_history(moments, tmp_path):
    sigma = np.linspace(0.5, 2, ROWS)
    given = {
        "bounds": ([0, 0, 0], [9, 9, 0.45]),
        "loss": "soft_l1",
        "f_scale": 0.1,
        "solver": TRF(linear_solver="qr", history=True, max_steps=30),
    }
    source = chunks(20, *DATA, sigma)
    expected = stream(source, **given)
    slow = Watched(source, seconds=0.01)
    stream(slow, checkpoint=tmp_path / "all", **given)
    for copy in some(list(moments), 6):
        resumed = stream(source, checkpoint=copy, **given)
        same_bits(resumed, expected)
        history = resumed.solution.history
        np.testing.assert_array_equal(history.cost, expected.solution.history.cost)


def test_another_number_of_cores_does_not_matter(
    moments, expected, monkeypatch, tmp_path
):
    """Blocks are added in their order, whoever made their sums."""
    slow = Watched(chunks(20, *DATA), seconds=0.01)
    stream(slow, FAR, checkpoint=tmp_path / "all")
    monkeypatch.setattr("jaxfit._stream.fit_stream.cores", lambda: 7)
    copy = list(moments)[5]
    same_bits(stream(p0=FAR, checkpoint=copy), expected)


# --- Processes that are killed -----------------------------------------------------


PROCESS = """
import signal
import sys
import jax
jax.config.update("jax_enable_x64", True)
import checkpoints, streams
from jaxfit import Checkpoint
from jaxfit._stream.checkpoint import CheckpointFile

signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.argv[2] == "always":
    CheckpointFile.is_due = lambda self, end_of_pass: True

def tell(source, i):
    print(source.begun, i, flush=True)

source = streams.Watched(streams.chunks(20, *checkpoints.DATA), tell, 0.03)
found = checkpoints.stream(
    source, checkpoints.FAR,
    checkpoint=Checkpoint(sys.argv[1], seconds=0.05),
)
print("end", found.info["status"].name, flush=True)
"""


def ended_by(number, folder, chunks_before, how="always"):
    """Run the fit, send a signal after so many chunks; what it printed last."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "shared")])
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(folder), how],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    lines = []
    with process:
        for line in process.stdout:
            lines.append(line.strip())
            if len(lines) == chunks_before:
                process.send_signal(number)
    return process.returncode, lines[-1]


def kill_until_done(folder, seed, how, kills):
    rng = np.random.default_rng(seed)
    for _ in range(kills):
        code, _ = ended_by(signal.SIGKILL, folder, int(rng.integers(5, 60)), how)
        assert code == -signal.SIGKILL


def test_killed_twice_and_finished(tmp_path, expected):
    """Within a pass: a pass is ten chunks, and the kills come after 14 and 33."""
    for count in (14, 33):
        code, last = ended_by(signal.SIGKILL, tmp_path, count)
        assert code == -signal.SIGKILL and "end" not in last
    assert (tmp_path / "latest.npz").exists()
    found = stream(p0=FAR, checkpoint=tmp_path)
    assert found.info["resumed"]
    same_bits(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["always", "as asked"])
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random(tmp_path, expected, seed, how):
    kill_until_done(tmp_path, seed, how, 2)
    same_bits(stream(p0=FAR, checkpoint=tmp_path), expected)


@pytest.mark.slow
def test_ctrl_c_of_a_process(tmp_path, expected):
    code, last = ended_by(signal.SIGINT, tmp_path, 35)
    assert code == 0 and last == "end STOPPED"
    same_bits(stream(p0=FAR, checkpoint=tmp_path), expected)


# --- Ctrl-C ------------------------------------------------------------------------


@pytest.fixture
def listening():
    """A process that a shell put into the background is deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("begun", "chunk"), [(2, 4), (6, 0), (9, 7)])
def test_ctrl_c_leaves_the_best_point_and_a_checkpoint(
    listening, tmp_path, expected, begun, chunk
):
    """The first pass is of the start; the first iteration is a look at a chunk."""

    def before(source, i):
        if (source.begun, i) == (begun, chunk):
            _thread.interrupt_main()
            time.sleep(0.3)

    found = stream(Watched(chunks(20, *DATA), before), FAR, checkpoint=tmp_path)
    assert found.solution.status == Status.STOPPED and not found.solution.success
    assert "Ctrl-C" in found.info["message"]
    assert found.info["passes"] <= begun - 1
    if begun == 2:
        np.testing.assert_array_equal(found.solution.params, FAR)
    else:
        reached = 0.5 * np.sum(
            (np.asarray(decay(DATA[0], found.solution.params)) - DATA[1]) ** 2
        )
        np.testing.assert_allclose(found.solution.cost, reached, rtol=1e-9)
        assert reached < 0.5 * np.sum((np.asarray(decay(DATA[0], FAR)) - DATA[1]) ** 2)
    resumed = stream(p0=FAR, checkpoint=tmp_path)
    assert resumed.info["resumed"]
    same_bits(resumed, expected)


def test_ctrl_c_at_the_door(listening, tmp_path):
    def before(source, i):
        if (source.begun, i) == (4, 3):
            _thread.interrupt_main()
            time.sleep(0.3)

    given = {"p0": FAR, "checkpoint": tmp_path, "chunk_size": 20}
    given["strategy"] = "streamed"

    def f(x, a, b, c):
        return decay(x, (a, b, c))

    found = jaxfit.fit_large_dataset(f, Watched(chunks(20, *DATA), before), **given)
    assert found.info["status"] == Status.STOPPED
    again = jaxfit.fit_large_dataset(f, chunks(20, *DATA), **given)
    assert again.info["resumed"] and again.info["status"] > 0
