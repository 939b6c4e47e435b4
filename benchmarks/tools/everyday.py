"""Everyday models in anybody's units, from starts as users write them: a table of runs.

A model has one set of data, a truth plus 1% to 2% of noise; a run is that data in other
units, with a start and with or without bounds at 0. All runs of a model are therefore
the same problem, and are judged in the units in which it was made.
"""

import functools
import itertools
import zlib
from collections.abc import Callable
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


POINTS = 50
# Units of y and of x. A model that knows its x in one unit only (a power law's constant
# has a unit that depends on its exponent) stays in that one.
UNITS = ((1.0, 1.0), (1e-18, 1e-6), (1e-9, 1.0), (1e8, 1e9), (1e16, 1.0))
STARTS = ("ones", "3 x truth", "1e-9 x truth")


@dataclass(frozen=True)
class Everyday(Curve):
    """A curve with a truth and its units.

    A parameter has the units y^i x^j of its entry in `powers`; `ends` are the first
    and last x, and `x_units` tells whether x may have other units.
    """

    truth: tuple[float, ...]
    powers: tuple[tuple[int, int], ...]
    ends: tuple[float, float]
    noise: float = 0.01
    x_units: bool = True
    spaced: Callable = np.linspace

    @functools.cached_property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y in the units of the truth."""
        x = self.spaced(*self.ends, POINTS)
        y = self.numpy(x, *self.truth)
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        return x, y + self.noise * np.abs(y).max() * rng.standard_normal(POINTS)


@dataclass(frozen=True)
class Run:
    """A model's data in units of y and x, a start and perhaps bounds at 0."""

    of: Everyday
    units: tuple[float, float]
    start: str
    bounded: bool

    @property
    def name(self) -> str:
        y, x = self.units
        limits = "bounds at 0" if self.bounded else "no bounds"
        return f"{self.of.name}, y in {y:g}, x in {x:g}, {self.start}, {limits}"

    @property
    def scale(self) -> np.ndarray:
        """What each parameter of the truth is multiplied by in these units."""
        y, x = self.units
        return np.array([y**i * x**j for i, j in self.of.powers])

    @property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        (x, y), (y_unit, x_unit) = self.of.data, self.units
        return x * x_unit, y * y_unit

    @property
    def p0(self) -> np.ndarray:
        """The start in these units; ones are ones in any unit."""
        truth = np.array(self.of.truth) * self.scale
        if self.start == "ones":
            return np.ones(truth.size)
        return truth * (3.0 if self.start == "3 x truth" else 1e-9)

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0 if self.bounded else -np.inf), np.inf


def runs(only: str | None = None) -> list[Run]:
    """All of them, or those of the models whose name has `only` in it."""
    found = []
    for of in MODELS:
        if only is not None and only not in of.name:
            continue
        units = UNITS if of.x_units else dict.fromkeys((y, 1.0) for y, _ in UNITS)
        table = itertools.product(units, STARTS, (False, True))
        found += [Run(of, *one) for one in table]
    return found


def lifetime(xp: Any, x, a, tau):
    return a * xp.exp(-x / tau)


def charging(xp: Any, x, a, tau):
    return a * (1 - xp.exp(-x / tau))


def lorentzian(xp: Any, x, a, centre, width, c):
    return a * width**2 / ((x - centre) ** 2 + width**2) + c


def with_background(xp: Any, x, a, b, c):
    return a * x / (b + x) + c


def langmuir(xp: Any, x, q, k):
    return q * k * x / (1 + k * x)


def logistic(xp: Any, x, a, centre, width):
    return a / (1 + xp.exp(-(x - centre) / width))


def dose_response(xp: Any, x, bottom, top, half, slope):
    return bottom + (top - bottom) / (1 + (x / half) ** slope)


def damped_sine(xp: Any, x, a, b, w, phase):
    return a * xp.exp(-b * x) * xp.sin(w * x + phase)


def line(xp: Any, x, slope, intercept):
    return slope * x + intercept


