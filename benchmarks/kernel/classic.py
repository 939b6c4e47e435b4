"""Does jaxfit reach the minima that SciPy's TRF reaches, at no more evaluations?

The problems of tests/shared/problems.py (More, Garbow and Hillstrom's, others;
bounded and robust ones among them) from 1, 10 and 100 times their standard starts.
Peer: SciPy with exact Jacobians,
scipy.optimize.least_squares(method="trf", x_scale="jac"). Both
stop at ftol = xtol = 1e-8 and SciPy's gtol = 1e-8, which is jaxfit's atol.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import problems
from tools.report import report, table, target

import jaxfit


SOLVER = jaxfit.TRF(ftol=1e-8, xtol=1e-8, gtol=0.0, atol=1e-8, trials=8, factor=1.0)
LIMIT = 2000  # steps of jaxfit, evaluations of SciPy
# Costs count as the same minimum within these; what SciPy itself meets at 1e-8.
RTOL, ATOL = 1e-6, 1e-9


def usable(quick: bool) -> list[tuple[problems.Case, float]]:
    """Every case from every start at which it is finite."""
    cases = problems.CASES[::6] if quick else problems.CASES
    pairs = [(case, factor) for case in cases for factor in (1.0, 10.0, 100.0)]
    return [(c, f) for c, f in pairs if (c.name, f) not in problems.UNUSABLE_STARTS]


solve = jax.jit(jaxfit.solve)


def jaxfit_solution(case: problems.Case, factor: float) -> jaxfit.Solution:
    """The case solved by jaxfit."""
    bounds = (case.lower, case.upper) if case.bounded else None
    problem = jaxfit.Problem(
        _residual(case.residual),
        case.start(factor),
        bounds=bounds,
        loss=case.loss,
        f_scale=case.f_scale,
    )
    return solve(problem, SOLVER)


@cache
def _residual(function: Callable) -> Callable:
    """With arguments; the same object for all starts, so that they compile once."""
    return lambda x, _: function(x)


def compare(ours: float, theirs: float) -> str:
    """Whether jaxfit's cost is 'same', 'lower' or 'higher'."""
    if abs(ours - theirs) <= ATOL + RTOL * min(ours, theirs):
        return "same"
    return "lower" if ours < theirs else "higher"


def main(quick: bool) -> dict[str, Any]:
    warnings.simplefilter("ignore")  # overflow at far starts
    counts = dict.fromkeys(("same", "lower", "higher"), 0)
    nfev, njev = [0, 0], [0, 0]
    disagreements, failures = [], []
    pairs = usable(quick)
    for case, factor in pairs:
        s = problems.scipy_solution(case, factor, max_nfev=LIMIT)
        j = jaxfit_solution(case, factor)
        if int(j.status) <= 0 or s.status <= 0:
            row = [int(j.status), int(s.status), float(j.cost), float(s.cost)]
            failures.append([case.name, int(factor), *row])
            continue
        outcome = compare(float(j.cost), float(s.cost))
        counts[outcome] += 1
        nfev[0] += int(j.nfev)
        nfev[1] += s.nfev
        njev[0] += int(j.njev)
        njev[1] += s.njev
        if outcome != "same":
            costs = [float(j.cost), float(s.cost)]
            evaluations = [int(j.nfev), int(s.nfev)]
            disagreements.append(
                [case.name, int(factor), outcome, *costs, *evaluations]
            )
    both = sum(counts.values())
    names = len({case.name for case, _ in pairs})
    return report(
        __doc__,
        [
            target(
                f"higher minima than SciPy's among {both} runs: none",
                counts["higher"],
                at_most=0,
            ),
            target(
                "evaluations of the residual over SciPy's, in total: at most 1",
                nfev[0] / nfev[1],
                at_most=1.0,
            ),
            target(
                "runs that SciPy ends by a tolerance and jaxfit does not: none",
                sum(row[2] <= 0 < row[3] for row in failures),
                at_most=0,
            ),
        ],
        [
            table(
                f"{names} problems from three starts: {both} runs that both end by a "
                "tolerance",
                ["", "jaxfit", "SciPy"],
                [
                    ["minimum: the same", counts["same"], counts["same"]],
                    ["minimum: lower", counts["lower"], counts["higher"]],
                    ["evaluations of the residual", *nfev],
                    ["evaluations of the Jacobian", *njev],
                ],
            ),
            table(
                "Every disagreement",
                [
                    "problem",
                    "start",
                    "jaxfit's minimum is",
                    "cost, jaxfit",
                    "cost, SciPy",
                    "nfev, jaxfit",
                    "nfev, SciPy",
                ],
                disagreements,
            ),
            table(
                "Runs that one of them gave up (status 0) or refused",
                [
                    "problem",
                    "start",
                    "status, jaxfit",
                    "status, SciPy",
                    "cost, jaxfit",
                    "cost, SciPy",
                ],
                failures,
            ),
        ],
        [
            f"Costs are the same minimum if they differ by at most {RTOL:g} of the "
            f"smaller plus {ATOL:g}.",
            f"{len(problems.UNUSABLE_STARTS)} starts are left out because the residual "
            "is not finite there: SciPy cannot start.",
            "SciPy's default of 100 n evaluations is raised to 2,000.",
            "jaxfit evaluates the Jacobian once more, at the solution.",
        ],
    )
