"""Passes over a source: chunks of any lengths made into blocks of one length.

Blocks are what programs are compiled for. Here chunks are checked (structure, length
of the whole, finite numbers), failures to read are retried, and all of it is counted.
"""

import bisect
import time
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from .._basics.masked import both
from .._basics.trees import padded, take
from .chunk import joined_chunks, without_masks
from .mapped import SourceChangedError, check_file
from .source import Source, check_source, chunks_from, num_rows_of


NanPolicy = Literal["raise", "omit", "propagate"]


class ReadError(OSError):
    """A chunk of a source that could not be read."""


class Block(NamedTuple):
    """So many rows: x, y, sigma (or None), and which of them are `used` (None: all).

    Rows that are not used hold copies of rows that are, or harmless numbers.
    """

    number: int
    x: Any
    y: np.ndarray
    sigma: np.ndarray | None
    used: np.ndarray | None


class Reading:
    """Reads `rows` rows at a time, as often as wanted, and remembers what it saw."""

    def __init__(self, source: Source, rows: int, retries: int, nan_policy: NanPolicy):
        check_source(source)
        self.source, self.rows = source, rows
        self.retries, self.nan_policy = retries, nan_policy
        self.num_rows: int | None = num_rows_of(source)
        self.inspected = 0  # blocks whose numbers were looked at
        self.bad: dict[int, int] = {}  # rows that are not finite, by block
        self.masked: dict[int, int] = {}  # rows that the source leaves out, by block
        self.retried = self.bytes = self.chunks = 0
        self.bytes_before = 0  # of what a checkpoint tells was read
        self.seconds = 0.0  # spent waiting for the source
        self._like: Any = None
        self._begins: list[int] = []  # rows that the chunks of this pass begin at

    @property
    def num_blocks(self) -> int | None:
        """The number of blocks of a pass, once that is known."""
        return None if self.num_rows is None else -(-self.num_rows // self.rows)

    @property
    def num_bad(self) -> int:
        return sum(self.bad.values())

    @property
    def num_used(self) -> int:
        """The number of rows that count, as far as they have been seen."""
        return (self.num_rows or 0) - self.num_bad - sum(self.masked.values())

    def first(self) -> Block:
        """The first block.

        **Raises:** `ValueError` where there are no data.
        """
        block = next(self.blocks(0), None)
        if block is None:
            raise ValueError("`source` holds no rows: there are no data to fit.")
        return block

    def sample(self, rows: int) -> tuple:
        """About so many good rows, taken evenly from all data, as one chunk.

        Of a source that has a `sample` of its own; else it takes a pass.
        """
        own = getattr(self.source, "sample", None)
        if own is not None:
            chunk, counts = self._converted(own(rows), 0)
        else:
            chunk, counts = self._every_so_many(rows)
        used = None if self.nan_policy == "propagate" else _good_rows(chunk)
        used = both(used, counts)
        if used is None:
            return chunk
        return take(chunk, used)

    def _every_so_many(self, rows: int) -> tuple:
        kept: list[tuple] = []
        stride, row = 1, 0
        for chunk in self._checked(0):
            part = take(chunk, slice(-row % stride, None, stride))
            row += len(chunk[0][1])
            kept.append(part)
            if sum(len(part[0][1]) for part in kept) > 2 * rows:
                kept = [take(joined_chunks(kept), slice(None, None, 2))]
                stride *= 2
        return joined_chunks(kept)

    def blocks(self, begin: int) -> Iterator[Block]:
        """The blocks of a pass from number `begin` on; the last may be padded.

        **Raises:** `ReadError` for a chunk that could not be read, `ValueError` for one
        that is not like the first or holds numbers that are not finite, and
        `SourceChangedError` where a pass has another length than the one before.
        """
        number, rows = begin, self.rows
        parts: list[tuple] = []
        held = 0
        for chunk in self._checked(begin * rows):
            size, start = len(chunk[0][1]), 0
            while start < size:
                count = min(rows - held, size - start)
                part = chunk
                if count < size:
                    part = take(chunk, slice(start, start + count))
                parts.append(part)
                start, held = start + count, held + count
                if held == rows:
                    yield self._block(number, parts, held)
                    parts, held, number = [], 0, number + 1
        if held:
            yield self._block(number, parts, held)
        self._check_length(number * rows + held)

    def _block(self, number: int, parts: list[tuple], count: int) -> Block:
        chunk, counts = parts[0] if len(parts) == 1 else joined_chunks(parts)
        used = self._inspect(number, chunk, counts, count)
        if used is not None:
            chunk = _filled(chunk, used)
        if count < self.rows:
            extra = self.rows - count
            used = np.ones(count, bool) if used is None else used
            used = np.concatenate([used, np.zeros(extra, bool)])
            chunk = jax.tree.map(lambda a: padded(a, self.rows), chunk)
        x, y, sigma = chunk if len(chunk) == 3 else (*chunk, None)
        return Block(number, x, y, sigma, used)

    def _inspect(
        self, number: int, chunk: tuple, counts: np.ndarray | None, count: int
    ) -> np.ndarray | None:
        """Which rows count and hold good numbers, or None for all.

        The numbers are looked at once a block; what counts, the source tells each time.
        """
        if counts is not None:
            self.masked[number] = int(count - counts.sum())
        if self.nan_policy == "propagate":
            return counts
        if number < self.inspected and number not in self.bad:
            return counts
        used = _good_rows(chunk if counts is None else _filled(chunk, counts))
        self.inspected = max(self.inspected, number + 1)
        if used is None:
            return counts
        self.bad[number] = int(count - used.sum())
        if self.nan_policy == "raise":
            row = number * self.rows + int(np.argmin(used))
            raise ValueError(
                f"row {row} of the source holds a number that is not finite, or a "
                "`sigma` that is not positive. nan_policy='omit' leaves such rows out."
            )
        return both(used, counts)

    def check_again(self, block: Block) -> None:
        """Look at a block whose sum is not finite; other passes found it good.

        **Raises:** `SourceChangedError` where it holds numbers that are not finite.
        """
        if self.nan_policy == "propagate":
            return
        x, y, sigma = block.x, block.y, block.sigma
        good = _good_rows((x, y) if sigma is None else (x, y, sigma))
        if good is not None and block.used is not None:
            good |= ~np.asarray(block.used)
        if good is None or good.all():
            return
        row = block.number * self.rows + int(np.argmin(good))
        chunk = bisect.bisect_right(self._begins, row) - 1
        raise SourceChangedError(
            f"row {row} of the source, in chunk {chunk}, holds a number that is not "
            "finite, or a `sigma` that is not positive, and did not in an earlier "
            "pass: the source must not change during a fit. Let what writes to it end "
            "first, or fit a copy."
        )

    def _checked(self, begin: int) -> Iterator[tuple]:
        """The source's chunks as NumPy arrays of one structure, and what counts."""
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
            chunk = self._converted(chunk, number)
            if keep:
                chunk = jax.tree.map(np.array, chunk)
            self.seconds += time.perf_counter() - since
            failures = 0
            self.chunks += 1
            # One sigma for all rows was not read for each of them.
            self.bytes += sum(
                a.nbytes for a in jax.tree.leaves(chunk) if 0 not in a.strides
            )
            self._begins.append(row)
            row += len(chunk[0][1])
            number += 1
            if len(chunk[0][1]):
                yield chunk

    def _converted(self, chunk: Any, number: int) -> tuple[tuple, np.ndarray | None]:
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

    def _check_length(self, num_rows: int) -> None:
        if self.num_rows is None:
            self.num_rows = num_rows
        if num_rows != self.num_rows:
            raise SourceChangedError(
                f"the source gave {num_rows} rows in this pass, and {self.num_rows} "
                "before: it must not change during a fit."
            )


def _inexact(dtype: np.dtype) -> np.dtype:
    return dtype if dtype.kind == "f" else np.dtype(np.float64)


def _good_rows(chunk: tuple) -> np.ndarray | None:
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


def _filled(chunk: tuple, used: np.ndarray) -> tuple:
    """Copies of a good row in the place of the others."""
    if not used.any():
        return jax.tree.map(np.ones_like, chunk)
    good = int(np.argmax(used))

    def fill(leaf):
        leaf = np.array(leaf)
        leaf[~used] = leaf[good]
        return leaf

    return jax.tree.map(fill, chunk)


def _described(chunk: Any) -> str:
    def one(a):
        return f"{a.dtype}{list(a.shape)}" if hasattr(a, "shape") else type(a).__name__

    return str(jax.tree.map(one, chunk))
