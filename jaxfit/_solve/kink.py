"""Whether a point is a minimum by a kink: the cost rises on both sides, and not as h^2.

    s+(h) = (f(x + h e_i) - f(x)) / h,      s-(h) = (f(x) - f(x - h e_i)) / h

Their difference is the jump of the slope. It shrinks with h where the cost is smooth;
on a kink (an abs, a max, a `where`) it stays as it is, for as long as h is larger than
the distance to it. Where the cost is f = g + k |c(x)| and x is a minimum along c = 0,
s- < 0 < s+ along every axis that leaves that surface: to look along the axes is enough.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._basics.types import Flag, Vector
from .._problem.placement import on_auto_axes
from .._problem.problem import Problem
from .._problem.repair import lengths
from .._problem.sharded import objective_of
from .._programs.program import program
from .._trf.algebra import norm
from .solver import TRF


# Steps are 8^-2 to 8^-7 of the length that a parameter has, which is how far it moves
# alone to change r by |r|.
_POWERS = range(2, 8)


@program
@on_auto_axes
def is_kink(
    problem: Problem, solver: TRF, x: Vector, axes: tuple[str, ...] | None
) -> Flag:
    """Whether a fit of `problem` that came to x, a vector, cannot go on for a kink.

    Called as `is_kink(problem, solver, x)`. It takes 12 evaluations for a parameter.
    Parameters that are fixed or near a bound are not looked at.
    """
    objective = objective_of(problem, x, solver, axes)
    lin, cost = objective.linearise(x), objective.cost(x)
    size = jnp.abs(x)
    eps = float(jnp.finfo(x.dtype).eps)
    length = lengths(lin.cost, lin.column_norms)
    length = jnp.clip(length, eps ** (1 / 6) * size, jnp.maximum(1, size))
    h = length * jnp.array([8.0**-k for k in _POWERS], x.dtype)[:, None]

    moves = (h[..., None] * jnp.eye(x.size, dtype=x.dtype)).reshape(-1, x.size)
    both = jnp.concatenate([moves, -moves])
    costs = jax.lax.map(lambda move: objective.cost(x + move), both)
    ahead, behind = costs.reshape(2, *h.shape)
    up, down = (ahead - cost) / h, (cost - behind) / h
    # What cannot be told from rounding tells nothing: that of the cost, and that of a
    # residual made of large terms.
    terms = jnp.sqrt(2 * cost) * (jnp.sqrt(2 * cost) + norm(lin.column_norms * size))
    seen = jnp.abs(ahead - 2 * cost + behind) > 64 * eps * terms
    if problem.bounds is not None:
        lower, upper = problem.bounds.lower, problem.bounds.upper
        seen &= (x - h >= lower) & (x + h <= upper)
    return jnp.any(_stays(up, down, seen))


def _stays(
    up: Float[Array, "k n"], down: Float[Array, "k n"], seen: Bool[Array, "k n"]
) -> Bool[Array, "j n"]:
    """Where slopes of a minimum jump by as much at three steps in a row."""
    jump = up - down
    small = 0.01 * jump
    # NaN is no jump, and so is a cost that is not finite on a side.
    rises = seen & jnp.isfinite(jump) & (up >= -small) & (down <= small) & (jump > 0)
    lasts = rises[1:] & rises[:-1] & (jump[1:] > 0.5 * jump[:-1])
    return lasts[1:] & lasts[:-1]
