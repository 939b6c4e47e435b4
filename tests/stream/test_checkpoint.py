"""Checkpoints: a fit that is ended anywhere goes on to the bit, and only that fit.

What a killed process leaves is a checkpoint of some moment. So besides real kills, the
folder is copied at every moment at which a checkpoint can be written.
"""

import _thread
import errno
import json
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streams import START, T, Watched, Y, chunks, decay, same_bits

import jaxfit
from jaxfit import TRF, Checkpoint, CheckpointError, ReadError, Status, fit_stream
from jaxfit._stream.checkpoint import CheckpointFile


ROOT = Path(__file__).resolve().parents[2]


ROWS = 200  # so that chunks of 20 divide them: one program for all blocks
DATA = T[:ROWS], Y[:ROWS]
FAR = np.array([1e3, 20.0, -100.0])  # from where some steps are rejected


def stream(source=None, p0=START, model=decay, chunk_size=20, **options):
    source = chunks(20, *DATA) if source is None else source
    return fit_stream(model, source, p0, chunk_size=chunk_size, **options)


@pytest.fixture(scope="module")
def expected():
    return stream(p0=FAR)


@pytest.fixture
def always(monkeypatch):
    """Checkpoints whenever one could be written."""
    monkeypatch.setattr(CheckpointFile, "is_due", lambda self, end_of_pass: True)


@pytest.fixture
def moments(monkeypatch, tmp_path, always):
    """Copies of the folder as it was after each checkpoint."""
    copies = []
    write = CheckpointFile.write

    def copying(self, arrays):
        write(self, arrays)
        copies.append(tmp_path / f"moment{len(copies)}")
        shutil.copytree(self.given.folder, copies[-1])

    monkeypatch.setattr(CheckpointFile, "write", copying)
    yield copies
    monkeypatch.undo()


def some(copies, count, seed=0):
    """So many of them, the first and the last among them."""
    inner = np.random.default_rng(seed).permutation(len(copies) - 2)[: count - 2] + 1
    return [copies[i] for i in [0, *sorted(inner), len(copies) - 1]]


# --- Any moment ------------------------------------------------------------------


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
            begun = sum(file["partial done"]) if "partial done" in file else 0
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
    """The checkpoint says how many workers' sums there are."""
    slow = Watched(chunks(20, *DATA), seconds=0.01)
    stream(slow, FAR, checkpoint=tmp_path / "all")
    monkeypatch.setattr("jaxfit._stream.fit_stream.cores", lambda: 7)
    copy = list(moments)[5]
    same_bits(stream(p0=FAR, checkpoint=copy), expected)


# --- Processes that are killed ---------------------------------------------------

PROCESS = """
import signal
import sys
import jax
jax.config.update("jax_enable_x64", True)
import streams, test_checkpoint
from jaxfit._stream.checkpoint import CheckpointFile

signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.argv[2] == "always":
    CheckpointFile.is_due = lambda self, end_of_pass: True

def tell(source, i):
    print(source.begun, i, flush=True)

source = streams.Watched(streams.chunks(20, *test_checkpoint.DATA), tell, 0.03)
found = test_checkpoint.stream(
    source, test_checkpoint.FAR,
    checkpoint=test_checkpoint.Checkpoint(sys.argv[1], seconds=0.05),
)
print("end", found.info["status"].name, flush=True)
"""


def ended_by(number, folder, chunks_before, how="always"):
    """Run the fit, send a signal after so many chunks; what it printed last."""
    path = os.pathsep.join(
        [str(ROOT), str(ROOT / "tests" / "shared"), str(ROOT / "tests" / "stream")]
    )
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


# --- Ctrl-C ----------------------------------------------------------------------


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


# --- Files -----------------------------------------------------------------------


def test_a_finished_checkpoint_is_the_answer(tmp_path, expected):
    found = stream(p0=FAR, checkpoint=tmp_path)
    same_bits(found, expected)
    source = Watched(chunks(20, *DATA))
    again = stream(source, FAR, checkpoint=str(tmp_path))
    same_bits(again, expected)
    assert again.info["resumed"] and (source.begun, source.finished) == (1, 0)
    anew = stream(source, FAR, checkpoint=tmp_path, resume=False)
    same_bits(anew, expected)
    assert not anew.info["resumed"] and source.finished == expected.info["passes"]


