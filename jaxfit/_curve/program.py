"""The traced part of a curve fit: from plain arrays to what a result is made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._basics.checks import is_concrete
from .._problem.problem import Problem, curve_problem
from .._problem.sharded import objective_of
from .._programs.fetched import Programs
from .._programs.program import program
from .._scipy.losses import NamedLoss, ScipyLoss
from .._scipy.model import Inputs, ScipyModel
from .._scipy.prepared import Prepared
from .._scipy.solver import with_jacobian
from .._search.guess import search
from .._solve.covariance import Directions, directions
from .._solve.solution import Solution
from .._solve.solve import solve
from .._solve.solver import TRF


class Given(NamedTuple):
    """The data of a call, rows first; `count` of the rows are real where some pad."""

    x: Any
    y: Any
    sigma: Any
    mask: Any
    count: Any
    start: Any
    limits: Any
    f_scale: Any


def given_by(prepared: Prepared) -> Given:
    """What the program of a fit is given: rows of padding are told by their count."""
    rows, start = prepared.rows, prepared.start
    count = prepared.data.num_rows if prepared.rowwise else None
    return Given(
        rows.x, rows.y, rows.sigma, rows.mask,
        count, start.p0, start.limits, prepared.f_scale,
    )  # fmt: skip


def problem_and_solver(prepared: Prepared) -> tuple[Problem, TRF]:
    """The kernel's problem of a fit, without padding, and its solver.

    To be asked and solved inside `prepared.on_host()`.
    """
    data = prepared.data
    given = given_by(prepared)._replace(
        x=data.x, y=data.y, sigma=data.sigma, mask=data.mask, count=None
    )
    problem = problem_of(prepared.model, prepared.loss, given)
    return problem, with_jacobian(prepared.solver, prepared.derivatives())


class Outcome(NamedTuple):
    """What a result is made of."""

    params: Any
    counts: Any
    cost: Any
    optimality: Any
    active_mask: Any
    grad: Any
    num_rows: Any
    differenced: Any
    directions: Directions


def problem_of(model: ScipyModel, loss: NamedLoss | ScipyLoss, given: Given) -> Problem:
    """The kernel's problem of a call."""
    free = np.array(model.free, int)
    mask = given.mask
    if given.count is not None:
        real = jnp.arange(len(given.y)) < given.count
        mask = real if mask is None else mask & real
    bounds = None
    if given.limits is not None:
        bounds = tuple(_picked(side, free) for side in given.limits)
    return curve_problem(
        model,
        Inputs(given.x, jnp.asarray(given.start)),
        given.y,
        _picked(given.start, free),
        sigma=given.sigma,
        mask=mask,
        bounds=bounds,
        loss=loss.name if isinstance(loss, NamedLoss) else loss,
        f_scale=given.f_scale,
    )


def _picked(a: Any, which: np.ndarray) -> Array:
    """Some elements; of numbers that are known without a program of its own."""
    return jnp.asarray(np.asarray(a)[which]) if is_concrete(a) else a[which]


@Programs
def fit(
    model: ScipyModel,
    jacobian: Callable | None,
    solver: TRF,
    loss: NamedLoss | ScipyLoss,
    given: Given,
) -> tuple[None, Solution, Outcome]:
    """The whole fit."""
    problem = problem_of(model, loss, given)
    solver = with_jacobian(solver, jacobian)
    solution = solve(problem, solver)
    return None, solution, outcome_of(problem, solver, solution)


@program
def outcome_of(problem: Problem, solver: TRF, solution: Solution) -> Outcome:
    """What there is to know of a solution; a matrix-free one is linearised anew."""
    lin: Any = solution.linearisation
    if lin is None:
        jacobian = None if solver.jacobian is None else solver.jacobian.wrapped
        dense = with_jacobian(TRF(linear_solver="qr"), jacobian)
        x = jnp.asarray(solution.params)
        lin = objective_of(problem, x, dense).linearise(x)
    return Outcome(
        params=solution.params,
        counts=solution.counts,
        cost=solution.cost,
        optimality=solution.optimality,
        active_mask=solution.active_mask,
        grad=solution.grad,
        num_rows=solution.num_rows,
        differenced=solution.differenced,
        directions=directions(lin, None),
    )


@Programs
def guessed(
    model: ScipyModel,
    loss: NamedLoss | ScipyLoss,
    given: Given,
    values: Any,
    first: Any,
) -> tuple[None, None, Any]:
    """The best start among `values` that a search from `first` finds."""
    problem = problem_of(model, loss, given)

    def cost(p):
        r = residual(problem, p)
        if problem.mask is not None:
            used = [jnp.ravel(a) for a in jax.tree.leaves(problem.mask)]
            r = jnp.where(jnp.concatenate(used), r, 0)
        return problem.loss.cost(r)

    return None, None, search(cost, values, jnp.take_along_axis(values, first.T, 1).T)


@program
def residual(problem: Problem, params: Any) -> Any:
    """The residual of a problem as one vector."""
    r = problem.residual(params, problem.args)
    return jnp.concatenate([jnp.ravel(a) for a in jax.tree.leaves(r)])
