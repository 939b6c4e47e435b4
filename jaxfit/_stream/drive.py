"""A fit driven from the host, one pass over the data at a time.

The same `prepare`, `propose`, `judge` and `settle` as the traced loop, in the same
order, so the path is that of `solve`. What differs is where numbers come from. A pass
over a disk costs far more than arithmetic, so each one linearises at the trial point
at once: where the trial is accepted, the next step's linearisation is already there,
and a step is one pass. After a rejection the radius is cut by a rule that knows no
data, so the trial points that would follow are known beforehand: where the step before
had rejections, their costs are evaluated in the same pass.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._basics.status import Status
from .._programs.program import program
from .._solve.solver import TRF
from .._trf.bounds import Bounds
from .._trf.linearisation import is_finite
from .._trf.reflection import Model, Step
from .._trf.state import State, init
from .._trf.stopping import at_rest, settle, settled
from .._trf.trf import prepare
from .._trf.trial import judge, propose
from .passes import InterruptedPass, Partial, Pass, Sums


Arrays = dict[str, np.ndarray]


class Drive:
    """A fit on its way. Whatever `arrays` holds suffices to continue it to the bit.

    `state` is that at the begin of the step under way; `current` the linearisation at
    its x, if known; `trial` that at another point; `costs` those of this step's
    trials.
    """

    def __init__(self, of: Pass, bounds: Bounds | None, start: Array):
        self.of, self.bounds = of, bounds
        self.state: State = _init(of.solver, start, bounds, of.blank)
        self.current: Any = None
        self.trial: tuple[Array, Any] | None = None
        self.costs: list[tuple[np.ndarray, Any]] = []
        self.partial: Partial | None = None
        self.ahead = 1  # radii beyond the first that a pass evaluates
        self.passes = 0

    def run(self, tick: Callable[["Drive", bool], None]) -> bool:
        """To the end; whether it was not interrupted by Ctrl-C.

        `tick(self, end_of_pass)` is called now and then within passes, and after each.
        """
        try:
            while not self.state.closed:
                self._step(tick)
        except InterruptedPass as interrupted:
            self.partial = interrupted.partial
            return False
        except KeyboardInterrupt:
            return False
        return True

    def _step(self, tick: Callable[["Drive", bool], None]) -> None:
        solver, bounds, start = self.of.solver, self.bounds, self.state.x
        lin = self._linearised(start, tick)
        state = self._counted(self.state)
        state, model, done = _prepare(solver, state, lin, bounds)
        rejected = 0
        while not done and rejected < solver.trials:
            x, step = _propose(state, model, bounds)
            many = min(self.ahead, solver.trials - 1 - rejected)
            cost = self._cost(x, many, state, model, step, tick)
            state, accepted, done = _judge(solver, state, x, step, cost)
            rejected += not accepted
        self.state = _settle(solver, state, start)
        self.costs, self.ahead = [], rejected
        if not np.array_equal(self.state.x, start):
            self.current = None

    def _linearised(self, x: Array, tick: Callable) -> Any:
        if self.current is None:
            if self.trial is None or not np.array_equal(self.trial[0], x):
                self._pass(x, [], tick)
            assert self.trial is not None
            self.current = self.trial[1]
        return self.current

    def _cost(
        self, x: Array, many: int, state: State, model: Model, step: Step, tick
    ) -> Any:
        for point, cost in self.costs:
            if np.array_equal(point, x):
                return cost
        others, at = [], x
        for _ in range(many):
            worst = jnp.full_like(state.cost, jnp.inf)
            state, _, _ = _judge(self.of.solver, state, at, step, worst)
            at, step = _propose(state, model, self.bounds)
            others.append(at)
        return self._pass(x, others, tick)

    def _pass(self, point: Array, others: list[Array], tick: Callable) -> Any:
        """The cost at `point`, with all else that a pass finds kept."""
        partial = self.partial
        if partial is None or not np.array_equal(partial.point, point):
            stacked = jnp.stack(others) if others else jnp.zeros((0, point.size))
            partial = self.of.begin(point, stacked.astype(point.dtype))

        def within(partial: Partial) -> None:
            self.partial = partial
            tick(self, False)

        lin, costs = self.of.run(partial, within)
        self.partial, self.trial = None, (point, lin)
        self.passes += 1
        # A point without derivatives is none to go on from.
        cost = jnp.where(is_finite(lin), lin.cost, jnp.inf)
        self.costs.append((np.asarray(point), cost))
        dtype = lin.cost.dtype
        self.costs += [
            (np.asarray(other), jnp.asarray(cost, dtype))
            for other, cost in zip(partial.others, costs, strict=True)
        ]
        tick(self, True)
        return cost

    def best(self, interrupted: bool) -> State:
        """The state to make a result of: the last point that was accepted."""
        state = self._counted(self.state)
        if not interrupted:
            return state
        lin = self.of.blank if self.current is None else self.current
        stopped = jnp.asarray(Status.STOPPED, state.status.dtype)
        return dataclasses.replace(state, lin=lin, status=stopped)

    def _counted(self, state: State) -> State:
        """With the number of rows, which a source may tell only when it has ended."""
        count = np.asarray(self.of.reading.num_used)
        return dataclasses.replace(state, num_rows=jnp.asarray(count))

    def arrays(self) -> Arrays:
        """All of this as arrays by name."""
        found: Arrays = {"counters": np.array([self.ahead, self.passes])}
        found |= _named("state", self.state)
        if self.current is not None:
            found |= _named("current", self.current)
        if self.trial is not None:
            found["trial point"] = np.asarray(self.trial[0])
            found |= _named("trial", self.trial[1])
        if self.costs:
            found["cost points"] = np.stack([point for point, _ in self.costs])
            found["costs"] = np.array([cost for _, cost in self.costs])
        if self.partial is not None:
            point, others, sums, done = self.partial
            found["partial point"] = np.asarray(point)
            found["partial others"] = np.asarray(others)
            found["partial done"] = np.array(done)
            found |= _named("partial sums", sums)
        return found

    def restore(self, found: Arrays) -> None:
        """Continue from `arrays` of an equal fit."""
        self.ahead, self.passes = (int(i) for i in found["counters"])
        self.state = _unnamed("state", self.state, found)
        blank = self.of.blank
        if "current 0" in found:
            self.current = _unnamed("current", blank, found)
        if "trial 0" in found:
            point = jnp.asarray(found["trial point"])
            self.trial = point, _unnamed("trial", blank, found)
        if "costs" in found:
            costs = jnp.asarray(found["costs"])
            self.costs = list(zip(found["cost points"], costs, strict=True))
        if "partial done" in found:
            others = jnp.asarray(found["partial others"])
            like = Sums(blank, jnp.zeros(len(others), others.dtype))
            sums = _unnamed("partial sums", like, found)
            point = jnp.asarray(found["partial point"])
            self.partial = Partial(point, others, sums, int(found["partial done"]))


def _named(name: str, tree: Any) -> Arrays:
    leaves = jax.tree.leaves(tree)
    return {f"{name} {i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}


def _unnamed(name: str, like: Any, found: Arrays) -> Any:
    leaves, treedef = jax.tree.flatten(like)
    read = [jnp.asarray(found[f"{name} {i}"]) for i in range(len(leaves))]
    return jax.tree.unflatten(treedef, read)


@program
def _init(solver: TRF, x: Array, bounds: Bounds | None, blank: Any) -> State:
    return init(solver, x, bounds, blank, jnp.zeros((), int))


@program
def _prepare(
    solver: TRF, state: State, lin: Any, bounds: Bounds | None
) -> tuple[State, Model, Array]:
    start = state.x
    state, model = prepare(solver, state, lin, bounds)
    return state, model, at_rest(solver, state, start)


@program
def _propose(state: State, model: Model, bounds: Bounds | None) -> tuple[Array, Step]:
    return propose(state, model, bounds)


@program
def _judge(
    solver: TRF, state: State, x: Array, step: Step, cost: Array
) -> tuple[State, Array, Array]:
    state, accepted = judge(solver, state, x, step, cost)
    return state, accepted, settled(solver, state, accepted)


@program
def _settle(solver: TRF, state: State, start: Array) -> State:
    return settle(solver, state, start)
