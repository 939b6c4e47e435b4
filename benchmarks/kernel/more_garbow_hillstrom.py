"""Which of the classic problems does `least_squares` solve, from near and far starts?

The sums of squares of tests/shared/problems.py (those of More, Garbow and Hillstrom and
others, in boxes too) from 1, 10 and 100 times their standard starts, through
`jaxfit.least_squares` and `scipy.optimize.least_squares(method="trf")`, as they come
and with x_scale "jac", all with exact Jacobians and tolerances of 1e-10.
"""

import argparse
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import problems
import scipy.optimize
from tools.descent import Squares, is_minimum
from tools.report import as_text, report, table, target

import jaxfit


LIMIT = 2000  # evaluations
TOLERANCES = dict.fromkeys(("ftol", "xtol", "gtol"), 1e-10)
RTOL, ATOL = 1e-6, 1e-9  # costs within these are the same
SOLVERS = ("jaxfit", "SciPy", "SciPy, jac")
KINDS = ("solved", "another minimum", "gave up", "silent")


@dataclass(frozen=True)
class End:
    """Where a solver ended, and whether it called that a success."""

    cost: float
    params: np.ndarray
    success: bool
    nfev: int
    says: str


def usable(quick: bool) -> list[tuple[problems.Case, float]]:
    """Every case from every start at which it is finite."""
    cases = [case for case in problems.CASES if case.loss == "linear"]
    cases = cases[::6] if quick else cases
    pairs = [(case, factor) for case in cases for factor in (1.0, 10.0, 100.0)]
    return [(c, f) for c, f in pairs if (c.name, f) not in problems.UNUSABLE_STARTS]


def end(case: problems.Case, factor: float, solver: str) -> End:
    """One run."""
    fun, jac = problems._compiled(case.residual)
    bounds, start = (case.lower, case.upper), case.start(factor)
    options = {"bounds": bounds, "max_nfev": LIMIT, **TOLERANCES}
    try:
        if solver == "jaxfit":
            done = jaxfit.least_squares(case.residual, start, **options)
        else:
            if solver == "SciPy, jac":
                options["x_scale"] = "jac"
            done = scipy.optimize.least_squares(
                lambda x: np.asarray(fun(x)),
                start,
                lambda x: np.asarray(jac(x)),
                method="trf",
                **options,
            )
    except Exception as error:  # a solver's word on a start it cannot use
        return End(np.inf, start, False, 0, f"{type(error).__name__}: {error}")
    x = np.asarray(done.x, float)
    return End(float(done.cost), x, bool(done.success), int(done.nfev), done.message)


def kind(case: problems.Case, one: End, least: float) -> str:
    """What became of a run whose least known cost is this."""
    if not one.success:
        return "gave up"
    if one.cost <= least * (1 + RTOL) + ATOL:
        return "solved"
    fun, jac = problems._compiled(case.residual)
    problem = Squares(
        lambda x: np.asarray(fun(x)),
        lambda x: np.asarray(jac(x)),
        case.lower,
        case.upper,
        1e-9 * np.maximum(1, np.abs(one.params)),
    )
    minimum = is_minimum(problem, one.params, RTOL, ATOL)
    return "another minimum" if minimum else "silent"


def main(quick: bool) -> dict[str, Any]:
    warnings.simplefilter("ignore")  # overflow at far starts
    pairs = usable(quick)
    counts = {name: Counter() for name in SOLVERS}
    nfev, unsolved = dict.fromkeys(SOLVERS, 0), []
    for case, factor in pairs:
        ends = {name: end(case, factor, name) for name in SOLVERS}
        least = min(one.cost for one in ends.values())
        kinds = {name: kind(case, one, least) for name, one in ends.items()}
        for name, one in ends.items():
            counts[name][kinds[name]] += 1
            nfev[name] += one.nfev
        if set(kinds.values()) != {"solved"}:
            cells = [f"{kinds[n]}: {ends[n].cost:.8g}" for n in SOLVERS]
            ours = ends["jaxfit"]
            unsolved.append([case.name, int(factor), *cells, ours.nfev, ours.says[:60]])
    behind = max(counts[n]["solved"] for n in SOLVERS[1:]) - counts["jaxfit"]["solved"]
    rows = [[k, *(counts[name][k] for name in SOLVERS)] for k in KINDS]
    return report(
        __doc__,
        [
            target("runs that SciPy solves more: none", behind, at_most=0),
            target(
                "silently at no minimum: none", counts["jaxfit"]["silent"], at_most=0
            ),
        ],
        [
            table(
                f"What became of {len(pairs)} runs",
                ["", *SOLVERS],
                [*rows, ["evaluations", *nfev.values()]],
            ),
            table(
                "Every run that one of them did not solve: outcome and cost",
                ["problem", "start", *SOLVERS, "nfev, jaxfit", "jaxfit says"],
                unsolved,
            ),
        ],
        [
            f"Solved: a success, and the least cost that any of them found from that "
            f"start to {RTOL:g} of it plus {ATOL:g}. Another minimum and silent are "
            "told apart by a descent from the answer: silent if that lowers the cost "
            "by more than this.",
            f"At most {LIMIT} evaluations.",
        ],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    jax.config.update("jax_enable_x64", True)
    print(jaxfit.__file__)
    print(as_text("more_garbow_hillstrom", main(parser.parse_args().quick)))
