"""Sources of streamed data: chunks of rows that can be read again and again.

A source is anything that gives chunks when it is iterated over, `(x, y)` or
`(x, y, sigma)`, each time from the first on and in the same order: x a PyTree of arrays
with a row for each datum, y and sigma of shape (rows,). Chunks may differ in length. A
fourth entry, booleans of shape (rows,), tells which rows count (sigma may be None
then); NumPy's masked arrays say the same.

A source may know more of itself: `num_rows`, and `chunks(begin, rows)`, its chunks
from row `begin` on, of `rows` rows where it can choose. Those of this file do.
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .._basics.trees import take


ROWS = 2**18  # in a chunk where nobody chose


@runtime_checkable
class Source(Protocol):
    """What can be streamed: each `iter(source)` is a new pass over its chunks."""

    def __iter__(self) -> Iterator[tuple]: ...


def chunks_from(source: Source, begin: int, rows: int) -> Iterator[tuple]:
    """The chunks of a source from row `begin` on."""
    if hasattr(source, "chunks"):
        return iter(source.chunks(begin, rows))  # type: ignore[attr-defined]
    return rows_after(iter(source), begin)


def rows_after(chunks: Iterator[tuple], skip: int) -> Iterator[tuple]:
    """The chunks without their first rows."""
    for chunk in chunks:
        count = len(chunk[1]) if skip else 0
        if skip >= count > 0:
            skip -= count
            continue
        yield take(chunk, slice(skip, None)) if skip else chunk
        skip = 0


def num_rows_of(source: Source) -> int | None:
    """The number of rows where it is known without reading: told, or of a list."""
    if isinstance(source, list | tuple) and all(
        isinstance(chunk, list | tuple) and len(chunk) > 1 and np.ndim(chunk[1]) == 1
        for chunk in source
    ):
        return sum(len(chunk[1]) for chunk in source)
    return getattr(source, "num_rows", None)


def check_source(source: Any) -> None:
    """Refuse what gives its chunks only once, or none at all."""
    if not isinstance(source, Source):
        raise TypeError(
            "`source` must give chunks (x, y) or (x, y, sigma) when it is iterated "
            f"over, got {type(source).__name__}: use a list of chunks, an object whose "
            "__iter__ begins anew, jaxfit.ArraySource or jaxfit.TableSource."
        )
    if isinstance(source, Iterator):
        raise TypeError(
            "`source` can be read only once, and a fit makes several passes: give an "
            "object whose __iter__ begins anew, not a generator."
        )
