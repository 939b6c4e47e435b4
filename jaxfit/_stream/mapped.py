"""Memory maps: files cut short since they were opened, and pages given back."""

import mmap
from typing import Any

import jax
import numpy as np


class SourceChangedError(ValueError):
    """A source whose chunks are not what they were."""


def check_file(array: Any) -> None:
    """Refuse a view of a memory map whose file was cut short since it was opened.

    Reading beyond the file's end ends the process by a signal, SIGBUS. A file that is
    cut between this look and the reading still does.

    **Raises:** `SourceChangedError`.
    """
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None) if isinstance(array, np.ndarray) else None
    pages = getattr(array, "_mmap", None)
    if array is None or not isinstance(pages, mmap.mmap):
        return
    begin = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    size, wanted = pages.size(), begin + len(pages)
    if size < wanted:
        raise SourceChangedError(
            f"the file {str(array.filename)!r} was cut to {size} bytes, and what is "
            f"fitted reaches to byte {wanted}: the source must not change during a "
            "fit. Let what writes to it end first, or fit a copy."
        )


def give_back(chunk: Any) -> None:
    """Unmap the pages of views of shared memory maps; they can be read again."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    for view in jax.tree.leaves(chunk):
        pages = getattr(view, "_mmap", None)
        if (
            not isinstance(view, np.memmap)
            or not isinstance(pages, mmap.mmap)
            or view.mode == "c"
            or not view.flags.c_contiguous
        ):
            continue
        whole = np.frombuffer(pages, np.uint8)
        begin = view.ctypes.data - whole.ctypes.data
        first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (begin + view.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            pages.madvise(mmap.MADV_DONTNEED, first, last - first)
