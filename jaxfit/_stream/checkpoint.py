"""Checkpoints: arrays and a description in a file that is replaced atomically.

A file is written beside the last one, flushed to the disk and renamed over it, which
has become `previous` before. A file that is cut short fails its checksums, and the
previous one is taken. There is no pickle in it: NumPy's npz format and a line of JSON.
A disk that is full or may not be written any more ends no fit: what was written last
stands, and a warning says so.
"""

import contextlib
import json
import os
import tempfile
import time
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from .._basics.checks import positive_int


FORMAT = 2
_DESCRIPTION, _NAMES = "description", "names"


# What NumPy and the standard library raise for files of which bits have changed.
_DAMAGE = (
    *(OSError, EOFError, KeyError, ValueError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


class CheckpointError(ValueError):
    """A checkpoint that belongs to something else, or of which nothing can be read."""


class Checkpoint:
    """Where a fit keeps its checkpoints, and how often.

    **Arguments:**

    - `folder`: a folder, made if it does not exist.
    - `seconds`: time between checkpoints. They may come within a pass.
    - `passes`: passes between checkpoints; 0 for none at the ends of passes.

    Whatever is asked for, writing takes at most one hundredth of the time.

    **Raises:** `ValueError` for numbers out of range.
    """

    def __init__(
        self, folder: str | os.PathLike, *, seconds: float | int = 30.0, passes: int = 1
    ):
        self.folder = Path(folder)
        if not (isinstance(seconds, int | float) and seconds > 0):
            raise ValueError(f"`seconds` must be positive, got {seconds!r}.")
        self.seconds = float(seconds)
        self.passes = 0 if passes == 0 else positive_int("passes", passes)

    @staticmethod
    def of(given: "str | os.PathLike | Checkpoint") -> "Checkpoint":
        """A checkpoint as it is, or one in a folder that was named."""
        return given if isinstance(given, Checkpoint) else Checkpoint(given)

    def __repr__(self) -> str:
        return (
            f"Checkpoint({str(self.folder)!r}, seconds={self.seconds}, "
            f"passes={self.passes})"
        )


class CheckpointFile:
    """The files of one fit; `identity` is what must be equal for it to be resumed."""

    def __init__(self, given: Checkpoint, identity: dict[str, Any]):
        self.given, self.identity = given, identity
        self.latest = given.folder / "latest.npz"
        self.previous = given.folder / "previous.npz"
        self.slowest = 0.0  # seconds that writing took at most
        self.count = self.failures = 0
        self._written = time.monotonic()
        self._check_writable()

    def _check_writable(self) -> None:
        try:
            self.given.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.given.folder):
                pass
        except OSError as err:
            raise ValueError(
                f"`checkpoint`: nothing can be written into the folder "
                f"{str(self.given.folder)!r} ({err.strerror})."
            ) from err

    def is_due(self, end_of_pass: int | None) -> bool:
        """Whether to write now; `end_of_pass` is the number of the pass that ended."""
        waited = time.monotonic() - self._written
        if waited < 100 * self.slowest:
            return False
        every = self.given.passes
        wanted = end_of_pass is not None and every > 0 and end_of_pass % every == 0
        return wanted or waited >= self.given.seconds

    def save(self, arrays: dict[str, np.ndarray]) -> None:
        """Write a checkpoint if that can be done.

        **Warns:** `RuntimeWarning` the first time that it cannot.
        """
        try:
            self.write(arrays)
        except OSError as err:
            self.failures += 1
            self._written = time.monotonic()
            if self.failures > 1:
                return
            latest = self.latest if self.latest.exists() else self.previous
            kept = "there is none before it"
            if latest.exists():
                kept = f"the one written before it stands, {str(latest)!r}"
            warnings.warn(
                f"a checkpoint could not be written into {str(self.given.folder)!r} "
                f"({err.strerror or err}): {kept}. The fit goes on, and tries again. "
                "Make room or the folder writable, or interrupt it by Ctrl-C.",
                RuntimeWarning,
                stacklevel=4,
            )

    def write(self, arrays: dict[str, np.ndarray]) -> None:
        """Write a checkpoint; what stood there before stays until it is done.

        **Raises:** `OSError` where the disk is full or may not be written.
        """
        begun = time.monotonic()
        description = json.dumps({"format": FORMAT, **self.identity})
        handle, name = tempfile.mkstemp(".tmp", "checkpoint-", self.given.folder)
        try:
            with os.fdopen(handle, "wb") as file:
                arrays = {_DESCRIPTION: np.array(description), **arrays}
                arrays[_NAMES] = np.array(json.dumps(sorted(arrays)))
                np.savez(file, **arrays)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            if self.latest.exists():
                os.replace(self.latest, self.previous)
            os.replace(name, self.latest)
        except BaseException:
            with contextlib.suppress(OSError):  # what went wrong before is told
                os.unlink(name)
            raise
        _flush_folder(self.given.folder)
        self._written = time.monotonic()
        self.slowest = max(self.slowest, self._written - begun)
        self.count += 1

    def read(self) -> dict[str, np.ndarray] | None:
        """The last checkpoint that is whole, or None where there is no file.

        **Raises:** `CheckpointError` where it is of another problem or version, and
        where there are files but none of them is a checkpoint that is whole.

        **Warns:** `RuntimeWarning` where the last one is damaged and the one before it
        is taken.
        """
        damaged = []
        for path in (self.latest, self.previous):
            if not path.exists():
                continue
            found = _load(path)
            if found is None:
                damaged.append(str(path))
                continue
            self._check(path, found.pop(_DESCRIPTION))
            if damaged:
                warnings.warn(
                    f"the checkpoint {damaged[0]!r} is damaged and not used; the one "
                    f"before it, {str(path)!r}, is.",
                    RuntimeWarning,
                    stacklevel=4,
                )
            return found
        if damaged:
            raise CheckpointError(
                f"{' and '.join(map(repr, damaged))}: damaged, or no checkpoint, and "
                "there is no other to continue from. Give this fit another folder, or "
                "start anew with resume=False."
            )
        return None

    def _check(self, path: Path, written: np.ndarray) -> None:
        try:
            description = json.loads(str(written))
        except ValueError:
            description = None
        if not isinstance(description, dict):
            raise CheckpointError(
                f"the checkpoint {str(path)!r} does not say what it is of. Give this "
                "fit another folder, or start anew with resume=False."
            )
        for key, wanted in {"format": FORMAT, **self.identity}.items():
            got = description.get(key)
            if got != wanted:
                raise CheckpointError(
                    f"the checkpoint {str(path)!r} is of another fit: its {key} is "
                    f"{got!r} and this fit's is {wanted!r}. Give this fit another "
                    "folder, or start anew with resume=False."
                )


def _load(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file, or None if it is damaged."""
    try:
        with open(path, "rb") as handle:
            file = np.load(handle, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):  # one array
                return None
            with file:
                found = {name: file[name] for name in file.files}
                names = json.loads(str(found.pop(_NAMES)))
    except _DAMAGE:
        return None
    if sorted(found) != names or _DESCRIPTION not in found:
        return None
    return found


def _flush_folder(folder: Path) -> None:
    """Make the renaming last, where folders can be opened."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
