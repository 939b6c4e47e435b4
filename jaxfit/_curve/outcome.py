"""The result of a curve fit, or the error that it is, from the program's numbers."""

import warnings
from typing import Any

import numpy as np

from .._basics.checks import outside
from .._basics.status import Status
from .._scipy.messages import message, optimize_warning, underflow
from .._scipy.pcov import scale_of
from .._scipy.prepared import Prepared
from .._solve.covariance import masked
from .._solve.second_opinion import Fitted
from .._trf.triangle import Triangle
from .nonfinite import (
    Differenced,
    Spot,
    beside,
    differenced,
    first_spot,
    place,
    with_params,
)
from .predict import Predictor
from .program import Outcome
from .result import CurveFitResult, FitError
from .warnings import warn_of_health


def result_of(
    prepared: Prepared,
    done: Fitted,
    absolute_sigma: bool,
    full_output: bool,
    nan_policy: str | None,
) -> CurveFitResult:
    """The result, or the error that it is.

    **Raises:** `ValueError` where the model is not finite at the start, `FitError`
    where no minimum was found.
    """
    outcome, timing = done.outcome, done.timing
    start = prepared.start
    data, p0 = prepared.data, start.p0
    status, nfev, njev, nit = outcome.counts.tolist()
    status = Status(status)
    hopeless = status == Status.NONFINITE_START
    if hopeless and nan_policy != "propagate":
        raise ValueError(
            "Residuals are not finite in the initial point: "
            + _where_not_finite(prepared, p0)
        )
    free, names, n = list(start.free), start.names, p0.size
    popt, fixed = prepared.with_free(outcome.params), np.ones(n, bool)
    popt[free], fixed[free] = np.nan if hopeless else popt[free], False
    dof = prepared.dof
    covariance = _covariance(prepared, outcome, absolute_sigma)
    lost: tuple[str, ...] = ()
    if outcome.directions.lost.any():
        lost = tuple(names[free[i]] for i in np.flatnonzero(outcome.directions.lost))
    bad = bool(lost) or (dof <= 0 and not absolute_sigma)
    if hopeless:
        covariance = np.full_like(covariance, np.nan)
    perr = np.sqrt(covariance.diagonal()).astype(p0.dtype, copy=False)
    covariance = covariance.astype(p0.dtype, copy=False)
    pcov = np.full_like(covariance, np.inf) if bad and not hopeless else covariance
    everything = np.zeros(n, int)
    everything[free] = outcome.active_mask
    says = message(outcome.counts, prepared.solver.max_nfev)
    says += underflow(status, float(outcome.cost), p0.dtype)
    if status == Status.NONFINITE_JACOBIAN:
        says = f"{says} There {_where_not_finite_beside(prepared, popt)}"
    by_differences = Differenced(0, None)
    if bool(outcome.differenced) and status >= 0:
        by_differences = _found_differences(prepared, popt)
    numbers = {
        "popt": popt,
        "pcov": pcov,
        "names": names,
        "perr": perr,
        "covariance": covariance,
        "undetermined": lost,
        "fixed": fixed,
        "active_mask": everything,
        "absolute_sigma": bool(absolute_sigma),
        "num_data": data.count,
        "num_differenced": by_differences.rows,
        "dof": dof + int(np.count_nonzero(outcome.active_mask)),
        "cost": float(outcome.cost),
        "optimality": float(outcome.optimality),
        "status": status.of_scipy,
        "outcome": status,
        "message": says,
        "nfev": nfev,
        "njev": njev,
        "nit": nit,
        "compile_time": timing.compile_time,
        "run_time": timing.run_time,
        "root": outcome.directions.determined,
        "null": outcome.directions.null,
        "unit": outcome.directions.unit,
        "rows_last": data.rows_last,
    }
    parts = {
        "done": done,
        "predictor": _predictor(prepared, popt),
        "prepared": prepared,
        "xdata": data.callers_x,
        "ydata": data.y,
        "sigma": data.sigma,
        "used": data.used,
    }
    result = CurveFitResult(numbers, **parts)
    if status <= 0 and status != Status.STOPPED and not hopeless:
        raise FitError(f"Optimal parameters not found: {says}", result)
    if bad and not hopeless:
        warn_of_covariance(lost)
    if status > 0:
        warn_of_health(prepared, done, absolute_sigma)
    _warn_of_differences(by_differences)
    if full_output:
        full = (_infodict(result, prepared.method, done), says, result.status)
        result = CurveFitResult(numbers, full, **parts)
    return result


