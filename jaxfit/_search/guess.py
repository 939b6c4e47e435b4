"""A start guessed from the data, for `p0="auto"`.

For each parameter there is a list of sizes that the data suggest (of y, of x, of their
ratios); the combination of least cost is sought coordinate by coordinate from several
beginnings. It is a heuristic: it finds the right order of magnitude, not the solution.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._basics.types import Vector
from .._scipy.bounds import feasible


_BEGINNINGS = 64
_SWEEPS = 4
_KEPT = 8


def sizes(x: Any, y: Any, dtype) -> np.ndarray:
    """Numbers that a parameter of a model of these data might be, without signs."""
    found = [1.0]
    y = np.concatenate([np.ravel(a) for a in jax.tree.leaves(y)]).astype(float)
    y = y[np.isfinite(y)]
    spans = []
    for leaf in jax.tree.leaves(x):
        a = np.asarray(leaf, float)
        axes = [a] if a.ndim == 1 else list(a.reshape(len(a), -1).T) if a.ndim else []
        for axis in axes[:3]:
            row_ok = np.isfinite(axis)
            if not row_ok.any():
                continue
            span = float(np.ptp(axis[row_ok]))
            found += [float(np.mean(axis[row_ok])), span]
            if axis.size == y.size and y.size:
                away = np.abs(y - np.median(y))
                found.append(float(axis[int(np.argmax(away))]))  # where the peak is
            spans.append(span)
    if y.size:
        height = float(np.ptp(y))
        found += [height, float(np.median(y)), float(y[0]), float(y[-1])]
        for span in spans:
            if span > 0:
                steps = (span / 30, span / 10, span / 3, 1 / span, 3 / span, 10 / span)
                found += [*steps, 2 * np.pi / span, 4 * np.pi / span, 8 * np.pi / span]
                found += [height / span, height * span, height / span**2]
    found = np.abs(np.array(found))
    found = found[np.isfinite(found) & (found > 0)]
    return np.unique(found.astype(dtype))


def candidates(scale: np.ndarray, bounds, n: int) -> np.ndarray:
    """For each of n parameters the values to try, inside its bounds: shape (n, k)."""
    values = np.concatenate([-scale[::-1], [0.0], scale]).astype(scale.dtype)
    rows = np.tile(values, (n, 1))
    if bounds is None:
        return rows
    lower, upper = (side[:, None] for side in bounds)
    inside = (rows >= lower) & (rows <= upper)
    return np.where(inside, rows, feasible(bounds, n, scale.dtype)[:, None])


def search(cost: Callable[[Vector], Array], values: Array, beginnings: Array) -> Vector:
    """The best combination of `values` (n, k) that a coordinate search finds.

    Every sweep tries all values of one parameter after the other, from each of the
    beginnings, of which the best few go on after the first.
    """

    def safe(p):
        c = cost(p)
        return jnp.where(jnp.isfinite(c), c, jnp.inf)

    def sweep(p):
        def coordinate(p, i):
            tried = jax.vmap(lambda v: p.at[i].set(v))(values[i])
            tried = jnp.concatenate([p[None], tried])
            return tried[jnp.argmin(jax.lax.map(safe, tried))], None

        return jax.lax.scan(coordinate, p, jnp.arange(p.size))[0]

    def sweeps(starts, times):
        for _ in range(times):
            starts = jax.lax.map(sweep, starts)
        return starts, jax.lax.map(safe, starts)

    starts, costs = sweeps(beginnings, 1)
    best = starts[jnp.argsort(costs)[:_KEPT]]
    best, costs = sweeps(best, _SWEEPS - 1)
    return best[jnp.argmin(costs)]


@functools.lru_cache(maxsize=64)
def beginnings(n: int, k: int) -> np.ndarray:
    """Which of k values each of n parameters has at each beginning, always the same."""
    return np.random.default_rng(0).integers(k, size=(_BEGINNINGS, n))
