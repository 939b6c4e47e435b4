"""Which kind of interval holds the truth, and which breaks where?

20,000 simulated fits of a decay for each case, as one batch: 95% intervals of all three
parameters by every kind of covariance, by the profile and, for fewer data sets, by the
bootstrap. Each case but the first breaks what some kind supposes: outliers on one side,
unequal noise, a truth on a bound, few points, a model far from linear.
"""

from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import t
from tools.report import report, table, target

import jaxfit


LEVEL = 0.95
TRUE = {"a": 2.5, "b": 1.3, "c": 0.5}
NAMES = tuple(TRUE)
BLOCK = 500
SLACK = 2.0  # % points by which a kind that holds may be off


@dataclass(frozen=True)
class Case:
    """How data come about, how they are fitted, and what should be seen."""

    name: str
    holds: str  # the kind that should
    breaks: str | None = None  # the kind that should not
    points: int = 40
    span: float = 4.0
    noise: float = 0.05
    growth: float = 0.0  # of the noise, from 1 to 1 + growth along x
    outliers: float = 0.0  # their share, twenty times the noise above the curve
    true: dict[str, float] = field(default_factory=lambda: dict(TRUE))
    options: dict[str, Any] = field(default_factory=dict)
    time: bool = False  # whether the decay time is the parameter, not the rate

    @property
    def model(self) -> Any:
        return decay_time if self.time else decay


# As efficient as least squares to 95% where noise is normal (Holland and Welsch 1977).
CAUCHY = 2.385
CASES = (
    Case("as supposed", "gauss_newton"),
    Case("5% outliers", "robust loss", "gauss_newton", points=100, outliers=0.05),
    Case("noise grows tenfold", "sandwich", "gauss_newton", points=200, growth=9.0),
    Case(
        "truth on a bound",
        "profile",
        "gauss_newton",
        true={"a": 2.5, "b": 1.3, "c": 0.0},
        options={"bounds": (0.0, 9.0)},
    ),
    Case("6 points", "profile", "sandwich", points=6),
    Case(
        "decay time",
        "profile",
        "gauss_newton",
        noise=0.2,
        true={"a": 2.5, "b": 1 / 1.3, "c": 0.5},
        time=True,
    ),
)
COVARIANCES = {
    "gauss_newton": {"kind": "gauss_newton"},
    "hessian": {"kind": "hessian"},
    "robust noise": {"kind": "gauss_newton", "noise": "robust"},
    "sandwich": {"kind": "sandwich"},
}
BOOTSTRAPS = ("residual", "wild", "pairs")
KINDS = (*COVARIANCES, "robust loss", "profile", *BOOTSTRAPS)


def decay(x, p):
    a, b, c = p
    return a * jnp.exp(-b * x) + c


def decay_time(x, p):
    a, b, c = p
    return a * jnp.exp(-x / b) + c


