"""Door 1: `curve_fit`, SciPy's call over the kernel, and `CurveFit`, the same to keep.

A call reads its arguments on the host (`_data`, `_scipy_options`), runs one compiled
program (`_fit`: the kernel's `solve` of a `curve_problem`) and wraps what comes out
(`_fit_result`). Programs are shared by all calls with the same model and the same
options; data are padded to the length of a bucket where the model is row-wise, so that
new lengths rarely need a new one.
"""

import contextlib
import dataclasses
import functools
import inspect
import time
import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._bounds import Bounds
from ._capture import captured
from ._covariance import Directions, directions
from ._data import Data, NanPolicy, fit_dtype, read_data, real_array
from ._differences import Scheme
from ._explain import explained
from ._fit_result import CurveFitResult, FitError
from ._from_numpy import HostFunction
from ._function import Function
from ._linearise import Triangle
from ._objective import Objective
from ._predict import Predictor, is_paddable, precision
from ._problem import Problem, curve_problem
from ._programs import Programs, Timing
from ._report import Reporter
from ._result import Solution
from ._scipy_model import DifferenceJacobian, Inputs, ScipyJacobian, ScipyModel
from ._scipy_options import (
    JAC_SPARSITY,
    check_feasible,
    check_jac,
    check_loss,
    check_method,
    check_verbose,
    gradient_tolerance,
    read_bounds,
    read_linear_solver,
    read_max_nfev,
    read_x_scale,
    refuse_given,
    scipy_rho,
)
from ._signature import did_you_mean, refuse_unknown, signature_of
from ._solve import solve
from ._start import beginnings, candidates, feasible, search, sizes
from ._status import Status
from ._trf import TRF
from ._watch import watch


UNBOUNDED = (-np.inf, np.inf)
_Jitted = type(jax.jit(lambda x: x))


def curve_fit(
    f: Callable,
    xdata: Any,
    ydata: Any,
    p0: Any = None,
    sigma: Any = None,
    absolute_sigma: bool = False,
    check_finite: bool | None = None,
    bounds: Any = UNBOUNDED,
    method: str | None = None,
    jac: Any = None,
    *,
    full_output: bool = False,
    nan_policy: NanPolicy | None = None,
    **kwargs: Any,
) -> CurveFitResult:
    """Fit `f(x, *params)` to data: `scipy.optimize.curve_fit`, and more.

    All arguments of SciPy's mean what they mean there; "Coming from SciPy" in the
    documentation has them one by one. What differs:

    - `f` is written with `jax.numpy`, or wrapped by [`jaxfit.from_numpy`][].
    - `jac=None` differentiates automatically. Tolerances that are not given are those
        of [`jaxfit.TRF`][], near the limits of the precision.
    - `xdata` may be any PyTree of arrays of leading length M besides SciPy's (M,) and
        (k, M), and `ydata` any array or PyTree that `f` returns.
    - `p0="auto"` guesses sizes from the data; a model's own `f.estimate_p0(xdata,
        ydata)` is used if there is one and `p0` is None.
    - `nan_policy="propagate"`: what is not finite makes the result NaN.
    - `fixed={"c": 0.0}` holds parameters at values, `fixed=[False, False, True]` at
        their starts. Equal bounds fix as well.
    - `clip_p0=True` moves a start that is outside its bounds to the nearest one.
    - `progress=True` shows a bar (needs tqdm).

    Data in NumPy arrays are fitted in double precision whatever JAX's setting, which
    stays as it is; float32 JAX arrays in single precision.

    **Returns:** a [`jaxfit.CurveFitResult`][], which is the tuple (popt, pcov).

    **Raises:** `ValueError` or `TypeError` for what is wrong with the arguments, naming
    it; [`jaxfit.FitError`][], a `RuntimeError`, where no minimum was found.

    **Warns:** `scipy.optimize.OptimizeWarning` where the covariance could not be
    estimated, naming the parameters that the data do not determine.
    """
    call = {name: kwargs.pop(name) for name in _CALL_ONLY if name in kwargs}
    fitter = CurveFit(f, method=method, jac=jac, **kwargs)
    return fitter(
        xdata,
        ydata,
        p0,
        sigma,
        absolute_sigma,
        check_finite,
        bounds,
        full_output=full_output,
        nan_policy=nan_policy,
        **call,
    )


