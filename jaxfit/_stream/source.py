"""Where streamed data come from: chunks of rows that can be read again and again.

A source is anything that gives chunks when it is iterated over, `(x, y)` or
`(x, y, sigma)`, each time from the first on and in the same order: x a PyTree of arrays
with a row for each datum, y and sigma of shape (rows,). Chunks may differ in length. A
fourth entry, booleans of shape (rows,), tells which rows count (sigma may be None
then); NumPy's masked arrays say the same.

A source may know more of itself: `num_rows`, and `chunks(begin, rows)`, its chunks
from row `begin` on, of `rows` rows where it can choose. Those of this file do.
"""

import collections
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from .._basics.trees import joined, take
from .mapped import check_file, give_back


_ROWS = 2**18  # in a chunk where nobody chose
_KEPT = 16  # chunks of a memory map whose pages stay


@runtime_checkable
class Source(Protocol):
    """What can be streamed: each `iter(source)` is a new pass over its chunks."""

    def __iter__(self) -> Iterator[tuple]: ...


def chunks_from(source: Source, begin: int, rows: int) -> Iterator[tuple]:
    """The chunks of a source from row `begin` on."""
    if hasattr(source, "chunks"):
        return iter(source.chunks(begin, rows))  # type: ignore[attr-defined]
    return _without(iter(source), begin)


def _without(chunks: Iterator[tuple], skip: int) -> Iterator[tuple]:
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


