"""Lanes that each take the kernel's own step, by `jax.vmap`.

For what `lockstep` does not do by arithmetic: many parameters, the triangular form,
fits without a matrix. The linear algebra is that of the library, batched.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from .._problem.objective import Objective
from .._problem.problem import Problem
from .._solve.covariance import covariance
from .._solve.solver import TRF
from .._trf.algebra import diagonal
from .._trf.state import State, init
from .._trf.trf import step
from .lane_data import LaneData
from .lockstep import Fits, where


@dataclasses.dataclass(frozen=True)
class OneByOne:
    """Steps of lanes by the kernel's step of each."""

    data: LaneData
    solver: TRF

    def begin(self, problems: Problem) -> Fits:
        """Fits before their first step."""

        def one(problem):
            x, _ = ravel_pytree(problem.params)
            objective = Objective.of(problem, x, self.solver)
            blank, num_rows = objective.blank(x), objective.num_rows
            return init(self.solver, x, problem.bounds, blank, num_rows)

        return Fits(self._mapped(one)(problems), None, None)

    def advance(self, problems: Problem, fits: Fits) -> Fits:
        """One step of every lane that is not closed."""

        def one(problem, state):
            objective = Objective.of(problem, state.x, self.solver)
            cost, linearise = objective.cost, objective.linearise
            return step(self.solver, state, cost, linearise, problem.bounds)

        old = fits.state
        new = self._mapped(one, -1)(problems, old)
        return Fits(where(old.closed, old, new), None, None)

    def inverse(
        self, state: State, fixed: Bool[Array, "n l"] | None
    ) -> tuple[list[Float[Array, " l"]], Bool[Array, "n l"]]:
        """The lower half of (J'J)^-1 and the parameters that have none."""
        axes = -1, None if fixed is None else -1
        inverse = jax.vmap(covariance, in_axes=axes, out_axes=-1)(state.lin, fixed)
        half = [inverse[i, j] for i in range(len(inverse)) for j in range(i + 1)]
        return half, ~jnp.isfinite(diagonal(inverse))

    def _mapped(self, one, *axes):
        mapped = self.data.stack.mapped(-1)
        lanes = self.data.lanes
        return jax.vmap(one, in_axes=(mapped, *axes), out_axes=-1, axis_size=lanes)
