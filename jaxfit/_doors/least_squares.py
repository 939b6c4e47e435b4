"""Door 2: `least_squares`, SciPy's call over the kernel's `solve` of a `Problem`."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._basics.checks import is_concrete
from .._basics.masked import read_mask
from .._basics.precision import precision
from .._basics.status import DOUBTFUL, Status
from .._basics.types import Vector
from .._curve.nonfinite import Spot, beside, first_in_rows, with_params
from .._functions.callables import Function
from .._functions.differences import DifferenceJacobian
from .._functions.explain import explained
from .._problem.objective import Objective
from .._problem.problem import Problem
from .._programs.capture import Capture, Held, check_capture, interned
from .._programs.fetched import Programs, Timing
from .._programs.fork import check_process
from .._programs.program import program
from .._scipy.data import fit_dtype, real_array
from .._scipy.host import (
    Host,
    called_back,
    check_host,
    hosted_loss,
    matrix_of,
    traced_or_hosted,
)
from .._scipy.options import (
    NamedLoss,
    check_callback,
    check_f_scale,
    check_feasible,
    check_hints,
    check_jac,
    check_matrix,
    check_method,
    check_verbose,
    message,
    read_bounds,
    read_differences,
    read_linear_solver,
    read_loss,
    read_max_nfev,
    read_tolerances,
    read_x_scale,
    underflow,
    unjitted,
    with_jacobian,
)
from .._scipy.report import Watching, observed
from .._solve.second_opinion import second_opinion, with_counts
from .._solve.solution import Solution
from .._solve.solve import solve
from .._trf.trf import TRF


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
    check_verbose(verbose)
    check_callback(callback)
    check_hints(jac_sparsity, workers)
    if jac_sparsity is not None:
        check_matrix("sparse", method, tr_solver, x_scale)
    check_host(host)
    if not callable(fun):
        raise TypeError(f"`fun` must be callable, got {type(fun).__name__}.")
    fun = unjitted(fun)
    watching = Watching(verbose, callback, progress)
    x0, limits = _start(x0, bounds, method)
    dtype, n = x0.dtype, x0.size
    solver = TRF(
        factor=1.0,  # SciPy's first radius
        **read_tolerances(method, ftol, xtol, gtol, dtype),
        x_scale=read_x_scale(x_scale, n),
        **read_max_nfev(max_nfev),
        **read_linear_solver(tr_solver, tr_options),
    )
    check_f_scale(f_scale)
    if mask is not None:
        mask = np.asarray(mask)
        mask = read_mask(mask, np.empty(mask.shape), "fun(x)").ravel()
    args = tuple(args) if isinstance(args, tuple | list) else (args,)
    keywords = dict(kwargs or {})
    with precision(dtype):
        loss_of = read_loss(hosted_loss(loss, host), method)
        fun = traced_or_hosted(fun, "fun", (x0, *args), keywords, host)
        if callable(jac):
            jac = traced_or_hosted(jac, "jac", (x0, *args), keywords, host)
            check_matrix(matrix_of(jac), method, tr_solver, x_scale)
    fun, capture = interned(fun)
    residual, data = _residual_of(fun, capture, args, keywords)
    given = _Given(x0, limits, data, f_scale, mask)
    back = called_back((fun, jac), loss_of, (x0, *args), keywords)
    with precision(dtype), back:
        if callable(jac):
            function, capture = interned(jac)
            jacobian = dataclasses.replace(
                residual,
                fn=Function(function, "jac", capture),
                capture=capture,
                wide=True,
            )
        else:
            jacobian = _differences(residual, fun, jac, diff_step, limits, n)
        call = residual, jacobian, solver, loss_of, given
        done = _watched(*call, watching) if watching.wanted else _fit(*call)
        done = _reviewed(done, *call)
        if x_scale is None and method != "lm" and not watching.wanted:
            done = _rescaled(done, *call)
        kept, outcome, timing = done
        shape = kept[1][0].size, n
        if jac_sparsity is not None and np.shape(jac_sparsity) != shape:
            raise ValueError(
                f"`jac_sparsity` has wrong shape: {np.shape(jac_sparsity)} for a "
                f"Jacobian of shape {shape}."
            )
        spot = _first_spot(done, *call)
        count = kept[1][0].size if mask is None else int(mask.sum())
        if method == "lm" and count < n:
            raise ValueError(
                "Method 'lm' doesn't work when the number of residuals is less than "
                f"the number of variables: {count} and {n}."
            )
        if kept[1][1] is None:
            operator = _operator(_problem(residual, loss_of, given), kept[0])
            kept = kept[0], (kept[1][0], operator)
    jac_name = "`jac`" if callable(jac) else None
    result = _result(kept, outcome, timing, max_nfev, spot, jac_name)
    if matrix_of(jac) == "sparse" and isinstance(result.jac, np.ndarray):
        from scipy.sparse import csr_array

        result.jac = csr_array(result.jac)
    return result


class ScipyResidual(eqx.Module):
    """`fn(x, *args, **kwargs)` as the kernel's residual(x, data).

    `rest` are the arguments that are no data. A `wide` one is its Jacobian, of shape
    (m, n).
    """

    fn: Function
    rest: Held = eqx.field(static=True)
    form: Any = eqx.field(static=True)
    capture: Capture = eqx.field(static=True)
    wide: bool = eqx.field(static=True)

    def __call__(self, x: Array, data: list) -> Any:  # complex for "cs"
        values = iter(data)
        leaves = [next(values) if a is _DATA else a for a in self.rest.value]
        args, kwargs = jax.tree.unflatten(self.form, leaves)
        name = "jac" if self.wide else "fun"
        check_capture(self.fn.wrapped, self.capture, name)
        with explained(name):
            value = jnp.asarray(self.fn(x, *args, **kwargs))
        if self.wide:
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


class _Given(NamedTuple):
    """What of a call is data of the program."""

    x0: Any
    limits: Any
    data: Any
    f_scale: Any
    mask: Any


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
    fun: Callable, capture: Capture, args: tuple, kwargs: dict[str, Any]
) -> tuple[ScipyResidual, list]:
    """The residual with its arguments taken apart: arrays and floats are data."""
    leaves, form = jax.tree.flatten((args, kwargs))
    if not is_concrete(leaves):
        raise TypeError(
            "`args` is traced by JAX, and this function works on the host: inside jit, "
            "vmap or grad call jaxfit.solve(jaxfit.Problem(...))."
        )
    kinds = jax.Array | np.ndarray | np.generic | float
    is_data = [isinstance(leaf, kinds) for leaf in leaves]
    data = [leaf for leaf, d in zip(leaves, is_data, strict=True) if d]
    rest = [_DATA if d else leaf for leaf, d in zip(leaves, is_data, strict=True)]
    residual = ScipyResidual(
        Function(fun, "fun", capture), Held(rest), form, capture, wide=False
    )
    return residual, data


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


def _differences(residual, fun, scheme, step, limits, n) -> DifferenceJacobian | None:
    """Derivatives by differences, where they are asked for or the only way."""
    scheme, step, eps = read_differences(fun, scheme, step, n)
    if scheme is None:
        return None
    if limits is not None:
        limits = jnp.asarray(limits[0]), jnp.asarray(limits[1])
    return DifferenceJacobian(residual, limits, step, scheme, eps, argnum=0)


def _problem(residual, loss, given: _Given) -> Problem:
    """The kernel's problem of a call."""
    return Problem(
        residual,
        jnp.asarray(given.x0),
        given.data,
        bounds=given.limits,
        loss=loss.name if isinstance(loss, NamedLoss) else loss,
        f_scale=given.f_scale,
        mask=given.mask,
    )