class ArraySource:
    """Arrays, on disk or not: whatever has a shape, a dtype and can be sliced.

    NumPy arrays and memory maps, datasets of h5py, arrays of Zarr.

    **Arguments:**

    - `x`: PyTree of arrays with m rows along their first axis, or their last if
        `rows_last`.
    - `y`: array of shape (m,).
    - `sigma`: standard deviations of y: None, an array of shape (m,) or one number.
    - `mask`: None, or booleans of shape (m,): False leaves a row out.

    **Raises:** `ValueError` where lengths differ, there are no data, or `sigma` is a
    matrix.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        sigma: Any = None,
        *,
        rows_last: bool = False,
        mask: Any = None,
    ):
        self.x, self.y, self.rows_last = x, y, bool(rows_last)
        self.num_rows = _length(y, "y")
        axis = -1 if rows_last else 0
        leaves = jax.tree_util.tree_leaves_with_path(x)
        if not leaves:
            raise ValueError("`x` holds no arrays.")
        for path, leaf in leaves:
            shape = np.shape(leaf) if not hasattr(leaf, "shape") else leaf.shape
            if len(shape) == 0 or shape[axis] != self.num_rows:
                raise ValueError(
                    f"`x{jax.tree_util.keystr(path)}` has shape {tuple(shape)}, and "
                    f"`y` has {self.num_rows} rows."
                )
        if sigma is not None and np.ndim(sigma) == 0:
            self.sigma = float(sigma)
        elif sigma is not None and np.ndim(sigma) > 1:
            raise ValueError(
                f"`sigma` has shape {tuple(sigma.shape)}: a covariance of all data "
                "ties every row to every other, and they cannot be visited in chunks. "
                "Give standard deviations, or fit in memory by jaxfit.curve_fit."
            )
        else:
            self.sigma = sigma
            if sigma is not None and _length(sigma, "sigma") != self.num_rows:
                raise ValueError(
                    f"`sigma` has {len(sigma)} rows, and `y` has {self.num_rows}."
                )
        if isinstance(mask, list | tuple):
            mask = np.asarray(mask)
        if mask is not None and mask.dtype != np.bool_:
            raise TypeError(
                f"`mask` must be boolean, got {mask.dtype}: True for what counts."
            )
        if mask is not None and _length(mask, "mask") != self.num_rows:
            raise ValueError(
                f"`mask` has shape {tuple(mask.shape)}, and `y` has {self.num_rows} "
                "rows."
            )
        self.mask = mask

    def __iter__(self) -> Iterator[tuple]:
        return self.chunks(0, _ROWS)

    def chunks(self, begin: int, rows: int) -> Iterator[tuple]:
        """Chunks of `rows` rows from row `begin` on."""
        seen: collections.deque = collections.deque()
        for i in range(begin, self.num_rows, rows):
            j = min(i + rows, self.num_rows)
            for array in jax.tree.leaves((self.x, self.y, self.sigma)):
                check_file(array)
            x = jax.tree.map(lambda a, i=i, j=j: self._rows(a, i, j), self.x)
            y = self.y[i:j]
            sigma: Any = self.sigma
            if sigma is not None and not isinstance(sigma, float):
                sigma = sigma[i:j]
            chunk = (x, y) if sigma is None else (x, y, sigma)
            if self.mask is not None:
                chunk = (x, y, sigma, self.mask[i:j])
            yield chunk
            # The pages of a memory map count as memory of the process. What was read
            # some chunks ago is given back; the system still has it in its cache.
            seen.append(chunk)
            if len(seen) > _KEPT:
                give_back(seen.popleft())
        while seen:
            give_back(seen.popleft())

    def sample(self, rows: int) -> tuple:
        """About so many rows in 64 pieces, taken evenly from all; at most all."""
        if rows >= self.num_rows:
            return _plain(next(self.chunks(0, self.num_rows)))
        piece = max(1, rows // 64)
        begins = np.linspace(0, max(0, self.num_rows - piece), 64).astype(int)
        pieces = [next(self.chunks(int(i), piece)) for i in np.unique(begins)]
        return joined([*map(_plain, pieces)])

    def _rows(self, array: Any, i: int, j: int) -> np.ndarray:
        if self.rows_last and len(array.shape) > 1:
            return np.moveaxis(array[..., i:j], -1, 0)
        return array[i:j]


class TableSource:
    """Columns of a table of Arrow, in memory or on disk (Parquet, Feather, CSV).

    **Arguments:**

    - `table`: a pyarrow Table, Dataset or ParquetFile, or the path of a file or folder
        (or several files) that `pyarrow.dataset.dataset` opens.
    - `x`: the name of a column, a sequence of names (the model is then given a tuple of
        arrays) or a dictionary of them.
    - `y`, `sigma`: the name of a column; `sigma` may be None.

    Integers become float64, in which what is missing can be NaN. The format of files is
    told by their names (.feather, .arrow, .csv), else it is Parquet.

    **Raises:** `ImportError` without pyarrow; `TypeError` for what is no table;
    `ValueError` for a column that does not exist.
    """

    def __init__(self, table: Any, x: Any, y: str, sigma: str | None = None):
        if isinstance(table, str | os.PathLike | list | tuple):
            table = _dataset(table)
        self.table, self.y, self.sigma = table, y, sigma
        self.x = tuple(x) if isinstance(x, Sequence) and not isinstance(x, str) else x
        if isinstance(x, Mapping):
            self.x = dict(x)
        if not hasattr(table, "schema"):
            raise TypeError(
                "`table` must be a pyarrow Table, Dataset or ParquetFile, or a path, "
                f"got {type(table).__name__}."
            )
        schema = table.schema_arrow if hasattr(table, "schema_arrow") else table.schema
        names = [*jax.tree.leaves(self.x), y, *([] if sigma is None else [sigma])]
        missing = [name for name in names if name not in schema.names]
        if missing:
            raise ValueError(
                f"`table` has no column {missing[0]!r}: it has "
                f"{', '.join(schema.names)}."
            )
        self._names = list(dict.fromkeys(names))
        if hasattr(table, "count_rows"):
            self.num_rows = int(table.count_rows())
        elif hasattr(table, "metadata"):
            self.num_rows = int(table.metadata.num_rows)
        else:
            self.num_rows = int(table.num_rows)

    def __iter__(self) -> Iterator[tuple]:
        return self.chunks(0, _ROWS)

    def chunks(self, begin: int, rows: int) -> Iterator[tuple]:
        """Chunks of at most `rows` rows from row `begin` on."""
        return _without(map(self._chunk, self._batches(rows)), begin)

    def _batches(self, rows: int) -> Iterator[Any]:
        table = self.table
        if hasattr(table, "iter_batches"):
            return table.iter_batches(batch_size=rows, columns=self._names)
        if hasattr(table, "scanner"):
            # Arrow would read 16 batches of each of 4 files ahead.
            scanner = table.scanner(
                columns=self._names,
                batch_size=rows,
                batch_readahead=2,
                fragment_readahead=1,
            )
            return scanner.to_batches()
        return iter(table.select(self._names).to_batches(max_chunksize=rows))

    def _chunk(self, batch: Any) -> tuple:
        def column(name):
            values = batch.column(name).to_numpy(zero_copy_only=False)
            # What is missing is NaN, which integers have none of.
            return values.astype(float) if values.dtype.kind in "iub" else values

        x = jax.tree.map(column, self.x)
        if self.sigma is None:
            return x, column(self.y)
        return x, column(self.y), column(self.sigma)


def _plain(chunk: tuple) -> tuple:
    """With a sigma for each row."""
    x, y, *sigma = chunk
    return (
        x,
        y,
        *(
            np.full(len(y), s) if s is not None and np.ndim(s) == 0 else s
            for s in sigma
        ),
    )


def _dataset(path: Any) -> Any:
    try:
        import pyarrow.dataset
    except ImportError as err:
        raise ImportError(
            "files of tables need pyarrow: pip install 'jaxfit-kernel[stream]'."
        ) from err
    first: Any = path[0] if isinstance(path, list | tuple) and path else path
    suffix = os.path.splitext(str(first))[1].lower()
    formats = {".feather": "feather", ".arrow": "ipc", ".ipc": "ipc", ".csv": "csv"}
    return pyarrow.dataset.dataset(path, format=formats.get(suffix, "parquet"))


def _length(array: Any, name: str) -> int:
    if not hasattr(array, "shape"):
        raise TypeError(
            f"`{name}` must be an array with a shape, got {type(array).__name__}."
        )
    if len(array.shape) != 1:
        raise ValueError(
            f"`{name}` must have one dimension, got shape {tuple(array.shape)}."
        )
    if array.shape[0] == 0:
        raise ValueError(f"`{name}` is empty: there are no data to fit.")
    return int(array.shape[0])
