"""From the subproblem to a trial point: the step within bounds.

Where the trust-region step p leaves the box, three strictly interior candidates are
compared on the quadratic model: p cut short at the bound, p reflected from the bound
it meets first, and the scaled gradient step (Branch, Coleman and Li 1999, section 2.3;
the admissible range of the reflected stride is SciPy's heuristic).
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp

from .._basics.types import Scalar, Vector
from .algebra import choose, dot
from .bounds import Bounds
from .subproblem import Subproblem


class Model(eqx.Module):
    """What one outer step knows: fixed while its trials change the radius."""

    subproblem: Subproblem
    d: Vector
    grad_h: Vector
    theta: Scalar  # share of the way to a bound that a step may go


class Step(NamedTuple):
    """A proposal: hat step, reduction of cost the model predicts, and alpha."""

    p_h: Vector
    predicted: Scalar
    alpha: Scalar


def propose_step(
    model: Model, bounds: Bounds | None, x: Vector, radius: Scalar, alpha: Scalar
) -> Step:
    """The best step of length at most `radius` that stays strictly inside."""
    p_h, alpha = model.subproblem.step(radius, alpha)
    bp = model.subproblem.product(p_h)
    linear, curvature = dot(model.grad_h, p_h), dot(p_h, bp)

    def inside():
        return p_h, linear + 0.5 * curvature

    if bounds is None:
        step_h, value = inside()
    else:
        # NaN has nothing to reflect.
        fits = bounds.contain(x + model.d * p_h) | jnp.isnan(linear)

        def reflect():
            return _reflected(model, bounds, x, radius, p_h, linear, curvature)

        step_h, value = choose(fits, inside, reflect)
    return Step(step_h, -value, alpha)


def _reflected(model, bounds, x, radius, p_h, linear, curvature):
    """The best of the three candidates and the model's value there."""
    d, g_h, theta = model.d, model.grad_h, model.theta
    stride, hits = bounds.stride(x, d * p_h)

    # Cut short of the bound.
    p_cut, t = stride * p_h, theta * stride
    cut, cut_value = t * p_h, t * linear + 0.5 * t**2 * curvature

    # Reflected at the bound, within what remains of the box and the trust region.
    r_h = jnp.where(hits, -p_h, p_h)
    b_r = model.subproblem.product(r_h)
    to_radius = _to_sphere(p_cut, r_h, radius)
    to_bound, _ = bounds.stride(x + d * p_cut, d * r_h)
    room = jnp.minimum(to_bound, to_radius)
    low = (1 - theta) * stride / jnp.where(room > 0, room, 1)
    high = jnp.where(room == to_bound, theta * to_bound, to_radius)
    t, gain = _minimum_on(
        0.5 * dot(r_h, b_r), dot(g_h, r_h) + dot(p_cut, b_r), low, high
    )
    bounced = p_cut + t * r_h
    on_bound = stride * linear + 0.5 * stride**2 * curvature
    possible = (room > 0) & (low <= high)
    bounced_value = jnp.where(possible, on_bound + gain, jnp.inf)

    # Along the negative gradient.
    b_g = model.subproblem.product(g_h)
    slope = dot(g_h, g_h)
    to_radius = radius / jnp.sqrt(jnp.where(slope > 0, slope, 1))
    to_bound, _ = bounds.stride(x, -d * g_h)
    high = jnp.where(to_bound < to_radius, theta * to_bound, to_radius)
    t, down_value = _minimum_on(0.5 * dot(g_h, b_g), -slope, jnp.zeros_like(high), high)
    down = -t * g_h

    best, value = down, down_value
    for candidate, its_value in ((bounced, bounced_value), (cut, cut_value)):
        better = its_value < value
        best = jnp.where(better, candidate, best)
        value = jnp.where(better, its_value, value)
    return best, value


def _to_sphere(p: Vector, s: Vector, radius: Scalar) -> Scalar:
    """The t >= 0 with |p + t s| = radius, for |p| <= radius."""
    a, b = dot(s, s), dot(p, s)
    c = jnp.minimum(dot(p, p) - radius**2, 0)
    root = jnp.sqrt(b * b - a * c)
    # Of the two forms of the positive root, the one that adds numbers of one sign.
    q = jnp.where(b > 0, -(b + root), root - b)
    safe = jnp.where(q == 0, 1, q)
    return jnp.where(b > 0, c / safe, q / jnp.where(a > 0, a, 1))


def _minimum_on(a: Scalar, b: Scalar, low: Scalar, high: Scalar):
    """Where a t^2 + b t is least on [low, high], and its value there."""
    vertex = -0.5 * b / jnp.where(a == 0, 1, a)
    t = jnp.where(a > 0, jnp.clip(vertex, low, high), jnp.where(b < 0, high, low))
    return t, t * (a * t + b)
