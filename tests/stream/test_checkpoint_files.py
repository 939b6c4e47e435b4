"""Files of checkpoints: damaged, odd, on full disks, in folders."""

import errno
import json
import os
import pickle
import stat
import sys
import tempfile
import zipfile

import numpy as np
import pytest
from checkpoints import DATA, FAR, ROWS, stream
from streams import Watched, chunks, same_bits

from jaxfit import Checkpoint, CheckpointError, ReadError
from jaxfit._stream.checkpoint import CheckpointFile


# --- Files -------------------------------------------------------------------------


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
    "few counters": set_array("counters", [1]),
    "many counters": set_array("counters", [1, 2, 0]),
    "bad rows of one column": set_array("bad rows", np.zeros((3, 1), np.int64)),
    "part of a linearisation": lambda arrays: arrays.pop("current 1"),
    "another format": described(format=1),
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


# --- Folders and numbers -----------------------------------------------------------


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
