"""Arrays as a source of chunks: in memory, mapped, of h5py or Zarr."""

import collections
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from .._basics.trees import joined
from .mapped import check_file, give_back
from .source import ROWS


_KEPT = 16  # chunks of a memory map whose pages stay


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
        return self.chunks(0, ROWS)

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
