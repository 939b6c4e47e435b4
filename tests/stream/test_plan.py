"""`plan`, what it predicts of the memory, and `MemoryProfiler`."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxfit import MemoryProfiler, Plan, plan
from jaxfit._basics.machine import cores, device_peak_gb, free_gb, peak_gb, resident_gb
from jaxfit._stream.plan import block_rows
from jaxfit._trf.algebra import UNROLL


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr("jaxfit._stream.plan.cores", lambda: 2)


# --- Which way -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "limit", "strategy"),
    [
        (100, 1.0, "in_memory"),
        (50_000, 1.0, "in_memory"),
        (60_000, 1.0, "chunked"),
        (10**7, 1.0, "chunked"),
        (10**8, 1.0, "streamed"),
        (10**11, 1.0, "streamed"),
        (10**8, 100.0, "chunked"),
    ],
)
def test_the_fastest_way_that_fits(rows, limit, strategy):
    found = plan(rows, 3, memory_limit=limit)
    assert found.strategy == strategy and isinstance(found, Plan)
    assert 0.1 <= found.peak_memory_gb <= limit
    assert found.passes_per_step == 1
    if strategy == "streamed":
        assert found.chunk_size >= 1024
    else:
        assert found.chunk_size is None


@pytest.mark.parametrize("strategy", ["in_memory", "chunked", "streamed"])
@pytest.mark.parametrize("n", [UNROLL, UNROLL + 1])
def test_how_often_a_step_visits_the_data(n, strategy):
    """A step of few parameters visits the data once, at the trial.

    With many an accepted trial is visited twice: its cost, then its linearisation.
    """
    found = plan(10**6, n, memory_limit=100.0, strategy=strategy)
    once = n <= UNROLL or strategy == "streamed"
    assert found.passes_per_step == (1 if once else 2)


def test_what_makes_a_fit_larger():
    """Rows, columns and precision; parameters where the Jacobian is whole."""

    def gb(way, rows=10**7, n=3, **options):
        return plan(rows, n, memory_limit=1e6, strategy=way, **options).peak_memory_gb

    for way in ("in_memory", "chunked"):
        assert gb(way) < gb(way, 2 * 10**7) and gb(way) < gb(way, columns=5)
        assert gb(way, dtype=np.float32) < gb(way)
    assert gb("in_memory") > gb("chunked")
    assert gb("in_memory", n=20) > gb("in_memory", n=8) > gb("in_memory")
    assert gb("streamed", chunk_size=1000) < gb("streamed", chunk_size=10**6)
    assert gb("streamed", 10**8, chunk_size=10**5) == gb(
        "streamed", 10**10, chunk_size=10**5
    )


def test_chunks_get_shorter_until_they_fit():
    roomy = plan(10**9, 3, memory_limit=1.0, strategy="streamed")
    tight = plan(10**9, 3, memory_limit=0.25, strategy="streamed")
    assert 1024 <= tight.chunk_size < roomy.chunk_size
    assert tight.peak_memory_gb <= 0.25
    chosen = plan(10**9, 3, memory_limit=1.0, chunk_size=5000, strategy="streamed")
    assert chosen.chunk_size == 5000
    assert chosen.peak_memory_gb < plan(10**9, 3, memory_limit=1.0).peak_memory_gb


def test_a_way_that_is_wanted():
    for way in ("in_memory", "chunked", "streamed"):
        assert plan(1000, 3, memory_limit=1.0, strategy=way).strategy == way


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"n_points": 0}, ValueError, "`n_points` must be at least 1, got 0"),
        ({"n_points": 1e6}, TypeError, "`n_points` must be an integer"),
        ({"n_params": 0}, ValueError, "`n_params` must be at least 1"),
        ({"columns": 0}, ValueError, "`columns` must be at least 1"),
        (
            {"dtype": np.int32},
            ValueError,
            "`dtype` must be float32 or float64, got int32",
        ),
        ({"memory_limit": 0.0}, ValueError, "`memory_limit` must be positive, got 0"),
        ({"memory_limit": -1}, ValueError, "`memory_limit` must be positive"),
        ({"memory_limit": float("nan")}, ValueError, "`memory_limit` must be positive"),
        (
            {"memory_limit": 0.01},
            ValueError,
            "0.01 GB is too small: .* 0.23 GB of it to",
        ),
        (
            {"n_points": 10**9, "memory_limit": 0.35, "chunk_size": 10**6},
            ValueError,
            r"0.35 GB is too small: .* in chunks of 1000000 rows takes 0\.49",
        ),
        (
            {"n_points": 10**9, "memory_limit": 1.0, "chunk_size": 0},
            ValueError,
            "`chunk_size` must be at least 1",
        ),
    ],
)
def test_what_cannot_be_planned(without_type_checks, options, error, text):
    with pytest.raises(error, match=text):
        plan(**{"n_points": 1000, "n_params": 3, **options})


def test_a_limit_of_the_machine():
    found = plan(10**13, 3)
    assert found.strategy == "streamed"
    assert found.peak_memory_gb <= 0.8 * free_gb() + 0.5


def test_blocks_are_equal_shares():
    most = block_rows(None)
    for rows in (1, 63, 64, 1000, 10**5, 3 * 10**5, 10**6, 10**7 + 1, 10**9):
        block = block_rows(rows)
        assert block % 64 == 0 and 64 <= block <= 3 * most
        count = -(-rows // block)
        if rows > 1000:
            assert count * block <= 1.1 * rows
        if rows >= 10**5:  # some for each of a few cores
            assert count >= 6
    assert block_rows(100) == 128


# --- The machine -----------------------------------------------------------------


def test_numbers_of_the_machine():
    assert cores() >= 1
    # The two are counted in different ways, which differ by some pages.
    assert 0 < resident_gb() <= peak_gb() + 0.05 < 1000
    assert 0 < free_gb() < 10_000
    assert device_peak_gb() is None or device_peak_gb() > 0


# --- The profiler ----------------------------------------------------------------


def test_a_profiler_sees_an_array_come_and_go():
    with MemoryProfiler(interval=0.005) as memory:
        array = np.ones(25_000_000)  # 0.2 GB
        time.sleep(0.1)
        del array
    assert 0.19 < memory.peak_gb - memory.start_gb < 0.4
    assert memory.resident_gb[-1] < memory.peak_gb - 0.15
    assert len(memory.times) == len(memory.resident_gb) > 5
    assert (
        memory.times[0] < memory.times[-1] and memory.start_gb == memory.resident_gb[0]
    )
    report = memory.report()
    assert f"most {memory.peak_gb:.3f} GB" in report and "looks in" in report
    assert memory.device_peak_gb is None or "on a device" in report


def test_a_profiler_passes_errors_on_and_serves_once():
    memory = MemoryProfiler()
    with pytest.raises(KeyError), memory:
        raise KeyError
    assert len(memory.times) >= 2
    with pytest.raises(RuntimeError, match="serves for one `with` block"), memory:
        pass


@pytest.mark.parametrize("interval", [0, -1.0, float("nan"), "1"])
def test_an_interval_is_positive(without_type_checks, interval):
    with pytest.raises((ValueError, TypeError), match="`interval` must be positive"):
        MemoryProfiler(interval)


# --- What is predicted -----------------------------------------------------------

MEASURE = """
import json, sys
import numpy as np

