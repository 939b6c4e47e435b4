"""Data as SciPy's callers pass them, read once on the host and checked by value.

Rows come first in everything that leaves this file: an x of shape (k, M) is turned,
and `rows_last` says so. What is left out by `nan_policy="omit"` is masked, never cut,
so the shapes stay.
"""

import contextlib
import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from .._basics.checks import broadcast_like
from .._basics.masked import both, is_masked, read_mask, rows_of_x, unmasked
from .._basics.trees import padded
from .._problem.sigma import check_sigma


@dataclasses.dataclass(frozen=True)
class Data:
    """x, y, sigma and mask as NumPy arrays of the fit's dtype, rows first.

    `mask` is in the structure of `y`, or None; `num_rows` is the length M of a
    y of shape (M,), else None.
    """

    x: Any
    y: Any
    sigma: Any
    mask: Any
    rows_last: bool
    num_rows: int | None

    @functools.cached_property
    def count(self) -> int:
        """The number of data that are used."""
        if self.mask is None:
            if self.num_rows is not None:
                return self.num_rows
            return sum(leaf.size for leaf in jax.tree.leaves(self.y))
        return int(sum(leaf.sum() for leaf in jax.tree.leaves(self.mask)))

    @property
    def can_be_padded(self) -> bool:
        """Whether rows can be added, provided the model treats them one by one."""
        return (
            self.num_rows is not None
            and (self.sigma is None or np.ndim(self.sigma) < 2)
            and any([self.is_rows(leaf) for leaf in jax.tree.leaves(self.x)])
        )

    def is_rows(self, leaf) -> bool:
        """Whether an array of x, y, sigma or mask has a row for each datum."""
        return np.ndim(leaf) > 0 and len(leaf) == self.num_rows

    def padded(self, length: int) -> tuple["Data", "Data"]:
        """A copy with more rows, not masked yet, and of that copy the data alone."""

        def pad(leaf):
            return padded(leaf, length) if self.is_rows(leaf) else leaf

        def cut(leaf, wide):
            return wide[: self.num_rows] if self.is_rows(leaf) else leaf

        wide, own = [], []
        for array in (self.x, self.y, self.sigma, self.mask):
            wide.append(None if array is None else _mapped(pad, array))
            own.append(None if array is None else _mapped(cut, array, wide[-1]))
        rest: Any = self.rows_last, self.num_rows
        return Data(*wide, *rest), Data(*own, *rest)

    @property
    def callers_x(self) -> Any:
        """x in the form in which it came."""
        return np.moveaxis(self.x, 0, -1) if self.rows_last else self.x

    @property
    def used(self) -> Any:
        """Which data count, in the structure of y."""
        if self.mask is not None:
            return self.mask
        return _mapped(lambda a: np.ones(a.shape, bool), self.y)

    def counting(self) -> tuple[Any, Any]:
        """x and y in the caller's form, without rows that do not count.

        Where y is no vector nothing is left out.
        """
        x, y = self.x, self.y
        if self.num_rows is not None and self.mask is not None:
            x, y = jax.tree.map(
                lambda a: a[self.mask] if self.is_rows(a) else a, (x, y)
            )
        return np.moveaxis(x, 0, -1) if self.rows_last else x, y

    def copied(self) -> "Data":
        """The data safe from later changes by their owner."""
        return dataclasses.replace(
            self, **{k: jax.tree.map(np.array, getattr(self, k)) for k in _ARRAYS}
        )


_ARRAYS = ("x", "y", "sigma", "mask")


def _mapped(fn: Any, tree: Any, *rest: Any) -> Any:
    """`jax.tree.map`, at once where the tree is an array."""
    if type(tree) is np.ndarray:
        return fn(tree, *rest)
    return jax.tree.map(fn, tree, *rest)


def fit_dtype(ydata: Any) -> np.dtype:
    """float32 for JAX arrays that are, else float64: NumPy in, double precision out."""
    if type(ydata) is np.ndarray:
        return _DOUBLE
    leaves = jax.tree.leaves(ydata)
    narrow = bool(leaves) and all(
        isinstance(leaf, jax.Array)
        and leaf.dtype.itemsize <= 4
        and leaf.dtype.kind == "f"
        for leaf in leaves
    )
    return np.dtype(np.float32) if narrow else _DOUBLE


_DOUBLE = np.dtype(np.float64)


