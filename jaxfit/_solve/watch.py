"""A fit that the host can watch: the same turn of the loop, one call of it at a time.

`watch` calls `trf.turn` from a Python loop where `solve` calls it from a `while_loop`,
so both walk the same path. Between steps the host may print, draw or stop; that costs
one dispatch a step, and nothing when nobody watches.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .._basics.precision import in_own_settings
from .._basics.status import Status
from .._problem.placement import on_auto_axes
from .._problem.problem import Problem
from .._problem.sharded import objective_of
from .._programs.program import program
from .._trf.state import State
from .._trf.trf import Fit, is_by_radii, start, turn
from .noise import squares_of
from .solution import Solution
from .solve import solution_of
from .solver import TRF


@in_own_settings
def watch(
    problem: Problem, solver: TRF, on_step: Callable[[State], bool | None]
) -> Solution:
    """Solve `problem`, calling `on_step(state)` after every step that moved.

    There `x`, `cost`, `nfev` and `step_norm` are those of the new point, while `lin`
    and `optimality` still are those of the point before. The fit ends with
    `Status.STOPPED` where `on_step` returns True.
    """
    problem, solver = problem.current(), solver.current()
    fit = _start(problem, solver)
    while not (old := fit.state).closed:
        fit = _turn(problem, solver, fit)
        new = fit.state
        if np.array_equal(old.x, new.x):
            continue
        counts = {"num_steps": old.num_steps, "njev": old.njev}
        seen = dataclasses.replace(
            new, lin=old.lin, optimality=old.optimality, **counts
        )
        if on_step(seen) and new.status == Status.RUNNING:
            stopped = jnp.asarray(Status.STOPPED, old.status.dtype)
            # By radii the linearisation is that before the step: one more turn is due.
            closed = jnp.asarray(not is_by_radii(fit))
            state = dataclasses.replace(new, status=stopped, closed=closed, **counts)
            fit = dataclasses.replace(fit, state=state)
    return _close(problem, solver, fit.state)


# What runs on a mesh must see an array that is on it, used or not.
_on_a_mesh = program(keep_unused=True)


@_on_a_mesh
@on_auto_axes
def _start(problem: Problem, solver: TRF, axes: tuple[str, ...] | None) -> Fit:
    x, _ = ravel_pytree(problem.params)
    return start(solver, objective_of(problem, x, solver, axes), x, problem.bounds)


@program
@on_auto_axes
def _turn(problem: Problem, solver: TRF, fit: Fit, axes: tuple[str, ...] | None) -> Fit:
    objective = objective_of(problem, fit.state.x, solver, axes)
    return turn(solver, objective, fit, problem.bounds)


@_on_a_mesh
@on_auto_axes
def _close(
    problem: Problem, solver: TRF, state: State, axes: tuple[str, ...] | None
) -> Solution:
    objective = objective_of(problem, state.x, solver, axes)
    return solution_of(problem, state, squares_of(problem, objective, state.x))
