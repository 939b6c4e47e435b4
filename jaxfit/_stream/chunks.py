"""The chunks of a source: checked, of one structure, read again where that fails.

What was read, how often and for how long, is counted.
"""

import bisect
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from .mapped import SourceChangedError, check_file
from .rows import without_masks
from .source import Source, check_source, chunks_from


class ReadError(OSError):
    """A chunk of a source that could not be read."""


class Chunks:
    """The chunks of `source`, `rows` rows each where it can choose.

    **Attributes:** of all passes together.

    - `count`, `retried`: chunks that came, and further attempts.
    - `bytes`; `bytes_before` of them were read before a checkpoint.
    - `seconds`: spent waiting for the source.
    """

    def __init__(self, source: Source, rows: int, retries: int):
        check_source(source)
        self.source, self.rows, self.retries = source, rows, retries
        self.count = self.retried = self.bytes = self.bytes_before = 0
        self.seconds = 0.0
        self._like: Any = None
        self._begins: list[int] = []  # rows that the chunks of this pass begin at

    def at(self, row: int) -> int:
        """The number of the chunk that a row was read in, in the latest pass."""
        return bisect.bisect_right(self._begins, row) - 1

    def read(self, begin: int) -> Iterator[tuple]:
        """The chunks from row `begin` on, as NumPy arrays, and which rows count.

        **Raises:** `ReadError` for one that could not be read, `ValueError` for one
        that is not like the first.
        """
        row, failures = begin, 0
        self._begins = []
        # Whoever writes chunks of their own may write the next one over the last.
        keep = not hasattr(self.source, "chunks")
        number = 0  # of the chunk, in this pass
        chunks = None
        while True:
            since = time.perf_counter()
            try:
                if chunks is None:
                    chunks = chunks_from(self.source, row, self.rows)
                chunk = next(chunks, None)
            except SourceChangedError:
                raise
            except Exception as err:
                failures += 1
                if failures > self.retries:
                    raise ReadError(
                        f"chunk {number} (from row {row} on) could not be read in "
                        f"{failures} attempts: {err}"
                    ) from err
                self.retried += 1
                time.sleep(min(0.05 * 2**failures, 5.0))
                chunks = None
                continue
            if chunk is None:
                self.seconds += time.perf_counter() - since
                return
            chunk = self.converted(chunk, number)
            if keep:
                chunk = jax.tree.map(np.array, chunk)
            self.seconds += time.perf_counter() - since
            failures = 0
            self.count += 1
            # One sigma for all rows was not read for each of them.
            self.bytes += sum(
                a.nbytes for a in jax.tree.leaves(chunk) if 0 not in a.strides
            )
            self._begins.append(row)
            row += len(chunk[0][1])
            number += 1
            if len(chunk[0][1]):
                yield chunk

    def converted(self, chunk: Any, number: int) -> tuple[tuple, np.ndarray | None]:
        """A chunk as (x, y) or (x, y, sigma), and which of its rows count."""
        if not isinstance(chunk, tuple | list) or len(chunk) not in (2, 3, 4):
            raise ValueError(
                f"chunk {number} of the source must be (x, y) or (x, y, sigma), "
                f"maybe with a mask behind, got {_described(chunk)}."
            )
        chunk, counts = without_masks(tuple(chunk), number)
        x, y, *rest = chunk
        x = jax.tree.map(np.asanyarray, x)
        y = np.asanyarray(y)
        if y.ndim != 1:
            raise ValueError(
                f"y of chunk {number} must have one dimension, got shape {y.shape}."
            )
        if rest and rest[0] is not None:
            sigma = np.asanyarray(rest[0])
            if sigma.ndim > 1:
                raise ValueError(
                    f"sigma of chunk {number} has shape {sigma.shape}: a covariance of "
                    "data ties their rows to each other, and they cannot be visited "
                    "in chunks. Give standard deviations."
                )
            if sigma.ndim == 0:
                sigma = np.broadcast_to(sigma, y.shape)
            found = (x, y, sigma)
        else:
            found = (x, y)
        for path, leaf in jax.tree_util.tree_leaves_with_path(found):
            name = ("x", "y", "sigma")[path[0].idx] + jax.tree_util.keystr(path[1:])
            check_file(leaf)
            if leaf.dtype.kind not in "fiub":
                raise ValueError(
                    f"{name} of chunk {number} must hold real numbers, got "
                    f"{leaf.dtype}."
                )
            if leaf.ndim == 0 or len(leaf) != len(y):
                raise ValueError(
                    f"{name} of chunk {number} has shape {leaf.shape}, and its y has "
                    f"{len(y)} rows."
                )
        return self._like_first(found, number), counts

    def _like_first(self, chunk: tuple, number: int) -> tuple:
        """With the dtypes of the chunks before, and the structure of the first."""
        leaves, treedef = jax.tree.flatten(chunk)
        form = treedef, [a.shape[1:] for a in leaves]
        if self._like is None:
            num_x = len(jax.tree.leaves(chunk[0]))
            kinds = [a.dtype for a in leaves]
            kinds[num_x:] = [_inexact(k) for k in kinds[num_x:]]
            self._like = *form, kinds
        first, shapes, kinds = self._like
        if form != (first, shapes):
            raise ValueError(
                f"chunk {number} of the source is not like the first one: it is "
                f"{_described(chunk)}, and the first was of structure {first} with "
                f"rows of shapes {shapes}."
            )
        # A chunk of wider numbers widens those to come: nothing is cut or rounded.
        kinds[:] = [
            k if a.dtype == k else np.promote_types(k, a.dtype)
            for a, k in zip(leaves, kinds, strict=True)
        ]
        pairs = zip(leaves, kinds, strict=True)
        return jax.tree.unflatten(
            treedef, [a if a.dtype == k else a.astype(k) for a, k in pairs]
        )


def _inexact(dtype: np.dtype) -> np.dtype:
    return dtype if dtype.kind == "f" else np.dtype(np.float64)


def _described(chunk: Any) -> str:
    def one(a):
        return f"{a.dtype}{list(a.shape)}" if hasattr(a, "shape") else type(a).__name__

    return str(jax.tree.map(one, chunk))
