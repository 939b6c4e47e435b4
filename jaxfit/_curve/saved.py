"""The numbers of a result as lists and strings, fit for JSON, and back.

JSON knows neither infinity nor NaN: they become strings.
"""

from typing import Any

import numpy as np

from .._basics.status import Status


def plain(value: Any) -> Any:
    """Arrays as lists, an outcome as its code, what is not finite as a string."""
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return int(value) if isinstance(value, Status) else value


_VECTORS = ("popt", "perr", "pcov", "covariance", "root", "null", "unit", "grad")


def restored(name: str, value: Any) -> Any:
    """A number of a result by its name, from what `plain` made of it."""
    if name in _VECTORS:
        return arrays(value, float)
    if name in ("active_mask", "fixed"):
        return arrays(value, bool if name == "fixed" else int)
    if name in ("names", "undetermined"):
        return tuple(value)
    if name == "outcome":
        return Status(value)
    return float(value) if value in ("inf", "-inf", "nan") else value


def arrays(value: Any, dtype: Any) -> Any:
    """Lists as arrays, in dictionaries and tuples as they were."""
    if isinstance(value, dict):
        return {k: arrays(v, dtype) for k, v in value.items()}
    if value is None:
        return None
    try:
        return np.array(value, dtype)
    except ValueError:  # parts of unequal shape
        return tuple(arrays(part, dtype) for part in value)
