"""`least_squares`: SciPy's call for a residual, over the kernel's `solve`."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._basics.masked import read_mask
from .._basics.precision import precision
from .._basics.status import Status
from .._curve.nonfinite import Spot, beside, first_in_rows, with_params
from .._programs.capture import interned
from .._programs.fork import check_process
from .._programs.tracing import at_once
from .._scipy.bounds import check_feasible, read_bounds
from .._scipy.data import fit_dtype, real_array
from .._scipy.differences import read_differences
from .._scipy.host import Host, called_back, hosted_loss, matrix_of, traced_or_hosted
from .._scipy.losses import read_loss
from .._scipy.messages import message, underflow
from .._scipy.options import Options, check_jac, check_matrix, check_method, unjitted
from .._scipy.solver import least_squares_solver
from .._solve.second_opinion import Fitted
from .jacobian_operator import jacobian_operator
from .residual import residual_of
from .residual_fit import Given, ResidualFit, fitted, rescaled


@at_once
def least_squares(
    fun: Callable,
    x0: Any,
    jac: Any = None,
    bounds: Any = (-np.inf, np.inf),
    method: str = "trf",
    ftol: float | None = 1e-8,
    xtol: float | None = 1e-8,
    gtol: float | None = 1e-8,
    x_scale: Any = None,
    loss: str | Callable = "linear",
    f_scale: float = 1.0,
    diff_step: Any = None,
    tr_solver: str | None = None,
    tr_options: Mapping[str, Any] | None = None,
    jac_sparsity: Any = None,
    max_nfev: int | None = None,
    verbose: int = 0,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    callback: Callable | None = None,
    workers: Any = None,
    *,
    mask: Any = None,
    progress: bool = False,
    host: Host = "warn",
) -> Any:
    """Minimise a sum of squares: `scipy.optimize.least_squares`.

    SciPy's arguments mean what they mean there; "Coming from SciPy" in the
    documentation has them one by one. What differs most:

    - `fun(x, *args, **kwargs)` is written with `jax.numpy`. One that JAX cannot trace
        (NumPy, SciPy, `if`, `float()`) runs on the host, slower, with a warning;
        `host="allow"` leaves the warning out, `host="refuse"` makes it an error. So for
        `jac` and `loss`. Arrays and floats among `args` and `kwargs` are data; the rest
        is part of the program.
    - `jac=None` differentiates automatically; "2-point", "3-point" and "cs" are there
        for comparison. A callable may return any array of shape (m, n).
    - `x_scale=None` is "jac" for every method, and `max_nfev=None` stops after 2,000
        steps. `gtol` is absolute as in SciPy's "trf", a cosine for "lm".
    - "lm" and "dogbox" are served by the same method as "trf", within their rules.
    - Equal lower and upper bounds fix a parameter.
    - `loss` may return rho(z) alone.
    - `mask`, a boolean for each residual: False leaves it out. It is still computed,
        and is 0 in `fun`.

    A fit that finds no minimum in scales by the Jacobian (`x_scale=None`, and not "lm")
    is made once more with SciPy's scale of 1, within `max_nfev`, unless somebody
    watches (`verbose`, `callback`, `progress`); evaluations are those of both.

    **Returns:** a `scipy.optimize.OptimizeResult` with SciPy's fields, and `nit`,
    `compile_time` and `run_time` in seconds, and the kernel's `solution`. `outcome` is
    a [`jaxfit.Status`][]; `status` is 0 where that says that no minimum was found for a
    reason of which SciPy has no code. After `tr_solver="lsmr"` its `jac` is a
    LinearOperator.

    **Raises:** `ValueError` or `TypeError` for what is wrong with the arguments, naming
    it, and where the residuals are not finite at `x0`.
    """
    check_process()
    check_method(method)
    check_jac(jac)
    options = Options(
        ftol=ftol, xtol=xtol, gtol=gtol, x_scale=x_scale, max_nfev=max_nfev,
        tr_solver=tr_solver, tr_options=tr_options, diff_step=diff_step,
        jac_sparsity=jac_sparsity, workers=workers, loss=loss, f_scale=f_scale,
        verbose=verbose, callback=callback, progress=progress, host=host,
    )  # fmt: skip
    if jac_sparsity is not None:
        check_matrix("sparse", method, tr_solver, x_scale)
    if not callable(fun):
        raise TypeError(f"`fun` must be callable, got {type(fun).__name__}.")
    fun = unjitted(fun)
    x0, limits = _start(x0, bounds, method)
    dtype, n = x0.dtype, x0.size
    solver = least_squares_solver(options, method, n, dtype)
    if mask is not None:
        mask = np.asarray(mask)
        mask = read_mask(mask, np.empty(mask.shape), "fun(x)").ravel()
    args = tuple(args) if isinstance(args, tuple | list) else (args,)
    keywords = dict(kwargs or {})
    call = (x0, *args), keywords
    with precision(dtype):
        losses = read_loss(hosted_loss(loss, host), method)
        fun = traced_or_hosted(fun, "fun", *call, host)
        if callable(jac):
            jac = traced_or_hosted(jac, "jac", *call, host)
            check_matrix(matrix_of(jac), method, tr_solver, x_scale)
    fun, capture = interned(fun)
    residual, data = residual_of(fun, capture, args, keywords)
    given = Given(x0, limits, data, f_scale, mask)
    with precision(dtype), called_back((fun, jac), losses, *call):
        if callable(jac):
            jacobian = residual.jacobian(jac)
        else:
            steps = read_differences(fun, jac, diff_step, n, dtype)
            jacobian = None
            if steps is not None:
                jacobian = steps.jacobian(residual, fun, limits, argnum=0)
        fit = ResidualFit(residual, jacobian, solver, losses, given)
        watching = options.watching()
        done = fitted(fit, watching)
        if x_scale is None and method != "lm" and watching is None:
            done = rescaled(fit, done)
        _check_sizes(done, method, jac_sparsity, mask)
        spot = _first_spot(done, fit)
        if done.rows[1] is None:
            problem, _ = fit.problem_and_solver()
            operator = jacobian_operator(problem, done.solution)
            done = done._replace(rows=(done.rows[0], operator))
    jac_name = "`jac`" if callable(jac) else None
    result = _result(done, max_nfev, spot, jac_name)
    if matrix_of(jac) == "sparse" and isinstance(result.jac, np.ndarray):
        from scipy.sparse import csr_array

        result.jac = csr_array(result.jac)
    return result


def _start(x0: Any, bounds: Any, method: str):
    """The start as a vector, and its bounds or None."""
    if np.iscomplexobj(x0):
        raise ValueError("`x0` must be real.")
    x0 = np.atleast_1d(real_array(x0, "x0", fit_dtype(x0)))
    if x0.ndim > 1:
        raise ValueError(f"`x0` must have at most 1 dimension, got shape {x0.shape}.")
    n = x0.size
    if n == 0 or not np.isfinite(x0).all():
        raise ValueError(f"`x0` must be finite and not empty, got {x0}.")
    names = tuple(f"x[{i}]" for i in range(n))
    limits = read_bounds(bounds, n, names, x0.dtype)
    if limits is not None:
        if method == "lm":
            raise ValueError("Method 'lm' doesn't support bounds.")
        check_feasible(x0, limits, names, "x0")
    return x0, limits


def _check_sizes(done: Fitted, method: str, jac_sparsity: Any, mask: Any) -> None:
    """SciPy's rules about the number of residuals."""
    m, n = done.rows[0].size, done.outcome.x.size
    if jac_sparsity is not None and np.shape(jac_sparsity) != (m, n):
        raise ValueError(
            f"`jac_sparsity` has wrong shape: {np.shape(jac_sparsity)} for a "
            f"Jacobian of shape {(m, n)}."
        )
    count = m if mask is None else int(mask.sum())
    if method == "lm" and count < n:
        raise ValueError(
            "Method 'lm' doesn't work when the number of residuals is less than "
            f"the number of variables: {count} and {n}."
        )