@Programs
def _fit(residual, jacobian, solver, loss, given):
    problem = _problem(residual, loss, given)
    solver = with_jacobian(solver, jacobian)
    solution = solve(problem, solver)
    return (solution, _rows(problem, solver, solution.params)), _outcome(solution)


@program
def _rows(problem: Problem, solver: TRF, x: Vector) -> Any:
    """Residuals at x, and the Jacobian if it is formed."""
    objective = Objective.of(problem, x, solver)
    if objective.form == "matrix_free":
        return objective.residual(x, objective.rows), None
    return objective.rows_at(x)


def _outcome(solution: Solution) -> _Outcome:
    return _Outcome(
        solution.params,
        solution.cost,
        solution.grad,
        solution.optimality,
        solution.active_mask,
        solution.counts,
    )


def _watched(residual, jacobian, solver, loss, given, watching: Watching):
    begin = time.perf_counter()
    problem = _problem(residual, loss, given)
    solver = with_jacobian(solver, jacobian)

    def fun(x):
        return np.asarray(_rows(problem, solver, x)[0])

    solution = observed(problem, solver, watching, np.array, fun)
    rows = jax.block_until_ready(_rows(problem, solver, solution.params))
    outcome = jax.device_get(_outcome(solution))
    return (solution, rows), outcome, Timing(0.0, time.perf_counter() - begin)


