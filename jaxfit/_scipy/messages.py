"""The outcome of a fit in SciPy's words, and where warnings point to."""

import inspect
from typing import Any

import numpy as np

from .._basics.status import Status


def message(counts: Any, max_nfev: Any) -> str:
    """The outcome in words, from `Solution.counts`."""
    status, nfev, *_ = (int(count) for count in counts)
    if status == Status.MAX_STEPS and max_nfev is not None and nfev >= max_nfev:
        return "The maximum number of function evaluations is exceeded."
    return Status(status).message


def underflow(status: Status, cost: float, dtype: Any) -> str:
    """What to add where a fit failed whose squares are near the smallest number."""
    info = np.finfo(dtype)
    if status not in (Status.STALLED, Status.AT_A_KINK) or cost >= info.tiny / info.eps:
        return ""
    return (
        f" The sum of squares, {2 * cost:.2g}, is hardly a number of {info.dtype}: fit "
        "in other units" + (", or in double precision." if info.bits < 64 else ".")
    )


def outside() -> int:
    """The `stacklevel` by which a warning points to the caller of the library."""
    level, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "")[:7] == "jaxfit.":
        level, frame = level + 1, frame.f_back
    return level
