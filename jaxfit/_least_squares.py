"""Door 2: `least_squares`, SciPy's call over the kernel's `solve` of a `Problem`."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._bounds import Bounds
from ._capture import captured
from ._data import fit_dtype, real_array
from ._differences import Scheme, difference_jacobian
from ._explain import explained
from ._from_numpy import HostFunction
from ._function import Function
from ._objective import Objective
from ._predict import precision
from ._problem import Problem
from ._programs import Programs, Timing
from ._report import Reporter
from ._result import Solution
from ._scipy_options import (
    JAC_SPARSITY,
    check_feasible,
    check_jac,
    check_loss,
    check_method,
    check_verbose,
    read_bounds,
    read_linear_solver,
    read_max_nfev,
    read_tolerances,
    read_x_scale,
    refuse_given,
    scipy_rho,
)
from ._solve import solve
from ._status import Status
from ._trf import TRF
from ._types import Vector
from ._watch import watch


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
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callback: Callable | None = None,
    workers: Any = None,
    *,
    progress: bool = False,
) -> Any:
    """Minimise a sum of squares: `scipy.optimize.least_squares`.

    All arguments of SciPy's mean what they mean there; "Coming from SciPy" in the
    documentation has them one by one. What differs:

    - `fun(x, *args, **kwargs)` is written with `jax.numpy`, or wrapped by
        [`jaxfit.from_numpy`][]. Arrays and floats among `args` and `kwargs` are data;
        the rest is part of the program.
    - `jac=None` differentiates automatically; "2-point", "3-point" and "cs" are there
        for comparison. A callable may return any array of shape (m, n).
    - `x_scale=None` is "jac" for every method, and `max_nfev=None` stops after 2,000
        steps. `gtol` is absolute as in SciPy's "trf", a cosine for "lm".
    - "lm" and "dogbox" are served by the same method as "trf", within their rules.
    - Equal lower and upper bounds fix a parameter.
    - `loss` may return rho(z) alone.

    **Returns:** a `scipy.optimize.OptimizeResult` with SciPy's fields, and `nit`,
    `compile_time` and `run_time` in seconds, and the kernel's `solution`. After
    `tr_solver="lsmr"` its `jac` is a LinearOperator.

    **Raises:** `ValueError` or `TypeError` for what is wrong with the arguments, naming
    it, and where the residuals are not finite at `x0`.
    """
    check_method(method)
    check_jac(jac)
    check_loss(loss, method)
    check_verbose(verbose)
    refuse_given(
        {
            "jac_sparsity": (jac_sparsity, JAC_SPARSITY),
            "workers": (workers, "XLA runs on all cores by itself"),
        }
    )
    if isinstance(fun, _Jitted):
        fun = fun.__wrapped__  # type: ignore[attr-defined]
    dtype = fit_dtype(x0)
    x0 = np.atleast_1d(_real(x0, dtype))
    if x0.ndim > 1:
        raise ValueError(f"`x0` must have at most 1 dimension, got shape {x0.shape}.")
    n = x0.size
    if not np.isfinite(x0).all() or n == 0:
        raise ValueError(f"`x0` must be finite and not empty, got {x0}.")
    names = tuple(f"x[{i}]" for i in range(n))
    limits = read_bounds(bounds, n, names, dtype)
    if limits is not None:
        if method == "lm":
            raise ValueError("Method 'lm' doesn't support bounds.")
        check_feasible(x0, limits, names, "x0")
    solver = TRF(
        **read_tolerances(method, ftol, xtol, gtol, dtype),
        x_scale=read_x_scale("jac" if x_scale is None else x_scale, n),
        **read_max_nfev(max_nfev),
        **read_linear_solver(tr_solver, tr_options),
    )
    residual, data = _residual_of(fun, args, dict(kwargs or {}))
    scheme = None if callable(jac) else jac
    step = diff_step
    if isinstance(fun, HostFunction) and jac is None and fun.jac is None:
        scheme, step = fun.derivative, fun.diff_step if step is None else step
    with precision(dtype), explained("fun"), contextlib.ExitStack() as stack:
        eps = 0.0
        for function in (fun, jac):
            if isinstance(function, HostFunction):
                stack.enter_context(function.fit(x0, *args, **(kwargs or {})))
                eps = max(eps, function.eps if function is fun else 0.0)
        plan = _Plan(
            loss, None if isinstance(loss, str) else captured(loss), scheme, eps
        )
        jacobian = None
        if callable(jac):
            jacobian = ScipyResidual(
                Function(jac, "jac"),
                residual.rest,
                residual.form,
                captured(jac),
                is_jacobian=True,
            )
        given = _Given(x0, limits, data, f_scale, step)
        call = residual, jacobian, solver, plan, given
        if verbose or callback is not None or progress:
            done = _watched(call, verbose, callback, progress)
        else:
            done = _fit(*call)
        return _result(*done, call, method)


_Jitted = type(jax.jit(lambda x: x))


class ScipyResidual(eqx.Module):
    """`fn(x, *args, **kwargs)` as the kernel's residual(x, data).

    `rest` are the arguments that are no data, None in the place of those that are.
    """

    fn: Function
    rest: tuple = eqx.field(static=True)
    form: Any = eqx.field(static=True)
    capture: Hashable = eqx.field(static=True)
    is_jacobian: bool = eqx.field(static=True)

    def __call__(self, x: Vector, data: list) -> Any:
        values = iter(data)
        leaves = [next(values) if a is _DATA else a for a in self.rest]
        args, kwargs = jax.tree.unflatten(self.form, leaves)
        value = jnp.asarray(self.fn(x, *args, **kwargs))
        if self.is_jacobian:
            if value.ndim > 2 or value.shape[-1:] != x.shape:
                raise ValueError(
                    "The return value of `jac` has wrong shape: it must have one row "
                    f"for each residual and {x.size} columns, and has {value.shape}."
                )
            return jnp.atleast_2d(value)
        if value.ndim > 1:
            raise ValueError(
                f"`fun` must return at most 1-d array_like. f0.shape: {value.shape}."
            )
        return jnp.atleast_1d(value)


class DifferenceResidual(eqx.Module):
    """The Jacobian of such a residual by differences that stay inside the bounds."""

    residual: ScipyResidual
    bounds: Bounds | None
    rel_step: Any
    scheme: Scheme = eqx.field(static=True)
    eps: float = eqx.field(static=True)

    def __call__(self, x: Vector, data: list) -> Any:
        return difference_jacobian(
            lambda x: self.residual(x, data),
            x,
            self.scheme,
            self.rel_step,
            self.bounds,
            self.eps,
        )


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Plan:
    """What of a call is part of the program."""

    loss: Any
    loss_capture: Hashable
    scheme: Scheme | None
    eps: float


class _Given(NamedTuple):
    """What of a call is data of the program."""

    x0: Any
    limits: Any
    data: Any
    f_scale: Any
    diff_step: Any


class _Outcome(NamedTuple):
    """The fields of the result that are small."""

    x: Any
    cost: Any
    grad: Any
    optimality: Any
    active_mask: Any
    counts: Any


_DATA = "data"  # stands for an argument that is data


def _residual_of(
    fun: Callable, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[ScipyResidual, list]:
    """The residual with its arguments taken apart: arrays and floats are data."""
    if not isinstance(args, tuple | list):
        args = (args,)
    leaves, form = jax.tree.flatten((tuple(args), kwargs))
    kinds = jax.Array | np.ndarray | np.generic | float
    is_data = [isinstance(leaf, kinds) for leaf in leaves]
    data = [leaf for leaf, d in zip(leaves, is_data, strict=True) if d]
    rest = [_DATA if d else leaf for leaf, d in zip(leaves, is_data, strict=True)]
    try:
        hash(tuple(rest))
    except TypeError as err:
        raise TypeError(
            "`args` and `kwargs` must hold arrays, numbers and hashable things, "
            f"and there is {err}: bind it with functools.partial."
        ) from err
    residual = ScipyResidual(
        Function(fun, "fun"), tuple(rest), form, captured(fun), is_jacobian=False
    )
    return residual, data


def _real(x0: Any, dtype: np.dtype) -> np.ndarray:
    if np.iscomplexobj(x0):
        raise ValueError("`x0` must be real.")
    return real_array(x0, "x0", dtype)


def _problem(residual, jacobian, solver, plan, given) -> tuple[Problem, TRF]:
    """The kernel's problem and solver of a call."""
    x0 = jnp.asarray(given.x0)
    problem = Problem(
        residual,
        x0,
        given.data,
        bounds=given.limits,
        loss=plan.loss if isinstance(plan.loss, str) else _rho(plan),
        f_scale=given.f_scale,
    )
    if jacobian is None and plan.scheme is not None:
        jacobian = DifferenceResidual(
            residual, problem.bounds, given.diff_step, plan.scheme, plan.eps
        )
    if jacobian is not None:
        solver = eqx.tree_at(
            lambda s: s.jacobian,
            solver,
            Function(jacobian, "jac"),
            is_leaf=lambda leaf: leaf is None,
        )
    return problem, solver