def _first_spot(done, residual, jacobian, solver, loss, given) -> Spot | None:
    """Where a fit met what is not finite: at its end or, if steps lead there, beside.

    None where it met nothing, or no rows tell where.
    """
    (_, rows), outcome, _ = done
    status = outcome.counts[0]
    if status not in (Status.NONFINITE_START, Status.NONFINITE_JACOBIAN):
        return None
    spot = first_in_rows(np.asarray(rows[0]), rows[1])
    if spot is not None or status == Status.NONFINITE_START:
        return spot
    problem = _problem(residual, loss, given)
    solver = with_jacobian(solver, jacobian)
    for x in beside(np.asarray(outcome.x)):
        r, j = _rows(problem, solver, jnp.asarray(x))
        spot = first_in_rows(np.asarray(r), j)
        if spot is not None:
            break
    return spot


def _reviewed(done, residual, jacobian, solver, loss, given):
    """A fit that is done, after a closer look at one without a certificate."""
    (solution, rows), outcome, timing = done
    if outcome.counts[0] not in DOUBTFUL:
        return done
    begin = time.perf_counter()
    problem = _problem(residual, loss, given)
    status = second_opinion(problem, with_jacobian(solver, jacobian), solution)
    solution = with_counts(solution, status=status)
    outcome = outcome._replace(counts=np.array(solution.counts))
    spent = timing.run_time + time.perf_counter() - begin
    return (solution, rows), outcome, timing._replace(run_time=spent)


def _rescaled(done, residual, jacobian, solver, loss, given):
    """A fit that found no minimum, once more in the units of the parameters.

    Scales by the columns of the Jacobian lead a few fits astray that SciPy's scale of 1
    does not. The second fit counts if it found a minimum; evaluations are of both.
    """
    (solution, rows), outcome, timing = done
    status, nfev, njev, nit = outcome.counts.tolist()
    if status not in (*DOUBTFUL, Status.MAX_STEPS):
        return done
    solver = solver.replaced(x_scale=jnp.ones(given.x0.size))
    if solver.max_nfev is not None:
        if nfev >= solver.max_nfev:
            return done
        solver = solver.replaced(max_nfev=solver.max_nfev - nfev)
    call = residual, jacobian, solver, loss, given
    again = _reviewed(_fit(*call), *call)
    (new, new_rows), new_outcome, new_timing = again
    timing = Timing(*(a + b for a, b in zip(timing, new_timing, strict=True)))
    if new_outcome.counts[0] > 0:
        solution, rows, outcome = new, new_rows, new_outcome
    more = {"nfev": nfev, "njev": njev, "num_steps": nit}
    for i, name in enumerate(more, start=1):
        more[name] += int(new_outcome.counts[i])
    solution = with_counts(solution, **more)
    outcome = outcome._replace(counts=np.array(solution.counts))
    return (solution, rows), outcome, timing


def _result(
    kept,
    outcome: _Outcome,
    timing: Timing,
    max_nfev: int | None,
    spot: Spot | None,
    jac_name: str | None,
) -> Any:
    from scipy.optimize import OptimizeResult

    solution, (fun, jac) = kept
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
        compile_time=timing.compile_time,
        run_time=timing.run_time,
        solution=solution,
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


def _operator(problem: Problem, solution: Solution) -> Any:
    """The Jacobian, never formed, as products with it and with its transpose."""
    from scipy.sparse.linalg import LinearOperator

    x = solution.params
    dtype = np.dtype(x.dtype)

    def product(fn, v):
        with precision(dtype):
            return np.asarray(fn(problem, x, np.asarray(v, dtype).ravel()))

    products = {
        "matvec": lambda v: product(_matvec, v),
        "rmatvec": lambda v: product(_rmatvec, v),
    }
    return LinearOperator((int(solution.num_rows), x.size), dtype=dtype, **products)  # type: ignore


def _scaled(problem: Problem, x: Vector):
    def residual(x):
        return problem.residual(x, problem.args)

    _, _, scale = problem.loss.robustify(residual(x))
    return residual, 1 if scale is None else scale


@program
def _matvec(problem: Problem, x: Vector, v: Array):
    residual, scale = _scaled(problem, x)
    return scale * jax.jvp(residual, (x,), (v,))[1]


@program
def _rmatvec(problem: Problem, x: Vector, v: Array):
    residual, scale = _scaled(problem, x)
    return jax.vjp(residual, x)[1](scale * v)[0]
