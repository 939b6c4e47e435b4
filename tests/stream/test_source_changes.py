"""Sources that change while they are fitted: found out, and told where.

A number that is not finite makes every trial point one of infinite cost: without a look
at the data, a fit would take ever smaller steps to its limit of steps.
"""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from streams import START, M, T, Watched, Y, chunks, decay

import jaxfit
from jaxfit import SourceChangedError, Status, fit_stream


BAD_ROW, BAD_CHUNK = 88, 4  # of chunks of 20 rows


def spoils(begun, what="y", value=np.nan):
    """A source whose row turns bad in a pass; the first iteration is a first look."""
    sigma = np.full(M, 0.05)
    arrays = {"x": T.copy(), "y": Y.copy(), "sigma": sigma}

    def before(source, i):
        if source.begun == begun and i == 0:
            arrays[what][BAD_ROW] = value

    return Watched(chunks(20, *arrays.values()), before)


@pytest.mark.parametrize("nan_policy", ["raise", "omit"])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    ("what", "value"), [("y", np.nan), ("x", np.inf), ("sigma", 0.0)]
)
def test_a_number_that_turns_bad_ends_the_fit_in_that_pass(
    monkeypatch, nan_policy, workers, what, value
):
    monkeypatch.setattr("jaxfit._stream.fit_stream.cores", lambda: workers)
    source = spoils(4, what, value)
    words = (
        rf"row {BAD_ROW} of the source, in chunk {BAD_CHUNK}, holds a number that is "
        "not finite.* and did not in an earlier pass: .* fit a copy"
    )
    with pytest.raises(SourceChangedError, match=words):
        fit_stream(decay, source, START, chunk_size=16, nan_policy=nan_policy)
    assert source.begun == 4


def test_it_is_told_that_none_is_finite_where_that_is_asked_for():
    found = fit_stream(decay, spoils(4), START, chunk_size=16, nan_policy="propagate")
    assert found.solution.status != Status.RUNNING
    assert not found.solution.success


def test_rows_that_were_omitted_before_stay_so():
    source = spoils(3)
    source.listed[0][1][3] = np.nan
    with pytest.raises(SourceChangedError, match=f"row {BAD_ROW} .*chunk {BAD_CHUNK}"):
        fit_stream(decay, source, START, chunk_size=16, nan_policy="omit")
    source = Watched(source.listed)
    found = fit_stream(decay, source, START, chunk_size=16, nan_policy="omit")
    assert found.solution.success and found.info["rows_not_finite"] == 2


def test_a_model_that_is_not_finite_somewhere_is_not_the_datas_fault():
    """From this start some trial points overflow; the data are looked at, and good."""

    def model(x, p):
        return p[0] * jax.numpy.exp(jax.numpy.exp(p[1] * x)) + p[2]

    y = 2.0 * np.exp(np.exp(0.1 * T)) + 1
    start = np.array([1e-3, -3.0, 0.0])
    found = fit_stream(model, chunks(20, T, y), start, chunk_size=16)
    assert found.solution.success
    np.testing.assert_allclose(found.solution.params, [2, 0.1, 1], rtol=1e-6)


def test_a_checkpoint_of_then_holds_no_spoilt_sum(tmp_path, monkeypatch):
    """Mended data go on where the fit was, to the same bits."""
    monkeypatch.setattr(
        jaxfit._stream.checkpoint.CheckpointFile, "is_due", lambda *_: True
    )
    given = {"chunk_size": 16, "checkpoint": tmp_path}
    with pytest.raises(SourceChangedError, match="chunk"):
        fit_stream(decay, spoils(4), START, **given)
    sigma = np.full(M, 0.05)
    found = fit_stream(decay, chunks(20, T, Y, sigma), START, **given)
    whole = fit_stream(decay, chunks(20, T, Y, sigma), START, chunk_size=16)
    assert found.info["resumed"]
    np.testing.assert_array_equal(found.solution.params, whole.solution.params)


# --- Files under memory maps -----------------------------------------------------

CUT = """
import os
import sys
import numpy as np
import jax
jax.config.update("jax_enable_x64", True)
import jaxfit
import streams

folder, kind = sys.argv[1:]
m = 40_000
t = np.linspace(0, 5, m)
for name, values in (("t", t), ("y", 2.5 * np.exp(-1.3 * t) + 0.5)):
    np.save(f"{folder}/{name}.npy", values)
x, y = (np.load(f"{folder}/{name}.npy", mmap_mode="r") for name in ("t", "y"))

def cut(source, i):
    if source.begun == 3 and i == 0:
        os.truncate(f"{folder}/y.npy", 4096)

def listed():
    return [(x[i:i + 4000], np.asarray(y[i:i + 4000])) for i in range(0, m, 4000)]

class Cut(jaxfit.ArraySource):
    begun = 0

    def chunks(self, begin, rows):
        self.begun += 1
        cut(self, 0)
        return super().chunks(begin, rows)

source = Cut(x, y) if kind == "arrays" else streams.Watched(listed(), cut)
try:
    jaxfit.fit_stream(streams.decay, source, [1e3, 20.0, -100.0], chunk_size=4000)
except jaxfit.SourceChangedError as err:
    print(err)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cuts no mapped file")
@pytest.mark.parametrize("kind", ["arrays", "chunks"])
def test_a_file_that_is_cut_under_a_memory_map(tmp_path, kind):
    """In a process of its own: beyond the end of a file reading ends it by SIGBUS."""
    done = subprocess.run(
        [sys.executable, "-c", CUT, str(tmp_path), kind],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=300,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert "y.npy' was cut to 4096 bytes" in done.stdout
    assert "the source must not change during a fit" in done.stdout


def test_a_file_that_is_gone_is_still_there_for_its_map(tmp_path):
    """Where files are unlinked while they are open, and where they grow."""
    path = tmp_path / "y.npy"
    np.save(path, Y)
    y = np.load(path, mmap_mode="r")
    with open(path, "ab") as file:
        file.write(b"more")
    assert fit_stream(decay, jaxfit.ArraySource(T, y), START).solution.success
    if sys.platform != "win32":
        path.unlink()
        assert fit_stream(decay, jaxfit.ArraySource(T, y), START).solution.success
