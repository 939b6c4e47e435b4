"""A fit that the host can watch: the same outer step, one call of it at a time.

`watch` calls `trf.step` from a Python loop where `solve` calls it from a `while_loop`,
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
from .._trf.state import State, init
from .._trf.trf import step
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
    state = _init(problem, solver)
    while not state.closed:
        before, state = state.x, _step(problem, solver, state)
        running = state.status == Status.RUNNING
        if state.closed or (running and np.array_equal(before, state.x)):
            continue
        if on_step(state) and running:
            stopped = jnp.asarray(Status.STOPPED, state.status.dtype)
            state = dataclasses.replace(state, status=stopped)
    return _close(problem, solver, state)


# What runs on a mesh must see an array that is on it, used or not.
_on_a_mesh = program(keep_unused=True)


@_on_a_mesh
@on_auto_axes
def _init(problem: Problem, solver: TRF, axes: tuple[str, ...] | None) -> State:
    start, _ = ravel_pytree(problem.params)
    objective = objective_of(problem, start, solver, axes)
    blank, num_rows = objective.blank(start), objective.num_rows
    return init(solver, start, problem.bounds, blank, num_rows)


@program
@on_auto_axes
def _step(
    problem: Problem, solver: TRF, state: State, axes: tuple[str, ...] | None
) -> State:
    objective = objective_of(problem, state.x, solver, axes)
    return step(solver, state, objective.cost, objective.linearise, problem.bounds)


@_on_a_mesh
@on_auto_axes
def _close(
    problem: Problem, solver: TRF, state: State, axes: tuple[str, ...] | None
) -> Solution:
    objective = objective_of(problem, state.x, solver, axes)
    return solution_of(problem, state, squares_of(problem, objective, state.x))
