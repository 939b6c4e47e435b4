"""SciPy's options in the kernel's terms: each with its meaning, or refused by name.

`method="trf"` is the kernel's own method; it also serves for "lm" and "dogbox", whose
rules about bounds, sizes and tolerances are kept:

    SciPy               kernel
    ftol, xtol          ftol, xtol
    gtol                gtol (a cosine) for "lm", else atol (an absolute gradient)
    None (a tolerance)  0: never stop by it
    tr_solver           linear_solver: "exact" is "qr", "lsmr" is "matrix_free"
"""

import dataclasses
import inspect
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._basics.status import Status
from .._functions.callables import Function
from .._functions.explain import explained
from .._functions.from_numpy import HostFunction
from .._problem.loss import LOSSES
from .._programs.capture import Capture, interned
from .._trf.trf import TRF
from .data import real_array


METHODS = ("trf", "dogbox", "lm")
SCHEMES = ("2-point", "3-point", "cs")


def check_method(method: Any) -> None:
    if method not in METHODS:
        raise ValueError(f"`method` must be 'trf', 'dogbox' or 'lm', got {method!r}.")


def check_jac(jac: Any) -> None:
    if jac is not None and not callable(jac) and jac not in SCHEMES:
        raise ValueError(
            "`jac` must be '2-point', '3-point', 'cs' or callable, or None for "
            f"automatic differentiation, got {jac!r}."
        )


def check_verbose(verbose: Any) -> None:
    if verbose not in (0, 1, 2):
        raise ValueError(f"`verbose` must be in [0, 1, 2], got {verbose!r}.")


def read_bounds(
    bounds: Any, n: int, names: Sequence[str], dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray] | None:
    """Lower and upper bounds of n parameters, or None where all are infinite.

    A pair (lower, upper), each a number or n of them, or a `scipy.optimize.Bounds`.
    Equal bounds fix a parameter.
    """
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        bounds = bounds.lb, bounds.ub
    if not hasattr(bounds, "__len__") or isinstance(bounds, str) or len(bounds) != 2:
        raise ValueError(
            f"`bounds` must contain 2 elements: (lower, upper), got {bounds!r}."
        )
    sides = []
    for side, what in zip(bounds, ("bounds[0]", "bounds[1]"), strict=True):
        side = real_array(side, what, dtype)
        if side.ndim == 0:
            side = np.full(n, side, dtype)
        if side.shape != (n,):
            raise ValueError(
                "Inconsistent shapes between bounds and `x0`: "
                f"`{what}` has shape {side.shape} for {n} parameters "
                f"({', '.join(names)})."
            )
        sides.append(side)
    lower, upper = sides
    if (lower == -np.inf).all() and (upper == np.inf).all():
        return None
    for bad, says in (
        (np.isnan(lower) | np.isnan(upper), "`bounds` is NaN"),
        (
            (lower > upper) | ((lower == upper) & np.isinf(lower)),
            "Each lower bound must be strictly less than each upper bound "
            "(or equal to it, which fixes the parameter)",
        ),
    ):
        if bad.any():
            i = int(np.argmax(bad))
            raise ValueError(
                f"{says}, got [{lower[i]}, {upper[i]}] for `{names[i]}` (index {i})."
            )
    return lower, upper


def check_feasible(
    x: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    names: Sequence[str],
    name: str,
) -> None:
    lower, upper = bounds
    bad = (x < lower) | (x > upper)
    if bad.any():
        i = int(np.argmax(bad))
        raise ValueError(
            f"Initial guess is outside of provided bounds: `{name}` has {names[i]} = "
            f"{x[i]} (index {i}), outside [{lower[i]}, {upper[i]}]."
        )


def check_f_scale(f_scale: Any) -> None:
    number = isinstance(f_scale, int | float | np.number) or np.shape(f_scale) == ()
    if isinstance(f_scale, str) or not (number and 0 < float(f_scale) < np.inf):
        raise ValueError(f"`f_scale` must be positive and finite, got {f_scale!r}.")


def check_callback(callback: Any) -> None:
    if callback is not None and not callable(callback):
        raise TypeError(f"`callback` must be callable or None, got {callback!r}.")


def check_step(step: Any, scheme: Any, n: int) -> None:
    """Refuse steps that are none, and tell of one that nothing takes."""
    if step is not None:
        steps = real_array(step, "diff_step", np.dtype(float))
        if steps.shape not in ((), (1,), (n,)):
            raise ValueError(
                f"`diff_step` must be one number or {n}, got shape {steps.shape}."
            )
        if not (np.isfinite(steps) & (steps != 0)).all():
            raise ValueError(f"`diff_step` must be finite and not 0, got {step!r}.")
    if step is not None and scheme is None:
        warnings.warn(
            "`diff_step` (or `epsfcn`) has no effect: derivatives are automatic. "
            "jac='2-point' takes steps.",
            OptionWarning,
            stacklevel=outside(),
        )


def read_differences(fn: Callable, jac: Any, step: Any, n: int) -> tuple:
    """The scheme (None: automatic), its step, and the relative error of the values.

    A host function without a Jacobian has differences for its only way.
    """
    eps = 0.0
    if isinstance(fn, HostFunction):
        eps = fn.eps
        if jac is None and fn.jac is None:
            jac, step = fn.derivative, fn.diff_step if step is None else step
    check_step(step, jac, n)
    return jac, step, eps