def test_no_pickle_and_nothing_long_is_in_a_file(tmp_path, expected):
    stream(p0=FAR, checkpoint=tmp_path)
    assert sorted(os.listdir(tmp_path)) in (
        ["latest.npz"],
        ["latest.npz", "previous.npz"],
    )
    with np.load(tmp_path / "latest.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    assert all(array.dtype.kind in "fiubU" for array in arrays.values())
    assert max(a.size for a in arrays.values()) < ROWS
    np.testing.assert_array_equal(arrays["state 0"], expected.solution.params)


def test_a_file_cut_short_falls_back_to_the_previous_one(moments, tmp_path, expected):
    stream(Watched(chunks(20, *DATA), seconds=0.01), FAR, checkpoint=tmp_path / "all")
    copy = list(moments)[20]
    latest, previous = copy / "latest.npz", copy / "previous.npz"
    whole = latest.read_bytes()
    latest.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(RuntimeWarning, match=r"latest.npz' is damaged and not used"):
        found = stream(p0=FAR, checkpoint=copy)
    assert found.info["resumed"]
    same_bits(found, expected)
    for path in (latest, previous):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"previous.npz': damaged.*resume=False"):
        stream(p0=FAR, checkpoint=copy)
    assert latest.read_bytes() == previous.read_bytes() == b""
    found = stream(p0=FAR, checkpoint=copy, resume=False)
    assert not found.info["resumed"]
    same_bits(found, expected)


def test_the_previous_file_stands_alone(moments, tmp_path, expected):
    """A process may end between its two renamings."""
    stream(Watched(chunks(20, *DATA), seconds=0.01), FAR, checkpoint=tmp_path / "all")
    copy = list(moments)[20]
    (copy / "latest.npz").unlink()
    found = stream(p0=FAR, checkpoint=copy)
    assert found.info["resumed"]
    same_bits(found, expected)


def test_damage_of_any_kind_is_found(tmp_path):
    """Cut anywhere, or with a byte changed: what is read is what was written."""
    file = CheckpointFile(Checkpoint(tmp_path), {"model": "a"})
    arrays = {f"array {i}": np.arange(3.0) + i for i in range(6)}
    file.write(arrays)
    whole = file.latest.read_bytes()
    rng = np.random.default_rng(0)
    spoilt = [whole[:n] for n in range(0, len(whole), 61)]
    for at in rng.integers(0, len(whole), 300):
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        spoilt.append(bytes(changed))
    found_bad = 0
    for content in spoilt:
        file.latest.write_bytes(content)
        try:
            found = file.read()
        except CheckpointError:
            found_bad += 1
            continue
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
    assert found_bad > 200