def read_data(
    xdata: Any,
    ydata: Any,
    sigma: Any,
    check_finite: bool,
    nan_policy: str | None,
    dtype: np.dtype,
    mask: Any = None,
) -> Data:
    """Check the data and bring them into one form.

    What is under NumPy's masks, or where `mask` is False, counts for nothing.

    **Raises:** `ValueError` or `TypeError` naming the argument and the first bad index.
    """
    look = check_finite or nan_policy is not None
    if mask is None and nan_policy != "omit":
        data = _as_they_are(xdata, ydata, sigma, look, dtype)
        if data is not None:
            return data
    xdata, x_counts = unmasked(xdata)
    ydata, y_counts = unmasked(gathered(ydata))
    sigma, sigma_counts = unmasked(gathered(sigma))
    y = _tree(ydata, "ydata", dtype)
    if sum(leaf.size for leaf in jax.tree.leaves(y)) == 0:
        raise ValueError("`ydata` must not be empty!")
    x, rows_last, num_rows = _x(xdata, y, dtype)
    mask = both(read_mask(gathered(mask), y), y_counts)
    if sigma_counts is not None:
        mask = both(mask, broadcast_like(sigma_counts, y, "sigma", "ydata"))
    if x_counts is not None:
        x_counts = _gathered_x(x_counts)
        x_counts = np.moveaxis(x_counts, -1, 0) if rows_last else x_counts
        some = jax.tree.map(lambda a: rows_of_x(x_counts, a.shape, "xdata"), y)
        mask = both(mask, some)
    if mask is not None and not any(leaf.any() for leaf in jax.tree.leaves(mask)):
        raise ValueError("`ydata` is masked, all of it: there are no data to fit.")
    if look:
        good_y = jax.tree.map(np.isfinite, y)
        good_x = [
            (path, np.isfinite(leaf))
            for path, leaf in jax.tree_util.tree_leaves_with_path(x)
            if np.issubdtype(np.asarray(leaf).dtype, np.inexact)
        ]
        if nan_policy == "omit":
            mask = both(mask, _usable(good_x, good_y, num_rows))
        elif nan_policy != "propagate":
            if mask is not None:  # what does not count may hold anything
                good_y = jax.tree.map(lambda good, used: good | ~used, good_y, mask)
                good_x = [(p, _or_unused(a, mask, num_rows)) for p, a in good_x]
            _refuse_non_finite(x, good_x, "xdata", nan_policy, rows_last)
            good = jax.tree_util.tree_leaves_with_path(good_y)
            _refuse_non_finite(y, good, "ydata", nan_policy, False)
    if sigma is not None:
        sigma = check_sigma(_tree(sigma, "sigma", dtype), y, mask)
    return Data(x, y, sigma, mask, rows_last, num_rows)


def _as_they_are(
    x: Any, y: Any, sigma: Any, look: bool, dtype: np.dtype
) -> Data | None:
    """Vectors that need nothing but a `look` at their values; None for others.

    Most data are such, and the reading of the others takes as long as a small fit.
    """
    for array in (x, y) if sigma is None else (x, y, sigma):
        vector = type(array) is np.ndarray and array.ndim == 1
        if not vector or array.dtype != dtype or array.size == 0:
            return None
    if look and not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    if sigma is not None:
        sigma = check_sigma(sigma, y, None)
    return Data(x, y, sigma, None, False, len(y))


def gathered(tree: Any) -> Any:
    """A list or tuple as what it stands for, a list for one array or a tuple of them.

    Numbers, and arrays of one shape, are one array, as SciPy takes them. Arrays of
    several shapes, and dictionaries, are as many arrays.
    """
    if not isinstance(tree, list | tuple):
        return tree
    if any(isinstance(part, dict) for part in tree):
        return tuple(tree)
    try:
        shapes = {np.shape(part) for part in tree}
    except ValueError:  # lists that are no arrays, which `real_array` refuses
        return list(tree)
    if len(shapes) > 1 and () not in shapes:
        return tuple(np.asanyarray(part) for part in tree)
    return np.ma.stack(tree) if is_masked(tree) else list(tree)


def _tree(tree: Any, name: str, dtype: np.dtype) -> Any:
    """Real arrays of the fit's dtype."""
    if isinstance(tree, list):
        return real_array(tree, name, dtype)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: real_array(leaf, name + jax.tree_util.keystr(path), dtype),
        tree,
    )


