"""The start of a curve fit, its free parameters and their bounds."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .._basics.checks import did_you_mean
from .._functions.from_numpy import HostFunction
from .._functions.signature import Signature
from .bounds import check_feasible, feasible, read_bounds
from .data import real_array


class Start(NamedTuple):
    """The start of all parameters, and what is known of them.

    `free` are the positions of those that are fitted; `limits` are None where none of
    them has a bound. `guess` asks for a better start, from the data.
    """

    names: tuple[str, ...]
    p0: np.ndarray
    free: tuple[int, ...]
    limits: tuple[np.ndarray, np.ndarray] | None
    guess: bool


def with_own_estimate(p0: Any, f: Callable, data: Callable[[], tuple]) -> Any:
    """`p0` or, where it is None, the model's own `f.estimate_p0(xdata, ydata)`.

    `data()` gives x and y of data that count, as arrays in the form that f takes. None
    where neither is there; a model made by `from_numpy` has what its function has.

    **Raises:** `TypeError` where `estimate_p0` is no method.
    """
    if p0 is not None:
        return p0
    if isinstance(f, HostFunction):
        f = f.fn
    estimate = getattr(f, "estimate_p0", None)
    if estimate is None:
        return None
    if not callable(estimate):
        raise TypeError(
            "`estimate_p0` of the model must be a method that takes (xdata, ydata), "
            f"got {type(estimate).__name__}."
        )
    return estimate(*data())


def read_start(
    signature: Signature,
    p0: Any,
    bounds: Any,
    fixed: Mapping[str, float] | Any,
    clip: bool,
    dtype: np.dtype,
) -> Start:
    """The start from SciPy's `p0` and `bounds`, and `fixed` and `clip_p0`.

    Equal bounds fix a parameter.

    **Raises:** `ValueError` naming the parameter that is wrong.
    """
    guess = False
    if isinstance(p0, str):
        if p0 != "auto":
            raise ValueError(f"`p0` must be numbers, None or 'auto', got {p0!r}.")
        p0, guess = None, True
    if p0 is None:
        n = len(signature.names)
        if n == 0:
            raise ValueError(
                "Unable to determine number of fit parameters. The model names none: "
                "give `p0`."
            )
    else:
        p0 = np.atleast_1d(real_array(p0, "p0", dtype))
        n = p0.size
        if p0.ndim > 1:
            raise ValueError(f"`p0` must have one dimension, got shape {p0.shape}.")
        signature.check_count(n)
        if not np.isfinite(p0).all():
            i = int(np.argmin(np.isfinite(p0)))
            raise ValueError(f"`p0` must be finite, got {p0[i]} at index {i}.")
    names = signature.label(n)
    limits = read_bounds(bounds, n, names, dtype)
    p0 = feasible(limits, n, dtype) if p0 is None else p0.copy()
    if limits is None and fixed is None:
        return Start(names, p0, tuple(range(n)), None, guess)
    held = held_by(fixed, p0, names)
    if limits is not None and isinstance(fixed, Mapping):
        given = np.isin(names, list(fixed))
        lower = np.where(given, limits[0], -np.inf)
        upper = np.where(given, limits[1], np.inf)
        check_feasible(p0, (lower, upper), names, "fixed")
    if limits is not None:
        lower, upper = limits
        p0 = np.where(~held & (lower == upper), lower, p0)
        held |= lower == upper
        limits = np.where(held, -np.inf, lower), np.where(held, np.inf, upper)
        if clip:
            p0 = np.clip(p0, *limits)
        check_feasible(p0, limits, names, "p0")
        if not np.isfinite(limits).any():
            limits = None
    if held.all():
        raise ValueError("`fixed` leaves no parameter free: there is nothing to fit.")
    free = tuple(int(i) for i in np.flatnonzero(~held))
    return Start(names, p0, free, limits, guess)


def held_by(fixed: Any, p0: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Which parameters `fixed` holds; values it gives are written into p0.

    Parameters lie along the last axis of p0.
    """
    held = np.zeros(p0.shape[-1], bool)
    if fixed is None:
        return held
    if isinstance(fixed, Mapping):
        for name, value in fixed.items():
            if name not in names:
                raise ValueError(
                    f"`fixed` names `{name}`, which is no parameter of the model "
                    f"({', '.join(names)}).{did_you_mean(str(name), names)}"
                )
            value = real_array(value, f"fixed[{name!r}]", p0.dtype)
            if value.ndim or not np.isfinite(value):
                raise ValueError(f"`fixed[{name!r}]` must be one finite number.")
            p0[..., names.index(name)], held[names.index(name)] = value, True
        return held
    mask = np.asarray(fixed)
    if mask.dtype != bool or mask.shape != held.shape:
        raise ValueError(
            f"`fixed` must be a dictionary of values by name or {held.size} booleans, "
            f"got {fixed!r}."
        )
    return mask.copy()
