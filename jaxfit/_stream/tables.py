"""Tables of Arrow as a source of chunks: in memory, Parquet, Feather, CSV."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from .source import ROWS, rows_after


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
        return self.chunks(0, ROWS)

    def chunks(self, begin: int, rows: int) -> Iterator[tuple]:
        """Chunks of at most `rows` rows from row `begin` on."""
        return rows_after(map(self._chunk, self._batches(rows)), begin)

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
