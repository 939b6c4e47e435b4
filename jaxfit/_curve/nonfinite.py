"""The first datum at which a model or its derivative is not finite, in words.

What is told of a fit that could not start or go on, and of one that went on with
differences in the place of derivatives.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from .._scipy.data import Data
from .predict import Predictor


class Spot(NamedTuple):
    """The first place where something is not finite; `param` is None for a value."""

    value: float
    row: int
    param: str | None
    x: Any  # of that row, or None


class Differenced(NamedTuple):
    """The data at which derivatives are not finite though the model is."""

    rows: int
    first: Spot | None


def first_spot(predictor: Predictor, data: Data, names: Any) -> Spot | None:
    """Where the model, or else its derivative (repaired), is not finite, if at all.

    `names` are those of the free parameters.
    """
    values, slopes, _ = predictor.slopes(data.callers_x)
    for tree, by in ((values, None), (slopes, names)):
        for leaf, used in _pairs(tree, data.used):
            bad = ~np.isfinite(leaf) & _wide(used, leaf)
            if bad.any():
                return _spot(leaf, bad, data.callers_x, predictor, by)
    return None


def beside(p: np.ndarray) -> Iterator[np.ndarray]:
    """A point, and those around it to which the shortest steps may lead."""
    yield p
    length = np.cbrt(np.finfo(p.dtype).eps) * np.where(p == 0, 1, np.abs(p))
    for i in range(p.size):
        for side in (-1, 1):
            yield p + side * length * (np.arange(p.size) == i)


def first_in_rows(fun: np.ndarray, jac: Any) -> Spot | None:
    """Where residuals (m,) or else their Jacobian (m, n) are not finite, if at all.

    A Jacobian that is not formed tells nothing. Parameters are x[0], x[1], ...
    """
    bad = np.flatnonzero(~np.isfinite(fun))
    if bad.size:
        return Spot(float(fun[bad[0]]), int(bad[0]), None, None)
    if not isinstance(jac, jax.Array | np.ndarray):
        return None
    jac = np.asarray(jac)
    bad = np.argwhere(~np.isfinite(jac))
    if not bad.size:
        return None
    row, i = map(int, bad[0])
    return Spot(float(jac[row, i]), row, f"x[{i}]", None)


def differenced(predictor: Predictor, data: Data, names: Any) -> Differenced:
    """The data whose derivatives by some free parameter had to be differences."""
    _, slopes, replaced = predictor.slopes(data.callers_x)
    count, first = 0, None
    triples = zip(_pairs(replaced, data.used), jax.tree.leaves(slopes), strict=True)
    for (bad, used), leaf in triples:
        bad = bad & _wide(used, bad)
        count += int(bad.any(axis=-1).sum())
        if first is None and bad.any():
            first = _spot(leaf, bad, data.callers_x, predictor, names)
    return Differenced(count, first)


def place(spot: Spot) -> str:
    """The row in words."""
    return f"index {spot.row}" + ("" if spot.x is None else f" (x = {spot.x})")


def with_params(names: Sequence[str], values: np.ndarray) -> str:
    """Parameters by name."""
    return ", ".join(f"{k}={v:.6g}" for k, v in zip(names, values, strict=True))


def _pairs(tree: Any, used: Any):
    return zip(jax.tree.leaves(tree), jax.tree.leaves(used), strict=True)


def _wide(used: np.ndarray, leaf: np.ndarray) -> np.ndarray:
    """The mask of data with an axis more for parameters, if `leaf` has one."""
    return used.reshape(used.shape + (1,) * (leaf.ndim - used.ndim))


def _spot(leaf, bad, x, predictor, names) -> Spot:
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    param = None if names is None else names[index[-1]]
    row = index[0] if leaf.ndim > (names is not None) else 0
    return Spot(float(leaf[index]), row, param, _row(x, row, predictor))


def _row(x: Any, row: int, predictor: Predictor) -> Any:
    """What x holds in one row, or None if it has no such row."""
    axis = -1 if predictor.model.rows_last else 0
    leaves, structure = jax.tree.flatten(x)
    if any(np.ndim(a) == 0 or np.shape(a)[axis] <= row for a in leaves):
        return None
    rows = [np.take(a, row, axis) for a in leaves]
    if sum(a.size for a in rows) > 6:
        return None
    return structure.unflatten([a.tolist() for a in rows])
