"""Chunks of rows with what counts of them: cut, joined, taken from their masks."""

import numpy as np

from .._basics.masked import both, is_masked, rows_of_x, unmasked
from .._basics.trees import joined


def without_masks(chunk: tuple, number: int) -> tuple[tuple, np.ndarray | None]:
    """A chunk without masks, and which of its rows count, or None for all."""
    *data, counts = chunk if len(chunk) == 4 else (*chunk, None)
    if counts is not None:
        counts = np.asarray(counts)
        if counts.dtype != np.bool_ or counts.shape != np.shape(data[1]):
            raise ValueError(
                f"chunk {number} of the source must be (x, y), (x, y, sigma) or (x, y, "
                f"sigma, mask), and its mask is {counts.dtype} of shape "
                f"{counts.shape}: give a boolean for each row."
            )
    if is_masked(data):
        name = f"chunk {number}"
        data, some = unmasked(data)
        counts = both(counts, rows_of_x(some, np.shape(data[1]), name))
    return tuple(data), counts


def joined_chunks(chunks: list[tuple]) -> tuple:
    """Chunks, one after the other, and what counts of them."""
    if any(counts is not None for _, counts in chunks):
        chunks = [
            (chunk, np.ones(len(chunk[1]), bool) if counts is None else counts)
            for chunk, counts in chunks
        ]
    return joined(chunks)
