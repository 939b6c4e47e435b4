"""Fits that step together: the kernel's method on columns, one fit a lane.

Every array of a fit has the lanes along its last axis: x is (n, lanes), J'J is (n, n,
lanes), a cost is (lanes,). The functions of `_trf` take such arrays as they take
those of one fit, and a step is that of one fit (`_trf.trf.advance`): so a fresh lane,
whose trial is its start, steps with the others. A fit takes the path of
`TRF(linear_solver="gram")`.
"""

import dataclasses

from jaxtyping import Array, Bool, Float

from .._problem.problem import Problem
from .._solve.solver import TRF
from .._trf.elimination import inverse_of
from .._trf.state import State, init
from .._trf.trf import Fit, advance
from .lane_data import LaneData
from .lane_gram import LaneGram


@dataclasses.dataclass(frozen=True)
class Lockstep:
    """Steps of lanes by arithmetic alone."""

    data: LaneData
    solver: TRF

    def begin(self, problems: Problem) -> Fit:
        """Fits before their first step: the trial is the start."""
        stack = self.data.stack
        x = stack.starts(problems, self.data.lanes)
        num_rows = self.data.num_rows(problems)
        bounds, blank = stack.bounds(problems), LaneGram.blank(x)
        return Fit.begin(init(self.solver, x, bounds, blank, num_rows))

    def advance(self, problems: Problem, fits: Fit) -> Fit:
        """One step of every lane that is not closed."""
        seen = self.data.linearise(problems, fits.trial)
        return advance(self.solver, fits, seen, self.data.stack.bounds(problems))

    def inverse(
        self, state: State, fixed: Bool[Array, "n l"] | None
    ) -> tuple[list[Float[Array, " l"]], Bool[Array, "n l"]]:
        """The lower half of (J'J)^-1 and the parameters that have none."""
        return inverse_of(state.lin.gram, fixed)
