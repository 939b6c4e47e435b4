"""Chunks of rows and which of them count: masks, joining, rows that are not finite."""

import jax
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


def good_rows(chunk: tuple) -> np.ndarray | None:
    """Which rows are finite, with a positive sigma, inf maybe; None if all are."""
    good = None
    for i, part in enumerate(chunk):
        for leaf in jax.tree.leaves(part):
            # One sum is faster than a test of each number, and NaN if one of them is.
            with np.errstate(all="ignore"):
                finite = np.isfinite(leaf.sum())
            if finite and (i < 2 or (leaf > 0).all()):
                continue
            if i == 2:  # inf is a weight of 0
                fine = leaf > 0
            else:
                fine = np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)
            good = fine if good is None else good & fine
    return None if good is None or good.all() else good


def filled(chunk: tuple, used: np.ndarray) -> tuple:
    """Copies of a good row in the place of the others."""
    if not used.any():
        return jax.tree.map(np.ones_like, chunk)
    good = int(np.argmax(used))

    def fill(leaf):
        leaf = np.array(leaf)
        leaf[~used] = leaf[good]
        return leaf

    return jax.tree.map(fill, chunk)
