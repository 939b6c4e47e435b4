"""How far along a ray the data let the held parameters go.

Some parameters are held at x = centre + t ray, the others are fitted anew: c(t) is the
profile of the cost. The signed root of its rise,

    tau(t) = sqrt(2 (c(t) - c(0)) / s^2)

is t itself for a linear model, and nearly straight for most others (Bates and Watts
1988, chapter 6), so Newton's method finds tau(t) = q within few fits. Its slope is
free: where the others are fitted, dc/dt is the gradient along the ray. Each fit starts
from where the linear model takes the others from the fit before.

All rays are lanes of one batch.
"""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._basics.status import DOUBTFUL, Status
from .._basics.types import Scalar, Vector
from .._problem.objective import Objective
from .._problem.sharded import Spread
from .._solve.derivative import minimise
from .._solve.solver import TRF
from .._trf.bounds import Bounds


class Side(enum.IntEnum):
    """How one side of an interval ended."""

    CROSSED = 0
    BOUND = 1
    OPEN = 2
    LOWER_MINIMUM = 3
    FAILED = 4

    @property
    def message(self) -> str:
        """The reason in words."""
        return _SAYS[self]


_SAYS = {
    Side.CROSSED: "the cost rises to the level there",
    Side.BOUND: "the parameter's bound comes first: the interval ends there",
    Side.OPEN: "the cost never rises to the level: the data set no limit",
    Side.LOWER_MINIMUM: "a lower cost was found on the way: the fit was no minimum",
    Side.FAILED: "the fits on the way did not converge",
}

# So many standard errors away the cost should have risen. Beyond a model may overflow.
_FARTHEST = 1e4
_MOST_FITS, _MOST_ASTRAY = 60, 6
_GROWTH = 4.0


class Rays(NamedTuple):
    """Lanes: which parameters are held, and how everything moves with t."""

    held: Bool[Array, "k n"]
    ray: Float[Array, "k n"]  # for those that are not held a guess
    target: Float[Array, " k"]


class Ends(NamedTuple):
    """Where the rays ended."""

    t: Float[Array, " k"]
    params: Float[Array, "k n"]
    rise: Float[Array, " k"]  # tau there
    side: Int[Array, " k"]


class _Search(NamedTuple):
    """One ray on its way: the fit at `t` is `x`, of cost rise `rise` and its slope."""

    t: Scalar
    next_t: Scalar
    x: Vector
    low: Scalar
    high: Scalar
    rise: Scalar
    wall: Bool[Array, ""]  # whether what is too far is so because its fit failed
    astray: Int[Array, ""]  # how many did
    side: Int[Array, ""]  # -1 while it is running
    fits: Int[Array, ""]


def crossings(
    objective: Objective | Spread,
    bounds: Bounds | None,
    solver: TRF,
    centre: Vector,
    cost: Scalar,
    variance: Scalar,
    rays: Rays,
) -> Ends:
    """Where each ray's rise reaches its target, or why it does not."""
    n = centre.size
    infinite = jnp.full(n, jnp.inf, centre.dtype)
    if bounds is None:
        bounds = Bounds(-infinite, infinite)
    tolerance = float(jnp.finfo(centre.dtype).eps) ** 0.4

    def one(held, ray, target):
        longest = _longest(bounds, centre, held, ray)

        def visit(search: _Search) -> _Search:
            t = search.next_t
            x = search.x + (t - search.t) * ray
            x = jnp.where(held, centre + t * ray, x)
            x = jnp.clip(x, bounds.lower, bounds.upper)
            box = Bounds(
                jnp.where(held, x, bounds.lower), jnp.where(held, x, bounds.upper)
            )
            state = minimise(objective, box, x, solver)
            rise = 2 * (state.lin.cost - cost) / variance
            # A cost without a certificate is above the least one: it serves as a bound.
            loose = jnp.isin(state.status, jnp.array(DOUBTFUL))
            fitted = ((state.status > 0) | loose) & jnp.isfinite(rise)
            tau = jnp.sqrt(jnp.maximum(rise, 0))
            slope = jnp.sum(jnp.where(held, state.lin.grad * ray, 0))
            slope = slope / (variance * jnp.where(tau > 0, tau, 1))
            return _judged(search, t, state, target, rise, tau, slope, fitted, longest)

        def _judged(search, t, state, target, rise, tau, slope, fitted, longest):
            # Where the model cannot be evaluated is too far, and the interval may end
            # there. So is, for now, where a fit fails.
            nowhere = state.status == Status.NONFINITE_START
            astray = ~fitted & ~nowhere
            above = ~fitted | ~(tau < target)
            low = jnp.where(above, search.low, t)
            high = jnp.where(above, t, search.high)
            wall = jnp.where(above, astray, search.wall)
            close = fitted & (jnp.abs(tau - target) <= tolerance * target)
            narrow = jnp.isfinite(high) & (high - low <= tolerance * high)
            close |= fitted & narrow & ~wall
            newton = t - (tau - target) / jnp.where(slope > 0, slope, jnp.nan)
            between = jnp.where(jnp.isfinite(high), 0.5 * (low + high), _GROWTH * t)
            good = fitted & (newton > low) & (newton < high) & (newton < _GROWTH * t)
            next_t = jnp.minimum(jnp.where(good, newton, between), longest)
            end = jnp.where(search.fits + 1 >= _MOST_FITS, Side.FAILED, -1)
            end = jnp.where(search.astray + astray >= _MOST_ASTRAY, Side.FAILED, end)
            end = jnp.where(narrow & wall, Side.FAILED, end)
            end = jnp.where(low > _FARTHEST * target, Side.OPEN, end)
            end = jnp.where(~above & (t >= longest), Side.BOUND, end)
            end = jnp.where(close, Side.CROSSED, end)
            end = jnp.where(fitted & (rise < -1e-3), Side.LOWER_MINIMUM, end)
            # From a fit that went wrong nothing is carried on.
            x = jnp.where(fitted, state.x, search.x)
            return _Search(
                t=jnp.where(fitted, t, search.t),
                next_t=next_t,
                x=x,
                low=low,
                high=high,
                rise=jnp.where(fitted, tau, search.rise),
                wall=wall,
                astray=search.astray + astray,
                side=end.astype(search.side.dtype),
                fits=search.fits + 1,
            )

        zero = jnp.zeros_like(cost)
        begin = _Search(
            t=zero,
            next_t=jnp.minimum(target, longest),
            x=centre,
            low=zero,
            high=jnp.full_like(zero, jnp.inf),
            rise=zero,
            wall=jnp.zeros((), bool),
            astray=jnp.zeros((), jnp.int32),
            side=jnp.where(
                longest > 0, -jnp.ones((), jnp.int32), jnp.int32(Side.BOUND)
            ),
            fits=jnp.zeros((), jnp.int32),
        )
        end = jax.lax.while_loop(lambda s: s.side < 0, visit, begin)
        return Ends(end.t, end.x, end.rise, end.side)

    return jax.vmap(one)(*rays)


def _longest(bounds: Bounds, centre: Vector, held, ray) -> Scalar:
    """The largest t that leaves the held parameters within their bounds."""
    room = jnp.where(ray > 0, bounds.upper - centre, bounds.lower - centre)
    moving = held & (ray != 0)
    t = jnp.where(moving, room / jnp.where(moving, ray, 1), jnp.inf)
    return jnp.maximum(jnp.min(t), 0)
