"""The outcome of a fit in SciPy's words, and its warning."""

import warnings
from typing import Any

import numpy as np

from .._basics.checks import outside
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


def optimize_warning(says: str) -> None:
    """Warn as SciPy does; importing it takes a third of a second, hence here only."""
    from scipy.optimize import OptimizeWarning

    warnings.warn(says, category=OptimizeWarning, stacklevel=outside())
