"""The memory of a fit: what the loop carries from step to step."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._basics.status import Status
from .._basics.types import Count, Flag, Scalar, Vector
from .bounds import Bounds
from .certificate import Visible
from .method import Method


class History(eqx.Module):
    """One entry a step, NaN beyond the last: the fit as it went."""

    cost: Float[Array, " steps"]
    step_norm: Float[Array, " steps"]
    radius: Float[Array, " steps"]
    optimality: Float[Array, " steps"]

    @staticmethod
    def empty(steps: int, dtype) -> "History":
        return History(*(jnp.full(steps, jnp.nan, dtype) for _ in range(4)))

    def record(self, which: Count, state: "State", optimality: Scalar) -> "History":
        """With the entry of step `which`; one that is out of range goes nowhere."""
        now = (state.cost, state.step_norm, state.radius, optimality)
        leaves = (self.cost, self.step_norm, self.radius, self.optimality)
        return History(*(a.at[which].set(v) for a, v in zip(leaves, now, strict=True)))


class State(eqx.Module):
    """The whole memory of a fit: loop carry and checkpoint. Nothing is longer than n^2.

    `lin` is the last linearisation, at `x` once `closed`, and `optimality` and
    `certified` are its; `radius` is 0 before the first step and before a new start.
    """

    x: Vector
    before: Vector  # x before the last step that moved
    inv_scale: Vector
    steepest: Vector  # the largest column norms so far
    lin: Any
    cost: Scalar
    optimality: Scalar
    radius: Scalar
    alpha: Scalar
    step_norm: Scalar
    promise: Scalar  # reduction predicted by the last step too small for the cost
    idle: Count  # such steps since the cost has visibly fallen
    num_steps: Count
    nfev: Count
    njev: Count
    status: Count
    closed: Flag
    certified: Flag  # whether `lin` shows a minimum
    restarts: Count  # new starts from a point that was none, without progress since
    anchor: Scalar  # the cost at the last of them
    rank: Count  # directions that the data determine at the start (`view.look`)
    highest: Scalar  # the cost there
    num_rows: Count  # residuals that count
    history: History | None

    @property
    def evidence(self) -> Any:
        """`lin` as it counts: columns that have become rounding say nothing."""
        norms, r_norm = self.lin.column_norms, jnp.sqrt(2 * self.lin.cost)
        fallen = Visible.of(self.x, norms, self.steepest, r_norm, 0).fallen
        return self.lin.without(fallen)

    @property
    def fresh(self) -> Flag:
        """Whether the next step is the first from where the fit stands."""
        return self.radius == 0


def init(
    method: Method, x: Vector, bounds: Bounds | None, blank: Any, num_rows: ArrayLike
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
        history=History.empty(method.max_steps, x.dtype) if method.history else None,
    )


def recorded(history: History | None, old: State, new: State) -> History | None:
    """With the step from `old` to `new`; a first look at the start is none."""
    if history is None:
        return None
    which = jnp.where(old.fresh, history.cost.size, old.num_steps - 1)
    return history.record(which, new, old.optimality)