class CurveFit:
    """`curve_fit` for one model and one choice of options, to be called many times.

    **Arguments:** the model, and the options of [`jaxfit.curve_fit`][] that are not
    about data: `method`, `jac`, `loss`, `f_scale`, `ftol`, `xtol`, `gtol`, `x_scale`,
    `diff_step`, `max_nfev`, `tr_solver`, `tr_options`, `verbose`, `callback`,
    `progress`, and of method "lm" `maxfev`, `epsfcn` and `diag`.

    Called with data it gives what `curve_fit` gives. Programs are compiled once for
    each bucket of lengths and shared with all other calls for the same model, by
    `curve_fit` or another fitter.

    **Raises:** `TypeError` for an unknown option, with the nearest one there is;
    `ValueError` for one that is out of range or that SciPy has and jaxfit has not.
    """

    def __init__(
        self,
        model: Callable,
        *,
        method: str | None = None,
        jac: Any = None,
        **options: Any,
    ):
        refuse_unknown(options, _OPTIONS, "curve_fit")
        if "args" in options:
            raise ValueError(
                "'args' is not a supported keyword argument: bind them with "
                "functools.partial or a closure."
            )
        if isinstance(model, _Jitted):
            # A trace of its own would outlive changes of what the model captured.
            model = model.__wrapped__  # type: ignore[attr-defined]
        self.model = model
        self.signature = _by_identity(signature_of, model)
        if method is not None:
            check_method(method)
        check_jac(jac)
        self.method, self.jac = method, jac
        self.options = options = _merged(options)
        check_loss(options.get("loss", "linear"), method or "trf")
        check_verbose(options.get("verbose", 0))
        self._solvers: dict[Any, TRF] = {}

    def __call__(
        self,
        xdata: Any,
        ydata: Any,
        p0: Any = None,
        sigma: Any = None,
        absolute_sigma: bool = False,
        check_finite: bool | None = None,
        bounds: Any = UNBOUNDED,
        *,
        full_output: bool = False,
        nan_policy: NanPolicy | None = None,
        fixed: Mapping[str, float] | Any = None,
        clip_p0: bool = False,
    ) -> CurveFitResult:
        """Fit the model to data; the arguments are those of [`jaxfit.curve_fit`][]."""
        if nan_policy not in (None, "raise", "omit", "propagate"):
            raise ValueError(
                "nan_policy must be one of {None, 'raise', 'omit'} or 'propagate', got "
                f"{nan_policy!r}."
            )
        if check_finite is None:
            check_finite = nan_policy is None
        dtype = fit_dtype(ydata)
        data = read_data(xdata, ydata, sigma, check_finite, nan_policy, dtype)
        start = self._start(p0, xdata, ydata, bounds, fixed, clip_p0, dtype)
        method = self._method(start, data)
        with precision(dtype):
            fit = _Fit(self, start, data, method, dtype)
            if start.guess:
                fit.guess()
            done = fit.run()
        return _result(*done, fit, absolute_sigma, full_output, nan_policy)

    def _method(self, start: "_Start", data: Data) -> str:
        method = self.method
        robust = self.options.get("loss", "linear") != "linear"
        if method is None:
            method = "trf" if start.bounded or robust else "lm"
        if method == "lm":
            if start.bounded:
                raise ValueError(
                    "Method 'lm' only works for unconstrained problems. Use 'trf' or "
                    "'dogbox' instead."
                )
            n = len(start.free)
            if n > data.count:
                raise TypeError(
                    f"The number of func parameters={n} must not exceed the number of "
                    f"data points={data.count}. method='trf' fits all the same."
                )
        return method

    def _start(
        self, p0: Any, xdata: Any, ydata: Any, bounds, fixed, clip: bool, dtype
    ) -> "_Start":
        """Where the fit starts, which parameters are free, and their bounds."""
        signature, guess = self.signature, False
        if p0 is None and hasattr(self.model, "estimate_p0"):
            p0 = self.model.estimate_p0(xdata, ydata)
        if isinstance(p0, str):
            if p0 != "auto":
                raise ValueError(f"`p0` must be numbers, None or 'auto', got {p0!r}.")
            p0, guess = None, True
        if p0 is None:
            n = len(signature.names)
            if n == 0:
                raise ValueError(
                    "Unable to determine number of fit parameters. The model names "
                    "none: give `p0`."
                )
        else:
            p0 = np.atleast_1d(real_array(p0, "p0", dtype))
            n = p0.size
            if p0.ndim > 1:
                raise ValueError(f"`p0` must have one dimension, got shape {p0.shape}.")
            signature.check_count(n)
            if not np.isfinite(p0).all():
                i = int(np.argmin(np.isfinite(p0)))
                raise ValueError(f"`p0` must be finite, got {p0[i]} at index {i}.")
        names = signature.label(n)
        limits = read_bounds(bounds, n, names, dtype)
        p0 = feasible(limits, n, dtype) if p0 is None else p0.copy()
        held = _held(fixed, p0, names)
        if limits is not None:
            held |= limits[0] == limits[1]
            p0 = np.where(limits[0] == limits[1], limits[0], p0)
            if clip:
                p0 = np.where(held, p0, np.clip(p0, *limits))
            free = np.where(held, -np.inf, limits[0]), np.where(held, np.inf, limits[1])
            check_feasible(p0, free, names, "p0")
        if held.all():
            raise ValueError(
                "`fixed` leaves no parameter free: there is nothing to fit."
            )
        return _Start(
            names, p0, tuple(int(i) for i in np.flatnonzero(~held)), limits, guess
        )

    def solver(self, method: str, free: tuple[int, ...], n: int) -> TRF:
        """The kernel's solver for the options."""
        key = method, free, n
        if key not in self._solvers:
            self._solvers[key] = _solver(self.options, method, free, n)
        return self._solvers[key]


