"""The point that a step begins from: what its linearisation shows, and what follows.

`look` scales the variables, makes the model of the cost and asks the certificate of
convergence; `decide` ends the fit there, begins anew, steps back or goes on.

Hat space. With jac scaling s_i = 1/|J_i| and the Coleman-Li vector v (see `bounds`),

    x = d x_h,   d_i = s_i where v_i = 1,   d_i = sqrt(v_i s_i) towards a bound
    B_h = diag(d) J'J diag(d) + diag(c),    c_i = s_i g_i dv_i,    g_h = d g
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from .._basics.status import Status
from .._basics.types import Count, Flag, Scalar, Vector
from .algebra import every, largest, norm
from .bounds import Bounds
from .certificate import Visible, certified, is_flat, is_stale
from .linearisation import Linearisation, is_finite
from .method import Method
from .reflection import Model
from .state import State


# New starts without progress after which a fit has stalled.
_RESTARTS = 4
# The radius of a new start in units of the start's length. That of a first one is
# `factor`: of 606 runs of benchmarks/kernel/starts.py 417, 440, 427 and 419 were right
# with 1, 3, 10 and 100; from 10 on one of More, Garbow and Hillstrom's standard starts
# went astray.
_LATER_FACTOR = 100


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


def look(
    method: Method, state: State, lin: Linearisation, bounds: Bounds | None
) -> tuple[View, Model]:
    """What the linearisation at x shows, and the model of the cost there."""
    x, g, cost = state.x, lin.grad, lin.cost
    first, fresh = state.njev == 0, state.fresh
    norms, r_norm = lin.column_norms, jnp.sqrt(2 * cost)
    inv_scale = method.inv_scale(jnp.where(fresh, 0, state.inv_scale), norms)
    scale = 1 / jnp.where(inv_scale == 0, 1, inv_scale)

    # `length` is how far a parameter alone moves to change r by |r|: divided by it,
    # all that follows is free of units. Its column norms are those at x, whatever
    # the scale: a cosine with columns from elsewhere proves nothing.
    safe_norm = jnp.where(r_norm > 0, r_norm, 1)
    length = safe_norm / jnp.where(norms > 0, norms, 1)
    steepest = jnp.maximum(state.steepest, norms)
    _, xtol, gtol = method.tolerances(x.dtype)
    short = jnp.where(state.num_rows > len(x), 0, xtol)
    visible = Visible.of(x, norms, steepest, r_norm, short)
    # A parameter whose column is rounding waits until the others have ended.
    waiting = visible.faint & (state.restarts == 0)
    d, c, vg, reach, touching = scale, None, g, 1, False
    fallen = visible.fallen
    if bounds is not None:
        fallen &= ~bounds.fixed
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
    model = Model(lin.subproblem(d, c), d, d * g, theta=jnp.maximum(0.995, 1 - cosine))

    rank = count = model.subproblem.newton.rank
    # What the data determine at the start; with bounds, what those hold left out,
    # the most that they have determined so far.
    known = jnp.where(first, rank, state.rank)
    if c is not None:
        held = c > (d * norms) ** 2
        count = rank - jnp.sum(held, axis=0, dtype=jnp.int32)
        known = jnp.maximum(state.rank, count)
    left = ~every(~fallen) | ((known == len(x)) & (rank < known))
    left &= r_norm > visible.rounding
    shown = certified(
        jnp.where(touching, 0, model.grad_h),  # which cannot be any nearer
        model.subproblem.newton.p,
        count,
        state.num_rows,
        r_norm,
        visible.rounding,
        method.offset(x.dtype),
    )
    asked = 0.0 if method.gtol is None else method.gtol
    shown |= (state.num_rows <= rank) & is_flat(cosine, asked)
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
    if method.x_scale is None:
        shown &= (rank == len(x)) | ~is_stale(inv_scale, norms)
    flat = cosine <= gtol
    if method.atol is not None:
        flat |= optimality <= method.atol

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


def decide(method: Method, state: State, lin: Linearisation, view: View) -> State:
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

    radius = view.size * jnp.where(restarts > 0, _LATER_FACTOR, method.factor)
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