def arrhenius(xp: Any, x, a, t):
    return a * xp.exp(-t / x)


def gompertz(xp: Any, x, a, b, c):
    return a * xp.exp(-b * xp.exp(-c * x))


def impedance(xp: Any, x, r, c, series):
    return series + r / xp.sqrt(1 + (x * r * c) ** 2)


def light_curve(xp: Any, x, a, t0, fall, rise, c):
    return a * xp.exp(-(x - t0) / fall) / (1 + xp.exp(-(x - t0) / rise)) + c


def stretched(xp: Any, x, a, tau, beta):
    return a * xp.exp(-((x / tau) ** beta))


def planck(xp: Any, x, a, b):
    return a * x**3 / xp.expm1(b * x)


def diode(xp: Any, x, saturation, thermal):
    return saturation * xp.expm1(x / thermal)


Y, X, RATE, PURE, SLOPE = (1, 0), (0, 1), (0, -1), (0, 0), (1, -1)

MODELS = (
    Everyday("decay", decay, (5.0, 0.7, 1.0), (Y, RATE, Y), (0.0, 8.0)),
    Everyday(
        "two decays", two_decays, (3.0, 2.0, 1.5, 0.3), (Y, RATE, Y, RATE), (0.0, 8.0)
    ),
    Everyday("lifetime", lifetime, (4.0, 2.5), (Y, X), (0.0, 10.0), 0.02),
    Everyday("charging", charging, (4.0, 2.5), (Y, X), (0.0, 10.0)),
    Everyday("gaussian", gaussian, (5.0, 2.0, 1.2, 1.0), (Y, X, X, Y), (0.0, 6.0)),
    Everyday(
        "lorentzian", lorentzian, (5.0, 2.0, 1.2, 1.0), (Y, X, X, Y), (0.0, 6.0), 0.02
    ),
    Everyday("michaelis menten", michaelis_menten, (5.0, 2.0), (Y, X), (0.1, 10.0)),
    Everyday(
        "with background", with_background, (5.0, 2.0, 1.0), (Y, X, Y), (0.1, 10.0)
    ),
    Everyday("langmuir", langmuir, (6.0, 0.4), (Y, RATE), (0.1, 10.0), 0.02),
    Everyday("logistic", logistic, (4.0, 5.0, 0.9), (Y, X, X), (0.0, 10.0)),
    Everyday(
        "dose response",
        dose_response,
        (4.0, 0.5, 2.0, 1.5),
        (Y, Y, X, PURE),
        (0.05, 50.0),
        spaced=np.geomspace,
    ),
    Everyday("power law", power_law, (2.0, 1.5), (Y, PURE), (0.5, 10.0), x_units=False),
    Everyday(
        "damped sine",
        damped_sine,
        (3.0, 0.25, 2.0, 0.5),
        (Y, RATE, RATE, PURE),
        (0.0, 10.0),
        0.02,
    ),
    Everyday("line", line, (2.0, 3.0), (SLOPE, Y), (0.0, 10.0), 0.02),
    Everyday("arrhenius", arrhenius, (8.0, 3.0), (Y, X), (0.5, 4.0)),
    Everyday("gompertz", gompertz, (6.0, 4.0, 0.8), (Y, PURE, RATE), (0.0, 8.0)),
    Everyday(
        "impedance",
        impedance,
        (5.0, 0.3, 1.0),
        (Y, (-1, -1), Y),
        (0.05, 20.0),
        spaced=np.geomspace,
    ),
    Everyday(
        "light curve",
        light_curve,
        (4.0, 3.0, 4.0, 0.6, 0.5),
        (Y, X, X, X, Y),
        (0.0, 20.0),
    ),
    Everyday("stretched", stretched, (4.0, 2.0, 0.6), (Y, X, PURE), (0.01, 10.0)),
    Everyday("planck", planck, (2.0, 1.2), ((1, -3), RATE), (0.1, 10.0)),
    Everyday("diode", diode, (0.05, 0.4), (Y, X), (0.0, 2.0)),
)
