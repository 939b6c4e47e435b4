"""Starts, bounds and free parameters of the fits of a batch."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from .._basics.precision import precision
from .._curve.program import Given, guessed
from .._functions.signature import signature_of
from .._scipy.bounds import are_infinite, check_feasible, check_order, pair_of
from .._scipy.data import real_array
from .._scipy.losses import NamedLoss, ScipyLoss
from .._scipy.model import ScipyModel
from .._scipy.start import held_by, with_own_estimate
from .._search.guess import beginnings, candidates, sizes
from .data import BatchData, Part
from .reading import Measured, read_shaped


# Fits whose mean stands for all.
_SAMPLE = 4096


class Way(NamedTuple):
    """How the starts come about."""

    neighbours: bool
    guess: bool


def read_batch_start(
    f: Callable,
    measured: Measured,
    p0: Any,
    start: Any,
    bounds: Any,
    fixed: Any,
    clip: bool,
) -> tuple[tuple[str, ...], tuple[int, ...], BatchData, Way]:
    """Names of the parameters, positions of the free ones, the data with their starts.

    **Raises:** `ValueError` or `TypeError` naming the argument.
    """
    signature = signature_of(f)
    kept, shape = measured.kept, measured.shape
    neighbours = isinstance(p0, str) and p0 == "neighbours"
    values, what = (start, "start") if neighbours else (p0, "p0")
    values = with_own_estimate(values, f, functools.partial(_counting, measured))
    if values is None:
        raise ValueError(
            "`p0` is missing: give (n,) starts for all fits or one set for each, or "
            "'auto' or 'neighbours', or the model a method `estimate_p0(xdata, ydata)`."
        )
    auto = isinstance(values, str)
    if auto and values != "auto":
        allowed = "'auto'" if neighbours else "'auto' or 'neighbours'"
        raise ValueError(f"`{what}` must be numbers or {allowed}, got {values!r}.")
    if auto:
        n = len(signature.names)
        if n == 0:
            raise ValueError(
                "The model names no parameters, so that their number is unknown: give "
                f"`{what}` as numbers."
            )
        begin = Part(np.ones(n, kept), False)
    else:
        values = real_array(values, what, kept)
        n = values.shape[-1] if values.ndim else 1
        signature.check_count(n, what)
        begin = read_shaped(values, what, shape, n, kept)
    names = signature.label(n)
    begin = Part(begin.value.copy(), begin.per_fit)
    held = held_by(fixed, begin.value, names)
    if held.all():
        raise ValueError("`fixed` leaves no parameter free: there is nothing to fit.")
    limits = _read_limits(bounds, shape, n, names, kept)
    if limits is not None and clip:
        begin = _clipped(begin, limits)
    shared = limits is not None and not (limits[0].per_fit or limits[1].per_fit)
    if not auto and not begin.per_fit:
        bad = ~np.isfinite(begin.value)
        if bad.any():
            i = int(np.argmax(bad))
            raise ValueError(f"`{what}` must be finite, got {begin.value[i]} at {i}.")
        if limits is not None and shared:
            sides = limits[0].value, limits[1].value
            open_sides = (
                np.where(held, -np.inf, sides[0]),
                np.where(held, np.inf, sides[1]),
            )
            check_feasible(begin.value, open_sides, names, what)
    free = tuple(int(i) for i in np.flatnonzero(~held))
    data = BatchData(
        x=measured.x,
        y=measured.y,
        sigma=measured.sigma,
        mask=measured.mask,
        start=begin,
        limits=limits,
        free=free,
        shape=shape,
        rows_last=measured.rows_last,
        omit=False,
        dtype=measured.dtype,
        f_scale=1.0,
    )
    return names, free, data, Way(neighbours, auto)


def guess(model: ScipyModel, loss: NamedLoss | ScipyLoss, data: BatchData) -> BatchData:
    """The data with a start for all that suits their mean."""
    x, y = _mean(data)
    mask = np.isfinite(y)
    y = np.where(mask, y, 0)
    free = list(model.free)
    start = np.array(
        data.start.value if not data.start.per_fit else data.start.value[0]
    )
    limits = None
    if data.limits is not None:
        sides = [s.value[0] if s.per_fit else s.value for s in data.limits]
        limits = sides[0][free], sides[1][free]
    values = candidates(sizes(x, y, data.dtype), limits, len(free))
    first = beginnings(len(free), values.shape[1])
    sigma = None
    if data.sigma is not None:
        sigma = data.sigma.value[0] if data.sigma.per_fit else data.sigma.value
        sigma = np.asarray(sigma, data.dtype)
    given = Given(x, y, sigma, mask, None, start, None, np.asarray(1, data.dtype))
    with precision(data.dtype):
        _, _, best, _ = guessed(model, loss, given, values, first)
    start[free] = best
    if data.start.per_fit:
        return data.starting(start)
    return dataclasses.replace(data, start=Part(start, False))


def _mean(data: Any) -> tuple[Any, np.ndarray]:
    """x, and the mean y of some of the fits, NaN where there are no data."""
    is_part = {"is_leaf": lambda leaf: isinstance(leaf, Part)}
    parts = jax.tree.leaves(data.x, **is_part)
    y, mask = data.y.value, data.mask
    few = slice(None, None, max(1, len(y) // _SAMPLE))
    if any(part.per_fit for part in parts):
        few = slice(0, 1)

    def one(part):
        value = part.value[0] if part.per_fit else part.value
        return value if value.dtype.kind in "bui" else value.astype(data.dtype)

    some = np.asarray(y[few], data.dtype)
    used = np.isfinite(some)
    if mask is not None:
        used &= mask.value[few] if mask.per_fit else mask.value
    count = used.sum(axis=0)
    total = np.where(used, some, 0).sum(axis=0)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return jax.tree.map(one, data.x, **is_part), mean.astype(data.dtype)


def _counting(measured: Measured) -> tuple[Any, np.ndarray]:
    """x, as f sees it, and the mean of y, both without rows that hold no datum."""
    x, y = _mean(measured)
    used = np.isfinite(y)
    if not used.all():
        x, y = jax.tree.map(lambda a: a[used] if len(a) == len(used) else a, (x, y))
    return np.moveaxis(x, 0, -1) if measured.rows_last else x, y


def _read_limits(
    bounds: Any, shape: tuple[int, ...], n: int, names: tuple[str, ...], dtype
) -> tuple[Part, Part] | None:
    sides = zip(pair_of(bounds), ("bounds[0]", "bounds[1]"), strict=True)
    lower, upper = (read_shaped(side, name, shape, n, dtype) for side, name in sides)
    if are_infinite(lower.value, upper.value):
        return None

    def of_fit(fit: tuple[int, ...]) -> str:
        index = tuple(int(k) for k in np.unravel_index(fit[0], shape)) if fit else ()
        return f" of fit {index}" if fit else ""

    check_order(lower.value, upper.value, names, of_fit)
    return lower, upper


def _clipped(start: Part, limits: tuple[Part, Part]) -> Part:
    values = np.clip(start.value, limits[0].value, limits[1].value)
    return Part(values, values.ndim > 1)