class _Start(NamedTuple):
    names: tuple[str, ...]
    p0: np.ndarray
    free: tuple[int, ...]
    limits: tuple[np.ndarray, np.ndarray] | None
    guess: bool

    @property
    def bounded(self) -> bool:
        """Whether a free parameter has a bound."""
        if self.limits is None:
            return False
        return bool(np.isfinite([side[list(self.free)] for side in self.limits]).any())


def _held(fixed: Any, p0: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Which parameters `fixed` holds; values it gives are written into p0."""
    held = np.zeros(p0.size, bool)
    if fixed is None:
        return held
    if isinstance(fixed, Mapping):
        for name, value in fixed.items():
            if name not in names:
                raise ValueError(
                    f"`fixed` names `{name}`, which is no parameter of the model "
                    f"({', '.join(names)}).{did_you_mean(str(name), names)}"
                )
            value = real_array(value, f"fixed[{name!r}]", p0.dtype)
            if value.ndim or not np.isfinite(value):
                raise ValueError(f"`fixed[{name!r}]` must be one finite number.")
            p0[names.index(name)], held[names.index(name)] = value, True
        return held
    mask = np.asarray(fixed)
    if mask.dtype != bool or mask.shape != p0.shape:
        raise ValueError(
            f"`fixed` must be a dictionary of values by name or {p0.size} booleans, "
            f"got {fixed!r}."
        )
    return mask.copy()


_CALL_ONLY = ("fixed", "clip_p0")
_OPTIONS = frozenset(
    """
    args callback col_deriv diag diff_step epsfcn f_scale factor ftol gtol jac_sparsity
    loss max_nfev maxfev progress tr_options tr_solver verbose workers x_scale xtol
    """.split()  # noqa: SIM905
) | frozenset(_CALL_ONLY)


def _merged(options: dict[str, Any]) -> dict[str, Any]:
    """leastsq's names in those of least_squares; what there is not, refused."""
    options = dict(options)
    refuse_given(
        {
            "jac_sparsity": (options.pop("jac_sparsity", None), JAC_SPARSITY),
            "factor": (options.pop("factor", None), "x_scale sets the first step"),
            "col_deriv": (options.pop("col_deriv", None) or None, "transpose `jac`"),
            "workers": (
                options.pop("workers", None),
                "XLA runs on all cores by itself",
            ),
        }
    )
    for old, new, change in (
        ("maxfev", "max_nfev", lambda n: n or None),
        ("epsfcn", "diff_step", lambda e: None if e is None else np.sqrt(e)),
        ("diag", "x_scale", lambda d: "jac" if d is None else 1 / np.asarray(d, float)),
    ):
        if old in options:
            value = change(options.pop(old))
            if options.setdefault(new, value) is not value:
                raise ValueError(f"`{old}` and `{new}` are two names of one option.")
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


def _solver(options: dict[str, Any], method: str, free: tuple[int, ...], n: int) -> TRF:
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
        x_scale = x_scale[list(free)]
    return TRF(
        **keywords,
        x_scale=x_scale,
        **read_max_nfev(options.get("max_nfev")),
        **read_linear_solver(options.get("tr_solver"), options.get("tr_options")),
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
    """What of a call is data of the program; `count` rows of those padded are real."""

    x: Any
    y: Any
    sigma: Any
    mask: Any
    count: Any
    start: Any
    limits: Any
    f_scale: Any
    diff_step: Any


class _Outcome(NamedTuple):
    """What a result is made of, on the host."""

    params: np.ndarray
    counts: np.ndarray
    cost: np.ndarray
    optimality: np.ndarray
    active_mask: np.ndarray
    directions: Directions


def _problem(
    model: ScipyModel, jac: Function | None, solver: TRF, plan: _Plan, given: _Given
) -> tuple[Problem, TRF]:
    """The kernel's problem and solver of a call."""
    free = np.array(model.free, int)
    mask = given.mask
    if given.count is not None:
        real = jnp.arange(len(given.y)) < given.count
        mask = real if mask is None else mask & real
    bounds = None
    if given.limits is not None:
        bounds = tuple(jnp.asarray(side)[free] for side in given.limits)
    start = jnp.asarray(given.start)
    loss = plan.loss if isinstance(plan.loss, str) else _rho(plan)
    problem = curve_problem(
        model,
        Inputs(given.x, start),
        given.y,
        start[free],
        sigma=given.sigma,
        mask=mask,
        bounds=bounds,
        loss=loss,
        f_scale=given.f_scale,
    )
    jacobian: Any = None
    if jac is not None:
        jacobian = ScipyJacobian(model, jac)
    elif plan.scheme is not None:
        limits = None if bounds is None else Bounds(*bounds)
        step = given.diff_step
        step = step[free] if jnp.ndim(step) else step
        jacobian = DifferenceJacobian(model, limits, step, plan.scheme, plan.eps)
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
def _fit(model, jac, solver, plan, given) -> tuple[Solution, _Outcome]:
    problem, solver = _problem(model, jac, solver, plan, given)
    solution = solve(problem, solver)
    return solution, _outcome(problem, solver, solution)


@jax.jit
def _outcome(problem: Problem, solver: TRF, solution: Solution) -> _Outcome:
    lin: Any = solution.linearisation
    if lin is None:  # a matrix-free fit made none
        dense = eqx.tree_at(
            lambda s: s.jacobian,
            TRF(linear_solver="qr"),
            solver.jacobian,
            is_leaf=lambda leaf: leaf is None,
        )
        x = jnp.asarray(solution.params)
        lin = Objective.of(problem, x, dense).linearise(x)
    return _Outcome(
        params=jnp.asarray(solution.params),
        counts=solution.counts,
        cost=solution.cost,
        optimality=solution.optimality,
        active_mask=jnp.asarray(solution.active_mask),
        directions=directions(lin, None),
    )


@Programs
def _guessed(model, jac, solver, plan, given, values, first) -> Any:
    problem, _ = _problem(model, jac, solver, plan, given)

    def cost(p):
        r = problem.residual(p, problem.args)
        r = jnp.concatenate([jnp.ravel(a) for a in jax.tree.leaves(r)])
        if problem.mask is not None:
            used = [jnp.ravel(a) for a in jax.tree.leaves(problem.mask)]
            r = jnp.where(jnp.concatenate(used), r, 0)
        return problem.loss.cost(r)

    return None, search(cost, values, jnp.take_along_axis(values, first.T, 1).T)


def _model(f: Callable, free, rows_last: bool, capture: Hashable) -> ScipyModel:
    return ScipyModel(Function(f, "f"), free, rows_last, capture)


def _by_identity(make: Callable, *args) -> Any:
    """`make(*args)`, remembered where the arguments can be hashed."""
    try:
        return _remembered(make, *args)
    except TypeError:
        return make(*args)


@functools.lru_cache(maxsize=512)
def _remembered(make: Callable, *args) -> Any:
    return make(*args)


class _Fit:
    """One call on its way: what it is given, and the program that it runs."""

    def __init__(self, fitter: CurveFit, start: _Start, data: Data, method: str, dtype):
        f, options = fitter.model, fitter.options
        self.fitter, self.start, self.method, self.dtype = fitter, start, method, dtype
        capture = captured(f)
        self.model = _by_identity(_model, f, start.free, data.rows_last, capture)
        self.jac = None
        if callable(fitter.jac):
            self.jac = Function(fitter.jac, "jac")
        self.host = f if isinstance(f, HostFunction) else None
        self.p0 = start.p0
        self.rowwise = False
        if self.host is None and data.can_be_padded:
            with explained("f"):
                self.rowwise = self._is_paddable(data)
        self.num_rows, self.num_data = data.num_rows, data.count
        self.data = data.padded() if self.rowwise else data.copied()
        self.solver = fitter.solver(method, start.free, start.p0.size)
        self.limits = start.limits if start.bounded else None
        loss = options.get("loss", "linear")
        self.loss = loss, None if isinstance(loss, str) else captured(loss)

    def _is_paddable(self, data: Data) -> bool:
        inputs = Inputs(data.x, self.p0)
        free = self.p0[list(self.start.free)]
        functions = [self.model]
        if self.jac is not None:
            functions.append(ScipyJacobian(self.model, self.jac))
        return all(is_paddable(fn, inputs, free, data.num_rows) for fn in functions)

    @property
    def plan(self) -> _Plan:
        scheme = None if callable(self.fitter.jac) else self.fitter.jac
        eps = 0.0
        if self.host is not None:
            eps = self.host.eps
            if self.fitter.jac is None and self.host.jac is None:
                scheme = self.host.derivative
        return _Plan(*self.loss, scheme, eps)

    @property
    def given(self) -> _Given:
        options, data = self.fitter.options, self.data
        step = options.get("diff_step")
        if step is None and self.host is not None:
            step = self.host.diff_step
        return _Given(
            data.x,
            data.y,
            data.sigma,
            data.mask,
            self.num_rows if self.rowwise else None,
            self.p0,
            self.limits,
            options.get("f_scale", 1.0),
            None if step is None else np.asarray(step, self.dtype),
        )

    @contextlib.contextmanager
    def _called_back(self):
        """The host's part, where the model or its Jacobian is a host function."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(explained("f"))
            for fn in (self.fitter.model, self.fitter.jac):
                if isinstance(fn, HostFunction):
                    x = self.data.x
                    x = np.moveaxis(x, 0, -1) if self.data.rows_last else x
                    stack.enter_context(fn.fit(x, *self.p0))
            yield

    def guess(self) -> None:
        """Replace the start by one that suits the data."""
        data, n = self.data, len(self.start.free)
        limits = self.limits
        if limits is not None:
            limits = tuple(side[list(self.start.free)] for side in limits)
        scale = sizes(data.x, data.y, self.dtype)
        values = candidates(scale, limits, n)
        first = beginnings(n, values.shape[1])
        with self._called_back():
            args = (self.model, self.jac, self.solver, self.plan, self.given)
            _, best, _ = _guessed(*args, values, first)
        self.p0 = self.p0.copy()
        self.p0[list(self.start.free)] = best

    def run(self) -> tuple[Solution, _Outcome, Timing]:
        options = self.fitter.options
        with self._called_back():
            args = (self.model, self.jac, self.solver, self.plan, self.given)
            if not any(options.get(k) for k in ("verbose", "callback", "progress")):
                return _fit(*args)
            return self._watched(*_problem(*args))

    def _watched(
        self, problem: Problem, solver: TRF
    ) -> tuple[Solution, _Outcome, Timing]:
        options, free = self.fitter.options, list(self.start.free)
        rows = slice(self.num_rows)

        def full(x):
            p = self.p0.copy()
            p[free] = x
            return p

        def fun(p):
            return np.asarray(_residual(problem, p[free]))[rows]

        reporter = Reporter(
            options.get("verbose", 0),
            options.get("callback"),
            bool(options.get("progress", False)),
            self.p0[free],
            full,
            fun,
        )
        begin = time.perf_counter()
        solution = watch(problem, solver, reporter.step)
        outcome = jax.device_get(_outcome(problem, solver, solution))
        timing = Timing(0.0, time.perf_counter() - begin)
        reporter.end(solution, _message(outcome, options))
        return solution, outcome, timing

    def original(self) -> dict[str, Any]:
        """The data as they were fitted, in the caller's form, without padding."""
        data, rows = self.data, slice(self.num_rows)

        def cut(leaf):
            if self.rowwise and np.ndim(leaf) and len(leaf) == len(data.y):
                return leaf[rows]
            return leaf

        x, y, sigma = (jax.tree.map(cut, a) for a in (data.x, data.y, data.sigma))
        used = jax.tree.map(lambda a: np.ones(a.shape, bool), y)
        return {
            "xdata": np.moveaxis(x, 0, -1) if data.rows_last else x,
            "ydata": y,
            "sigma": sigma,
            "used": used if data.mask is None else jax.tree.map(cut, data.mask),
        }

    def predictor(self, params: np.ndarray) -> Predictor:
        return Predictor(self.model, params, self.rowwise)


@jax.jit
def _residual(problem: Problem, p):
    r = problem.residual(p, problem.args)
    return jnp.concatenate([jnp.ravel(a) for a in jax.tree.leaves(r)])


def _message(outcome: _Outcome, options: dict[str, Any]) -> str:
    status, nfev, *_ = outcome.counts.tolist()
    most = options.get("max_nfev")
    if status == Status.MAX_STEPS and most is not None and nfev >= most:
        return "The maximum number of function evaluations is exceeded."
    return Status(status).message


def _result(
    solution: Solution,
    outcome: _Outcome,
    timing: Timing,
    fit: _Fit,
    absolute_sigma: bool,
    full_output: bool,
    nan_policy: NanPolicy | None,
) -> CurveFitResult:
    """What the program gave, as the user's result."""
    status, nfev, njev, nit = outcome.counts.tolist()
    ways = outcome.directions
    free, names, n = list(fit.start.free), fit.start.names, fit.p0.size
    if status == Status.NONFINITE_START and nan_policy != "propagate":
        raise ValueError(_where_not_finite(fit))
    popt, fixed = fit.p0.copy(), np.ones(n, bool)
    popt[free], fixed[free] = outcome.params, False
    if status == Status.NONFINITE_START:
        popt[free] = np.nan
    num_data = fit.num_data
    dof = num_data - len(free)
    cost = float(outcome.cost)
    scale = 1.0
    if not absolute_sigma:
        scale = 2 * cost / dof if dof > 0 else np.nan
    # An infinite variance where not determined, NaN covariances.
    some = ways.determined.T @ ways.determined * scale
    some[ways.lost], some[:, ways.lost] = np.nan, np.nan
    some[ways.lost, ways.lost] = np.inf
    covariance = np.zeros((n, n), fit.dtype)
    covariance[np.ix_(free, free)] = some
    lost = tuple(names[free[i]] for i in np.flatnonzero(ways.lost))
    bad = bool(lost) or (not dof > 0 and not absolute_sigma)
    pcov = np.full((n, n), np.inf, fit.dtype) if bad else covariance
    if status == Status.NONFINITE_START:
        covariance = pcov = np.full((n, n), np.nan, fit.dtype)
        bad = False
    everything = np.zeros(n, int)
    everything[free] = outcome.active_mask
    message = _message(outcome, fit.fitter.options)
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
        "num_data": num_data,
        "dof": dof,
        "cost": cost,
        "optimality": float(outcome.optimality),
        "status": status,
        "message": message,
        "nfev": nfev,
        "njev": njev,
        "nit": nit,
        "compile_time": timing.compile_time,
        "run_time": timing.run_time,
        "root": ways.determined,
        "null": ways.null,
        "unit": ways.unit,
        "rows_last": fit.model.rows_last,
    }
    parts = {"solution": solution, "predictor": fit.predictor(popt), **fit.original()}
    result = CurveFitResult(numbers, **parts)
    if status <= 0 and status not in (Status.STOPPED, Status.NONFINITE_START):
        raise FitError(f"Optimal parameters not found: {message}", result)
    if bad:
        _warn_of_covariance(lost)
    if full_output:
        full = (_infodict(result, fit.method), message, status)
        result = CurveFitResult(numbers, full, **parts)
    return result


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


def _where_not_finite(fit: _Fit) -> str:
    """Why there is no residual at the start, and at which datum."""
    says = "Residuals are not finite in the initial point: "
    original = fit.original()
    values, slopes = fit.predictor(fit.p0).slopes(original["xdata"])
    start = ", ".join(
        f"{k}={v:.6g}" for k, v in zip(fit.start.names, fit.p0, strict=True)
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


def _warn_of_covariance(lost: tuple[str, ...]) -> None:
    from scipy.optimize import OptimizeWarning

    why = (
        f"the data do not determine {', '.join(lost)}"
        if lost
        else "there are no more data than free parameters"
    )
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "")[:7] == "jaxfit.":
        level, frame = level + 1, frame.f_back
    warnings.warn(
        f"Covariance of the parameters could not be estimated: {why}",
        category=OptimizeWarning,
        stacklevel=level,
    )
