"""One curve fit on the host: a guessed start, the program, a second opinion."""

import functools
import time

import jax
import numpy as np

from .._basics.status import Status
from .._programs.fetched import Timing
from .._scipy.prepared import Prepared
from .._scipy.report import Watching, observed
from .._scipy.solver import with_jacobian
from .._search.guess import beginnings, candidates, sizes
from .._solve.noise import variance_of
from .._solve.second_opinion import Fitted, reviewed
from .program import (
    Given,
    Outcome,
    fit,
    given_by,
    guessed,
    outcome_of,
    problem_and_solver,
    problem_of,
    residual,
)


def with_guess(prepared: Prepared) -> Prepared:
    """The same fit from a start that suits the data."""
    start, data = prepared.start, prepared.rows
    free, limits = list(start.free), start.limits
    if limits is not None:
        limits = limits[0][free], limits[1][free]
    values = candidates(sizes(data.x, data.y, start.p0.dtype), limits, len(free))
    first = beginnings(len(free), values.shape[1])
    with prepared.on_host():
        given = given_by(prepared)
        _, _, best, _ = guessed(prepared.model, prepared.loss, given, values, first)
    return prepared.starting(best)


def fitted(prepared: Prepared, watching: Watching | None) -> Fitted:
    """The fit, in one program or, where somebody watches, step by step.

    One that ends without a certificate is looked at once more.
    """
    with prepared.on_host():
        given = given_by(prepared)
        run = functools.partial(_at_once, prepared, given)
        if watching is not None:
            run = functools.partial(_watched, prepared, given, watching)
        done = reviewed(run, functools.partial(problem_and_solver, prepared))
    if done.outcome.counts[0] != Status.AT_A_LIMIT:
        return done
    outcome = _without_running(done.outcome)
    return done._replace(outcome=outcome)


def _at_once(prepared: Prepared, given: Given) -> Fitted:
    call = prepared.calls.get(fit)
    if call is None:
        derivatives = prepared.derivatives()
        fixed = prepared.model, derivatives, prepared.solver, prepared.loss
        call = fit.bound(*fixed)
        if prepared.differences is None:  # else derivatives are of this call alone
            prepared.calls[fit] = call
    _, solved, outcome, timing = call(given)
    return Fitted(solved, outcome, timing)


def _watched(prepared: Prepared, given: Given, watching: Watching) -> Fitted:
    begin = time.perf_counter()
    problem = problem_of(prepared.model, prepared.loss, given)
    solver = with_jacobian(prepared.solver, prepared.derivatives())
    rows = slice(prepared.data.num_rows)

    def fun(x):
        return np.asarray(residual(problem, x))[rows]

    solution = observed(problem, solver, watching, prepared.with_free, fun)
    outcome = jax.device_get(outcome_of(problem, solver, solution))
    return Fitted(lambda: solution, outcome, Timing(0.0, time.perf_counter() - begin))


def _without_running(outcome: Outcome) -> Outcome:
    """With parameters whose errors are larger than they are as undetermined ones."""
    ways, size = outcome.directions, np.abs(np.asarray(outcome.params))
    variance = variance_of(
        2 * float(outcome.cost), max(int(outcome.num_rows) - size.size, 1)
    )
    errors = np.sqrt(variance * np.sum(np.asarray(ways.determined) ** 2, axis=0))
    part = errors / np.where(size > 0, size, 1)
    lost = ways.lost | (part >= min(1.0, part.max()))
    return outcome._replace(directions=ways._replace(lost=lost))
