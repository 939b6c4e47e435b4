"""A fit of a residual on the host: one program, a second opinion, a second scale."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._basics.status import DOUBTFUL, Status
from .._basics.types import Vector
from .._problem.objective import Objective
from .._problem.problem import Problem
from .._programs.fetched import Programs, Timing
from .._programs.program import program
from .._scipy.losses import NamedLoss, ScipyLoss
from .._scipy.report import Watching, observed
from .._scipy.solver import with_jacobian
from .._solve.second_opinion import Fitted, reviewed, with_counts
from .._solve.solution import Solution
from .._solve.solve import solve
from .._solve.solver import TRF
from .residual import ScipyResidual


class Given(NamedTuple):
    """What of a fit is data of the program."""

    x0: Any
    limits: Any
    data: Any
    f_scale: Any
    mask: Any


class Outcome(NamedTuple):
    """What of a solution comes to the host."""

    x: Any
    cost: Any
    grad: Any
    optimality: Any
    active_mask: Any
    counts: Any


@dataclasses.dataclass(frozen=True, eq=False)
class ResidualFit:
    """What makes the problem and the solver of a fit of a residual."""

    residual: ScipyResidual
    jacobian: Callable | None  # in the place of automatic derivatives
    solver: TRF
    loss: NamedLoss | ScipyLoss
    given: Given

    def problem_and_solver(self) -> tuple[Problem, TRF]:
        """The kernel's problem and its solver."""
        problem = _problem(self.residual, self.loss, self.given)
        return problem, with_jacobian(self.solver, self.jacobian)

    def rows_at(self, x: Vector) -> tuple[Any, Any]:
        """Residuals at x and, if it is formed, their Jacobian."""
        return _rows(*self.problem_and_solver(), x)


def fitted(fit: ResidualFit, watching: Watching | None) -> Fitted:
    """The fit, in one program or, where somebody watches, step by step.

    One that ends without a certificate is looked at once more.
    """
    run = functools.partial(_at_once, fit)
    if watching is not None:
        run = functools.partial(_watched, fit, watching)
    return reviewed(run, fit.problem_and_solver)


def rescaled(fit: ResidualFit, done: Fitted) -> Fitted:
    """A fit that found no minimum, once more in the units of the parameters.

    Scales by the columns of the Jacobian lead a few fits astray that SciPy's scale of 1
    does not. The second fit counts if it found a minimum; evaluations are of both.
    """
    status, nfev, njev, nit = done.outcome.counts.tolist()
    if status not in (*DOUBTFUL, Status.MAX_STEPS):
        return done
    solver = fit.solver.replaced(x_scale=jnp.ones(fit.given.x0.size))
    if solver.max_nfev is not None:
        if nfev >= solver.max_nfev:
            return done
        solver = solver.replaced(max_nfev=solver.max_nfev - nfev)
    again = fitted(dataclasses.replace(fit, solver=solver), None)
    new = again.outcome.counts
    timing = Timing(*(a + b for a, b in zip(done.timing, again.timing, strict=True)))
    better = again if new[0] > 0 else done
    more = {"nfev": nfev, "njev": njev, "num_steps": nit}
    both = {name: more[name] + int(new[i]) for i, name in enumerate(more, start=1)}
    solution = with_counts(better.solution, **both)
    outcome = better.outcome._replace(counts=np.array(solution.counts))
    return Fitted(lambda: solution, outcome, timing, better.rows)


def _problem(
    residual: ScipyResidual, loss: NamedLoss | ScipyLoss, given: Given
) -> Problem:
    return Problem(
        residual,
        jnp.asarray(given.x0),
        given.data,
        bounds=given.limits,
        loss=loss.name if isinstance(loss, NamedLoss) else loss,
        f_scale=given.f_scale,
        mask=given.mask,
    )


def _at_once(fit: ResidualFit) -> Fitted:
    call = fit.residual, fit.jacobian, fit.solver, fit.loss, fit.given
    (solution, rows), _, outcome, timing = _fit(*call)
    return Fitted(lambda: solution, outcome, timing, rows)


@Programs
def _fit(residual, jacobian, solver, loss, given):
    problem = _problem(residual, loss, given)
    solver = with_jacobian(solver, jacobian)
    solution = solve(problem, solver)
    kept = solution, _rows(problem, solver, solution.params)
    return kept, None, _outcome(solution)


def _watched(fit: ResidualFit, watching: Watching) -> Fitted:
    begin = time.perf_counter()
    problem, solver = fit.problem_and_solver()

    def fun(x):
        return np.asarray(_rows(problem, solver, x)[0])

    solution = observed(problem, solver, watching, np.array, fun)
    rows = jax.block_until_ready(_rows(problem, solver, solution.params))
    outcome = jax.device_get(_outcome(solution))
    return Fitted(
        lambda: solution, outcome, Timing(0.0, time.perf_counter() - begin), rows
    )


@program
def _rows(problem: Problem, solver: TRF, x: Vector) -> Any:
    """Residuals at x, and the Jacobian if it is formed."""
    objective = Objective.of(problem, x, solver)
    if not objective.form.dense:
        return objective.residual(x, objective.rows), None
    return objective.rows_at(x)


def _outcome(solution: Solution) -> Outcome:
    return Outcome(
        solution.params,
        solution.cost,
        solution.grad,
        solution.optimality,
        solution.active_mask,
        solution.counts,
    )