def _first_spot(done: Fitted, fit: ResidualFit) -> Spot | None:
    """Where a fit met what is not finite: at its end or, if steps lead there, beside.

    None where it met nothing, or no rows tell where.
    """
    status = done.outcome.counts[0]
    if status not in (Status.NONFINITE_START, Status.NONFINITE_JACOBIAN):
        return None
    spot = first_in_rows(np.asarray(done.rows[0]), done.rows[1])
    if spot is not None or status == Status.NONFINITE_START:
        return spot
    for x in beside(np.asarray(done.outcome.x)):
        r, j = fit.rows_at(jnp.asarray(x))
        spot = first_in_rows(np.asarray(r), j)
        if spot is not None:
            break
    return spot


def _result(
    done: Fitted, max_nfev: int | None, spot: Spot | None, jac_name: str | None
) -> Any:
    from scipy.optimize import OptimizeResult

    outcome, (fun, jac) = done.outcome, done.rows
    status, nfev, njev, nit = outcome.counts.tolist()
    status = Status(status)
    fun = np.asarray(fun)
    says = message(outcome.counts, max_nfev)
    says += underflow(status, float(outcome.cost), outcome.x.dtype)
    if status in (Status.NONFINITE_START, Status.NONFINITE_JACOBIAN):
        at_start = status == Status.NONFINITE_START
        point = "x0" if at_start else "x"
        where = _where_not_finite(spot, outcome.x, point, jac_name)
        if at_start:
            raise ValueError(f"Residuals are not finite in the initial point: {where}.")
        says = f"{says} There {where}."
    return OptimizeResult(
        x=outcome.x,
        cost=float(outcome.cost),
        fun=fun,
        jac=np.asarray(jac) if isinstance(jac, jax.Array) else jac,
        grad=outcome.grad,
        optimality=float(outcome.optimality),
        active_mask=outcome.active_mask,
        nfev=nfev,
        njev=njev,
        nit=nit,
        status=status.of_scipy,
        outcome=status,
        message=says,
        success=status > 0,
        compile_time=done.timing.compile_time,
        run_time=done.timing.run_time,
        solution=done.solution,
    )


def _where_not_finite(
    spot: Spot | None, x: Any, point: str, jac_name: str | None
) -> str:
    """What is not finite at x, called `point`, in which row, and by which parameter."""
    at = f"with {with_params([f'x[{i}]' for i in range(len(x))], x)}"
    if spot is None:
        return f"the Jacobian or the sum of squares is not finite, {at}"
    if spot.param is None:
        return f"fun({point}) is {spot.value} at index {spot.row}, {at}"
    what = "the derivative of fun" if jac_name is None else jac_name
    return f"{what} by {spot.param} is {spot.value} at index {spot.row}, {at}"
