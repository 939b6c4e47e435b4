"""SciPy's options of the method in the kernel's terms.

`method="trf"` is the kernel's own method; it also serves for "lm" and "dogbox", whose
rules about bounds, sizes and tolerances are kept:

    SciPy               kernel
    ftol, xtol          ftol, xtol
    gtol                gtol (a cosine) for "lm", else atol (an absolute gradient)
    None (a tolerance)  0: never stop by it
    tr_solver           linear_solver: "exact" is "qr", "lsmr" is "matrix_free"
"""

import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np

from .._basics.checks import outside
from .._functions.callables import Function
from .._solve.solver import TRF
from .options import NOT_GIVEN, Options, OptionWarning


_DEFAULT = TRF()


def curve_solver(options: Options, method: str, free: tuple[int, ...], n: int) -> TRF:
    """The solver of a curve fit with n parameters, of which some are free.

    Tolerances that are not given are those of `TRF`.
    """
    given: dict[str, Any] = {
        name: 0.0 if tol is None else tol
        for name in ("ftol", "xtol", "gtol")
        if (tol := getattr(options, name)) is not NOT_GIVEN
    }
    scale = read_x_scale(options.x_scale, n)
    keywords = given | _ways(options)
    if "gtol" in given:
        keywords |= _gradient_tolerance(method, given["gtol"])
    if not isinstance(scale, str):
        keywords["x_scale"] = scale[list(free)]
    return TRF(**keywords) if keywords else _DEFAULT


def least_squares_solver(options: Options, method: str, n: int, dtype: Any) -> TRF:
    """The solver of SciPy's `least_squares` with n parameters, by its rules."""
    return TRF(
        factor=1.0,  # SciPy's first radius
        **_scipys_tolerances(method, options, dtype),
        x_scale=read_x_scale(options.x_scale, n),
        **_ways(options),
    )


def _scipys_tolerances(
    method: str, options: Options, dtype: np.dtype
) -> dict[str, Any]:
    """SciPy's tolerances as keywords of `TRF`; None means never.

    In single precision none is smaller than its machine epsilon.

    **Raises:** `ValueError` unless one of them is above that of double precision.
    """
    eps = float(np.finfo(float).eps)
    given: dict[str, float] = {}
    for name in ("ftol", "xtol", "gtol"):
        tol = getattr(options, name)
        if tol is not None and (isinstance(tol, str) or np.ndim(tol)):
            raise TypeError(f"`{name}` must be a number or None, got {tol!r}.")
        given[name] = 0.0 if tol is None else float(tol)
        if not 0 <= given[name] < np.inf:
            raise ValueError(f"`{name}` must be finite and not negative, got {tol!r}.")
        if method == "lm" and given[name] < eps:
            raise ValueError(
                "All tolerances must be higher than machine epsilon "
                f"({eps:.2e}) for method 'lm', got {name}={tol!r}."
            )
    if max(given.values()) < eps:
        raise ValueError(
            "At least one of the tolerances must be higher than machine epsilon "
            f"({eps:.2e})."
        )
    least = float(np.finfo(dtype).eps)
    given = {name: max(tol, least) if tol else 0.0 for name, tol in given.items()}
    return {**given, **_gradient_tolerance(method, given["gtol"])}


def _gradient_tolerance(method: str, gtol: float) -> dict[str, float]:
    """SciPy's gtol: a cosine for "lm", else an absolute gradient."""
    return {"gtol": gtol} if method == "lm" else {"gtol": 0.0, "atol": gtol}


def read_x_scale(x_scale: Any, n: int) -> Any:
    """ "jac", or the scales of n parameters."""
    if x_scale is None or (isinstance(x_scale, str) and x_scale == "jac"):
        return "jac"
    refusal = ValueError(
        f"`x_scale` must be 'jac' or array_like with positive numbers, got {x_scale!r}."
    )
    if np.iscomplexobj(x_scale):
        raise refusal
    try:
        scale = np.asarray(x_scale, float)
    except (TypeError, ValueError) as err:
        raise refusal from err
    if not (np.all(np.isfinite(scale)) and np.all(scale > 0)):
        raise refusal
    if scale.ndim == 0:
        return np.full(n, scale)
    if scale.shape != (n,):
        raise ValueError(
            f"Inconsistent shapes between `x_scale` and `x0`: {scale.shape} for {n} "
            "parameters."
        )
    return scale


def _ways(options: Options) -> dict[str, Any]:
    """`max_nfev`, `tr_solver` and `tr_options` as keywords of `TRF`."""
    keywords: dict[str, Any] = {}
    if options.max_nfev is not None:
        keywords["max_nfev"] = int(options.max_nfev)
    keywords |= _linear_solver(options.tr_solver, dict(options.tr_options or {}))
    return keywords


def _linear_solver(tr_solver: str | None, options: dict[str, Any]) -> dict[str, Any]:
    keywords: dict[str, Any] = {}
    if tr_solver == "exact":
        keywords["linear_solver"] = "qr"
    elif tr_solver == "lsmr":
        keywords["linear_solver"] = "matrix_free"
        if "maxiter" in options:
            keywords["cg_steps"] = options.pop("maxiter")
    unknown = sorted(options.keys() - _OF_LSMR)
    if unknown:
        raise TypeError(
            f"`tr_options` has {unknown}, which mean nothing: 'maxiter' with "
            "tr_solver='lsmr' limits the conjugate gradient steps."
        )
    if options:
        warnings.warn(
            f"`tr_options` has {sorted(options)} of SciPy's LSMR, without effect here: "
            "'maxiter' with tr_solver='lsmr' limits the conjugate gradient steps.",
            OptionWarning,
            stacklevel=outside(),
        )
    return keywords


_OF_LSMR = {"atol", "btol", "conlim", "damp", "maxiter", "regularize", "show"}


def with_jacobian(solver: TRF, jacobian: Callable | None) -> TRF:
    """The solver with a function in the place of automatic derivatives."""
    if jacobian is None:
        return solver
    return eqx.tree_at(
        lambda s: s.jacobian,
        solver,
        Function(jacobian, "jac"),
        is_leaf=lambda leaf: leaf is None,
    )
