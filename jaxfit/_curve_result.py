"""What the program of a curve fit gave, as the result of the call."""

import warnings
from typing import Any

import jax
import numpy as np

from ._curve_call import Call
from ._curve_program import Outcome
from ._fit_result import CurveFitResult, FitError
from ._linearise import Triangle
from ._programs import Timing
from ._result import Solution
from ._scipy_options import message, outside
from ._status import Status


def result_of(
    solution: Solution,
    outcome: Outcome,
    timing: Timing,
    call: Call,
    absolute_sigma: bool,
    full_output: bool,
    nan_policy: str | None,
) -> CurveFitResult:
    """The result, or the error that it is.

    **Raises:** `ValueError` where the model is not finite at the start, `FitError`
    where no minimum was found.
    """
    status, nfev, njev, nit = outcome.counts.tolist()
    hopeless = status == Status.NONFINITE_START
    if hopeless and nan_policy != "propagate":
        raise ValueError(_where_not_finite(call))
    free, names, n = list(call.start.free), call.start.names, call.p0.size
    popt, fixed = call.p0.copy(), np.ones(n, bool)
    popt[free], fixed[free] = np.nan if hopeless else outcome.params, False
    dof = call.num_data - len(free)
    covariance = _covariance(call, outcome, dof, absolute_sigma)
    lost = tuple(names[free[i]] for i in np.flatnonzero(outcome.directions.lost))
    bad = bool(lost) or (dof <= 0 and not absolute_sigma)
    pcov = np.full_like(covariance, np.inf) if bad else covariance
    if hopeless:
        covariance = pcov = np.full_like(covariance, np.nan)
    everything = np.zeros(n, int)
    everything[free] = outcome.active_mask
    says = message(outcome.counts, call.options.get("max_nfev"))
    numbers = {
        "popt": popt,
        "pcov": pcov,
        "names": names,
        "perr": np.sqrt(np.diag(covariance)),
        "covariance": covariance,
        "undetermined": lost,
        "fixed": fixed,
        "active_mask": everything,
        "absolute_sigma": bool(absolute_sigma),
        "num_data": call.num_data,
        "dof": dof,
        "cost": float(outcome.cost),
        "optimality": float(outcome.optimality),
        "status": status,
        "message": says,
        "nfev": nfev,
        "njev": njev,
        "nit": nit,
        "compile_time": timing.compile_time,
        "run_time": timing.run_time,
        "root": outcome.directions.determined,
        "null": outcome.directions.null,
        "unit": outcome.directions.unit,
        "rows_last": call.model.rows_last,
    }
    parts = {"solution": solution, "predictor": call.predictor(popt), "call": call}
    parts |= call.original()
    result = CurveFitResult(numbers, **parts)
    if status <= 0 and status != Status.STOPPED and not hopeless:
        raise FitError(f"Optimal parameters not found: {says}", result)
    if bad and not hopeless:
        warn_of_covariance(lost)
    if full_output:
        full = (_infodict(result, call.method), says, status)
        result = CurveFitResult(numbers, full, **parts)
    return result


def _covariance(
    call: Call, outcome: Outcome, dof: int, absolute_sigma: bool
) -> np.ndarray:
    """Of all parameters: infinite variances where not determined, 0 where fixed."""
    ways, scale = outcome.directions, 1.0
    if not absolute_sigma:
        scale = 2 * float(outcome.cost) / dof if dof > 0 else np.nan
    some = ways.determined.T @ ways.determined * scale
    some[ways.lost], some[:, ways.lost] = np.nan, np.nan
    some[ways.lost, ways.lost] = np.inf
    n, free = call.p0.size, list(call.start.free)
    covariance = np.zeros((n, n), call.p0.dtype)
    covariance[np.ix_(free, free)] = some
    return covariance


def _infodict(result: CurveFitResult, method: str) -> dict[str, Any]:
    """SciPy's dictionary; of the factorisation of "lm" what a covariance is made of.

    Without pivoting: fjac holds R' in its first n columns, and ipvt counts.
    """
    fvec = result.weighted_residuals
    info: dict[str, Any] = {"nfev": result.nfev, "fvec": fvec}
    lin = result.solution.linearisation
    if method == "lm" and lin is not None:
        triangle = lin if isinstance(lin, Triangle) else None
        n = result.solution.num_params
        if triangle is not None:
            r, z = np.asarray(triangle.root), np.asarray(triangle.z)
        else:
            r = np.linalg.cholesky(np.asarray(lin.gram)).T
            z = np.linalg.solve(r.T, np.asarray(lin.grad))
        fjac = np.zeros((n, fvec.size), r.dtype)
        fjac[:, : r.shape[0]] = r.T
        info |= {"fjac": fjac, "ipvt": np.arange(1, n + 1, dtype=np.int32), "qtf": z}
    return info


def _where_not_finite(call: Call) -> str:
    """Why there is no residual at the start, and at which datum."""
    says = "Residuals are not finite in the initial point: "
    original = call.original()
    values, slopes = call.predictor(call.p0).slopes(original["xdata"])
    start = ", ".join(
        f"{k}={v:.6g}" for k, v in zip(call.start.names, call.p0, strict=True)
    )
    for what, tree in (("f(xdata, *p0)", values), ("the derivative of f", slopes)):
        for leaf in jax.tree.leaves(tree):
            bad = ~np.isfinite(leaf)
            if bad.any():
                index = tuple(int(i) for i in np.argwhere(bad)[0])
                return (
                    f"{says}{what} is {leaf[index]} at index {index[0]}, with {start}. "
                    "Give another `p0`, or bounds that keep the parameters where the "
                    "model is defined."
                )
    return (
        f"{says}a datum or the sum of squares is not finite, with {start}. "
        "nan_policy='omit' leaves such data out."
    )


def warn_of_covariance(lost: tuple[str, ...]) -> None:
    """SciPy's warning, and why: the names of parameters that are undetermined."""
    from scipy.optimize import OptimizeWarning

    why = (
        f"the data do not determine {', '.join(lost)}"
        if lost
        else "there are no more data than free parameters"
    )
    warnings.warn(
        f"Covariance of the parameters could not be estimated: {why}",
        category=OptimizeWarning,
        stacklevel=outside(),
    )
