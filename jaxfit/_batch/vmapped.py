"""Lanes that each take the kernel's own step, by `jax.vmap`.

For what `lockstep` does not do by arithmetic: many parameters, the triangular form,
fits without a matrix. The linear algebra is that of the library, batched.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from .._basics.trees import where
from .._problem.objective import Objective
from .._problem.problem import Problem
from .._solve.covariance import covariance
from .._solve.solver import TRF
from .._trf.algebra import diagonal
from .._trf.state import State
from .._trf.trf import Fit, start, turn
from .lane_data import LaneData


@dataclasses.dataclass(frozen=True)
class OneByOne:
    """Steps of lanes by the kernel's step of each."""

    data: LaneData
    solver: TRF

    def begin(self, problems: Problem) -> Fit:
        """Fits before their first step."""

        def one(problem):
            x, _ = ravel_pytree(problem.params)
            objective = Objective.of(problem, x, self.solver)
            return start(self.solver, objective, x, problem.bounds)

        return self._mapped(one)(problems)

    def advance(self, problems: Problem, fits: Fit) -> Fit:
        """One step of every lane that is not closed."""

        def one(problem, fit):
            objective = Objective.of(problem, fit.state.x, self.solver)
            return turn(self.solver, objective, fit, problem.bounds)

        return where(fits.state.closed, fits, self._mapped(one, -1)(problems, fits))

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
