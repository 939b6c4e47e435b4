"""Checks of options, in one voice: the argument, what came, what to do."""

import math
import operator
from typing import Any, get_args

import jax


def one_of(name: str, value: Any, choices: Any) -> Any:
    """`value` if it is one of the `Literal` choices."""
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {allowed}, got {value!r}.")
    return value


def positive_int(name: str, value: Any) -> int:
    """`value` as an int of at least 1."""
    try:
        number = operator.index(value)
    except TypeError as err:
        raise TypeError(f"`{name}` must be an integer, got {value!r}.") from err
    if number < 1:
        raise ValueError(f"`{name}` must be at least 1, got {number}.")
    return number


def check_tolerance(name: str, value: Any) -> None:
    """Refuse a tolerance that is negative or not a number; None and tracers pass."""
    if value is None or isinstance(value, jax.core.Tracer):
        return
    if not isinstance(value, float | int) and not hasattr(value, "dtype"):
        raise TypeError(f"`{name}` must be a number or None, got {value!r}.")
    if not (float(value) >= 0 and math.isfinite(value)):
        raise ValueError(f"`{name}` must be finite and not negative, got {value!r}.")
