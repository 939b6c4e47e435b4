"""Fits that step together: the kernel's method on columns, one fit a lane.

Every array of a fit has the lanes along its last axis: x is (n, lanes), J'J is (n, n,
lanes), a cost is (lanes,). The functions of `_trf` take such arrays as they take
those of one fit. What differs is how a step is put together:

    linearise at the trial point -> judge the trial -> prepare -> propose the next one

so that a lane visits its data once a step, an ended fit knows the linearisation at its
solution without another visit, and a fresh lane, whose trial is its start, steps with
the others. A fit takes the path of `TRF(linear_solver="gram", trials=1)`.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from .._basics.once import once
from .._problem.problem import Problem
from .._solve.solver import TRF
from .._trf.linearisation import is_finite
from .._trf.reflection import Step
from .._trf.state import State, init
from .._trf.stopping import exhausted, finish, limited, still
from .._trf.trial import judge, propose
from .._trf.view import View, decide, look
from .elimination import inverse_of
from .lane_data import LaneData
from .lane_gram import LaneGram


class Fits(eqx.Module):
    """Fits on their way: their states, and the trial that each makes next."""

    state: State
    trial: Float[Array, "n l"] | None
    step: Step | None


@dataclasses.dataclass(frozen=True)
class Lockstep:
    """Steps of lanes by arithmetic alone."""

    data: LaneData
    solver: TRF

    def begin(self, problems: Problem) -> Fits:
        """Fits before their first step: the trial is the start."""
        stack = self.data.stack
        x = stack.starts(problems, self.data.lanes)
        zero = jnp.zeros_like(x[0])
        num_rows = self.data.num_rows(problems)
        bounds, blank = stack.bounds(problems), LaneGram.blank(x)
        state = init(self.solver, x, bounds, blank, num_rows)
        return Fits(state, state.x, Step(jnp.zeros_like(x), zero, zero))

    def advance(self, problems: Problem, fits: Fits) -> Fits:
        """One step of every lane that is not closed."""
        bounds, solver = self.data.stack.bounds(problems), self.solver
        old, trial, step = fits.state, fits.trial, fits.step
        assert trial is not None and step is not None
        seen = self.data.linearise(problems, trial)
        state, lin = once(self._judged, old.nfev, old, trial, step, seen)
        view, model = once(look, old.nfev, solver, state, lin, bounds)
        state = once(self._decided, old.nfev, old, state, lin, view)
        # A lane without a fit proposes to stay: it asks nothing of the others.
        model = eqx.tree_at(
            lambda model: (
                model.subproblem.grad,
                model.subproblem.newton.p,
                model.grad_h,
            ),
            model,
            replace_fn=lambda a: jnp.where(state.closed | state.fresh, 0, a),
        )
        trial, step = propose(state, model, bounds)
        return Fits(where(old.closed, old, state), trial, step)

    def _judged(
        self, old: State, trial: Array, step: Step, seen: LaneGram
    ) -> tuple[State, LaneGram]:
        """The states after their trials, and the linearisations where they are then."""
        # A point without derivatives is none to go on from.
        cost = jnp.where(is_finite(seen), seen.cost, jnp.inf)
        judged, accepted = judge(self.solver, old, trial, step, cost)
        state = where(old.fresh, old, finish(self.solver, judged))
        return state, where(old.fresh | accepted, seen, old.lin)

    def _decided(self, old: State, state: State, lin: LaneGram, view: View) -> State:
        """The states after a look at the linearisations."""
        new = decide(self.solver, state, lin, view)
        known = still(state, old.x) & ~old.fresh
        new = dataclasses.replace(new, njev=jnp.where(known, old.njev, new.njev))
        ended = limited(new, exhausted(self.solver, new))
        closed = new.closed | (ended.status != new.status)
        return dataclasses.replace(ended, closed=closed)

    def inverse(
        self, state: State, fixed: Bool[Array, "n l"] | None
    ) -> tuple[list[Float[Array, " l"]], Bool[Array, "n l"]]:
        """The lower half of (J'J)^-1 and the parameters that have none."""
        return inverse_of(state.lin.gram, fixed)


def where(which: Bool[Array, " l"], yes: PyTree, no: PyTree) -> PyTree:
    """`yes` on some lanes and `no` on the others."""
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), yes, no)
