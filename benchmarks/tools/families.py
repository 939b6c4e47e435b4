"""Random curve fits as users have them: model, true parameters, noise, sigma, bounds.

Problem k is always the same, whatever was drawn before it. All have the same number of
points, and those in a box have a sigma, so that a family compiles three programs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tools.curves import (
    Curve,
    decay,
    gaussian,
    michaelis_menten,
    power_law,
    two_decays,
)


POINTS = 60


@dataclass(frozen=True)
class Family(Curve):
    """A curve and what its problems are drawn from.

    True parameters are uniform between `lower` and `upper`, data between the two ends
    of `x`, and a start is off by up to `off` of each parameter.
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    x: tuple[float, float]
    off: float = 0.3


def lorentzian(xp, x, height, center, width, level):
    return height / (1 + ((x - center) / width) ** 2) + level


def sigmoid(xp, x, top, rate, middle, level):
    return top / (1 + xp.exp(-rate * (x - middle))) + level


def sine(xp, x, a, frequency, phase, level):
    return a * xp.sin(frequency * x + phase) + level


def cubic(xp, x, a, b, c, d):
    return a + x * (b + x * (c + x * d))


FAMILIES = (
    Family("decay", decay, (1, 0.5, -1), (5, 2, 1), (0, 4)),
    Family("two decays", two_decays, (1, 0.2, 1, 2), (3, 0.5, 3, 5), (0, 5), 0.2),
    Family("gaussian", gaussian, (1, 3, 0.5, -1), (5, 7, 2, 1), (0, 10)),
    Family("lorentzian", lorentzian, (1, 3, 0.5, -1), (5, 7, 2, 1), (0, 10)),
    Family("sigmoid", sigmoid, (1, 0.8, 4, -1), (5, 3, 6, 1), (0, 10)),
    Family("power law", power_law, (0.5, -1.5), (5, 2.5), (0.5, 5)),
    Family("sine", sine, (1, 1, 0.5, -1), (5, 3, 2.5, 1), (0, 6), 0.05),
    Family("cubic", cubic, (-5, -5, -2, -1), (5, 5, 2, 1), (-3, 3)),
    Family("Michaelis-Menten", michaelis_menten, (1, 0.5), (10, 5), (0, 10)),
)


@dataclass(frozen=True)
class CurveProblem:
    """The arguments of `curve_fit` but for the model, and what they are made from."""

    name: str
    family: Family
    x: np.ndarray
    y: np.ndarray
    start: np.ndarray
    sigma: np.ndarray | None
    absolute_sigma: bool
    bounds: tuple[np.ndarray, np.ndarray] | None

    @property
    def options(self) -> dict[str, Any]:
        """The keywords that both libraries take."""
        out: dict[str, Any] = {"p0": self.start, "sigma": self.sigma}
        if self.bounds is not None:
            out["bounds"] = self.bounds
        return {**out, "absolute_sigma": self.absolute_sigma}


def curve_problem(k: int) -> CurveProblem:
    """Problem number k; the family is k's turn, the rest is drawn."""
    family = FAMILIES[k % len(FAMILIES)]
    rng = np.random.default_rng([2024, k])
    true = rng.uniform(family.lower, family.upper)
    x = np.sort(rng.uniform(*family.x, POINTS))
    clean = family.numpy(x, *true)
    noise = np.ptp(clean) * 10 ** rng.uniform(-3, -1)
    kinds = ["relative", "absolute", "none"]
    bounded = rng.uniform() < 0.5
    kind = rng.choice(kinds[:2] if bounded else kinds)
    sigma = None if kind == "none" else noise * rng.uniform(0.5, 2.0, POINTS)
    y = clean + (noise if sigma is None else sigma) * rng.standard_normal(POINTS)
    if kind == "relative":
        sigma = sigma / noise
    start = true * (1 + family.off * rng.uniform(-1, 1, true.size))
    bounds = None
    if bounded:
        bounds = box(rng, true)
        start = np.clip(start, *bounds)
    return CurveProblem(
        f"{family.name} {k}", family, x, y, start, sigma, kind == "absolute", bounds
    )


def box(rng, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds around the true parameters; of each third box one cuts them off."""
    room = 0.5 + np.abs(true) * rng.uniform(0.5, 2.0, (2, true.size))
    lower, upper = true - room[0], true + room[1]
    if rng.uniform() < 1 / 3:
        i = rng.integers(true.size)
        upper[i] = true[i] - 0.05 * abs(true[i])
    return lower, upper
