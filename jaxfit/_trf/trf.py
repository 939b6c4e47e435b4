"""The Trust Region Reflective method as one traced loop.

One outer step linearises at x, scales the variables, factors the subproblem and decides
whether to go on (`prepare`, which is `look` and `decide`); its trials propose a point
from the current radius (`propose`), evaluate the cost there and accept or shrink
(`judge`). The loop knows the data by two functions, `cost(x)` and `linearise(x)`, and
carries nothing longer than n^2.

Hat space. With jac scaling s_i = 1/|J_i| and the Coleman-Li vector v (see `bounds`),

    x = d x_h,   d_i = s_i where v_i = 1,   d_i = sqrt(v_i s_i) towards a bound
    B_h = diag(d) J'J diag(d) + diag(c),    c_i = s_i g_i dv_i,    g_h = d g

and the step solves min g_h'p + p'B_h p/2 over |p| <= radius. The method and the choice
among the trust-region, reflected and gradient step follow Branch, Coleman and Li (1999)
as implemented in SciPy; what differs is listed in docs/how-a-fit-flows.md.

`init`, `prepare`, `propose`, `judge` and `finish` take many fits as they take one: then
every array has an axis of lanes behind its own, x is (n, lanes) (see
`_batch.lockstep`).
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
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
from .._basics.status import Status
from .._basics.types import Count, Flag, Scalar, Vector
from .._basics.varying import alike
from .._functions.callables import Function
from .algebra import every, largest, norm
from .bounds import Bounds
from .certificate import OFFSET, Visible, certified, is_flat, is_stale
from .linearisation import Linearisation, is_finite
from .packing import packing
from .reflection import Model, Step, propose_step
from .state import History, State


# New starts without progress after which a fit has stalled, and steps without a visible
# reduction of the cost after which it is to stop.
_RESTARTS, _IDLE = 4, 16
# The radius of a new start in units of the start's length. That of a first one is
# `factor`: of 606 runs of benchmarks/kernel/starts.py 417, 440, 427 and 419 were right
# with 1, 3, 10 and 100; from 10 on one of More, Garbow and Hillstrom's standard starts
# went astray.
_LATER_FACTOR = 100


LinearSolver = Literal["auto", "qr", "gram", "matrix_free"]


class View(NamedTuple):
    """What a linearisation shows of the point where it was made."""

    inv_scale: Vector
    steepest: Vector
    optimality: Scalar
    size: Scalar  # length of the point, to make a radius of
    rank: Count
    highest: Scalar
    finite: Flag
    flat: Flag  # whether a tolerance of the gradient proposes to stop
    shown: Flag  # whether the certificate confirms a minimum
    left: Flag  # whether the fit has left the data
    stuck: Flag  # whether there is no way to go from here


class TRF(eqx.Module):
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
    - `trials`: radii tried on one linearisation before the next one.
    - `x_scale`: "jac" scales each parameter by its largest column norm so far, or since
        the fit began anew; an array (of n numbers, or one) gives their characteristic
        sizes.
    - `linear_solver`: "qr" (triangular, no squaring of the condition number), "gram"
        (J'J by Cholesky, the cheapest), "matrix_free" (never forms J), or "auto".
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

    ftol: ArrayLike | None
    xtol: ArrayLike | None
    gtol: ArrayLike | None
    atol: ArrayLike | None
    max_nfev: ArrayLike | None
    factor: ArrayLike
    x_scale: Array | None  # None stands for "jac"
    jacobian: Function | None  # None stands for automatic differentiation
    mode: Literal["forward", "reverse"] = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    trials: int = eqx.field(static=True)
    linear_solver: LinearSolver = eqx.field(static=True)
    chunk_size: int | Literal["auto"] | None = eqx.field(static=True)
    cg_steps: int = eqx.field(static=True)
    derivative: Literal["hessian", "gauss_newton"] = eqx.field(static=True)
    history: bool = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True)

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

    def init(
        self, x: Vector, bounds: Bounds | None, blank: Any, num_rows: ArrayLike
    ) -> State:
        """The state before the first step, at `x` moved strictly inside its bounds.

        `blank` has the structure of the linearisations to come, `num_rows` is the
        number of residuals that count. A start outside its bounds is never evaluated.
        """
        lanes = x.shape[1:]
        zero, count = jnp.zeros(lanes, x.dtype), jnp.zeros(lanes, jnp.int32)
        feasible = jnp.ones(lanes, bool)
        if bounds is not None:
            feasible = bounds.contain(x)
            x = jnp.where(feasible, bounds.interior(x, 1e-10), x)
        status = jnp.where(feasible, Status.RUNNING, Status.INFEASIBLE_START)
        return State(
            x=x,
            before=x,
            inv_scale=jnp.zeros_like(x),
            steepest=jnp.zeros_like(x),
            lin=blank,
            cost=jnp.full_like(zero, jnp.inf),
            optimality=jnp.full_like(zero, jnp.inf),
            radius=zero,
            alpha=zero,
            step_norm=zero,
            promise=jnp.full_like(zero, jnp.inf),
            idle=count,
            num_steps=count,
            nfev=count,
            njev=count,
            status=status.astype(count.dtype),
            closed=~feasible,
            certified=jnp.zeros_like(feasible),
            restarts=count,
            anchor=jnp.full_like(zero, jnp.inf),
            rank=count,
            highest=zero,
            num_rows=jnp.broadcast_to(num_rows, lanes),
            history=History.empty(self.max_steps, x.dtype) if self.history else None,
        )

    def prepare(
        self, state: State, lin: Linearisation, bounds: Bounds | None
    ) -> tuple[State, Model]:
        """Scale the variables, test `gtol`, factor the subproblem: once a step.

        A fit that has ended passes here once more, to know its solution's
        linearisation; that closes it.
        """
        view, model = self.look(state, lin, bounds)
        return self.decide(state, lin, view), model

    def look(
        self, state: State, lin: Linearisation, bounds: Bounds | None
    ) -> tuple[View, Model]:
        """What the linearisation at x shows, and the model of the cost there."""
        x, g, cost = state.x, lin.grad, lin.cost
        first, fresh = state.njev == 0, state.fresh
        norms, r_norm = lin.column_norms, jnp.sqrt(2 * cost)
        inv_scale = self._inv_scale(jnp.where(fresh, 0, state.inv_scale), norms)
        scale = 1 / jnp.where(inv_scale == 0, 1, inv_scale)

        # `length` is how far a parameter alone moves to change r by |r|: divided by it,
        # all that follows is free of units. Its column norms are those at x, whatever
        # the scale: a cosine with columns from elsewhere proves nothing.
        safe_norm = jnp.where(r_norm > 0, r_norm, 1)
        length = safe_norm / jnp.where(norms > 0, norms, 1)
        steepest = jnp.maximum(state.steepest, norms)
        short = jnp.where(state.num_rows > len(x), 0, self._tol(self.xtol, 2 / 3, x))
        visible = Visible.of(x, norms, steepest, r_norm, short)
        # A parameter whose column is rounding waits until the others have ended.
        waiting = visible.faint & (state.restarts == 0)
        d, c, vg, reach, touching = scale, None, g, 1, False
        if bounds is not None:
            v, dv, d, c = bounds.hat(x, g, scale, length)
            vg = jnp.where(bounds.fixed, 0, v * g)
            reach = jnp.where(dv != 0, jnp.minimum(1, v / length), 1)
            reach = jnp.where(bounds.fixed, 0, reach)
            waiting &= dv == 0
            # As near to its bound as numbers are to one another.
            touching = (dv != 0) & (v <= 8 * float(jnp.finfo(x.dtype).eps) * jnp.abs(x))
        d = jnp.where(waiting, 0, d)
        cosine = largest(jnp.abs(g) * length * reach) / safe_norm**2
        optimality = largest(jnp.abs(vg))
        model = Model(
            lin.subproblem(d, c), d, d * g, theta=jnp.maximum(0.995, 1 - cosine)
        )

        rank = model.subproblem.newton.rank
        # What the data determine at the start; with bounds, whose share is left out,
        # the most that they have determined so far.
        known = jnp.where(first, rank, state.rank)
        if c is not None:
            known = jnp.maximum(state.rank, rank - self._held(model, c, norms))
        left = ~every(~visible.fallen) | ((known == len(x)) & (rank < known))
        left &= r_norm > visible.rounding
        shown = self._certified(
            model,
            jnp.where(touching, 0, model.grad_h),
            c,
            norms,
            state.num_rows,
            visible.rounding,
            r_norm,
        )
        shown |= (state.num_rows <= rank) & is_flat(cosine, self._gtol)
        # What was a number and underflows is 0, in any unit; what never could be told
        # from 0 shows nothing, and has no variance.
        info = jnp.finfo(x.dtype)
        tiny, rounding = float(info.tiny), (64 * float(info.eps)) ** 2
        highest = jnp.where(first, cost, state.highest)
        shown |= (cost < tiny) & (highest > tiny**0.5)
        shown &= (
            (cost >= 64 * tiny * state.num_rows)
            | (highest * rounding >= tiny)
            | (highest == 0)
        )
        shown &= ~left & every(~waiting)
        if self.x_scale is None:
            shown &= (rank == len(x)) | ~is_stale(inv_scale, norms)
        flat = cosine <= self._tol(self.gtol, 0.75, x)
        if self.atol is not None:
            flat |= optimality <= self.atol

        # The first radius is made of the start's own length; a start at 0 has none, and
        # takes that of the residual, the length of a Gauss-Newton step on unit columns.
        # A step that is rounding of that would show nothing (see `judge`).
        size = norm(x / jnp.where(d > 0, d, jnp.inf))
        least = 128 * float(info.eps) * safe_norm
        size = jnp.where(size > 0, jnp.maximum(size, least), safe_norm)
        view = View(
            inv_scale=inv_scale,
            steepest=steepest,
            optimality=optimality,
            size=size,
            rank=known,
            highest=highest,
            finite=is_finite(lin),
            flat=flat,
            shown=shown,
            left=left,
            stuck=every(g == 0),
        )
        return view, model

    def decide(self, state: State, lin: Linearisation, view: View) -> State:
        """Whether the fit has ended at x, begins anew there, or steps back."""
        x, cost, shown, finite = state.x, lin.cost, view.shown, view.finite
        first, fresh = state.njev == 0, state.fresh
        # Where there are no derivatives the last step was too long. It is taken back,
        # and one that could hardly have been shorter ends the fit.
        taken_back = ~finite & ~first & ~every(state.before == x)
        hardly = float(jnp.finfo(x.dtype).eps) ** (2 / 3)
        far = state.step_norm > hardly * norm(state.before * state.inv_scale)
        back = taken_back & far
        failed = jnp.where(first, Status.NONFINITE_START, Status.NONFINITE_JACOBIAN)
        converged = view.flat & (first | ~fresh | shown)  # a new start takes a step
        running = state.status == Status.RUNNING
        status = jnp.where(running & converged, Status.GTOL, state.status)
        # What a tolerance proposes the certificate confirms; or the fit starts anew
        # from here, with the scales of here and a long radius.
        doubtful = (status > 0) & ~shown & finite
        gained = finite & (cost < 0.9 * state.anchor)
        restarts = jnp.where(gained, 0, state.restarts)
        # Where there is no way to go new scales may show a minimum, but only once.
        again = doubtful & (restarts < jnp.where(view.stuck, 1, _RESTARTS))
        why = jnp.where(view.left, Status.LEFT_THE_DATA, Status.STALLED)
        status = jnp.where(doubtful, jnp.where(again, Status.RUNNING, why), status)
        status = jnp.where(finite, status, jnp.where(back, Status.RUNNING, failed))

        radius = view.size * jnp.where(restarts > 0, _LATER_FACTOR, self.factor)
        radius = jnp.where(fresh, radius, state.radius)
        tiny = float(jnp.finfo(x.dtype).tiny)
        shorter = jnp.maximum(0.25 * state.step_norm, tiny)
        radius = jnp.where(back, jnp.minimum(radius, shorter), radius)
        going = (status == Status.RUNNING) & ~again & ~back
        return dataclasses.replace(
            state,
            x=jnp.where(taken_back, state.before, x),
            inv_scale=jnp.where(taken_back, state.inv_scale, view.inv_scale),
            steepest=jnp.where(taken_back, state.steepest, view.steepest),
            lin=lin.summary(),
            cost=cost,
            optimality=view.optimality,
            radius=jnp.where(again, 0, radius),
            step_norm=jnp.zeros_like(cost),
            num_steps=state.num_steps + going.astype(jnp.int32),
            nfev=state.nfev + first.astype(jnp.int32),
            njev=state.njev + 1,
            status=status.astype(state.status.dtype),
            closed=(status != Status.RUNNING) & ~taken_back,
            certified=shown,
            idle=jnp.where(again, 0, state.idle),
            restarts=restarts + again.astype(jnp.int32),
            anchor=jnp.where(again, cost, state.anchor),
            rank=view.rank,
            highest=view.highest,
        )

    def _certified(
        self,
        model: Model,
        grad_h: Vector,
        c: Vector | None,
        norms: Vector,
        num_rows: Count,
        rounding: Scalar,
        r_norm: Scalar,
    ) -> Flag:
        """Whether the relative offset of the model is small enough for the tolerances.

        It is 1e-3, or the largest of the tolerances that the user has set. `grad_h` is
        0 where a bound cannot be any nearer.
        """
        newton = model.subproblem.newton
        rank = newton.rank
        if c is not None:  # what bounds hold, data need not
            rank = rank - self._held(model, c, norms)
        level: ArrayLike = OFFSET
        for tol, power in ((self.xtol, 1), (self.gtol, 1), (self.ftol, 0.5)):
            if tol is not None:
                level = jnp.maximum(level, jnp.asarray(tol, r_norm.dtype) ** power)
        return certified(grad_h, newton.p, rank, num_rows, r_norm, rounding, level)

    @staticmethod
    def _held(model: Model, c: Vector, norms: Vector) -> Count:
        """How many parameters bounds hold rather than data."""
        held = c > (model.d * norms) ** 2
        return jnp.sum(held, axis=0, dtype=jnp.int32)

    @property
    def _gtol(self) -> ArrayLike:
        return 0.0 if self.gtol is None else self.gtol

    def propose(
        self, state: State, model: Model, bounds: Bounds | None
    ) -> tuple[Vector, Step]:
        """A trial point strictly inside the bounds: O(n^2), touches no data."""
        step = propose_step(model, bounds, state.x, state.radius, state.alpha)
        x = state.x + model.d * step.p_h
        return x if bounds is None else bounds.interior(x), step

    def judge(
        self, state: State, x: Vector, step: Step, cost: Scalar
    ) -> tuple[State, Array]:
        """The state after a trial at `x`, and whether the trial was accepted."""
        eps = jnp.finfo(x.dtype).eps
        finite = jnp.isfinite(cost)
        actual = jnp.where(finite, state.cost - cost, -jnp.inf)
        p_norm = norm(step.p_h)
        positive = step.predicted > 0
        ratio = jnp.where(
            positive, actual / jnp.where(positive, step.predicted, 1), -1.0
        )

        # Below its own rounding error the cost can rank points no longer, while the
        # gradient still can: a step that promises less than that is taken unless the
        # cost is visibly worse. What such steps promise should fall from one to the
        # next, as the gradient does. Where it does not the step overshot, for want of
        # curvature in J'J, or the gradient has come to its own rounding error.
        noise = 64 * eps * state.cost
        ftol = self._tol(self.ftol, 1, x) * state.cost
        unranked = finite & (step.predicted <= noise) & (jnp.abs(actual) <= noise)
        falling = step.predicted < state.promise
        accepted = (actual > 0) | unranked

        good = (ratio > 0.75) & ~unranked
        on_boundary = p_norm > 0.95 * state.radius
        poor = jnp.where(unranked, ~falling, ratio < 0.25)
        longer = (good | (unranked & falling)) & on_boundary
        radius = jnp.where(longer, 2 * state.radius, state.radius)
        # A radius of 0 is kept for a fit that has none yet.
        least = float(jnp.finfo(x.dtype).tiny)
        radius = jnp.where(poor, jnp.maximum(0.25 * p_norm, least), radius)

        s_norm = norm((x - state.x) * state.inv_scale)
        x_norm = norm(state.x * state.inv_scale)
        # What the gradient itself cannot see is a promise of (8 eps)^2 of the cost.
        negligible = step.predicted <= jnp.maximum(ftol, (8 * eps) ** 2 * state.cost)
        small_gain = jnp.where(unranked, negligible, (actual < ftol) & (ratio > 0.25))
        # A step that the radius cut proves nothing, unless it began at a minimum.
        cut = on_boundary & ~state.certified
        small_gain &= ~cut
        # Nor do steps end that show nothing, where J misses the curvature of the cost.
        idle = jnp.where(accepted & ~unranked, 0, state.idle + unranked)
        small_gain |= idle >= _IDLE
        # A rejected step that is merely short proves nothing: the radius may have been
        # cut by points where the model is not finite. It counts once the reduction it
        # promised was negligible too.
        small_step = (s_norm <= self._tol(self.xtol, 2 / 3, x) * x_norm) & (
            (accepted & ~cut) | (finite & negligible)
        )
        status = jnp.where(
            small_gain & small_step,
            Status.FTOL_XTOL,
            jnp.where(
                small_gain,
                Status.FTOL,
                jnp.where(small_step, Status.XTOL, state.status),
            ),
        )
        state = dataclasses.replace(
            state,
            x=jnp.where(accepted, x, state.x),
            before=jnp.where(accepted, state.x, state.before),
            cost=jnp.where(accepted, cost, state.cost),
            radius=radius,
            alpha=step.alpha * state.radius / jnp.where(radius > 0, radius, 1),
            step_norm=jnp.where(accepted, s_norm, 0),
            promise=jnp.where(unranked, step.predicted, jnp.inf),
            idle=idle.astype(state.idle.dtype),
            nfev=state.nfev + 1,
            status=status.astype(state.status.dtype),
        )
        return state, accepted

    def finish(self, state: State) -> State:
        """The end of an outer step: count it against `max_steps` and `max_nfev`."""
        spent = state.num_steps >= self.max_steps
        if self.max_nfev is not None:
            spent |= state.nfev >= self.max_nfev
        running = state.status == Status.RUNNING
        status = jnp.where(running & spent, Status.MAX_STEPS, state.status)
        return dataclasses.replace(state, status=status.astype(state.status.dtype))

    def settle(self, state: State, start: Vector) -> State:
        """The state after the trials of a step from `start`.

        Where a fit ends without having moved, the linearisation is of its solution
        already; but a solution without a certificate has to pass `prepare` once more.
        """
        if state.history is not None:
            history = state.history.record(state)
            state = dataclasses.replace(state, history=history)
        state = self.finish(state)
        still = (state.status != Status.RUNNING) & every(state.x == start)
        closed = state.closed | (still & (state.certified | (state.status <= 0)))
        return dataclasses.replace(state, closed=closed)

    def step(
        self,
        state: State,
        cost: Callable[[Vector], Scalar],
        linearise: Callable[[Vector], Linearisation],
        bounds: Bounds | None,
    ) -> State:
        """One outer step: a linearisation, and trials until one is accepted.

        The trials are a masked `scan`: once settled, the rest do nothing.
        """
        start, history = state.x, state.history
        state = dataclasses.replace(state, history=None)
        state, model = self.prepare(state, linearise(state.x), bounds)
        pack, unpack = packing((state, state.closed), state.x.dtype)

        def trial(vector, _):
            def go(vector):
                state, _ = unpack(vector)
                x, step = self.propose(state, model, bounds)
                state, accepted = self.judge(state, x, step, cost(x))
                settled = accepted | (state.status != Status.RUNNING)
                if self.max_nfev is not None:
                    settled |= state.nfev >= self.max_nfev
                return pack((state, settled))

            _, settled = unpack(vector)
            return jax.lax.cond(settled, lambda vector: vector, go, vector), None

        settled = state.closed | state.fresh | ~every(state.x == start)
        if self.max_nfev is not None:
            settled |= state.nfev >= self.max_nfev
        vector, _ = jax.lax.scan(trial, pack((state, settled)), None, self.trials)
        state, _ = unpack(vector)
        return self.settle(dataclasses.replace(state, history=history), start)

    def minimise(
        self,
        cost: Callable[[Vector], Scalar],
        linearise: Callable[[Vector], Linearisation],
        x: Vector,
        bounds: Bounds | None,
        blank: Any,
        num_rows: Array,
    ) -> State:
        """The fused driver: the whole fit as one `while_loop` over a `scan`."""
        start = alike(self.init(x, bounds, blank, num_rows), x)
        pack, unpack = packing(dataclasses.replace(start, history=None), x.dtype)

        def split(state):
            return pack(dataclasses.replace(state, history=None)), state.history

        def join(carry):
            return dataclasses.replace(unpack(carry[0]), history=carry[1])

        def step(carry):
            return split(self.step(join(carry), cost, linearise, bounds))

        def running(carry):
            return ~unpack(carry[0]).closed

        return join(jax.lax.while_loop(running, step, split(start)))

    def _inv_scale(self, previous: Vector, norms: Vector) -> Vector:
        if self.x_scale is None:
            return jnp.maximum(previous, norms)
        scale = self.x_scale
        if scale.ndim and scale.shape != previous.shape[:1]:
            raise ValueError(
                f"`x_scale` has shape {scale.shape} for {len(previous)} "
                "parameters: give one number, or one for each in the order of "
                "ravel_pytree(params)."
            )
        if scale.ndim:
            scale = scale.reshape(scale.shape + (1,) * (previous.ndim - 1))
        return jnp.broadcast_to(1 / scale.astype(previous.dtype), previous.shape)

    @staticmethod
    def _tol(tol: ArrayLike | None, power: float | int, x: Vector) -> ArrayLike:
        return float(jnp.finfo(x.dtype).eps) ** power if tol is None else tol


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
