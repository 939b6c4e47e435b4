"""The options of `curve_fit` that are about the method: SciPy's two sets as one."""

from typing import Any

import numpy as np

from .._basics.checks import refuse_unknown
from .._trf.trf import TRF
from .options import (
    check_f_scale,
    check_hints,
    gradient_tolerance,
    read_linear_solver,
    read_max_nfev,
    read_x_scale,
    refuse_given,
)


# Keywords of a call that are about its data, and those about the method.
CALL_ONLY = ("fixed", "clip_p0", "mask")
_ARGUMENTS = (
    *("f", "xdata", "ydata", "p0", "sigma", "absolute_sigma", "check_finite", "bounds"),
    *("method", "jac", "full_output", "nan_policy", *CALL_ONLY),
)
_OPTIONS = frozenset(
    """
    args callback col_deriv diag diff_step epsfcn f_scale factor ftol gtol jac_sparsity
    host loss max_nfev maxfev progress tr_options tr_solver verbose workers x_scale xtol
    """.split()  # noqa: SIM905
)


def read_options(options: dict[str, Any]) -> dict[str, Any]:
    """leastsq's names in those of least_squares; what there is not, refused."""
    refuse_unknown(options, _OPTIONS, "curve_fit", also=_ARGUMENTS)
    if "args" in options:
        raise ValueError(
            "'args' is not a supported keyword argument: bind them with "
            "functools.partial or a closure."
        )
    options = dict(options)
    check_hints(options.pop("jac_sparsity", None), options.pop("workers", None))
    refuse_given(
        {
            "factor": (options.pop("factor", None), "x_scale sets the first step"),
            "col_deriv": (options.pop("col_deriv", None) or None, "transpose `jac`"),
        }
    )
    renamed = {
        "max_nfev": options.pop("maxfev", None) or None,
        "diff_step": options.pop("epsfcn", None),
        "x_scale": options.pop("diag", None),
    }
    if renamed["diff_step"] is not None:
        eps = np.finfo(float).eps  # leastsq takes less for "unknown" too
        renamed["diff_step"] = np.sqrt(max(float(renamed["diff_step"]), eps))
    if renamed["x_scale"] is not None:
        renamed["x_scale"] = 1 / np.asarray(renamed["x_scale"], float)
    for name, value in renamed.items():
        if value is None:
            continue
        if options.get(name) is not None:
            raise ValueError(f"`{name}` is given twice, once by leastsq's name for it.")
        options[name] = value
    check_f_scale(options.get("f_scale", 1.0))
    return options


_DEFAULT = TRF()
_SOLVER_OPTIONS = {
    "ftol",
    "xtol",
    "gtol",
    "x_scale",
    "max_nfev",
    "tr_solver",
    "tr_options",
}


def solver_of(
    options: dict[str, Any], method: str, free: tuple[int, ...], n: int
) -> TRF:
    """The kernel's solver for the options, with n parameters of which some are free."""
    if not options.keys() & _SOLVER_OPTIONS:
        return _DEFAULT
    keywords: dict[str, Any] = {}
    for name in ("ftol", "xtol", "gtol"):
        if name in options:
            tol = options[name]
            keywords[name] = 0.0 if tol is None else tol
    if "gtol" in keywords:
        keywords |= gradient_tolerance(method, keywords["gtol"])
    x_scale = read_x_scale(options.get("x_scale", "jac"), n)
    if not isinstance(x_scale, str):
        keywords["x_scale"] = x_scale[list(free)]
    return TRF(
        **keywords,
        **read_max_nfev(options.get("max_nfev")),
        **read_linear_solver(options.get("tr_solver"), options.get("tr_options")),
    )