def real_array(value: Any, name: str, dtype: np.dtype) -> np.ndarray:
    """`value` as an array of real numbers of `dtype`."""
    if isinstance(value, Tracer):
        raise TypeError(
            f"`{name}` is traced by JAX, and this function works on the host: inside "
            "jit, vmap or grad call jaxfit.solve(jaxfit.curve_problem(...))."
        )
    array = np.asarray(value)
    if array.dtype.kind == "c":
        raise TypeError(
            f"`{name}` must be real, got {array.dtype}: fit real and imaginary parts "
            "as two arrays."
        )
    if array.dtype.kind in "USMm":
        raise ValueError(f"`{name}` must hold numbers, got {value!r:.60}.")
    if array.dtype.names is not None:
        fields = ", ".join(array.dtype.names)
        raise TypeError(
            f"`{name}` must hold numbers, got a structured array with fields {fields}: "
            f"give a dictionary, {{name: array[name] for name in array.dtype.names}}."
        )
    try:
        return array.astype(dtype, copy=False)
    except (TypeError, ValueError) as err:
        raise ValueError(
            f"`{name}` must hold numbers, got {type(value).__name__}: {err}."
        ) from err


def _x(xdata: Any, y: Any, dtype: np.dtype) -> tuple[Any, bool, int | None]:
    """x with rows first, whether they were last, and the number of rows."""
    num_rows = len(y) if isinstance(y, np.ndarray) and y.ndim == 1 else None
    x = read_x(xdata, "xdata", dtype)
    if num_rows is None or not isinstance(x, np.ndarray) or x.ndim == 0:
        return x, False, num_rows
    if x.ndim > 1 and x.shape[-1] == num_rows:
        return np.moveaxis(x, -1, 0), True, num_rows
    return x, False, num_rows


def read_x(x: Any, name: str, dtype: np.dtype) -> Any:
    """x as one array or, with parts by name or of unequal shape, a PyTree of them."""
    x = _gathered_x(x)
    if hasattr(x, "__array__"):
        return real_array(x, name, dtype)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _x_leaf(path, leaf, name, dtype), x
    )


def _gathered_x(x: Any) -> Any:
    """A list or tuple as one array, unless its parts are of unequal shape."""
    if isinstance(x, list | tuple):
        with contextlib.suppress(ValueError):
            return np.asarray(x)
    return x


def _x_leaf(path, leaf: Any, name: str, dtype: np.dtype) -> Any:
    name += jax.tree_util.keystr(path)
    if not hasattr(leaf, "__array__") and not isinstance(leaf, bool | int | float):
        raise TypeError(
            f"`{name}` must be an array or a number, got {type(leaf).__name__}: put "
            "anything else into the model."
        )
    array = np.asarray(leaf)
    if array.dtype.kind in "bui":
        return array
    return real_array(leaf, name, dtype)


def _usable(good_x, good_y, num_rows: int | None):
    """The mask of `nan_policy="omit"`: a datum whose y and x are finite."""
    if num_rows is None:
        return good_y
    mask = good_y
    for _, good in good_x:
        if good.ndim and len(good) == num_rows:
            mask = mask & good.reshape(num_rows, -1).all(axis=1)
    return mask


def _or_unused(good: np.ndarray, mask: Any, num_rows: int | None) -> np.ndarray:
    """Whether entries of x are finite or belong to a datum that does not count."""
    if num_rows is None or good.ndim == 0 or len(good) != num_rows:
        return good
    return good | ~mask.reshape(-1, *[1] * (good.ndim - 1))


def _refuse_non_finite(tree, good, name: str, policy, rows_last: bool) -> None:
    values = dict(jax.tree_util.tree_leaves_with_path(tree))
    for path, ok in good:
        if ok.all():
            continue
        index = tuple(int(i) for i in np.argwhere(~ok)[0])
        value = np.asarray(values[path])[index]
        if rows_last:
            index = (*index[1:], index[0])
        if policy == "raise" and np.isinf(value):
            continue  # SciPy's policy is about NaN; an inf is the solver's to judge
        says = (
            "The input contains nan values"
            if policy == "raise"
            else "array must not contain infs or NaNs"
        )
        where = index[0] if len(index) == 1 else index
        raise ValueError(
            f"{says}: `{name}{jax.tree_util.keystr(path)}` is {value} at index "
            f"{where}. nan_policy='omit' leaves such data out."
        )
