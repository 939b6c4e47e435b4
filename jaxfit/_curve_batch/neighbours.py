"""Starts from neighbours: coarse to fine over the axes of a batch, then mending.

Block means of the data are fitted first, over blocks of 4^k fits along each axis, the
coarsest from the start given; their parameters are the starts within the block, down to
single fits. After each pass a fit that failed, or whose cost stands out from that of
its best neighbour, is made again from that one's parameters and kept if better; so a
good solution spreads over a region that had come to a wrong minimum.
"""

import dataclasses
import itertools

import numpy as np

from .._basics.status import Status
from .data import BatchData, Part
from .slices import BatchCall, Numbers


_FACTOR = 4
_ROUNDS = 8
# A cost stands out from the best neighbour's by so many deviations of chi-squared.
_DEVIATIONS = 6
_HOPELESS = (Status.TOO_FEW_DATA, Status.STOPPED)


def from_neighbours(call: BatchCall, data: BatchData, covariance: bool) -> Numbers:
    """The fits of `data`, coarse to fine from their starts."""
    # All passes go through the one program of the last.
    call = dataclasses.replace(call, slice_size=call.plan(data, covariance)[0])
    data = data.starting(data.start.value)
    longest, factors = max(data.shape, default=1), []
    while longest / _FACTOR ** (len(factors) + 1) >= 2:
        factors.append(_FACTOR ** (len(factors) + 1))
    compile_time = run_time = 0.0
    for factor in reversed(factors):
        blocks, coarse = _block_means(data, factor)
        numbers = call.fit(coarse, covariance, False)
        numbers = _mended(call, coarse, numbers, covariance)
        if numbers.interrupted:
            n, dtype = data.num_params, data.dtype
            nothing = Numbers.empty(data.size, n, covariance, dtype)
            nothing.stop(slice(None))
            nothing.interrupted = True
            return nothing
        compile_time += numbers.compile_time
        run_time += numbers.run_time
        # A block that could not be fitted passes on what came to it.
        start = numbers.popt[blocks]
        if data.limits is not None:
            start = np.clip(start, data.limits[0].value, data.limits[1].value)
        data = data.starting(start, ~np.isnan(start))
    numbers = _mended(call, data, call.fit(data, covariance), covariance)
    numbers.compile_time += compile_time
    numbers.run_time += run_time
    return numbers


def _block_means(data: BatchData, factor: int) -> tuple[np.ndarray, BatchData]:
    """For each fit the number of its block, and the blocks as a batch.

    A block is represented by the fit at its centre; where all share x, by the mean of
    its data, which is less noisy.
    """
    counts = tuple(-(-length // factor) for length in data.shape)
    axes = [np.arange(length) // factor for length in data.shape]
    blocks = np.ravel_multi_index(np.ix_(*axes), counts).reshape(-1)
    middles = [
        np.minimum(np.arange(count) * factor + factor // 2, length - 1)
        for count, length in zip(counts, data.shape, strict=True)
    ]
    centres = np.ravel_multi_index(np.ix_(*middles), data.shape).reshape(-1)
    coarse = dataclasses.replace(data.only(centres), shape=counts)
    if not data.shares_x:
        return blocks, coarse
    m, p = data.num_rows, len(centres)
    total, used = np.zeros((p, m)), np.zeros((p, m))
    step = max(1, 2**22 // m)  # so that a memory map is read piece by piece
    for begin in range(0, data.size, step):
        rows = slice(begin, begin + step)
        y = np.asarray(data.y.value[rows], float)
        good = np.isfinite(y)
        if data.mask is not None:
            good &= data.mask.value[rows] if data.mask.per_fit else data.mask.value
        np.add.at(total, blocks[rows], np.where(good, y, 0))
        np.add.at(used, blocks[rows], good)
    mean = np.where(used > 0, total / np.maximum(used, 1), 0).astype(data.dtype)
    mask = Part(used > 0, True) if (used == 0).any() else None
    return blocks, dataclasses.replace(coarse, y=Part(mean, True), mask=mask)


def _mended(
    call: BatchCall, data: BatchData, numbers: Numbers, covariance: bool
) -> Numbers:
    """The fits with those that stand out made again from their neighbours."""
    tried = np.full(data.size, -1)
    for _ in range(_ROUNDS):
        if numbers.interrupted:
            break
        good = numbers.status > 0
        dof = np.maximum(numbers.dof, 1)
        cost = np.where(good, numbers.cost / dof, np.inf)
        best = _best_neighbours(cost.reshape(data.shape or (1,)))
        high = cost > cost[best] * (1 + _DEVIATIONS * np.sqrt(2 / dof))
        # Data that are not finite, or too few, do not get better.
        hopeless = np.isin(numbers.status, _HOPELESS)
        rows = np.flatnonzero((~good | high) & ~hopeless & good[best] & (tried != best))
        if rows.size == 0:
            break
        tried[rows] = best[rows]
        again = data.only(rows).starting(numbers.popt[best[rows]])
        numbers = numbers.improved(rows, call.fit(again, covariance, False))
    return numbers


def _best_neighbours(cost: np.ndarray) -> np.ndarray:
    """For each fit the neighbour of lowest cost, or itself if none has a finite one."""
    shape = cost.shape
    own = np.arange(cost.size).reshape(shape)
    around, names = np.pad(cost, 1, constant_values=np.inf), np.pad(own, 1)
    lowest, best = np.full(shape, np.inf), own.copy()
    for shift in itertools.product((0, 1, 2), repeat=len(shape)):
        if all(s == 1 for s in shift):
            continue
        window = tuple(slice(s, s + k) for s, k in zip(shift, shape, strict=True))
        lower = around[window] < lowest
        lowest = np.where(lower, around[window], lowest)
        best = np.where(lower, names[window], best)
    return best.ravel()
