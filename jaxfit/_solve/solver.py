"""The solver: how to step and how to evaluate, in one set of options."""

import copy
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike

from .._basics.checks import (
    check_positive,
    check_tolerance,
    is_concrete,
    one_of,
    positive_int,
)
from .._functions.callables import Function
from .._problem.evaluation import Evaluation, LinearSolver
from .._trf import state, stopping, trf, trial
from .._trf.method import Method


class TRF(Method, Evaluation):
    """The Trust Region Reflective solver's constants.

    Tolerances propose to stop; a certificate confirms that the point is a minimum: that
    the next step would move the parameters by at most a thousandth of their standard
    errors, or as much as the largest of `xtol`, `gtol` and sqrt(`ftol`) that are given.
    Otherwise the fit goes on from there with new scales, and ends as STALLED or
    LEFT_THE_DATA, which are no success, once that leads nowhere. "How a fit flows" in
    the documentation has the formula.

    **Arguments:**

    - `ftol`: propose to stop when an accepted step, not cut short by the radius, lowers
        the cost by less than `ftol * cost` and the quadratic model was trustworthy.
    - `xtol`: propose it when such a step is shorter than `xtol` times the parameters,
        both in scaled variables.
    - `gtol`: propose it when the cosine of the angle between the residual and every
        column of the Jacobian there is at most `gtol` (for a bounded parameter times
        its relative distance to the bound). Free of units, unlike SciPy's.
    - `atol`: propose it when `optimality`, the largest |v_i g_i|, is at most `atol`:
        what SciPy calls gtol, in units of cost per parameter. None never does.
    - `max_steps`: outer steps after which to give up.
    - `max_nfev`: evaluations of the residual after which to give up; None never does.
    - `trials`: radii tried on one linearisation before a step counts as over. With more
        than eight parameters, or without a matrix, they are tried by the cost alone.
    - `x_scale`: "jac" scales each parameter by its largest column norm so far, or since
        the fit began anew; an array (of n numbers, or one) gives their characteristic
        sizes.
    - `linear_solver`: "qr" (triangular; products where these are as good, reflections
        where the condition number would be squared), "gram" (J'J alone, the cheapest),
        "matrix_free" (never forms J), or "auto".
    - `jacobian`: "forward", "reverse", or a function with the arguments of the residual
        (or of the model) that returns what `jax.jacobian` of it would.
    - `chunk_size`: rows of data visited at a time. "auto" cuts data that do not fit the
        cache, on CPUs, if the residual is proven to treat rows one by one; a number
        insists; None never cuts.
    - `mesh`: a `jax.sharding.Mesh`: the rows of the data are spread over its devices,
        and none ever holds them all. The residual has to be proven to treat rows one
        by one; a `chunk_size` counts rows of one device. None leaves data where they
        are.
    - `cg_steps`: products with J'J that a matrix-free step may use.
    - `derivative`: "hessian" differentiates a fit by the exact Hessian of its cost,
        "gauss_newton" by J'J.
    - `factor`: the first radius in units of the start's length in scaled variables, as
        MINPACK's.
    - `history`: record a [`jaxfit.History`][] of `max_steps` entries.

    `ftol`, `xtol` and `gtol` left at None follow the dtype of the parameters: eps,
    eps^(2/3) and eps^(3/4), in float64 2.2e-16, 3.7e-11 and 1.8e-12.

    **Raises:** `ValueError` or `TypeError` naming the argument that is out of range.
    """

    derivative: Literal["hessian", "gauss_newton"] = eqx.field(
        static=True, default="hessian"
    )

    def __init__(
        self,
        ftol: ArrayLike | None = None,
        xtol: ArrayLike | None = None,
        gtol: ArrayLike | None = None,
        atol: ArrayLike | None = None,
        max_steps: int = 2000,
        trials: int = 4,
        x_scale: Literal["jac"] | ArrayLike = "jac",
        linear_solver: LinearSolver = "auto",
        jacobian: Literal["forward", "reverse"] | Callable = "forward",
        chunk_size: int | Literal["auto"] | None = "auto",
        cg_steps: int = 500,
        derivative: Literal["hessian", "gauss_newton"] = "hessian",
        history: bool = False,
        max_nfev: ArrayLike | None = None,
        mesh: Mesh | None = None,
        factor: ArrayLike = 3.0,
    ):
        for name, tol in (("ftol", ftol), ("xtol", xtol), ("gtol", gtol)):
            check_tolerance(name, tol)
        check_tolerance("atol", atol)
        self.ftol, self.xtol, self.gtol, self.atol = ftol, xtol, gtol, atol
        self.max_steps = positive_int("max_steps", max_steps)
        self.trials = positive_int("trials", trials)
        self.cg_steps = positive_int("cg_steps", cg_steps)
        if max_nfev is not None and is_concrete(max_nfev):
            max_nfev = positive_int("max_nfev", max_nfev)
        self.max_nfev = max_nfev
        if isinstance(chunk_size, str):
            if chunk_size != "auto":
                raise ValueError(
                    "`chunk_size` must be 'auto', None or a number, got "
                    f"{chunk_size!r}."
                )
        elif chunk_size is not None:
            chunk_size = positive_int("chunk_size", chunk_size)
        self.chunk_size = chunk_size
        check_positive("factor", factor)
        self.factor = factor
        self.x_scale = _x_scale(x_scale)
        self.linear_solver = one_of("linear_solver", linear_solver, LinearSolver)
        if isinstance(jacobian, str):
            self.mode = one_of("jacobian", jacobian, Literal["forward", "reverse"])
            self.jacobian = None
        elif not callable(jacobian):
            raise TypeError(
                "`jacobian` must be 'forward', 'reverse' or a function, got "
                f"{jacobian!r}."
            )
        else:
            self.mode = "forward"
            self.jacobian = Function(jacobian, "jacobian")
        choices = Literal["hessian", "gauss_newton"]
        self.derivative = one_of("derivative", derivative, choices)
        self.history = bool(history)
        if mesh is not None and not isinstance(mesh, Mesh):
            raise TypeError(
                f"`mesh` must be a jax.sharding.Mesh or None, got {mesh!r}: make one "
                'of all devices with jax.make_mesh((jax.device_count(),), ("rows",)).'
            )
        self.mesh = mesh

    # The moves of the method, for drivers of one's own.
    init = state.init
    prepare, step, minimise = trf.prepare, trf.step, trf.minimise
    propose, judge = staticmethod(trial.propose), trial.judge
    finish = stopping.finish

    def replaced(self, **options: Any) -> "TRF":
        """The same solver with other options, given as `TRF` holds them."""
        other = copy.copy(self)
        for name, value in options.items():
            object.__setattr__(other, name, value)
        return other

    def current(self) -> "TRF":
        """The same solver, its Jacobian known by what it holds now."""
        if self.jacobian is None or (now := self.jacobian.current()) is self.jacobian:
            return self
        return self.replaced(jacobian=now)


def _x_scale(x_scale) -> Array | None:
    if isinstance(x_scale, str):
        if x_scale != "jac":
            raise ValueError(f"`x_scale` must be 'jac' or numbers, got {x_scale!r}.")
        return None
    scale = jnp.asarray(x_scale, jnp.result_type(float))
    if is_concrete(scale) and not bool(jnp.all((scale > 0) & jnp.isfinite(scale))):
        raise ValueError(
            f"`x_scale` must be 'jac' or positive finite numbers, got {x_scale!r}."
        )
    return scale
