"""Bounds of parameters, lower <= x <= upper, in SciPy's forms.

Equal bounds fix a parameter; infinite ones are none.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .data import real_array


def pair_of(bounds: Any) -> tuple[Any, Any]:
    """Lower and upper bounds, of a pair or of a `scipy.optimize.Bounds`."""
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        return bounds.lb, bounds.ub
    if not hasattr(bounds, "__len__") or isinstance(bounds, str) or len(bounds) != 2:
        raise ValueError(
            f"`bounds` must contain 2 elements: (lower, upper), got {bounds!r}."
        )
    return bounds[0], bounds[1]


def are_infinite(lower: np.ndarray, upper: np.ndarray) -> bool:
    """Whether no parameter has a bound."""
    return bool((lower == -np.inf).all() and (upper == np.inf).all())


def check_order(
    lower: np.ndarray,
    upper: np.ndarray,
    names: Sequence[str],
    where: Callable[[tuple[int, ...]], str] = lambda fit: "",
) -> None:
    """Raise where a lower bound is not below its upper bound, nor equal to it.

    Parameters lie along the last axis; `where(index)` tells of those before it.

    **Raises:** `ValueError` naming the first such parameter.
    """
    nan = np.isnan(lower) | np.isnan(upper)
    crossed = (lower > upper) | ((lower == upper) & np.isinf(lower))
    for bad, says in (
        (nan, "`bounds` is NaN"),
        (
            crossed,
            "Each lower bound must be strictly less than each upper bound "
            "(or equal to it, which fixes the parameter)",
        ),
    ):
        if bad.any():
            index = tuple(int(k) for k in np.argwhere(bad)[0])
            low, high = (np.broadcast_to(a, bad.shape)[index] for a in (lower, upper))
            i = index[-1]
            raise ValueError(
                f"{says}, got [{low}, {high}] for `{names[i]}` (index {i})"
                f"{where(index[:-1])}."
            )


def read_bounds(
    bounds: Any, n: int, names: Sequence[str], dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray] | None:
    """Lower and upper bounds of n parameters, or None where all are infinite.

    A pair (lower, upper), each a number or n of them, or a `scipy.optimize.Bounds`.
    """
    numbers = type(bounds) is tuple and all([type(side) is float for side in bounds])
    if numbers and bounds == (-np.inf, np.inf):
        return None
    sides = []
    for side, what in zip(pair_of(bounds), ("bounds[0]", "bounds[1]"), strict=True):
        side = real_array(side, what, dtype)
        if side.ndim == 0:
            side = np.full(n, side, dtype)
        if side.shape != (n,):
            raise ValueError(
                "Inconsistent shapes between bounds and `x0`: "
                f"`{what}` has shape {side.shape} for {n} parameters "
                f"({', '.join(names)})."
            )
        sides.append(side)
    lower, upper = sides
    if are_infinite(lower, upper):
        return None
    check_order(lower, upper, names)
    return lower, upper


def check_feasible(
    x: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    names: Sequence[str],
    name: str,
) -> None:
    lower, upper = bounds
    bad = (x < lower) | (x > upper)
    if bad.any():
        i = int(np.argmax(bad))
        raise ValueError(
            f"Initial guess is outside of provided bounds: `{name}` has {names[i]} = "
            f"{x[i]} (index {i}), outside [{lower[i]}, {upper[i]}]."
        )


def feasible(bounds: tuple[np.ndarray, np.ndarray] | None, n: int, dtype) -> np.ndarray:
    """SciPy's default start: 1, or the middle of the bounds, or 1 from the only one."""
    if bounds is None:
        return np.ones(n, dtype)
    lower, upper = bounds
    has_lower, has_upper = np.isfinite(lower), np.isfinite(upper)
    low, high = np.where(has_lower, lower, 0), np.where(has_upper, upper, 0)
    middle = 0.5 * (low + high)
    one_sided = np.where(has_lower, low + 1, np.where(has_upper, high - 1, 1))
    return np.where(has_lower & has_upper, middle, one_sided).astype(dtype)