strategy, rows, n, dtype, folder = json.loads(sys.argv[1])
import jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", dtype == "float64")
import jaxfit


def status(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) * 1024 / 1e9


def model(x, *p):
    total = p[0]
    for k in range(1, n - 1, 2):
        total = total + p[k] * jnp.exp(-p[k + 1] * x)
    return total + (p[n - 1] * x if n % 2 == 0 else 0.0)


x = np.linspace(0, 1, rows, dtype=dtype)
y = (1 + np.exp(-3 * x) + 0.1 * np.cos(20 * x)).astype(dtype)
if strategy == "streamed":
    x.tofile(folder + "/x"), y.tofile(folder + "/y")
    x, y = (np.memmap(folder + name, dtype, "r") for name in ("/x", "/y"))
p0 = np.linspace(0.5, 0.8, n)
p0 = p0 if dtype == "float64" else jnp.asarray(p0, dtype)
way = jaxfit.plan(rows, n, dtype, 100.0, strategy=strategy)
jaxfit.fit_large_dataset, jaxfit.FitError  # imported before anything is measured
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
try:
    jaxfit.fit_large_dataset(
        model, x, y, p0, strategy=strategy, memory_limit_gb=100.0,
        solver=jaxfit.TRF(max_steps=6),
    )
except jaxfit.FitError:  # not at the minimum yet
    pass
print(json.dumps([way.peak_memory_gb, status("VmHWM") - before]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        ("in_memory", 2_000_000, 3, "float64"),
        ("in_memory", 1_000_000, 12, "float64"),
        ("in_memory", 4_000_000, 3, "float32"),
        ("chunked", 20_000_000, 3, "float64"),
        ("chunked", 20_000_000, 5, "float32"),
        ("streamed", 20_000_000, 3, "float64"),
        ("streamed", 20_000_000, 8, "float32"),
    ],
    ids=str,
)
def test_the_memory_is_predicted_to_30_percent(case, tmp_path):
    """The peak of a fresh process above what it held before its first fit."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps([*case, str(tmp_path)])],
        capture_output=True,
        text=True,
        timeout=600,
        env={k: v for k, v in __import__("os").environ.items() if k != "XLA_FLAGS"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    predicted, measured = json.loads(done.stdout.splitlines()[-1])
    assert 0.7 * measured <= predicted <= 1.3 * measured