def _covariance(
    prepared: Prepared, outcome: Outcome, absolute_sigma: bool
) -> np.ndarray:
    """SciPy's of all parameters: inf where not determined, 0 where fixed."""
    ways = outcome.directions
    # In double precision: squares of errors may be below the smallest number.
    root = np.asarray(ways.determined, float)
    scale = scale_of(float(outcome.cost), prepared.dof, absolute_sigma)
    some = root.T @ root * scale
    if ways.lost.any():
        some = masked(some, np.asarray(ways.lost))
    n, free = prepared.start.p0.size, list(prepared.start.free)
    if len(free) == n:
        return some
    covariance = np.zeros((n, n))
    covariance[np.ix_(free, free)] = some
    return covariance


def _infodict(result: CurveFitResult, method: str, done: Fitted) -> dict[str, Any]:
    """SciPy's dictionary; of the factorisation of "lm" what a covariance is made of.

    Without pivoting: fjac holds R' in its first n columns, and ipvt counts.
    """
    fvec = result.weighted_residuals
    info: dict[str, Any] = {"nfev": result.nfev, "fvec": fvec}
    lin = done.solved().linearisation
    if method == "lm" and lin is not None:
        triangle = lin if isinstance(lin, Triangle) else None
        n = len(done.outcome.params)
        if triangle is not None:
            r, z = np.asarray(triangle.root), np.asarray(triangle.z)
        else:
            r = np.linalg.cholesky(np.asarray(lin.gram)).T
            z = np.linalg.solve(r.T, np.asarray(lin.grad))
        fjac = np.zeros((n, fvec.size), r.dtype)
        fjac[:, : r.shape[0]] = r.T
        info |= {"fjac": fjac, "ipvt": np.arange(1, n + 1, dtype=np.int32), "qtf": z}
    return info


def _where_not_finite(prepared: Prepared, p: np.ndarray) -> str:
    """What is not finite at parameters p, at which datum, and the way out."""
    at = f"with {with_params(prepared.start.names, p)}"
    spot = _first_spot(prepared, p)
    if spot is not None and spot.param is None:
        there = "" if spot.x is None else f" at x = {spot.x}"
        return (
            f"f(xdata, *p0) is {spot.value} at index {spot.row}, {at}. Give another "
            "`p0`, or bounds that keep the parameters where the model is "
            f"defined{there}."
        )
    if prepared.jacobian is not None:
        return (
            f"`jac` or the sum of squares is not finite, {at}. Without `jac` "
            "derivatives are automatic."
        )
    matrix_free = prepared.solver.linear_solver == "matrix_free"
    if matrix_free and prepared.differences is None:
        found = _found_differences(prepared, p).first
        if found is not None:
            return (
                f"the derivative of f by `{found.param}` is not finite at "
                f"{place(found)}, {at}: tr_solver='lsmr' forms no "
                "rows that differences could replace. Leave it out."
            )
    if spot is not None:
        return (
            f"the derivative of f by `{spot.param}` is {spot.value} at {place(spot)}, "
            f"{at}. Give another `p0`, or bounds that keep the parameters where the "
            "model is smooth; jac='2-point' takes differences everywhere."
        )
    return (
        f"a datum or a sum of squares is not finite, {at}. nan_policy='omit' "
        "leaves out data that are not finite; other units help where squares are "
        "beyond the largest number."
    )


def _where_not_finite_beside(prepared: Prepared, p: np.ndarray) -> str:
    """The same at p or, where steps lead to it from p, beside it."""
    free = np.isin(np.arange(p.size), prepared.start.free)
    for point in beside(p):
        moved = np.where(free, point, p)
        if _first_spot(prepared, moved) or _found_differences(prepared, moved).rows:
            return _where_not_finite(prepared, moved)
    return _where_not_finite(prepared, p)


def _first_spot(prepared: Prepared, p: np.ndarray) -> Spot | None:
    return first_spot(_predictor(prepared, p), prepared.data, prepared.names)


def _found_differences(prepared: Prepared, p: np.ndarray) -> Differenced:
    """The data with differences for derivatives at parameters p."""
    return differenced(_predictor(prepared, p), prepared.data, prepared.names)


def _predictor(prepared: Prepared, p: np.ndarray) -> Predictor:
    return Predictor(prepared.model, p, prepared.rowwise, prepared.tabular)


def _warn_of_differences(found: Differenced) -> None:
    if found.first is None:
        return
    rows = "1 datum" if found.rows == 1 else f"{found.rows} data"
    warnings.warn(
        f"Derivatives of f are differences for {rows}, where automatic ones are not "
        f"finite: the first is that by `{found.first.param}` at {place(found.first)}.",
        category=RuntimeWarning,
        stacklevel=outside(),
    )


def warn_of_covariance(lost: tuple[str, ...]) -> None:
    """SciPy's warning, and why: the names of parameters that are undetermined."""
    why = (
        f"the data do not determine {', '.join(lost)}"
        if lost
        else "there are no more data than free parameters"
    )
    optimize_warning(f"Covariance of the parameters could not be estimated: {why}")