def data(case: Case, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """x, and y of so many data sets."""
    rng = np.random.default_rng(11)
    x = np.linspace(0.0, case.span, case.points)
    deviation = case.noise * (1 + case.growth * x / case.span)
    shape = (rounds, case.points)
    far = rng.random(shape) < case.outliers
    noise = deviation * (rng.standard_normal(shape) + 20.0 * far)
    return x, np.asarray(case.model(x, tuple(case.true.values()))) + noise


def blocks(fn: Any, y: np.ndarray, block: int = BLOCK) -> Any:
    """`fn` of every row, so many at a time, in one program."""
    mapped = jax.jit(lambda y: jax.lax.map(fn, y, batch_size=block))
    return jax.tree.map(np.asarray, mapped(jnp.asarray(y)))


def intervals(case: Case, rounds: int, replicates: int, fewer: int) -> dict[str, Any]:
    """Lower and upper limits by kind, each (data sets, 3); NaN where a fit failed."""
    x, y = data(case, rounds)
    start = jnp.array([2.0, 1.0, 0.3])

    def fitted(y, **more):
        options = case.options | more
        problem = jaxfit.curve_problem(case.model, x, y, start, **options)
        return problem, jaxfit.solve(problem)

    dof = case.points - 3
    q = float(t.ppf(0.5 + 0.5 * LEVEL, dof))

    def by_covariances(y):
        problem, solution = fitted(y)
        found = {
            name: jaxfit.covariance(problem, solution, **how).errors
            for name, how in COVARIANCES.items()
        }
        ends = {
            k: (solution.params - q * e, solution.params + q * e)
            for k, e in found.items()
        }
        problem, solution = fitted(y, loss="cauchy", f_scale=CAUCHY * case.noise)
        e = jaxfit.covariance(problem, solution, kind="sandwich").errors
        ends["robust loss"] = solution.params - q * e, solution.params + q * e
        return ends

    def by_profile(y):
        problem, solution = fitted(y)
        found = jaxfit.profile(problem, solution, levels=LEVEL)
        return found.lower[:, 0], found.upper[:, 0]

    fitted_once = eqx.filter_jit(fitted)
    ends_of = eqx.filter_jit(lambda found: found.interval(LEVEL, "bca"))

    def by_bootstrap(kind):
        ends = []
        for one in y[:fewer]:
            problem, solution = fitted_once(one)
            if solution.success:
                found = jaxfit.bootstrap(problem, solution, replicates, 5, kind=kind)
                ends.append(np.stack(ends_of(found)))
            else:
                ends.append(np.full((2, len(NAMES)), np.nan))
        return tuple(np.stack(ends, axis=1))

    out = blocks(by_covariances, y)
    out["profile"] = blocks(by_profile, y)
    return out | {kind: by_bootstrap(kind) for kind in BOOTSTRAPS}


def coverage(case: Case, rounds: int, replicates: int, fewer: int) -> dict[str, Any]:
    """By kind, in %: intervals that hold the truth, that end below it, or lie above.

    Each is a list with one number a parameter; no interval counts as none of the three.
    The median width is by the side of them.
    """
    truth = np.array(list(case.true.values()))
    found = {}
    for kind, (lower, upper) in intervals(case, rounds, replicates, fewer).items():
        width = upper - lower
        # A parameter at a bound is there up to rounding only.
        slack = 1e-6 * np.where(np.isfinite(width), width, 0)
        below, above = upper + slack < truth, lower - slack > truth
        holds = ~below & ~above & ~np.isnan(width)
        shares = [100 * which.mean(axis=0) for which in (holds, below, above)]
        found[kind] = [*shares, np.nanmedian(width, axis=0)]
    return found


def main(quick: bool) -> dict[str, Any]:
    rounds, replicates, fewer = (500, 100, 20) if quick else (20_000, 999, 1_000)
    found = {case.name: coverage(case, rounds, replicates, fewer) for case in CASES}
    rows = []
    for case in CASES:
        plain = found[case.name]["gauss_newton"][3]
        for kind in KINDS:
            holds, below, above, width = found[case.name][kind]
            sets = fewer if kind in BOOTSTRAPS else rounds
            cells = [*holds, below[1], above[1], width[1] / plain[1]]
            rows.append([case.name, kind, sets, *map(float, cells)])

    def off(case, kind):
        holds = found[case.name][kind][0]
        return float(np.max(np.abs(holds - 100 * LEVEL)))

    def lopsided(case, kind):
        _, below, above, _ = found[case.name][kind]
        return float(np.max(np.abs(np.stack([below, above]) - 50 * (1 - LEVEL))))

    targets = []
    for case in CASES:
        if "bounds" in case.options:
            # An interval that a bound cuts holds the truth on it 97.5% of the time.
            asked = f"{case.name}: {case.holds} covers at least 93%"
            least = float(np.min(found[case.name][case.holds][0]))
            targets.append(target(asked, least, at_least=100 * LEVEL - SLACK))
        elif case.time:
            asked = (
                f"{case.name}: {case.holds} misses either side 2.5%, off by at most 1"
            )
            targets.append(target(asked, lopsided(case, case.holds), at_most=1.0))
            asked = f"{case.name}: {case.breaks} is off by more"
            targets.append(target(asked, lopsided(case, case.breaks), at_least=1.0))
            continue
        else:
            asked = f"{case.name}: {case.holds} covers 95%, off by at most 2 % points"
            targets.append(target(asked, off(case, case.holds), at_most=SLACK))
        if case.breaks is not None:
            asked = f"{case.name}: {case.breaks} is off by more"
            targets.append(target(asked, off(case, case.breaks), at_least=SLACK))
    result = report(
        __doc__,
        targets,
        [
            table(
                "Coverage of 95% intervals, in %",
                ["case", "kind", "data sets", *NAMES, "b: below", "above", "width"],
                rows,
            ),
        ],
        [
            f"The truth is {TRUE} with noise of 0.05 at 40 points of 0 to 4, but for "
            "what the case says: outliers are twenty deviations above the curve, 100 "
            "points; the noise grows along x, 200 points; c is zero and bounded "
            "below by it; 6 points; b is the decay time, 1 / 1.3, and the noise 0.2.",
            "Standard errors are used with the quantile of Student's t; a parameter "
            "that has none, being at a bound, counts as not covered. 'b: below' and "
            "'above' are intervals that lie below or above the true b, which should be "
            "2.5% each; 'width' is b's median width over that of gauss_newton.",
            "'robust noise' is gauss_newton with the noise from the median; 'robust "
            "loss' fits cauchy with f_scale at 2.385 of the noise, and its sandwich.",
            f"The bootstraps are BCa of {replicates} replicates. A share of 95% in "
            f"{rounds:,} data sets has a standard error of "
            f"{100 * np.sqrt(LEVEL * (1 - LEVEL) / rounds):.2f} % points by itself, in "
            f"{fewer:,} one of {100 * np.sqrt(LEVEL * (1 - LEVEL) / fewer):.2f}.",
        ],
    )
    return result | {"picture": picture(found)}


def picture(found: dict[str, Any]) -> dict[str, Any]:
    """What `tools.picture.dots` draws."""
    panels = [
        {
            "title": case.name,
            "rows": {k: found[case.name][k][0].tolist() for k in KINDS},
            "holds": case.holds,
        }
        for case in CASES
    ]
    return {
        "panels": panels,
        "series": NAMES,
        "line": 100 * LEVEL,
        "least": 60,
        "label": "coverage of 95% intervals, in %",
    }
