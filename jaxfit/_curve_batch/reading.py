"""Data of many fits as callers pass them: shapes and what all share, checked.

The leading axes of y are the batch, its last axis holds the m data of a fit. Lists of
unequal lengths are padded, and what was added is masked.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from .._basics.masked import unmasked
from .._problem.sigma import check_deviations, check_sigma
from .._scipy.data import fit_dtype, real_array
from .data import Part


class Measured(NamedTuple):
    """x, y, sigma and mask as Parts, and how they came."""

    x: Any
    y: Part
    sigma: Part | None
    mask: Part | None
    shape: tuple[int, ...]
    rows_last: bool
    dtype: np.dtype
    kept: np.dtype  # of numbers that are made here: that of the last fits


def read_measured(
    xdata: Any,
    ydata: Any,
    sigma: Any,
    mask: Any,
    shared_x: bool | None,
    dtype: Any,
    polish: bool = False,
) -> Measured:
    """Check the shapes of the data and what all fits share of their values.

    With `polish` the fits are made once more in double precision, of the same numbers.

    **Raises:** `ValueError` or `TypeError` naming the argument.
    """
    dtype = _dtype(dtype, ydata)
    kept = np.dtype(np.float64) if polish else dtype
    (xdata, x_counts), (ydata, y_counts), (sigma, sigma_counts) = map(
        unmasked, (xdata, ydata, sigma)
    )
    if _is_ragged(ydata):
        counts = x_counts, y_counts, sigma_counts
        xdata, ydata, sigma, mask = _padded(xdata, ydata, sigma, mask, counts, kept)
        x_counts = y_counts = sigma_counts = None
    y = _numbers(ydata, "ydata")
    if y.ndim == 0 or y.size == 0:
        raise ValueError(
            "`ydata` must have the data of a fit along its last axis and hold at least "
            f"one fit, got shape {y.shape}."
        )
    shape, m = y.shape[:-1], y.shape[-1]
    x, rows_last = _read_x(xdata, shape, m, shared_x)
    mask = _read_mask(mask, y.shape)
    for counts in (y_counts, sigma_counts):
        mask = _both(mask, _read_counts(counts, y.shape))
    if x_counts is not None:
        found, _ = _read_x(x_counts, shape, m, shared_x)
        for part in jax.tree.leaves(found, is_leaf=lambda a: isinstance(a, Part)):
            some = part.value
            if some.shape[part.per_fit :] != (m,):
                # Several rows of x, which stand first or, of a tree, last.
                some = some.all(axis=-1 if rows_last else -2)
            mask = _both(mask, Part(some, part.per_fit))
    sigma = _read_sigma(sigma, y.shape, mask)
    flat = Part(y.reshape(-1, m), True)
    return Measured(x, flat, sigma, mask, shape, rows_last, dtype, kept)


def _dtype(dtype: Any, ydata: Any) -> np.dtype:
    if dtype is None:
        return fit_dtype(ydata)
    try:
        chosen = np.dtype(dtype)
    except TypeError as err:
        raise ValueError(f"`dtype` must be float32 or float64, got {dtype!r}.") from err
    if chosen not in (np.float32, np.float64):
        raise ValueError(f"`dtype` must be float32 or float64, got {dtype!r}.")
    return chosen


def _numbers(value: Any, name: str) -> np.ndarray:
    """An array as it is, not copied, if it holds real numbers."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "buif":
        return np.asarray(value)
    return real_array(value, name, np.dtype(float))


def _is_ragged(ydata: Any) -> bool:
    if not isinstance(ydata, list | tuple) or not ydata:
        return False
    return len({np.shape(part) for part in ydata}) > 1


def _padded(xdata, ydata, sigma, mask, counts, dtype):
    """Lists of arrays of unequal lengths as arrays, and the mask of what is there."""
    lengths = [np.shape(y) for y in ydata]
    for i, shape in enumerate(lengths):
        if len(shape) != 1:
            raise ValueError(
                f"`ydata` is a list of unequal lengths, and `ydata[{i}]` has shape "
                f"{shape}: each must have one axis."
            )
    lengths = [shape[0] for shape in lengths]
    longest = max(max(lengths), 1)

    def pad(parts, name, fill=None):
        if not isinstance(parts, list | tuple) or len(parts) != len(lengths):
            raise ValueError(
                f"`{name}` must be a list of {len(lengths)} arrays, like `ydata`."
            )
        arrays = [_numbers(part, f"{name}[{i}]") for i, part in enumerate(parts)]
        for i, a in enumerate(arrays if name == "mask" else []):
            if a.dtype != bool:
                raise TypeError(f"`mask[{i}]` must be boolean, got {a.dtype}.")
        for i, (a, length) in enumerate(zip(arrays, lengths, strict=True)):
            if a.ndim == 0 or a.shape[-1] != length or a.ndim != arrays[0].ndim:
                raise ValueError(
                    f"`{name}[{i}]` has shape {a.shape} for {length} data in "
                    f"`ydata[{i}]`."
                )
        kind = bool if arrays[0].dtype == bool else dtype
        full = np.zeros((len(arrays), *arrays[0].shape[:-1], longest), kind)
        for row, a in zip(full, arrays, strict=True):
            row[..., : a.shape[-1]] = a
            if a.shape[-1]:
                row[..., a.shape[-1] :] = a[..., -1:] if fill is None else fill
        return full

    used = np.arange(longest) < np.asarray(lengths)[:, None]
    if mask is not None:
        used &= pad(mask, "mask", False)
    for some in counts:
        if isinstance(some, list | tuple):
            wide = pad(some, "mask", False)
            used &= wide.all(axis=tuple(range(1, wide.ndim - 1)))
    if isinstance(sigma, list | tuple):
        sigma = pad(sigma, "sigma", 1)
        check_deviations(sigma, used)
    return pad(xdata, "xdata"), pad(ydata, "ydata", 0), sigma, used