@functools.lru_cache(maxsize=64)
def _rho(plan: _Plan) -> Callable:
    return scipy_rho(plan.loss)


@Programs
def _fit(*call) -> tuple[tuple[Solution, Any], _Outcome]:
    problem, solver = _problem(*call)
    solution = solve(problem, solver)
    return (solution, _rows(problem, solver, solution)), _outcome(solution)


@jax.jit
def _rows(problem: Problem, solver: TRF, solution: Solution) -> Any:
    """Residuals at the solution, and the Jacobian if it was formed."""
    objective = Objective.of(problem, solution.params, solver)
    if objective.form == "matrix_free":
        return objective.residual(solution.params, objective.rows), None
    return objective.rows_at(solution.params)


def _outcome(solution: Solution) -> _Outcome:
    return _Outcome(
        solution.params,
        solution.cost,
        solution.grad,
        solution.optimality,
        solution.active_mask,
        solution.counts,
    )


def _watched(call, verbose, callback, progress) -> Any:
    begin = time.perf_counter()
    problem, solver = _problem(*call)

    def fun(x):
        return np.asarray(_rows(problem, solver, _At(x))[0])

    reporter = Reporter(verbose, callback, progress, call[-1].x0, np.array, fun)
    solution = watch(problem, solver, reporter.step)
    rows = _rows(problem, solver, solution)
    outcome = jax.device_get(_outcome(solution))
    reporter.end(solution, _message(outcome, solver))
    timing = Timing(0.0, time.perf_counter() - begin)
    return (solution, rows), outcome, timing


