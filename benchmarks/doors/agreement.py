"""Do the doors agree with SciPy?

The 27 NIST StRD sets from both starts and 200 random curve fits of nine families (with
sigma or without, relative or absolute; half of them in a box), jaxfit.curve_fit and
least_squares against scipy.optimize's. At the tightest tolerances parameters and
covariances must be the same numbers; at default settings jaxfit's cost must not be
higher.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from kernel.nist import ROUNDING, exact_jacobian, numpy_residual
from tools.families import CurveProblem, curve_problem
from tools.report import report, table, target

import jaxfit
from jaxfit.datasets import nist, nist_names


POPT, PCOV, COST = 1e-7, 1e-5, 1e-9
RANDOM = 200
OURS_TIGHT = {"ftol": 0.0, "xtol": 1e-15, "gtol": 0.0}
SCIPY_TIGHT = dict.fromkeys(("ftol", "xtol", "gtol"), 1e-15)
Numbers = tuple[np.ndarray, np.ndarray]  # popt and pcov


@dataclasses.dataclass(frozen=True)
class Run:
    """One fit: the model for either library, data, and what both are told."""

    name: str
    jax_model: Callable
    numpy_model: Callable
    jacobian: Callable
    x: Any
    y: np.ndarray
    start: np.ndarray
    sigma: np.ndarray | None = None
    absolute_sigma: bool = False
    bounds: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of both curve_fits."""
        out = {"p0": self.start, "sigma": self.sigma}
        return {**out, "absolute_sigma": self.absolute_sigma, **self.box}

    @property
    def box(self) -> dict[str, Any]:
        return {} if self.bounds is None else {"bounds": self.bounds}

    @property
    def weight(self) -> Any:
        return np.ones_like(self.y) if self.sigma is None else 1 / self.sigma

    def residual(self, params: np.ndarray) -> np.ndarray:
        return (self.numpy_model(self.x, *params) - self.y) * self.weight

    def cost(self, params: np.ndarray) -> float:
        r = self.residual(params)
        return float(r @ r) / 2

    def rounding(self, params: np.ndarray) -> float:
        """What rounding the values of the model may change in the cost."""
        values = np.linalg.norm(self.y * self.weight)
        return float(
            np.finfo(float).eps * values * np.linalg.norm(self.residual(params))
        )

    def cosine(self, params: np.ndarray) -> float:
        """The largest between the residual and a column of J of a free parameter."""
        r = self.residual(params)
        j = self.jacobian(self.x, *params) * self.weight[:, None]
        cosines = np.abs(j.T @ r) / (np.linalg.norm(j, axis=0) * np.linalg.norm(r))
        if self.bounds is not None:
            lower, upper = self.bounds
            room = np.minimum(params - lower, upper - params)
            cosines = cosines[room > 1e-9 * (upper - lower)]
        return float(np.max(cosines, initial=0.0))


def nist_runs(quick: bool) -> Iterator[Run]:
    """All sets from both starts."""
    for name in list(nist_names())[:: 14 if quick else 1]:
        data = nist(name)
        model, jacobian = data.model, exact_jacobian(data)
        values = numpy_residual(dataclasses.replace(data, y=np.zeros_like(data.y)))
        functions = (
            lambda x, *p, model=model: model(x, p),
            lambda _, *p, values=values: values(np.array(p)),
            lambda _, *p, jacobian=jacobian: jacobian(np.array(p)),
        )
        for i, start in enumerate(data.starts, start=1):
            yield Run(f"{name}, start {i}", *functions, data.x, data.y, start)


def random_runs(quick: bool) -> Iterator[Run]:
    """The random problems."""
    for k in range(3 if quick else RANDOM):
        p: CurveProblem = curve_problem(k)
        f = p.family
        jacobian = family_jacobian(f.jax)
        rest = p.start, p.sigma, p.absolute_sigma, p.bounds
        yield Run(p.name, f.jax, f.numpy, jacobian, p.x, p.y, *rest)


@functools.cache
def family_jacobian(model: Callable) -> Callable:
    """The exact Jacobian with the arguments of the model."""
    jacobian = jax.jit(jax.jacfwd(lambda p, x: model(x, *p)))
    return lambda x, *p: np.array(jacobian(jnp.array(p), x))


@functools.cache
def jax_residual(model: Callable) -> Callable:
    """fun(params, x, y, weight); the same object for a model, compiled once."""
    return lambda params, x, y, weight: (model(x, *params) - y) * weight


def ours(run: Run, **options: Any) -> Numbers | None:
    """popt and pcov by jaxfit, or None if it gave up."""
    try:
        fit = jaxfit.curve_fit(run.jax_model, run.x, run.y, **run.options, **options)
    except jaxfit.FitError:
        return None
    return fit[0], fit[1]


