"""Blocks of one length, which programs are compiled for, of chunks of any lengths.

Here numbers are checked to be finite, and passes to have one length.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from .._basics.masked import both
from .._basics.trees import padded, take
from .chunks import Chunks
from .mapped import SourceChangedError
from .rows import filled, good_rows, joined_chunks
from .source import Source, num_rows_of


NanPolicy = Literal["raise", "omit", "propagate"]


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
        self.chunks = Chunks(source, rows, retries)
        self.source, self.rows, self.nan_policy = source, rows, nan_policy
        self.num_rows: int | None = num_rows_of(source)
        self.inspected = 0  # blocks whose numbers were looked at
        self.bad: dict[int, int] = {}  # rows that are not finite, by block
        self.masked: dict[int, int] = {}  # rows that the source leaves out, by block

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
            chunk, counts = self.chunks.converted(own(rows), 0)
        else:
            chunk, counts = self._every_so_many(rows)
        used = None if self.nan_policy == "propagate" else good_rows(chunk)
        used = both(used, counts)
        if used is None:
            return chunk
        return take(chunk, used)

    def _every_so_many(self, rows: int) -> tuple:
        kept: list[tuple] = []
        stride, row = 1, 0
        for chunk in self.chunks.read(0):
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
        for chunk in self.chunks.read(begin * rows):
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
            chunk = filled(chunk, used)
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
        used = good_rows(chunk if counts is None else filled(chunk, counts))
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
        good = good_rows((x, y) if sigma is None else (x, y, sigma))
        if good is not None and block.used is not None:
            good |= ~np.asarray(block.used)
        if good is None or good.all():
            return
        row = block.number * self.rows + int(np.argmin(good))
        chunk = self.chunks.at(row)
        raise SourceChangedError(
            f"row {row} of the source, in chunk {chunk}, holds a number that is not "
            "finite, or a `sigma` that is not positive, and did not in an earlier "
            "pass: the source must not change during a fit. Let what writes to it end "
            "first, or fit a copy."
        )

    def _check_length(self, num_rows: int) -> None:
        if self.num_rows is None:
            self.num_rows = num_rows
        if num_rows != self.num_rows:
            raise SourceChangedError(
                f"the source gave {num_rows} rows in this pass, and {self.num_rows} "
                "before: it must not change during a fit."
            )