def outside() -> int:
    """The `stacklevel` by which a warning points to the caller of the library."""
    level, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "")[:7] == "jaxfit.":
        level, frame = level + 1, frame.f_back
    return level


def read_x_scale(x_scale: Any, n: int) -> Any:
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


def read_tolerances(
    method: str, ftol: Any, xtol: Any, gtol: Any, dtype: np.dtype
) -> dict[str, Any]:
    """SciPy's tolerances as keywords of `TRF`; None means never.

    In single precision none is smaller than its machine epsilon.

    **Raises:** `ValueError` unless one of them is above that of double precision.
    """
    eps = float(np.finfo(float).eps)
    given: dict[str, float] = {}
    for name, tol in (("ftol", ftol), ("xtol", xtol), ("gtol", gtol)):
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
    return {**given, **gradient_tolerance(method, given["gtol"])}


def gradient_tolerance(method: str, gtol: float) -> dict[str, float]:
    """SciPy's gtol: a cosine for "lm", else an absolute gradient."""
    return {"gtol": gtol} if method == "lm" else {"gtol": 0.0, "atol": gtol}


def read_linear_solver(tr_solver: Any, tr_options: Any) -> dict[str, Any]:
    """`tr_solver` and `tr_options` as keywords of `TRF`."""
    if tr_solver not in (None, "exact", "lsmr"):
        raise ValueError(
            f"`tr_solver` must be None, 'exact' or 'lsmr', got {tr_solver!r}."
        )
    options = dict(tr_options or {})
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


def read_max_nfev(max_nfev: Any) -> dict[str, Any]:
    if max_nfev is None:
        return {}
    whole = isinstance(max_nfev, int | float | np.integer) and max_nfev % 1 == 0
    if isinstance(max_nfev, bool) or not whole or max_nfev <= 0:
        raise ValueError(
            f"`max_nfev` must be None or positive integer, got {max_nfev!r}."
        )
    return {"max_nfev": int(max_nfev)}


def check_matrix(kind: str | None, method: str, tr_solver: Any, x_scale: Any) -> None:
    """SciPy's rules for a `jac` that returns a sparse matrix or a LinearOperator."""
    if kind is None:
        return
    if method == "lm" or tr_solver == "exact":
        what = "method='lm'" if method == "lm" else "tr_solver='exact'"
        raise ValueError(
            f"{what} needs dense derivatives: a `jac` that returns an array, and no "
            "`jac_sparsity`."
        )
    if kind == "operator" and isinstance(x_scale, str):
        raise ValueError(
            "x_scale='jac' can't be used when `jac` returns a LinearOperator. Leave it "
            "out: parameters are scaled all the same."
        )


class OptionWarning(UserWarning):
    """An option of SciPy's that has no effect here."""


def check_hints(jac_sparsity: Any, workers: Any) -> None:
    """What tells SciPy how to come by derivatives, and changes no result: taken."""
    if workers is not None and not callable(workers):
        try:
            operator.index(workers)
        except TypeError as err:
            raise TypeError(
                "`workers` must be an integer or a map-like callable, as in SciPy, got "
                f"{workers!r}. XLA runs on all cores whatever it is."
            ) from err
    if jac_sparsity is not None and len(np.shape(jac_sparsity)) != 2:
        raise ValueError(
            "`jac_sparsity` must have shape (m, n), as in SciPy, got "
            f"{np.shape(jac_sparsity)}. Derivatives are dense whatever it is."
        )


def refuse_given(options: dict[str, tuple[Any, str]]) -> None:
    """Refuse options that SciPy has and this library has not, with the way out."""
    for name, (value, instead) in options.items():
        if value is not None:
            raise ValueError(f"`{name}` is not supported: {instead}.")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class NamedLoss:
    """A loss of the kernel's, by name."""

    name: str


class ScipyLoss(eqx.Module):
    """A user's loss as rho(z): as SciPy's, it may return (rho, rho', rho'') stacked."""

    fn: Function
    capture: Capture = eqx.field(static=True)

    def __call__(self, z: Array) -> Array:
        with explained("loss"):
            value = jnp.asarray(self.fn(z))
        if value.shape == (3, *z.shape):
            return value[0]
        if value.shape != z.shape:
            raise ValueError(
                "The return value of `loss` callable has wrong shape: rho(z) must have "
                f"that of z, {z.shape}, or be stacked with its derivatives, "
                f"{(3, *z.shape)}; got {value.shape}."
            )
        return value


def read_loss(loss: Any, method: str) -> NamedLoss | ScipyLoss:
    if not callable(loss) and loss not in LOSSES:
        raise ValueError(
            f"`loss` must be one of {list(LOSSES)} or a callable, got {loss!r}."
        )
    if method == "lm" and loss != "linear":
        raise ValueError("method='lm' supports only 'linear' loss function.")
    if callable(loss):
        loss, capture = interned(loss)
        return ScipyLoss(Function(loss, "loss", capture), capture)
    return NamedLoss(loss)


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


def message(counts: Any, max_nfev: int | None) -> str:
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


def unjitted(fn: Callable) -> Callable:
    """What the user wrapped in `jax.jit` or equinox's: a trace outlives changes."""
    while hasattr(fn, "lower") and hasattr(fn, "__wrapped__"):
        fn = fn.__wrapped__  # type: ignore[attr-defined]
    return fn
