"""Which kind of interval holds the truth, and which breaks where?

20,000 simulated fits of a decay for each case, as one batch: 95% intervals of all three
parameters by every kind of covariance, by the profile and, for fewer data sets, by the
bootstrap. Each case but the first breaks what the plain standard errors suppose:
outliers, unequal noise, a truth on a bound, few points.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _report import report, table, target

import jaxfit


LEVEL = 0.95
TRUE = {"a": 2.5, "b": 1.3, "c": 0.5}
NAMES = tuple(TRUE)
BLOCK = 500


@dataclass(frozen=True)
class Case:
    """How data come about, and how they are fitted."""

    name: str
    survivor: str  # the kind that should hold
    points: int = 40
    span: float = 4.0
    noise: float = 0.05
    growth: float = 0.0  # of the noise, from 1 to 1 + growth along x
    outliers: float = 0.0  # their share, of ten times the noise
    true: dict[str, float] = field(default_factory=lambda: dict(TRUE))
    options: dict[str, Any] = field(default_factory=dict)


ROBUST = {"loss": "soft_l1", "f_scale": 0.05}
CASES = (
    Case("as supposed", "gauss_newton"),
    Case("10% outliers", "robust loss", outliers=0.1),
    Case("noise grows tenfold", "sandwich", growth=9.0),
    Case(
        "truth on a bound",
        "profile",
        true={"a": 2.5, "b": 1.3, "c": 0.0},
        options={"bounds": (0.0, 9.0)},
    ),
    Case("6 points, large noise", "profile", points=6, noise=0.15),
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


def data(case: Case, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """x, and y of so many data sets."""
    rng = np.random.default_rng(11)
    x = np.linspace(0.0, case.span, case.points)
    deviation = case.noise * (1 + case.growth * x / case.span)
    shape = (rounds, case.points)
    far = rng.random(shape) < case.outliers
    noise = deviation * np.where(far, 10.0, 1.0) * rng.standard_normal(shape)
    return x, np.asarray(decay(x, tuple(case.true.values()))) + noise


def blocks(fn: Any, y: np.ndarray, block: int = BLOCK) -> Any:
    """`fn` of every row, so many at a time, in one program."""
    mapped = jax.jit(lambda y: jax.lax.map(fn, y, batch_size=block))
    return jax.tree.map(np.asarray, mapped(jnp.asarray(y)))


def intervals(case: Case, rounds: int, replicates: int, fewer: int) -> dict[str, Any]:
    """Lower and upper limits by kind, each (data sets, 3); NaN where a fit failed."""
    x, y = data(case, rounds)
    start = jnp.array([2.0, 1.0, 0.3])

    def fitted(y, **more):
        problem = jaxfit.curve_problem(decay, x, y, start, **{**case.options, **more})
        return problem, jaxfit.solve(problem)

    dof = case.points - 3
    # The quantile of Student's t, as every kind of standard error is used here.
    from scipy.stats import t

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
        problem, solution = fitted(y, **ROBUST)
        e = jaxfit.covariance(problem, solution, kind="sandwich").errors
        ends["robust loss"] = solution.params - q * e, solution.params + q * e
        return ends

    def by_profile(y):
        problem, solution = fitted(y)
        found = jaxfit.profile(problem, solution, levels=LEVEL)
        return found.lower[:, 0], found.upper[:, 0]

    def by_bootstrap(kind):
        def one(y):
            problem, solution = fitted(y)
            found = jaxfit.bootstrap(problem, solution, replicates, 5, kind=kind)
            return found.interval(LEVEL, "bca")

        return one

    out = blocks(by_covariances, y)
    out["profile"] = blocks(by_profile, y)
    for kind in BOOTSTRAPS:
        out[kind] = blocks(by_bootstrap(kind), y[:fewer], 10)
    return out


def coverage(case: Case, rounds: int, replicates: int, fewer: int) -> dict[str, Any]:
    """By kind: the share of intervals that hold the truth, of each parameter."""
    truth = np.array(list(case.true.values()))
    found = {}
    for kind, (lower, upper) in intervals(case, rounds, replicates, fewer).items():
        holds = (lower <= truth) & (truth <= upper)
        width = np.median(upper - lower, axis=0)
        found[kind] = holds.mean(axis=0).tolist(), width.tolist(), len(lower)
    return found


def main(quick: bool) -> dict[str, Any]:
    rounds, replicates, fewer = (500, 100, 20) if quick else (20_000, 999, 1_000)
    shares = {case.name: coverage(case, rounds, replicates, fewer) for case in CASES}
    rows = [
        [case.name, kind, shares[case.name][kind][2]]
        + [100 * s for s in shares[case.name][kind][0]]
        for case in CASES
        for kind in KINDS
    ]

    def off(case, kind):
        return 100 * max(abs(s - LEVEL) for s in shares[case.name][kind][0])

    targets = [
        target(
            f"{case.name}: {case.survivor}, coverage off 95% by at most 2 % points",
            off(case, case.survivor),
            at_most=2.0,
        )
        for case in CASES
    ] + [
        target(
            f"{case.name}: gauss_newton is off by more than 2 % points",
            off(case, "gauss_newton"),
            at_least=2.0,
        )
        for case in CASES[1:]
    ]
    result = report(
        __doc__,
        targets,
        [
            table(
                "Coverage of 95% intervals, in %",
                ["case", "kind", "data sets", *NAMES],
                rows,
            ),
        ],
        [
            f"The truth is {TRUE} with noise of 0.05 at 40 points, but for what the "
            "case says. Standard errors are used with the quantile of Student's t.",
            "'robust noise' is gauss_newton with the noise from the median; 'robust "
            "loss' fits soft_l1 with f_scale at the noise and takes the sandwich.",
            f"The bootstrap is BCa of {replicates} replicates. A share of 95% in "
            f"{rounds:,} data sets has a standard error of "
            f"{100 * np.sqrt(LEVEL * (1 - LEVEL) / rounds):.2f} % points by itself, in "
            f"{fewer:,} one of {100 * np.sqrt(LEVEL * (1 - LEVEL) / fewer):.2f}.",
        ],
    )
    return result | {
        "shares": {k: {n: v[0] for n, v in s.items()} for k, s in shares.items()}
    }
