"""How often is a fit right, and does it say so when it is not, in anybody's units?

21 everyday models with data in units from 1e-18 to 1e16, from starts of ones, of three
times the truth and of 1e-9 of it, with bounds at 0 and without. Peers: SciPy's
curve_fit (lm, which knows no bounds and runs without; trf) and lmfit (leastsq), all as
they come. `PYTHONPATH=benchmarks python -m kernel.starts --solver batch --only decay`
shows every run that was not right.
"""

import argparse
import collections
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import lmfit
import numpy as np
import scipy.optimize
from tools.everyday import MODELS, UNITS, Run, runs
from tools.report import as_text, report, table, target
from tools.verdict import OTHER, RIGHT, SILENT, VERDICTS, Answer, Verdict, verdict

import jaxfit


def scipy_lm(run: Run) -> tuple[bool, Any, Any]:
    popt, pcov = scipy.optimize.curve_fit(run.of.numpy, *run.data, p0=run.p0)
    return True, popt, np.diag(pcov)


def scipy_trf(run: Run) -> tuple[bool, Any, Any]:
    popt, pcov = scipy.optimize.curve_fit(
        run.of.numpy, *run.data, p0=run.p0, bounds=run.bounds, method="trf"
    )
    return True, popt, np.diag(pcov)


def lmfit_leastsq(run: Run) -> tuple[bool, Any, Any]:
    (x, y), params = run.data, lmfit.Parameters()
    for i, value in enumerate(run.p0):
        params.add(f"p{i}", value=value, min=run.bounds[0])

    def residual(params: lmfit.Parameters) -> np.ndarray:
        return run.of.numpy(x, *(p.value for p in params.values())) - y

    done = lmfit.Minimizer(residual, params).minimize("leastsq")
    found = done.params.values()
    errors = [np.inf if p.stderr is None else p.stderr for p in found]
    return done.success, [p.value for p in found], errors


def curve_fit(run: Run) -> tuple[bool, Any, Any]:
    done = jaxfit.curve_fit(run.of.jax, *run.data, p0=run.p0, bounds=run.bounds)
    return done.success, done.popt, np.diag(done.pcov)


def batch(run: Run) -> tuple[bool, Any, Any]:
    x, y = run.data
    done = jaxfit.curve_fit_batch(
        run.of.jax, x, np.stack([y, y]), run.p0, bounds=run.bounds
    )
    says = jaxfit.Status(int(done.status[0])).name
    if not done.success[0]:
        raise RuntimeError(says)
    return True, done.popt[0], done.perr[0]


SOLVERS: dict[str, Callable[[Run], tuple[bool, Any, Any]]] = {
    "SciPy lm": scipy_lm,
    "SciPy trf": scipy_trf,
    "lmfit": lmfit_leastsq,
    "curve_fit": curve_fit,
    "batch": batch,
}
UNBOUNDED = "SciPy lm"  # knows no bounds, and is judged without


def answer(solver: Callable[[Run], tuple[bool, Any, Any]], run: Run) -> Answer:
    """What the solver gives, and what it says against it."""
    with warnings.catch_warnings(record=True) as caught, np.errstate(all="ignore"):
        warnings.simplefilter("always")
        try:
            success, params, errors = solver(run)
        except Exception as error:  # whatever a user would have seen
            return Answer(f"{type(error).__name__}: {error}", None)
    params = np.asarray(params, float)
    if caught:
        return Answer(f"{caught[0].category.__name__}: {caught[0].message}", params)
    if not success:
        return Answer("no success", params)
    if not np.all(np.isfinite(errors)):
        return Answer("infinite errors", params)
    return Answer("", params)


def judged(
    names: list[str], table_of_runs: list[Run], show: bool = False
) -> dict[str, list[Verdict]]:
    """The verdict of every run by every solver named."""
    found = collections.defaultdict(list)
    for name in names:
        start = time.perf_counter()
        for run in table_of_runs:
            one = verdict(
                run, answer(SOLVERS[name], run), name != UNBOUNDED and run.bounded
            )
            found[name].append(one)
            if show and one.kind != RIGHT:
                print(f"{name}: {one.line(run)}", flush=True)
        if show:
            print(f"{name}: {time.perf_counter() - start:.0f} s\n", flush=True)
    return found


def tables(
    found: dict[str, list[Verdict]], table_of_runs: list[Run]
) -> list[dict[str, Any]]:
    """The outcomes by solver, and how many are right in each unit and model."""

    def right(name: str, condition: Callable[[Run], bool]) -> int:
        pairs = zip(table_of_runs, found[name], strict=True)
        return sum(v.kind == RIGHT for run, v in pairs if condition(run))

    def count(condition: Callable[[Run], bool]) -> int:
        return sum(map(condition, table_of_runs))

    totals = []
    for name, verdicts in found.items():
        kinds = collections.Counter(v.kind for v in verdicts)
        totals.append([name, *(kinds[kind] for kind in VERDICTS)])
    groups = {f"y in {y:g}": lambda run, y=y: run.units[0] == y for y, _ in UNITS}
    models = {m.name: lambda run, m=m: run.of is m for m in MODELS}
    models = {name: is_one for name, is_one in models.items() if count(is_one)}

    def rows(conditions: dict[str, Callable]) -> list[list[Any]]:
        return [
            [name, count(c), *(right(solver, c) for solver in found)]
            for name, c in conditions.items()
        ]

    columns = ["runs", *found]
    return [
        table(f"What became of {len(table_of_runs)} runs", ["", *VERDICTS], totals),
        table("Right, by the unit of the data", ["", *columns], rows(groups)),
        table("Right, by model", ["", *columns], rows(models)),
    ]


def main(quick: bool) -> dict[str, Any]:
    table_of_runs = runs()[:: 11 if quick else 1]
    found = judged(list(SOLVERS), table_of_runs)
    counts = {name: collections.Counter(v.kind for v in found[name]) for name in found}
    targets, total = [], len(table_of_runs)
    shown = tables(found, table_of_runs)
    for name in ("curve_fit", "batch"):
        behind = sum(
            row[2 + list(found).index(name)] < row[2] for row in shown[1]["rows"]
        )
        targets += [
            target(f"{name}, silently wrong: none", counts[name][SILENT], at_most=0),
            target(
                f"{name}, right: at least 130 of 164",
                counts[name][RIGHT] / total,
                at_least=130 / 164,
            ),
            target(
                f"{name}, in another minimum: at most 10 of 164",
                counts[name][OTHER] / total,
                at_most=10 / 164,
            ),
            target(
                f"{name}, units in which SciPy lm is ahead: none", behind, at_most=0
            ),
        ]
    return report(
        __doc__,
        targets,
        shown,
        [
            "Right: no word against the fit, and the cost of the minimum next to the "
            "truth to a part of 1e-6, or parameters within a tenth of their standard "
            "errors. Told: the fit raised, warned, had no success or had infinite "
            "errors. Another minimum and silent are told apart by a descent of "
            "Levenberg and Marquardt's kind from the answer, in the units of the "
            "truth: silent if it lowers the cost by more than a part of 1e-6.",
            "SciPy's lm runs without the bounds, and counts with them all the same.",
        ],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--solver", action="append", choices=SOLVERS)
    parser.add_argument("--only", help="models with this in their name")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(jaxfit.__file__)
    wanted = runs(options.only)
    results = judged(options.solver or list(SOLVERS), wanted, show=True)
    print(as_text("starts", report(__doc__, [], tables(results, wanted), [])))