def scipys(run: Run, **options: Any) -> Numbers | None:
    """The same by SciPy."""
    try:
        return scipy.optimize.curve_fit(
            run.numpy_model, run.x, run.y, **run.options, **options
        )
    except RuntimeError:
        return None


def scipys_tight(run: Run, **options: Any) -> Numbers | None:
    most = "maxfev" if run.bounds is None else "max_nfev"
    return scipys(run, **SCIPY_TIGHT, **{most: 5000}, **options)


def squares(run: Run) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The parameters by both least_squares at default settings; None: gave up."""
    args = run.x, run.y, run.weight
    fun = jax_residual(run.jax_model)
    mine = jaxfit.least_squares(fun, run.start, args=args, **run.box)
    theirs = scipy.optimize.least_squares(run.residual, run.start, **run.box)
    return (mine.x if mine.success else None), (theirs.x if theirs.success else None)


def distance(mine: Numbers, theirs: Numbers) -> tuple[float, float]:
    """The largest differences of popt and pcov.

    That of a parameter is relative to its value, or to its standard error if that is
    larger; that of a covariance to the product of the two standard errors.
    """
    error = np.sqrt(np.diag(theirs[1]))
    size = np.fmax(np.abs(theirs[0]), np.where(np.isfinite(error), error, 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        popt = np.max(np.abs(mine[0] - theirs[0]) / size)
        pcov = np.max(np.abs(mine[1] - theirs[1]) / np.outer(error, error))
    return float(popt), float(np.nan_to_num(pcov, nan=np.inf))


@dataclasses.dataclass
class Tight:
    """One run at the tightest tolerances; the distances are None if one gave up."""

    run: Run
    mine: Numbers | None
    own: tuple[float, float] | None
    exact: tuple[float, float] | None
    exact_popt: np.ndarray | None

    @staticmethod
    def of(run: Run) -> "Tight":
        mine = ours(run, **OURS_TIGHT)
        own, exact = scipys_tight(run), scipys_tight(run, jac=run.jacobian)
        distances = [
            None if mine is None or theirs is None else distance(mine, theirs)
            for theirs in (own, exact)
        ]
        return Tight(run, mine, *distances, None if exact is None else exact[0])

    @property
    def reason(self) -> str:
        """Why the two differ; empty if they do not."""
        if self.mine is None:
            return "" if self.exact is None else "jaxfit gave up"
        if not beyond(self.exact) and self.exact is not None:
            return "SciPy's difference quotients" if beyond(self.own) else ""
        if self.exact is None:
            return "SciPy gave up"
        if self.run.name.startswith(ROUNDING):
            return "the residuals are rounding errors"
        mine, theirs = self.mine[0], self.exact_popt
        if self.exact[0] <= POPT:
            return "jaxfit's covariance differs at the same minimum"
        higher = self.run.cost(theirs) / self.run.cost(mine) - 1
        if abs(higher) > 1e-3:
            who = "SciPy" if higher > 0 else "jaxfit"
            return f"{who} ended in a higher minimum"
        who = "SciPy" if self.run.cosine(theirs) > self.run.cosine(mine) else "jaxfit"
        return f"{who} stopped farther from the minimum"


def beyond(distances: tuple[float, float] | None) -> bool:
    """Whether two answers are not the same numbers."""
    return distances is not None and (distances[0] > POPT or distances[1] > PCOV)


def tight_rows(kind: str, runs: list[Tight]) -> list[list[Any]]:
    """How many agree, with SciPy's own derivatives and with exact ones."""
    rows = []
    for what in ("own", "exact"):
        all_ = [getattr(t, what) for t in runs]
        both = [d for d in all_ if d is not None]
        popt, pcov = (np.array([d[i] for d in both]) for i in (0, 1))
        derivatives = "differences" if what == "own" else "exact"
        counts = [int(np.sum(popt > POPT)), int(np.sum(pcov > PCOV))]
        medians = [float(np.median(popt)), float(np.median(pcov))]
        rows.append([f"{kind}, {derivatives}", len(both), *counts, *medians])
    return rows


def listed(t: Tight) -> list[Any]:
    """One row of the list of those that differ."""
    own, exact = t.own or (None, None), t.exact or (None, None)
    cosines: list[float | None] = [None, None]
    if t.mine is not None and t.exact_popt is not None:
        cosines = [t.run.cosine(t.mine[0]), t.run.cosine(t.exact_popt)]
    return [t.run.name, *own, *exact, *cosines, t.reason]


OUTCOMES = ("same", "lower", "higher", "SciPy gave up", "jaxfit gave up")