def rewritten(path, change):
    """The file with its arrays changed; whole, as far as its names tell."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    del arrays["names"]
    change(arrays)
    names = np.array(json.dumps(sorted(arrays)))
    np.savez(path, **arrays, names=names)


def set_array(name, value):
    return lambda arrays: arrays.update({name: np.asarray(value)})


def described(**changes):
    def change(arrays):
        description = {**json.loads(str(arrays["description"])), **changes}
        arrays["description"] = np.array(json.dumps(description))

    return change


WHOLE_BUT_ODD = {
    "no state": lambda arrays: arrays.pop("state 0"),
    "no counters": lambda arrays: arrays.pop("counters"),
    "no numbers of rows": lambda arrays: arrays.pop("reading"),
    "one array too many": set_array("state 99", 1.0),
    "another shape": set_array("state 0", np.ones(7)),
    "no shape": set_array("state 0", 1.0),
    "another dtype": set_array("state 0", np.ones(3, np.float32)),
    "words": set_array("state 0", ["a", "b", "c"]),
    "few counters": set_array("counters", [1, 2]),
    "no workers": set_array("counters", [1, 2, 0]),
    "bad rows of one column": set_array("bad rows", np.zeros((3, 1), np.int64)),
    "part of a linearisation": lambda arrays: arrays.pop("current 1"),
    "another format": described(format=2),
    "another version": described(**{"version of jaxfit": "99.0"}),
    "no JSON": set_array("description", "{"),
    "another JSON": set_array("description", "[1, 2]"),
    "a number": set_array("description", 3.0),
}


@pytest.mark.parametrize("kind", WHOLE_BUT_ODD)
def test_a_file_that_is_whole_but_odd_is_refused(tmp_path, kind):
    stream(checkpoint=tmp_path)
    rewritten(tmp_path / "latest.npz", WHOLE_BUT_ODD[kind])
    before = (tmp_path / "latest.npz").read_bytes()
    with pytest.raises(CheckpointError, match=r"checkpoint.*resume=False"):
        stream(checkpoint=tmp_path)
    assert (tmp_path / "latest.npz").read_bytes() == before


@pytest.mark.parametrize("within", ["partial done", "partial others", "costs"])
def test_odd_arrays_within_a_pass_are_refused(moments, tmp_path, within):
    stream(Watched(chunks(20, *DATA), seconds=0.01), FAR, checkpoint=tmp_path / "all")
    for copy in reversed(moments):
        with np.load(copy / "latest.npz") as file:
            held = within in file.files and "partial done" in file.files
        if held:
            break
    assert held
    rewritten(copy / "latest.npz", set_array(within, np.ones((2, 5))))
    with pytest.raises(CheckpointError, match="not one of such a fit"):
        stream(p0=FAR, checkpoint=copy)


@pytest.mark.parametrize(
    "content", [b"", b"garbage" * 100, b"PK\x03\x04", "array", "pickle", "zip"]
)
def test_files_that_are_no_checkpoints(tmp_path, content):
    path = tmp_path / "latest.npz"
    if content == "array":
        with open(path, "wb") as file:
            np.save(file, np.arange(3.0))
    elif content == "pickle":
        path.write_bytes(pickle.dumps({"state 0": 1}))
    elif content == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("letter.txt", "hello")
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"latest.npz': damaged, or no checkp"):
        stream(checkpoint=tmp_path)
    assert stream(checkpoint=tmp_path, resume=False).solution.success


# --- Disks that are full, or may not be written any more ---------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("at", ["mkstemp", "fsync", "replace", "savez"])
def test_a_disk_that_fails_does_not_end_the_fit(
    always, expected, tmp_path, monkeypatch, at, code
):
    """From the third checkpoint on; the one before stands, and can be resumed."""
    where = {"mkstemp": tempfile, "fsync": os, "replace": os, "savez": np}[at]
    whole, calls = getattr(where, at), []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) > 4:
            raise OSError(code, os.strerror(code))
        return whole(*args, **kwargs)

    monkeypatch.setattr(where, at, failing)
    words = rf"could not be written .*{os.strerror(code)}.* stands, .*\.npz"
    with pytest.warns(RuntimeWarning, match=words) as warned:
        found = stream(p0=FAR, checkpoint=tmp_path)
    assert len(warned) == 1 and found.info["checkpoint_failures"] > 1
    same_bits(found, expected)
    monkeypatch.undo()
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
    resumed = stream(p0=FAR, checkpoint=tmp_path)
    assert resumed.info["resumed"]
    same_bits(resumed, expected)


def test_a_disk_that_recovers_is_written_again(always, expected, tmp_path, monkeypatch):
    whole, calls = os.fsync, []

    def failing(handle):
        calls.append(1)
        if 5 <= len(calls) <= 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(handle)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.warns(RuntimeWarning, match="could not be written"):
        found = stream(p0=FAR, checkpoint=tmp_path)
    assert found.info["checkpoint_failures"] == 3
    source = Watched(chunks(20, *DATA))
    same_bits(stream(source, p0=FAR, checkpoint=tmp_path), expected)
    assert source.finished == 0  # the last checkpoint is the answer


def test_an_error_of_the_source_is_told_though_the_disk_is_full(tmp_path, monkeypatch):
    def before(source, i):
        if source.begun == 5:
            raise OSError("gone")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    source = Watched(chunks(20, *DATA), before)
    with (
        pytest.warns(RuntimeWarning, match="there is none before it"),
        pytest.raises(ReadError, match="gone"),
    ):
        stream(source, FAR, retries=0, checkpoint=tmp_path)


def test_what_is_renamed_is_on_the_disk_before(tmp_path, monkeypatch):
    """The file is flushed, then it takes the name, then the folder is flushed."""
    done = []
    fsync, replace = os.fsync, os.replace

    def flushing(handle):
        status = os.fstat(handle)
        folder = stat.S_ISDIR(status.st_mode)
        done.append("folder" if folder else ("file", status.st_ino))
        if not folder and sys.platform == "linux":  # all of it is with the system
            assert "array" in np.load(os.readlink(f"/proc/self/fd/{handle}"))
        return fsync(handle)

    def renaming(source, target):
        done.append((os.path.basename(target), os.stat(source).st_ino))
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", flushing)
    monkeypatch.setattr(os, "replace", renaming)
    file = CheckpointFile(Checkpoint(tmp_path), {})
    for number in range(2):
        file.write({"array": np.arange(3.0) + number})
    first, second = (done[i][1] for i in (0, 3))
    assert done == [
        ("file", first),
        ("latest.npz", first),
        "folder",
        ("file", second),
        ("previous.npz", first),
        ("latest.npz", second),
        "folder",
    ]


# --- Checkpoints of other fits ---------------------------------------------------


def shifted(x, p):
    return decay(x, p) + 1e-3


def huge(x, p):
    return decay(x, p) + jnp.sum(x[:, None] * jnp.linspace(0, 1e-3, 2000), axis=1)


def huge_other(x, p):
    return decay(x, p) + jnp.sum(x[:, None] * jnp.linspace(0, 1.1e-3, 2000), axis=1)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"model": shifted}, "model"),
        ({"loss": "huber"}, "loss"),
        ({"f_scale": 2.0, "loss": "soft_l1"}, "loss"),
        ({"p0": START * 1.5}, "start"),
        ({"bounds": (-9.0, 9.0)}, "bounds"),
        ({"solver": TRF(ftol=1e-3)}, "solver"),
        ({"solver": TRF(linear_solver="qr")}, "solver"),
        ({"solver": TRF(trials=2)}, "solver"),
        ({"chunk_size": 40}, "chunk_size"),
        ({"source": chunks(20, DATA[0], DATA[1] + 1e-9)}, "data"),
        ({"source": chunks(20, *DATA, np.ones(ROWS))}, "data"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(tmp_path, options, what):
    """By name, before any pass; the folder is left as it is."""
    stream(checkpoint=tmp_path)
    before = (tmp_path / "latest.npz").read_bytes()
    words = rf"is of another fit: its [^']*{what}[^']* is .* another folder, .*resume=F"
    with pytest.raises(CheckpointError, match=words):
        stream(checkpoint=tmp_path, **options)
    assert (tmp_path / "latest.npz").read_bytes() == before
    assert issubclass(CheckpointError, ValueError)


def test_a_model_that_captures_other_numbers_is_another_model(tmp_path):
    def model(shift):
        values = np.linspace(0, shift, 300)
        return lambda x, p: decay(x, p) + jnp.sum(0 * x[:, None] + values, axis=1)

    stream(model=model(1e-3), checkpoint=tmp_path)
    assert stream(model=model(1e-3), checkpoint=tmp_path).info["resumed"]
    with pytest.raises(CheckpointError, match="its model"):
        stream(model=model(2e-3), checkpoint=tmp_path)


def test_a_source_that_grew_is_not_what_was_fitted(tmp_path):
    """The first chunk is the same one; an old answer would not know the others."""
    stream(checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"rows|data"):
        stream(chunks(20, *(np.tile(a, 2) for a in DATA)), checkpoint=tmp_path)
    source = jaxfit.ArraySource(*(np.tile(a, 2) for a in DATA))
    with pytest.raises(ValueError, match=r"rows|data"):
        stream(source, checkpoint=tmp_path)


def test_how_chunks_are_cut_makes_no_other_fit(tmp_path):
    stream(checkpoint=tmp_path)
    for source in (chunks(33, *DATA), jaxfit.ArraySource(*DATA)):
        assert stream(source, checkpoint=tmp_path).info["resumed"]


def test_functions_are_known_by_what_they_do_not_where_they_are(tmp_path):
    """A new process has its functions at other addresses."""

    def functions():
        def model(x, p):
            return jax.nn.softplus(p[1]) * 0 + decay(x, p)

        def loss(z):
            return 2 * (jnp.sqrt(1 + z) - 1)

        return model, loss

    for _ in range(2):
        model, loss = functions()
        found = stream(model=model, loss=loss, checkpoint=tmp_path)
    assert found.info["resumed"]


def test_a_jacobian_is_known_by_what_it_does(tmp_path):
    def jacobian(factor=1.0):
        def slopes(x, p):
            e = jnp.exp(-p[1] * x)
            return jnp.stack([e, -p[0] * x * e, factor * jnp.ones_like(x)], axis=1)

        return TRF(linear_solver="gram", jacobian=slopes)

    stream(solver=jacobian(), checkpoint=tmp_path)
    assert stream(solver=jacobian(), checkpoint=tmp_path).info["resumed"]
    with pytest.raises(CheckpointError, match="model or loss"):
        stream(solver=jacobian(1.5), checkpoint=tmp_path)


# --- Folders and numbers ---------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_found_before_the_first_pass(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    source = Watched(chunks(20, *DATA))
    for folder in (file, file / "below", file / "far" / "below"):
        with pytest.raises(ValueError, match="`checkpoint`: nothing can be written"):
            stream(source, checkpoint=folder)
    assert source.finished == 0 and source.begun == 3


def test_folders_are_made(tmp_path):
    stream(checkpoint=tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "latest.npz").exists()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"seconds": 0}, ValueError, "`seconds` must be positive, got 0"),
        ({"seconds": float("nan")}, ValueError, "`seconds` must be positive, got nan"),
        ({"passes": -1}, ValueError, "`passes` must be at least 1, got -1"),
        ({"passes": 1.5}, TypeError, "`passes` must be an integer"),
    ],
)
def test_checkpoint_says_what_is_wrong(
    without_type_checks, tmp_path, options, error, text
):
    with pytest.raises(error, match=text):
        Checkpoint(tmp_path, **options)


def test_how_often(tmp_path, monkeypatch):
    """After so many passes and seconds, unless writing takes too long."""
    clock = [0.0]
    monkeypatch.setattr("jaxfit._stream.checkpoint.time.monotonic", lambda: clock[0])
    file = CheckpointFile(Checkpoint(tmp_path, seconds=30.0, passes=2), {})
    assert [file.is_due(i) for i in (None, 1, 2, 3, 4)] == [
        False,
        False,
        True,
        False,
        True,
    ]
    clock[0] = 31.0
    assert file.is_due(None) and file.is_due(1)
    file.slowest = 1.0
    assert not file.is_due(None) and not file.is_due(2)
    clock[0] = 100.0
    assert file.is_due(None)
    never = CheckpointFile(Checkpoint(tmp_path, passes=0), {})
    assert not never.is_due(1)
    assert "passes=0" in repr(never.given) and str(tmp_path) in repr(never.given)


def test_a_chunk_that_cannot_be_read_leaves_a_checkpoint(tmp_path, expected):
    def before(source, i):
        if source.begun == 5 and i == 6:
            raise OSError("gone")

    source = Watched(chunks(20, *DATA), before)
    with pytest.raises(ReadError, match="chunk 6"):
        stream(source, FAR, retries=0, checkpoint=tmp_path)
    assert (tmp_path / "latest.npz").exists()
    same_bits(stream(p0=FAR, checkpoint=tmp_path), expected)
