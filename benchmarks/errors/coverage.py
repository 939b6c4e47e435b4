"""Are the intervals calibrated?

How often do 95% intervals of jaxfit.CurveFit hold the truth in simulated data: those of
every parameter, the confidence band of the curve, and the prediction band of a new
datum, at three x. Three models of 15 points, either with noise of unknown size (scaled
covariance, Student's t) or with a known standard deviation for each datum
(absolute_sigma, normal distribution).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tools.families import FAMILIES
from tools.report import report, table, target

import jaxfit


LEVEL, LIMIT, POINTS = 0.95, 0.01, 15
MODELS = {family.name: family.jax for family in FAMILIES}


@dataclass(frozen=True)
class Setting:
    """A model, its truth, and where it is measured and asked."""

    name: str
    names: tuple[str, ...]
    true: tuple[float, ...]
    x: tuple[float, float]
    at: tuple[float, float, float]
    noise: float

    @property
    def model(self) -> Callable:
        return MODELS[self.name]


SETTINGS = (
    Setting("decay", ("a", "b", "c"), (2.5, 1.3, 0.5), (0, 4), (0.5, 2, 5), 0.05),
    Setting(
        "gaussian",
        ("height", "center", "width", "level"),
        (3.0, 5.0, 1.5, 0.5),
        (0, 10),
        (2.5, 5, 6.5),
        0.05,
    ),
    Setting(
        "Michaelis-Menten", ("top", "half"), (5.0, 2.0), (0.5, 10), (1, 4, 15), 0.1
    ),
)


def holds(interval: Any, truth: np.ndarray) -> np.ndarray:
    lower, upper = interval
    return (lower <= truth) & (truth <= upper)


def coverage(setting: Setting, known: bool, rounds: int) -> dict[str, np.ndarray]:
    """The share of data sets whose intervals hold the truth, by kind of interval."""
    rng = np.random.default_rng([7, SETTINGS.index(setting), known])
    x, at = np.linspace(*setting.x, POINTS), np.array(setting.at, float)
    deviations = np.linspace(0.5, 2.0, POINTS) * setting.noise
    new = np.interp(at, x, deviations)
    if not known:
        deviations = np.full(POINTS, setting.noise)
        new = np.full(at.size, setting.noise)
    true = np.array(setting.true)
    fitter = jaxfit.CurveFit(setting.model)
    more = {"sigma": deviations, "absolute_sigma": True} if known else {}
    value, wanted = np.asarray(setting.model(x, *true)), setting.model(at, *true)
    wanted = np.asarray(wanted)
    counts = [np.zeros(true.size), np.zeros(at.size), np.zeros(at.size)]
    for _ in range(rounds):
        y = value + deviations * rng.standard_normal(POINTS)
        datum = wanted + new * rng.standard_normal(at.size)
        fit = fitter(x, y, true, **more)
        counts[0] += holds(fit.confidence_interval(LEVEL).T, true)
        counts[1] += holds(fit.confidence_band(at, LEVEL), wanted)
        sigma = new if known else None
        counts[2] += holds(fit.prediction_band(at, LEVEL, sigma), datum)
    kinds = ("parameters", "confidence band", "prediction band")
    return {k: c / rounds for k, c in zip(kinds, counts, strict=True)}


def main(quick: bool) -> dict[str, Any]:
    rounds = 300 if quick else 10_000
    shares, rows = [], []
    for setting in SETTINGS:
        for known in (False, True):
            found = coverage(setting, known, rounds)
            shares.append(found)
            labels = {
                "parameters": setting.names,
                "confidence band": [f"x = {x:g}" for x in setting.at],
                "prediction band": [f"x = {x:g}" for x in setting.at],
            }
            for kind, share in found.items():
                cells = [
                    f"{name}: {100 * s:.1f}"
                    for name, s in zip(labels[kind], share, strict=True)
                ]
                sigma = "known" if known else "estimated"
                off = float(100 * np.max(np.abs(share - LEVEL)))
                rows.append([setting.name, sigma, kind, ", ".join(cells), off])
    targets = []
    for kind in shares[0]:
        worst = max(float(np.max(np.abs(found[kind] - LEVEL))) for found in shares)
        asked = f"{kind}: coverage off {LEVEL:.0%} by at most {LIMIT:.0%}, in % points"
        targets.append(target(asked, 100 * worst, at_most=100 * LIMIT))
    error = 100 * np.sqrt(LEVEL * (1 - LEVEL) / rounds)
    return report(
        __doc__,
        targets,
        [
            table(
                f"Coverage of 95% intervals in {rounds:,} data sets each, in %",
                ["model", "sigma", "of", "coverage", "worst, off by"],
                rows,
            ),
        ],
        [
            f"A share of 95% in {rounds:,} data sets has a standard error of "
            f"{error:.2f} % points by itself.",
            "Known sigma grows from 0.5 to 2 times the noise along x; a new datum "
            "between two has the deviation between theirs.",
            f"With {POINTS} points Student's t matters: the normal quantile would "
            "cover about 93%.",
            "The last x of decay and of Michaelis-Menten is outside the data.",
        ],
    )
