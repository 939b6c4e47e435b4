"""Streamed fits that several files look at."""

import shutil

import pytest
from checkpoints import FAR, stream

from jaxfit._stream.checkpoint import CheckpointFile


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