def compare(run: Run, mine: Any, theirs: Any) -> str:
    """What jaxfit's cost is beside SciPy's."""
    if mine is None:
        return "same" if theirs is None else "jaxfit gave up"
    if theirs is None:
        return "SciPy gave up"
    a, b = run.cost(mine), run.cost(theirs)
    if abs(a - b) <= COST * b + run.rounding(theirs):
        return "same"
    return "lower" if a < b else "higher"


def why_higher(run: Run, mine: np.ndarray, theirs: np.ndarray) -> str:
    """Another minimum, or the same not yet reached."""
    on = ours(dataclasses.replace(run, start=mine), **OURS_TIGHT)
    if on is not None and run.cost(on[0]) <= (1 + COST) * run.cost(theirs):
        return "the same minimum, within the tolerances"
    return "another minimum"


def main(quick: bool) -> dict[str, Any]:
    warnings.simplefilter("ignore")  # overflow in trial points, covariances of failures
    tight: dict[str, list[Tight]] = {}
    default = {
        call: dict.fromkeys(OUTCOMES, 0) for call in ("curve_fit", "least_squares")
    }
    apart = []
    for kind, runs in (("NIST", nist_runs(quick)), ("random", random_runs(quick))):
        tight[kind] = []
        for run in runs:
            tight[kind].append(Tight.of(run))
            pair = ours(run), scipys(run)
            popts = tuple(None if fit is None else fit[0] for fit in pair)
            for call, (mine, theirs) in (
                ("curve_fit", popts),
                ("least_squares", squares(run)),
            ):
                outcome = compare(run, mine, theirs)
                default[call][outcome] += 1
                if mine is None or theirs is None:
                    continue
                a, b = run.cost(mine), run.cost(theirs)
                if outcome == "higher" or (outcome == "lower" and b > (1 + 1e-6) * a):
                    why = why_higher(run, mine, theirs) if outcome == "higher" else ""
                    apart.append([run.name, call, a, b, a / b - 1, why])
    every = [t for all_ in tight.values() for t in all_]
    reasons = [t.reason for t in every]
    number = len(every)
    return report(
        __doc__,
        [
            target(
                f"tight: of {number} runs, differences that are jaxfit's doing: none",
                sum(reason.startswith("jaxfit") for reason in reasons),
                at_most=0,
            ),
            *(
                target(
                    f"default settings: runs in which {call}'s cost is higher: none",
                    counts["higher"],
                    at_most=0,
                )
                for call, counts in default.items()
            ),
            target(
                "default settings: runs that SciPy ends and jaxfit gives up: none",
                sum(counts["jaxfit gave up"] for counts in default.values()),
                at_most=0,
            ),
        ],
        [
            table(
                "curve_fit at the tightest tolerances, with SciPy's derivatives by "
                "differences or exact",
                [
                    "runs",
                    "both end",
                    f"popt beyond {POPT:g}",
                    f"pcov beyond {PCOV:g}",
                    "median, popt",
                    "median, pcov",
                ],
                [row for kind, all_ in tight.items() for row in tight_rows(kind, all_)],
            ),
            table(
                "Every run beyond these",
                [
                    "run",
                    "popt",
                    "pcov",
                    "popt, exact",
                    "pcov, exact",
                    "cosine, jaxfit",
                    "cosine, SciPy exact",
                    "reason",
                ],
                [listed(t) for t in every if t.reason],
            ),
            table(
                f"Cost at default settings, {number} runs: jaxfit's is",
                ["call", *OUTCOMES],
                [[call, *counts.values()] for call, counts in default.items()],
            ),
            table(
                "Runs with a higher cost, and those lower by more than 1e-6",
                ["run", "call", "cost, jaxfit", "cost, SciPy", "relative", "why"],
                apart,
            ),
        ],
        [
            "A difference in popt is relative to the parameter, or to its standard "
            "error if that is larger; one in pcov to the product of both standard "
            "errors.",
            "Tight means xtol = 1e-15 and, in SciPy, ftol = gtol = 1e-15 (0 in "
            "jaxfit), and up to 5,000 evaluations. SciPy's method is its own choice: "
            "lm, or trf with bounds.",
            "The cosine is the largest between the residual and a column of the exact "
            "Jacobian, over the parameters that are not at a bound: 0 at a minimum.",
            f"Costs are the same within {COST:g} of SciPy's and what rounding the "
            "model's values may change. Both are evaluated by the same NumPy code.",
            "At default settings every library differentiates as it does by default. "
            "SciPy's least_squares stops at 100 n evaluations, curve_fit (lm) at "
            "200 (n + 1).",
        ],
    )
