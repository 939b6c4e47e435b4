"""A trial: the point that a radius proposes, and whether it is accepted.

The step solves min g_h'p + p'B_h p/2 over |p| <= radius in the hat space of `view`. The
choice among the trust-region, reflected and gradient step follows Branch, Coleman and
Li (1999) as implemented in SciPy; what differs is listed in docs/how-a-fit-flows.md.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array

from .._basics.status import Status
from .._basics.types import Scalar, Vector
from .algebra import norm
from .bounds import Bounds
from .method import Method
from .reflection import Model, Step, propose_step
from .state import State


# Steps without a visible reduction of the cost after which a fit is to stop.
_IDLE = 16


def propose(state: State, model: Model, bounds: Bounds | None) -> tuple[Vector, Step]:
    """A trial point strictly inside the bounds: O(n^2), touches no data."""
    step = propose_step(model, bounds, state.x, state.radius, state.alpha)
    x = state.x + model.d * step.p_h
    return x if bounds is None else bounds.interior(x), step


def judge(
    method: Method, state: State, x: Vector, step: Step, cost: Scalar
) -> tuple[State, Array]:
    """The state after a trial at `x`, and whether the trial was accepted."""
    eps = jnp.finfo(x.dtype).eps
    finite = jnp.isfinite(cost)
    actual = jnp.where(finite, state.cost - cost, -jnp.inf)
    p_norm = norm(step.p_h)
    positive = step.predicted > 0
    ratio = jnp.where(positive, actual / jnp.where(positive, step.predicted, 1), -1.0)

    # Below its own rounding error the cost can rank points no longer, while the
    # gradient still can: a step that promises less than that is taken unless the
    # cost is visibly worse. What such steps promise should fall from one to the
    # next, as the gradient does. Where it does not the step overshot, for want of
    # curvature in J'J, or the gradient has come to its own rounding error.
    noise = 64 * eps * state.cost
    ftol, xtol, _ = method.tolerances(x.dtype)
    ftol = ftol * state.cost
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
    small_step = (s_norm <= xtol * x_norm) & ((accepted & ~cut) | (finite & negligible))
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
