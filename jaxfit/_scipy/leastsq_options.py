"""The options of SciPy's `leastsq` (method "lm") by the names of `least_squares`.

leastsq    least_squares
maxfev     max_nfev, 0 for None
epsfcn     diff_step = sqrt(epsfcn)
diag       x_scale = 1 / diag
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._basics.checks import refuse_unknown
from .options import Options


# Keywords of a call that are about its data, and all that are no options.
CALL_ONLY = ("fixed", "clip_p0", "mask")
_ARGUMENTS = (
    *("f", "xdata", "ydata", "p0", "sigma", "absolute_sigma", "check_finite", "bounds"),
    *("method", "jac", "full_output", "nan_policy", *CALL_ONLY),
)


@dataclasses.dataclass(frozen=True, eq=False)
class LeastsqOptions:
    """Options that `leastsq` alone has, or by other names.

    **Raises:** `ValueError` for those without a meaning here.
    """

    maxfev: Any = None
    epsfcn: Any = None
    diag: Any = None
    factor: Any = None
    col_deriv: Any = None

    def __post_init__(self):
        if self.factor is not None:
            raise ValueError("`factor` is not supported: x_scale sets the first step.")
        if self.col_deriv:
            raise ValueError("`col_deriv` is not supported: transpose `jac`.")

    def of_least_squares(self) -> dict[str, Any]:
        """Those that are given, by the names of `least_squares`."""
        given: dict[str, Any] = {}
        if self.maxfev:
            given["max_nfev"] = self.maxfev
        if self.epsfcn is not None:
            eps = np.finfo(float).eps  # leastsq takes less for "unknown" too
            given["diff_step"] = np.sqrt(max(float(self.epsfcn), eps))
        if self.diag is not None:
            given["x_scale"] = 1 / np.asarray(self.diag, float)
        return given


_OF_LEASTSQ, _OWN = (
    frozenset(field.name for field in dataclasses.fields(kind))
    for kind in (LeastsqOptions, Options)
)


def read_options(given: Mapping[str, Any]) -> Options:
    """The keywords of `curve_fit` that are about the method, as one set of options.

    **Raises:** `TypeError` for an unknown name, with the nearest one there is;
    `ValueError` for one given twice, out of range, or without a meaning here.
    """
    if "args" in given:
        raise ValueError(
            "'args' is not a supported keyword argument: bind them with "
            "functools.partial or a closure."
        )
    refuse_unknown(given, _OWN | _OF_LEASTSQ, "curve_fit", also=_ARGUMENTS)
    own = {name: value for name, value in given.items() if name in _OWN}
    rest = {name: value for name, value in given.items() if name in _OF_LEASTSQ}
    for name, value in LeastsqOptions(**rest).of_least_squares().items():
        if own.get(name) is not None:
            raise ValueError(f"`{name}` is given twice, once by leastsq's name for it.")
        own[name] = value
    return Options(**own)