def _read_x(xdata: Any, shape: tuple[int, ...], m: int, shared: bool | None):
    """x as Parts with rows in front, and whether they were behind other axes."""
    if isinstance(xdata, list | tuple):
        columns = [np.asarray(a) for a in xdata]
        alike = len({a.shape for a in columns}) == 1
        if alike and (isinstance(xdata, list) or columns[0].shape == (m,)):
            xdata = np.stack(columns)
        elif all(a.ndim == 0 for a in columns):
            xdata = np.asarray(xdata)
        else:
            xdata = type(xdata)(columns)
    single = not isinstance(xdata, list | tuple | dict) and hasattr(xdata, "__array__")

    def part(path, leaf):
        name = "xdata" + jax.tree_util.keystr(path)
        a = leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf)
        a = a if a.dtype.kind in "bui" else _numbers(a, name)
        front = a.shape[:-1]
        per_fit = bool(shape) and front[: len(shape)] == shape
        if shared is not None:
            per_fit = per_fit and not shared
        rest = a.ndim - 1 - (len(shape) if per_fit else 0)
        # An x of another length may be shared: f need not return as many.
        fits = a.ndim > 0 and (a.shape[-1] == m or (a.ndim == 1 and single))
        if not fits or rest > 1 or rest < 0:
            raise wrong_shape(name, a.shape, shape, m)
        if per_fit:
            a = a.reshape(-1, *a.shape[len(shape) :])
        return Part(np.moveaxis(a, -1, -2) if rest and single else a, per_fit), rest

    leaves, structure = jax.tree_util.tree_flatten_with_path(xdata)
    if not leaves:
        raise ValueError("`xdata` holds no array.")
    parts = [part(path, leaf) for path, leaf in leaves]
    rows_last = single and parts[0][1] == 1
    return jax.tree.unflatten(structure, [p for p, _ in parts]), rows_last


def wrong_shape(name: str, got: tuple, shape: tuple[int, ...], m: int) -> ValueError:
    """The error for an x that is neither shared by all fits nor per fit."""
    return ValueError(
        f"`{name}` has shape {got}, neither shared by all fits, ({m},) or (k, {m}), "
        f"nor per fit, {(*shape, m)} or {(*shape, 'k', m)}: a fit's {m} data lie along "
        "the last axis."
    )


def _read_sigma(sigma: Any, shape: tuple[int, ...], mask: Part | None) -> Part | None:
    if sigma is None:
        return None
    sigma = _numbers(sigma, "sigma")
    m = shape[-1]
    if sigma.shape == shape and len(shape) > 1:
        return Part(sigma.reshape(-1, m), True)
    if sigma.shape == (*shape[:-1], 1) and len(shape) > 1:
        return Part(np.broadcast_to(sigma.reshape(-1, 1), (sigma.size, m)), True)
    if sigma.shape not in ((), (1,), (m,), (m, m)):
        raise ValueError(
            f"`sigma` has shape {sigma.shape}: give one number, {(m,)} or a covariance "
            f"{(m, m)} for all fits, or {shape} or {(*shape[:-1], 1)} per fit."
        )
    used = mask.value if mask is not None and not mask.per_fit else np.ones(m, bool)
    one = np.broadcast_to(0.0, (m,))
    return Part(check_sigma(np.asarray(sigma, float), one, used), False)


def _read_mask(mask: Any, shape: tuple[int, ...]) -> Part | None:
    if mask is None:
        return None
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"`mask` must be boolean, got {mask.dtype}.")
    if mask.shape == shape and len(shape) > 1:
        return Part(mask.reshape(-1, shape[-1]), True)
    if mask.shape != shape[-1:]:
        raise ValueError(
            f"`mask` has shape {mask.shape}: give {shape[-1:]} for all fits or "
            f"{shape} per fit."
        )
    return Part(mask, False)


def _read_counts(counts: Any, shape: tuple[int, ...]) -> Part | None:
    """What NumPy's masks of y or sigma leave, as of `mask`; one number for all."""
    if counts is None or np.ndim(counts) == 0:
        return None
    return _read_mask(
        np.broadcast_to(counts, np.broadcast_shapes(np.shape(counts), shape[-1:])),
        shape,
    )


def _both(a: Part | None, b: Part | None) -> Part | None:
    """What counts by two masks; None stands for everything."""
    if a is None or b is None:
        return b if a is None else a
    return Part(a.value & b.value, a.per_fit or b.per_fit)


def read_shaped(
    value: Any, name: str, shape: Sequence[int], n: int, dtype: np.dtype
) -> Part:
    """Numbers of n parameters: one for all, n for all fits, or n per fit."""
    value = real_array(value, name, dtype)
    if value.ndim == 0:
        value = np.full(n, value, dtype)
    if value.shape == (n,):
        return Part(value, False)
    if value.shape == (*shape, n):
        return Part(value.reshape(-1, n), True)
    raise ValueError(
        f"`{name}` has shape {value.shape} for {n} parameters: give {(n,)} for all "
        f"fits or {(*shape, n)} per fit."
    )
