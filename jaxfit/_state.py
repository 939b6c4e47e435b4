"""The memory of a fit: what the loop carries from step to step."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._types import Count, Flag, Scalar, Vector


class History(eqx.Module):
    """One entry a step, NaN beyond the last: the fit as it went."""

    cost: Float[Array, " steps"]
    step_norm: Float[Array, " steps"]
    radius: Float[Array, " steps"]
    optimality: Float[Array, " steps"]

    @staticmethod
    def empty(steps: int, dtype) -> "History":
        return History(*(jnp.full(steps, jnp.nan, dtype) for _ in range(4)))

    def record(self, state: "State") -> "History":
        """With this step's entry; a closing pass, which is no step, goes nowhere."""
        i = jnp.where(state.closed, self.cost.size, state.num_steps - 1)
        now = (state.cost, state.step_norm, state.radius, state.optimality)
        leaves = (self.cost, self.step_norm, self.radius, self.optimality)
        return History(*(a.at[i].set(v) for a, v in zip(leaves, now, strict=True)))


class State(eqx.Module):
    """The whole memory of a fit: loop carry and checkpoint. Nothing is longer than n^2.

    `lin` is the last linearisation, at `x` once `closed`, and `optimality` is its;
    `radius` is 0 before the first step.
    """

    x: Vector
    inv_scale: Vector
    lin: Any
    cost: Scalar
    optimality: Scalar
    radius: Scalar
    alpha: Scalar
    step_norm: Scalar
    promise: Scalar  # reduction predicted by the last step too small for the cost
    num_steps: Count
    nfev: Count
    njev: Count
    status: Count
    closed: Flag
    history: History | None
