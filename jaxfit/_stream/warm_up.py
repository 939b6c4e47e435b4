"""The warm-up: a start near the solution, from a fit of a sample of the data.

From a far start most steps of a fit only find out where to look. A sample tells that as
well, and costs no pass. Two ways:

"trf", the fit itself on the sample: mostly the same path, so the same minimum.

"lbfgs" (Nocedal and Wright 2006, Numerical Optimization, ch. 7; optax), which asks for
gradients alone. Its variables are u, with x = x(u) always within bounds:

    free                x = x0 + s u,   s = |x0|, or 1 where x0 is 0
    one bound           x = bound +- (distance of x0 to it) exp(+-u)
    two bounds          x = lower + (upper - lower) logistic(u + u0)

Either ends where the sample's cost falls by less than n / rows of it, in one step of
the first or `patience` of the second. By about so much does the cost at the true
parameters exceed that of the sample's own minimum (a chi-square of n degrees of
freedom); what is gained beyond belongs to the sample, not to the data. Then the exact
phase begins, at the point found if its cost is lower than that of the start, on the
same sample.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from .._basics.checks import one_of, positive_int
from .._basics.types import Scalar, Vector
from .._problem.objective import Objective
from .._problem.problem import Problem
from .._programs.program import program
from .._solve.solve import solve
from .._solve.solver import TRF
from .._solve.unbounded import Bijection
from .blocks import Reading
from .passes import with_data


Method = Literal["trf", "lbfgs"]


class WarmUp:
    """How to come near the solution on a sample.

    **Arguments:**

    - `method`: "trf" or "lbfgs".
    - `rows`: rows of the sample, taken evenly from all data.
    - `max_steps`: steps at most.
    - `patience`: steps of L-BFGS that must bring something together for it to go on.

    **Raises:** `ValueError` or `TypeError` for a method that does not exist and numbers
    that are not at least 1.
    """

    def __init__(
        self,
        method: Method = "trf",
        rows: int = 16384,
        max_steps: int = 200,
        patience: int = 10,
    ):
        self.method: Method = one_of("method", method, Method)
        self.rows = positive_int("rows", rows)
        self.max_steps = positive_int("max_steps", max_steps)
        self.patience = positive_int("patience", patience)


class Warmed(NamedTuple):
    """A start nearer to the solution, by so many steps on a sample of so many rows.

    `cost_ratio` is the sample's cost at `point` over that at the start before.
    """

    point: Vector
    rows: int
    steps: int
    cost_ratio: float


def warmed(problem: Problem, solver: TRF, reading: Reading, how: WarmUp) -> Warmed:
    """The better of the start and the point that a fit of a sample comes to."""
    sample = reading.sample(how.rows)
    start, _ = ravel_pytree(problem.params)
    x, y, sigma = sample if len(sample) == 3 else (*sample, None)
    whole = with_data(problem, x, y, sigma, None)
    enough = start.size / len(y)
    if how.method == "trf":
        short = solver.replaced(
            ftol=enough, max_steps=how.max_steps, history=False, mesh=None
        )
        solution = solve(whole, short)
        point, steps = ravel_pytree(solution.params)[0], solution.num_steps
    else:
        point, steps = _search(whole, start, enough, how.max_steps, how.patience)
    before, after = _cost(whole, start), _cost(whole, point)
    better = bool(after < before)
    return Warmed(
        point if better else start,
        len(y),
        int(steps),
        float(after / before) if better else 1.0,
    )


@program
def _cost(problem: Problem, x: Vector) -> Scalar:
    return Objective.of(problem, x, TRF(linear_solver="gram")).cost(x)


@program(static=(3, 4))
def _search(
    problem: Problem, start: Vector, enough: float, max_steps: int, patience: int
) -> tuple[Vector, Array]:
    """The best point that L-BFGS found, and its steps."""
    import optax

    objective = Objective.of(problem, start, TRF(linear_solver="gram"))
    inside = Bijection.of(problem.bounds, start).forward
    before = objective.cost(start)
    unit = jnp.where(before > 0, before, 1)

    def value(u):
        cost = objective.cost(inside(u)) / unit
        return jnp.where(jnp.isfinite(cost), cost, jnp.inf)

    solver = optax.lbfgs()
    evaluate = optax.value_and_grad_from_state(value)

    def step(carry):
        u, state, best, best_u, i, recent = carry
        cost, grad = evaluate(u, state=state)
        updates, state = solver.update(
            grad, state, u, value=cost, grad=grad, value_fn=value
        )
        u: Any = optax.apply_updates(u, updates)
        now = optax.tree.get(state, "value")
        better = now < best
        best, best_u = jnp.where(better, now, best), jnp.where(better, u, best_u)
        recent = jnp.roll(recent, 1).at[0].set(best)
        return u, state, best, best_u, i + 1, recent

    def going_on(carry):
        _, _, best, _, i, recent = carry
        gained = (i <= patience) | (recent[-1] - best > enough * best)
        return (i < max_steps) & gained & (best > 0)

    u = jnp.zeros_like(start)
    first = value(u)
    recent = jnp.full(patience + 1, first)
    zero = jnp.zeros((), jnp.int32)
    carry = (u, solver.init(u), first, u, zero, recent)
    _, _, _, u, steps, _ = jax.lax.while_loop(going_on, step, carry)
    return inside(u), steps