class _At(NamedTuple):
    """A point, in the place of a solution."""

    params: Any


def _message(outcome: _Outcome, solver: TRF) -> str:
    status, nfev, *_ = outcome.counts.tolist()
    most = solver.max_nfev
    if status == Status.MAX_STEPS and most is not None and nfev >= most:
        return "The maximum number of function evaluations is exceeded."
    return Status(status).message


def _result(kept, outcome: _Outcome, timing: Timing, call, method: str) -> Any:
    from scipy.optimize import OptimizeResult

    (solution, (fun, jac)), solver = kept, call[2]
    status, nfev, njev, nit = outcome.counts.tolist()
    fun = np.asarray(fun)
    if status == Status.NONFINITE_START:
        bad = np.flatnonzero(~np.isfinite(fun))
        where = (
            f"fun(x0) is {fun[bad[0]]} at index {bad[0]}"
            if bad.size
            else ("the Jacobian or the sum of squares is not finite there")
        )
        raise ValueError(f"Residuals are not finite in the initial point: {where}.")
    if method == "lm" and fun.size < outcome.x.size:
        raise ValueError(
            "Method 'lm' doesn't work when the number of residuals is less than the "
            f"number of variables: {fun.size} and {outcome.x.size}."
        )
    return OptimizeResult(
        x=outcome.x,
        cost=float(outcome.cost),
        fun=fun,
        jac=_operator(call, solution, fun.size) if jac is None else np.asarray(jac),
        grad=outcome.grad,
        optimality=float(outcome.optimality),
        active_mask=outcome.active_mask,
        nfev=nfev,
        njev=njev,
        nit=nit,
        status=status,
        message=_message(outcome, solver),
        success=status > 0,
        compile_time=timing.compile_time,
        run_time=timing.run_time,
        solution=solution,
    )


def _operator(call, solution: Solution, m: int) -> Any:
    """The Jacobian, never formed, as products with it and with its transpose."""
    from scipy.sparse.linalg import LinearOperator

    problem, _ = _problem(*call)
    x = solution.params
    dtype = np.dtype(x.dtype)

    def product(fn, v):
        with precision(dtype):
            return np.asarray(fn(problem, x, np.asarray(v, dtype).ravel()))

    return LinearOperator(
        (m, x.size),
        matvec=lambda v: product(_matvec, v),
        rmatvec=lambda v: product(_rmatvec, v),
        dtype=dtype,
    )


def _scaled(problem: Problem, x: Vector):
    def residual(x):
        return problem.residual(x, problem.args)

    _, _, scale = problem.loss.robustify(residual(x))
    return residual, 1 if scale is None else scale


@jax.jit
def _matvec(problem: Problem, x: Vector, v: Vector):
    residual, scale = _scaled(problem, x)
    return scale * jax.jvp(residual, (x,), (v,))[1]


@jax.jit
def _rmatvec(problem: Problem, x: Vector, v: Vector):
    residual, scale = _scaled(problem, x)
    return jax.vjp(residual, x)[1](scale * v)[0]
