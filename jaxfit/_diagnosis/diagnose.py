"""The health of a fit: every analyser's findings in one report.

An analyser is a plain function that takes a `Checkup` and yields findings.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .._basics.checks import is_concrete, one_of
from .._problem.problem import Problem
from .._solve.noise import CostNoise
from .._solve.solution import Solution
from .._solve.solver import TRF
from .._uncertainty.conditions import check_pair
from .._uncertainty.words import plainest
from . import fit, parameters, residuals
from .checkup import Checkup
from .findings import Finding, HealthReport, Severity


Analyser = Callable[[Checkup], Iterable[Finding]]

# Those that look at any fit, and those that look at one that converged.
ALWAYS: tuple[Analyser, ...] = (
    fit.convergence,
    parameters.sensitivity,
    parameters.identifiability,
    parameters.bounds,
    fit.freedom,
    parameters.scaling,
    parameters.correlations,
    fit.precision,
    fit.history,
)
AT_A_MINIMUM: tuple[Analyser, ...] = (
    fit.exactness,
    fit.stationarity,
    fit.minimum,
    parameters.parsimony,
    residuals.outliers,
    residuals.influences,
    residuals.weights,
    residuals.structure,
)


def diagnose(
    problem: Problem,
    solution: Solution,
    *,
    noise: CostNoise = "estimated",
    analysers: Sequence[Analyser] = (),
    solver: TRF | None = None,
    names: Sequence[str] | None = None,
) -> HealthReport:
    """What is wrong with a fit, and what to do about it.

    **Arguments:**

    - `problem`, `solution`: a problem, with the start that was used, and what
        [`jaxfit.solve`][] made of it. A fit that failed may be diagnosed too.
    - `noise`: "known" where residuals are in units of their standard deviations: their
        size is then tested as well.
    - `analysers`: more functions that take a [`jaxfit.Checkup`][] and return or yield
        findings. One that raises an error is reported, and the others go on.
    - `solver`: how to differentiate, as the fit's [`jaxfit.TRF`][] did. With
        `history=True` in the fit the path is looked at too.
    - `names`: what to call the parameters, if not by the PyTree's keys.

    **Returns:** a [`jaxfit.HealthReport`][].

    **Raises:** `TypeError` or `ValueError` where the arguments are no problem and
    solution of one fit, or inside a trace.
    """
    noise = one_of("noise", noise, CostNoise)
    check_pair("diagnose", problem, solution, "call it on one fit of it.")
    if not is_concrete((problem, solution)):
        raise ValueError(
            "jaxfit.diagnose looks at numbers: call it outside of a trace."
        )
    for one in analysers:
        if not callable(one):
            raise TypeError(f"`analysers` must be functions, got {one!r}.")
    solver = TRF() if solver is None else solver
    checkup = Checkup(problem, solution, solver, noise, names)
    wanted: list[Any] = list(ALWAYS)
    well = checkup.is_finite and bool(solution.success)
    if well:
        wanted += AT_A_MINIMUM
    found: list[Finding] = []
    for analyser in (*wanted, *analysers):
        found += _findings(analyser, checkup)
    found.sort(key=lambda finding: -finding.severity)
    return _report(checkup, tuple(found))


def _plain(checkup: Checkup) -> np.ndarray:
    """The directions of the spectrum; of the null ones the plainest basis."""
    ways, rank = checkup.directions, checkup.rank
    null = plainest(ways[rank:], np.ones(checkup.x.size))
    return np.concatenate([ways[:rank], null])


def _findings(analyser: Any, checkup: Checkup) -> list[Finding]:
    """What an analyser found; its failure is a finding, with the error in words."""
    try:
        found = list(analyser(checkup))
        for one in found:
            if not isinstance(one, Finding):
                raise TypeError(f"expected jaxfit.Finding, got {type(one).__name__}")
            Severity(one.severity)
    except Exception as err:
        name = getattr(analyser, "__name__", type(analyser).__name__)
        return [
            Finding(
                "analyser-failed",
                Severity.WARNING,
                f"the analyser {name} raised {type(err).__name__}: {err}",
                "What it looks for was not looked at; the rest of the report stands.",
            )
        ]
    return found


def _report(checkup: Checkup, found: tuple[Finding, ...]) -> HealthReport:
    names = checkup.names
    if not checkup.is_finite:
        return HealthReport(found, names, (), (), np.inf, 0, None, ())
    deviation = checkup.noise_deviation
    scale = deviation if deviation > 0 else 1.0
    return HealthReport(
        findings=found,
        names=names,
        eigenvalues=tuple((checkup.singular_values**2).tolist()),
        directions=checkup.in_words(_plain(checkup)),
        condition=checkup.condition,
        rank=checkup.rank,
        correlation=checkup.correlation.tolist(),
        residuals=tuple((checkup.residual / scale).tolist()),
    )
