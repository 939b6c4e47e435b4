"""Least squares problems shared by the tests and the benchmarks.

References, as cited in the docstrings below:

* MGH k: problem k of More, Garbow, Hillstrom, "Testing unconstrained optimization
  software", ACM TOMS 7 (1981) 17-41.
* HS k: problem k of Hock, Schittkowski, "Test examples for nonlinear programming
  codes", Springer LNEMS 187 (1981).
* NIST: Statistical Reference Datasets, nonlinear regression.
* Nielsen: "UCTP - test problems for unconstrained optimization", IMM-REP-2000-17.
* Gay: "A trust-region approach to linearly constrained optimization", LNM 1066 (1984),
  the source of the boxes put around some MGH problems.

Every residual is traceable and works in the dtype of its argument.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax import Array


INF = np.inf


@dataclass(frozen=True, eq=False)
class Case:
    """One problem: minimise ``0.5 * sum(loss(residual(x)))`` over a box.

    ``x0`` is the standard start (it may lie on a bound). Bounds are broadcast to its
    shape. ``cost`` is the known minimal cost if the standard start leads there, else
    None; for bounds of our own it is given where it follows by hand. At tolerances of
    1e-8 SciPy meets it to rtol 1e-6, atol 1e-9 (``beale_degenerate``: 1.1e-10).
    """

    name: str
    residual: Callable[[Array], Array]
    x0: np.ndarray
    lower: np.ndarray = field(default_factory=lambda: np.array(-INF))
    upper: np.ndarray = field(default_factory=lambda: np.array(INF))
    loss: str = "linear"
    f_scale: float = 1.0
    cost: float | None = None

    def __post_init__(self) -> None:
        x0 = np.array(self.x0, dtype=np.float64)
        object.__setattr__(self, "x0", x0)
        for key in ("lower", "upper"):
            bound = np.asarray(getattr(self, key), dtype=np.float64)
            object.__setattr__(self, key, np.broadcast_to(bound, x0.shape).copy())
        if not (np.all(self.lower <= x0) and np.all(x0 <= self.upper)):
            raise ValueError(f"{self.name}: x0 lies outside the bounds")

    def __repr__(self) -> str:
        return f"Case({self.name})"

    @property
    def bounded(self) -> bool:
        """Whether any bound is finite."""
        return bool(np.isfinite(self.lower).any() or np.isfinite(self.upper).any())

    def start(self, factor: float = 1.0) -> np.ndarray:
        """Return ``factor * x0``; entries not strictly inside are moved inside.

        The distance to the bound is then 1e-3 of the width of the interval, or of
        ``max(1, abs(bound))`` where only one side is bounded. Zeros stay zero.
        """
        x, low, upp = factor * self.x0, self.lower, self.upper
        with np.errstate(invalid="ignore"):
            both = np.isfinite(low) & np.isfinite(upp)
            width = np.where(both, upp - low, INF)
            gap_low = 1e-3 * np.where(both, width, np.maximum(1.0, np.abs(low)))
            gap_upp = 1e-3 * np.where(both, width, np.maximum(1.0, np.abs(upp)))
            x = np.where(x <= low, low + gap_low, x)
            return np.where(x >= upp, upp - gap_upp, x)


CASES: list[Case] = []


def _add(
    name: str,
    residual: Callable[[Array], Array],
    x0: Any,
    cost: float | None = None,
    *,
    lower: Any = -INF,
    upper: Any = INF,
    loss: str = "linear",
    f_scale: float = 1.0,
) -> None:
    CASES.append(Case(name, residual, x0, lower, upper, loss, f_scale, cost))


def _as(data: Any, x: Array) -> Array:
    """Return the data as an array with the dtype of ``x``."""
    return jnp.asarray(data, dtype=x.dtype)


def _upto(m: int) -> np.ndarray:
    """Return 1, 2, ..., m as float64."""
    return np.arange(1.0, m + 1.0)


# --- Residuals: small classic problems -------------------------------------------


def rosenbrock(x: Array) -> Array:
    """MGH 1, and MGH 21 (extended) for even n > 2."""
    odd, even = x[0::2], x[1::2]
    return jnp.concatenate([10.0 * (even - odd**2), 1.0 - odd])


def freudenstein_roth(x: Array) -> Array:
    """MGH 2; its local minimum has cost 24.492127, the global one 0."""
    a, b = x
    return jnp.stack(
        [a - 13.0 + ((5.0 - b) * b - 2.0) * b, a - 29.0 + ((b + 1.0) * b - 14.0) * b]
    )


def powell_badly_scaled(x: Array) -> Array:
    """MGH 3."""
    return jnp.stack([1e4 * x[0] * x[1] - 1.0, jnp.exp(-x).sum() - 1.0001])


def brown_badly_scaled(x: Array) -> Array:
    """MGH 4."""
    return jnp.stack([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2.0])


def beale(x: Array) -> Array:
    """MGH 5."""
    return _as([1.5, 2.25, 2.625], x) - x[0] * (1.0 - x[1] ** _as(_upto(3), x))


def jennrich_sampson(x: Array) -> Array:
    """MGH 6 with m = 10."""
    i = _as(_upto(10), x)
    return 2.0 + 2.0 * i - (jnp.exp(i * x[0]) + jnp.exp(i * x[1]))


def helical_valley(x: Array) -> Array:
    """MGH 7; the angle is smooth away from x[0] = 0, also at the start."""
    left = x[0] < 0.0
    sign = jnp.where(left, -1.0, 1.0).astype(x.dtype)
    angle = jnp.arctan2(sign * x[1], sign * x[0]) / (2.0 * np.pi)
    angle = angle + jnp.where(left, 0.5, 0.0).astype(x.dtype)
    radius = jnp.sqrt(x[0] ** 2 + x[1] ** 2)
    return jnp.stack([10.0 * (x[2] - 10.0 * angle), 10.0 * (radius - 1.0), x[2]])


BARD = "14 18 22 25 29 32 35 39 37 58 73 96 134 210 439"
BARD_Y = np.array(BARD.split(), dtype=np.float64) / 100.0


def bard(x: Array) -> Array:
    """MGH 8."""
    u = _upto(15)
    v = 16.0 - u
    w = _as(np.minimum(u, v), x)
    return _as(BARD_Y, x) - (x[0] + _as(u, x) / (_as(v, x) * x[1] + w * x[2]))


GAUSSIAN_HALF = np.array([0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521])
GAUSSIAN_Y = np.concatenate([GAUSSIAN_HALF, [0.3989], GAUSSIAN_HALF[::-1]])


def gaussian(x: Array) -> Array:
    """MGH 9."""
    t = _as((8.0 - _upto(15)) / 2.0, x)
    return x[0] * jnp.exp(-x[1] * (t - x[2]) ** 2 / 2.0) - _as(GAUSSIAN_Y, x)


MEYER = (
    "34780 28610 23650 19630 16370 13720 11540 9744 "
    "8261 7030 6005 5147 4427 3820 3307 2872"
)
MEYER_Y = np.array(MEYER.split(), dtype=np.float64)


def meyer(x: Array) -> Array:
    """MGH 10 (NIST MGH10): resistance of a thermistor."""
    t = _as(45.0 + 5.0 * _upto(16), x)
    return x[0] * jnp.exp(x[1] / (t + x[2])) - _as(MEYER_Y, x)


def meyer_scaled(x: Array) -> Array:
    """Nielsen: MGH 10 with parameters near 1 and residuals scaled by 1e-3."""
    t = _as(0.45 + 0.05 * _upto(16), x)
    return x[0] * jnp.exp(10.0 * x[1] / (t + x[2]) - 13.0) - _as(1e-3 * MEYER_Y, x)


def gulf(x: Array) -> Array:
    """MGH 11 with m = 99 (misprint of the article corrected), also HS 25."""
    t = _upto(99) / 100.0
    y = _as(25.0 + (-50.0 * np.log(t)) ** (2.0 / 3.0), x)
    return jnp.exp(-(jnp.abs(y - x[1]) ** x[2]) / x[0]) - _as(t, x)


def box_3d(x: Array) -> Array:
    """MGH 12 with m = 10."""
    t = 0.1 * _upto(10)
    shape = _as(np.exp(-t) - np.exp(-10.0 * t), x)
    t = _as(t, x)
    return jnp.exp(-t * x[0]) - jnp.exp(-t * x[1]) - x[2] * shape


def powell_singular(x: Array) -> Array:
    """MGH 13, and MGH 22 (extended) for n > 4; singular Jacobian at the solution."""
    a, b, c, d = x.reshape(-1, 4).T
    parts = [a + 10.0 * b, 5.0**0.5 * (c - d), (b - 2.0 * c) ** 2]
    return jnp.concatenate([*parts, 10.0**0.5 * (a - d) ** 2])


def wood(x: Array) -> Array:
    """MGH 14, also HS 38."""
    a, b, c, d = x
    parts = [10.0 * (b - a**2), 1.0 - a, 90.0**0.5 * (d - c**2), 1.0 - c]
    return jnp.stack([*parts, 10.0**0.5 * (b + d - 2.0), (b - d) / 10.0**0.5])


KOWALIK = "1957 1947 1735 1600 844 627 456 342 323 235 246"
KOWALIK_Y = np.array(KOWALIK.split(), dtype=np.float64) / 1e4
KOWALIK_U = np.array(
    [4.0, 2.0, 1.0, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625]
)


def kowalik_osborne(x: Array) -> Array:
    """MGH 15 (NIST MGH09): an enzyme reaction."""
    u = _as(KOWALIK_U, x)
    return _as(KOWALIK_Y, x) - x[0] * u * (u + x[1]) / (u * (u + x[2]) + x[3])


def brown_dennis(x: Array) -> Array:
    """MGH 16 with m = 20."""
    t = _upto(20) / 5.0
    first = x[0] + _as(t, x) * x[1] - _as(np.exp(t), x)
    second = x[2] + x[3] * _as(np.sin(t), x) - _as(np.cos(t), x)
    return first**2 + second**2


OSBORNE1 = (
    "844 908 932 936 925 908 881 850 818 784 751 718 685 658 628 603 580 "
    "558 538 522 506 490 478 467 457 448 438 431 424 420 414 411 406"
)
OSBORNE1_Y = np.array(OSBORNE1.split(), dtype=np.float64) / 1e3


def osborne_1_model(x: Array) -> Array:
    """Model of MGH 17: two exponentials and a constant."""
    t = _as(10.0 * np.arange(33.0), x)
    return x[0] + x[1] * jnp.exp(-t * x[3]) + x[2] * jnp.exp(-t * x[4])


def osborne_1(x: Array) -> Array:
    """MGH 17 (NIST MGH17)."""
    return _as(OSBORNE1_Y, x) - osborne_1_model(x)


def biggs_exp6(x: Array) -> Array:
    """MGH 18 with m = 13; a second minimum has cost 2.8278e-3."""
    t = 0.1 * _upto(13)
    y = _as(np.exp(-t) - 5.0 * np.exp(-10.0 * t) + 3.0 * np.exp(-4.0 * t), x)
    t = _as(t, x)
    model = x[2] * jnp.exp(-t * x[0]) - x[3] * jnp.exp(-t * x[1])
    return model + x[5] * jnp.exp(-t * x[4]) - y


OSBORNE2 = (
    "1366 1191 1112 1013 991 885 831 847 786 725 746 679 608 655 616 606 602 626 "
    "651 724 649 649 694 644 624 661 612 558 533 495 500 423 395 375 372 391 396 "
    "405 428 429 523 562 607 653 672 708 633 668 645 632 591 559 597 625 739 710 "
    "729 720 636 581 428 292 162 98 54"
)
OSBORNE2_Y = np.array(OSBORNE2.split(), dtype=np.float64) / 1e3


def osborne_2(x: Array) -> Array:
    """MGH 19: an exponential and three Gaussian peaks."""
    t = _as(np.arange(65.0) / 10.0, x)[:, None]
    peaks = x[1:4] * jnp.exp(-x[5:8] * (t - x[8:11]) ** 2)
    decay = x[0] * jnp.exp(-t[:, 0] * x[4])
    return _as(OSBORNE2_Y, x) - (decay + peaks.sum(axis=1))


# --- Residuals: problems of variable size ----------------------------------------


def watson(x: Array) -> Array:
    """MGH 20."""
    t = (_upto(29) / 29.0)[:, None]
    j = np.arange(float(x.size))
    value = _as(t**j, x) @ x
    slope = _as(j[1:] * t ** (j[1:] - 1.0), x) @ x[1:]
    tail = jnp.stack([x[0], x[1] - x[0] ** 2 - 1.0])
    return jnp.concatenate([slope - value**2 - 1.0, tail])


def penalty_1(x: Array) -> Array:
    """MGH 23."""
    last = jnp.sum(x**2)[None] - 0.25
    return jnp.concatenate([1e-5**0.5 * (x - 1.0), last])


def variably_dimensioned(x: Array) -> Array:
    """MGH 25."""
    s = jnp.dot(_as(_upto(x.size), x), x - 1.0)
    return jnp.concatenate([x - 1.0, jnp.stack([s, s**2])])


def trigonometric(x: Array) -> Array:
    """MGH 26; next to cost 0 there is a local minimum of cost 1.39753e-5."""
    i = _as(_upto(x.size), x)
    return x.size - jnp.cos(x).sum() + i * (1.0 - jnp.cos(x)) - jnp.sin(x)


def brown_almost_linear(x: Array) -> Array:
    """MGH 27."""
    linear = x[:-1] + x.sum() - (x.size + 1.0)
    return jnp.concatenate([linear, jnp.prod(x)[None] - 1.0])


def discrete_boundary(x: Array) -> Array:
    """MGH 28."""
    h = 1.0 / (x.size + 1)
    cube = (x + _as(h * _upto(x.size), x) + 1.0) ** 3
    return 2.0 * x - jnp.pad(x, (1, 0))[:-1] - jnp.pad(x, (0, 1))[1:] + h**2 * cube / 2


def discrete_integral(x: Array) -> Array:
    """MGH 29."""
    h = 1.0 / (x.size + 1)
    t = h * _upto(x.size)
    cube = (x + _as(t, x) + 1.0) ** 3
    before = np.tril(np.outer(1.0 - t, t))
    after = np.triu(np.outer(t, 1.0 - t), 1)
    return x + h / 2.0 * (_as(before + after, x) @ cube)


def broyden_tridiagonal(x: Array) -> Array:
    """MGH 30."""
    left, right = jnp.pad(x, (1, 0))[:-1], jnp.pad(x, (0, 1))[1:]
    return (3.0 - 2.0 * x) * x - left - 2.0 * right + 1.0


def broyden_banded(x: Array) -> Array:
    """MGH 31."""
    ones = np.ones((x.size, x.size))
    band = np.tril(np.triu(ones, -5), 1) - np.eye(x.size)
    return x * (2.0 + 5.0 * x**2) + 1.0 - _as(band, x) @ (x * (1.0 + x))


def linear_full_rank(x: Array) -> Array:
    """MGH 32 with m = 2n; the Jacobian has orthonormal columns, solution -1."""
    return jnp.pad(x, (0, x.size)) - x.sum() / x.size - 1.0


def linear_rank_1(x: Array) -> Array:
    """MGH 33 with m = 2n."""
    return _as(_upto(2 * x.size), x) * jnp.dot(_as(_upto(x.size), x), x) - 1.0


def linear_rank_1_zero(x: Array) -> Array:
    """MGH 34 with m = 2n: rank 1 with zero columns and rows."""
    rows = np.pad(_upto(2 * x.size - 2), 1)
    rows[-1] = 0.0
    return _as(rows, x) * jnp.dot(_as(_upto(x.size), x)[1:-1], x[1:-1]) - 1.0


def chebyquad(x: Array) -> Array:
    """MGH 35 with m = n."""
    y = 2.0 * x - 1.0
    last, this = jnp.ones_like(x), y
    rows = []
    for i in range(1, x.size + 1):
        rows.append(this.mean() + (0.0 if i % 2 else 1.0 / (i**2 - 1.0)))
        last, this = this, 2.0 * y * this - last
    return jnp.stack(rows)


# --- Residuals: further problems -------------------------------------------------


def madsen(x: Array) -> Array:
    """Madsen's problem as in Nielsen, a residual that does not vanish."""
    return jnp.stack(
        [x[0] ** 2 + x[1] ** 2 + x[0] * x[1], jnp.sin(x[0]), jnp.cos(x[1])]
    )


def underdetermined(x: Array) -> Array:
    """Own problem with m = 2 < n = 4; a curve of zero residual solutions."""
    return jnp.stack([jnp.sum(x**2) - 4.0, x[0] * x[1] - x[2] + jnp.sin(x[3])])


def boxbod(x: Array) -> Array:
    """NIST BoxBOD: the first start lies on a plateau."""
    t, y = [1.0, 2.0, 3.0, 5.0, 7.0, 10.0], [109.0, 149.0, 149.0, 191.0, 213.0, 224.0]
    return _as(y, x) - x[0] * (1.0 - jnp.exp(-x[1] * _as(t, x)))


# --- Residuals with generated data -----------------------------------------------

_RNG = np.random.default_rng(20240607)
_T = np.linspace(0.0, 3.0, 40)
_OUT = np.arange(40) % 7 == 3


def _noisy(clean: np.ndarray, noise: float, outlier: float = 0.0) -> np.ndarray:
    """Return clean data plus noise; every seventh point is moved up or down."""
    shift = outlier * _RNG.choice([-1.0, 1.0, 1.0], size=clean.size)
    mask = np.resize(_OUT, clean.size)
    return clean + noise * _RNG.standard_normal(clean.size) + mask * shift


DECAY_Y = _noisy(2.5 * np.exp(-1.3 * _T) + 0.5, 0.02)
DECAY_OUT_Y = _noisy(2.5 * np.exp(-1.3 * _T) + 0.5, 0.05, 2.0)
SINE_OUT_Y = _noisy(2.0 * np.exp(-0.3 * _T) * np.sin(3.0 * _T), 0.05, 3.0)
LINE_OUT_Y = _noisy(1.0 - 2.0 * _T, 0.1, 5.0)
PEAK_OUT_Y = _noisy(1.5 * np.exp(-0.5 * ((_T - 1.4) / 0.3) ** 2) + 0.2, 0.03, 1.5)
LOGISTIC_OUT_Y = _noisy(3.0 / (1.0 + np.exp(-4.0 * (_T - 1.2))), 0.05, 2.0)
RATE_Y = _noisy(3.0 * _T / (0.6 + _T), 0.05)
OSBORNE1_OUT_Y = _noisy(OSBORNE1_Y, 0.0, 0.3)
NNLS_A = _RNG.standard_normal((20, 8))
NNLS_B = NNLS_A @ np.array([1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.0, 3.0]) + 0.1


def _decay(x: Array, data: np.ndarray) -> Array:
    """Return the residual of an exponential decay to a constant."""
    return x[0] * jnp.exp(-x[1] * _as(_T, x)) + x[2] - _as(data, x)


def decay(x: Array) -> Array:
    """Own data: an exponential and a constant."""
    return _decay(x, DECAY_Y)


def decay_outliers(x: Array) -> Array:
    """Own data: an exponential and a constant with outliers."""
    return _decay(x, DECAY_OUT_Y)


def sine_outliers(x: Array) -> Array:
    """Own data, after the robust fitting example of the SciPy cookbook."""
    t = _as(_T, x)
    return x[0] * jnp.exp(-x[1] * t) * jnp.sin(x[2] * t) - _as(SINE_OUT_Y, x)


def line_outliers(x: Array) -> Array:
    """Own data: a straight line with outliers."""
    return x[0] + x[1] * _as(_T, x) - _as(LINE_OUT_Y, x)


def peak_outliers(x: Array) -> Array:
    """Own data: a Gaussian peak on a constant with outliers."""
    z = (_as(_T, x) - x[1]) / x[2]
    return x[0] * jnp.exp(-0.5 * z**2) + x[3] - _as(PEAK_OUT_Y, x)


def logistic_outliers(x: Array) -> Array:
    """Own data: a logistic curve with outliers."""
    model = x[0] * jax.nn.sigmoid(x[1] * (_as(_T, x) - x[2]))
    return model - _as(LOGISTIC_OUT_Y, x)


def osborne_1_outliers(x: Array) -> Array:
    """MGH 17 with some data moved far off."""
    return _as(OSBORNE1_OUT_Y, x) - osborne_1_model(x)


def saturation(x: Array) -> Array:
    """Own data: Michaelis-Menten kinetics."""
    t = _as(_T, x)
    return x[0] * t / (x[1] + t) - _as(RATE_Y, x)


def nnls(x: Array) -> Array:
    """Own data: a linear problem for non-negative least squares."""
    return _as(NNLS_A, x) @ x - _as(NNLS_B, x)


# --- The collection: unbounded ---------------------------------------------------

_add("rosenbrock", rosenbrock, [-1.2, 1.0], 0.0)
_add("freudenstein_roth", freudenstein_roth, [0.5, -2.0])
_add("powell_badly_scaled", powell_badly_scaled, [0.0, 1.0], 0.0)
_add("brown_badly_scaled", brown_badly_scaled, [1.0, 1.0], 0.0)
_add("beale", beale, [1.0, 1.0], 0.0)
_add("jennrich_sampson", jennrich_sampson, [0.3, 0.4], 124.362182355615 / 2)
_add("helical_valley", helical_valley, [-1.0, 0.0, 0.0], 0.0)
_add("bard", bard, [1.0, 1.0, 1.0], 8.21487730657e-3 / 2)
_add("gaussian", gaussian, [0.4, 1.0, 0.0], 1.12793276961871e-8 / 2)
_add("meyer", meyer, [0.02, 4000.0, 250.0], 87.945855171 / 2)
_add("meyer_scaled", meyer_scaled, [8.85, 4.0, 2.5], 87.945855171e-6 / 2)
_add("gulf", gulf, [5.0, 2.5, 0.15], 0.0)
_add("box_3d", box_3d, [0.0, 10.0, 20.0], 0.0)
_add("powell_singular", powell_singular, [3.0, -1.0, 0.0, 1.0], 0.0)
_add("wood", wood, [-3.0, -1.0, -3.0, -1.0], 0.0)
_add("kowalik_osborne", kowalik_osborne, [0.25, 0.39, 0.415, 0.39], 3.0750560385e-4 / 2)
_add("brown_dennis", brown_dennis, [25.0, 5.0, -5.0, -1.0], 85822.2016263563 / 2)
_add("osborne_1", osborne_1, [0.5, 1.5, -1.0, 0.01, 0.02], 5.4648946975e-5 / 2)
_add("biggs_exp6", biggs_exp6, [1.0, 2.0, 1.0, 1.0, 1.0, 1.0], 0.0)
_OSBORNE2_X0 = [1.3, 0.65, 0.65, 0.7, 0.6, 3.0, 5.0, 7.0, 2.0, 4.5, 5.5]
_add("osborne_2", osborne_2, _OSBORNE2_X0, 4.01377362935e-2 / 2)
_add("watson_6", watson, np.zeros(6), 2.28767005355e-3 / 2)
_add("watson_9", watson, np.zeros(9), 1.39976013809e-6 / 2)
_add("rosenbrock_20", rosenbrock, np.tile([-1.2, 1.0], 10), 0.0)
_add("powell_singular_12", powell_singular, np.tile([3.0, -1.0, 0.0, 1.0], 3), 0.0)
_add("penalty_1", penalty_1, _upto(4), 2.24997750e-5 / 2)
_add("variably_dimensioned", variably_dimensioned, 1.0 - _upto(10) / 10.0, 0.0)
_add("trigonometric", trigonometric, np.full(10, 0.1))
_add("brown_almost_linear", brown_almost_linear, np.full(10, 0.5), 0.0)
_GRID = _upto(10) / 11.0
_add("discrete_boundary", discrete_boundary, _GRID * (_GRID - 1.0), 0.0)
_add("discrete_integral", discrete_integral, _GRID * (_GRID - 1.0), 0.0)
_add("broyden_tridiagonal", broyden_tridiagonal, -np.ones(10), 0.0)
_add("broyden_banded", broyden_banded, -np.ones(10), 0.0)
_add("linear_full_rank", linear_full_rank, np.ones(5), 5.0 / 2)
_add("linear_rank_1", linear_rank_1, np.ones(5), 90.0 / 42.0 / 2)
_add("linear_rank_1_zero", linear_rank_1_zero, np.ones(5), 124.0 / 34.0 / 2)
_add("chebyquad_7", chebyquad, _upto(7) / 8.0, 0.0)
_add("chebyquad_8", chebyquad, _upto(8) / 9.0, 3.51687372568e-3 / 2)
_add("madsen", madsen, [3.0, 1.0], 0.7731990 / 2)
_add("underdetermined", underdetermined, [1.0, 2.0, 3.0, 1.0], 0.0)
_add("boxbod", boxbod, [100.0, 0.75], 1.1680088766e3 / 2)
_add("decay", decay, [1.0, 0.5, 0.0])

# --- The collection: bounded -----------------------------------------------------

# Minimum at (0.5, 0.25), on the upper bound.
_add("rosenbrock_upper", rosenbrock, [-1.2, 1.0], 0.125, upper=[0.5, INF])
_TILED = np.tile([0.5, INF], 5)
_add("rosenbrock_10", rosenbrock, np.tile([-1.2, 1.0], 5), 0.625, upper=_TILED)
_add("hs_1", rosenbrock, [-2.0, 1.0], 0.0, lower=[-INF, -1.5])
# HS 2 starts at (-2, 1), which is infeasible and leads to the other local minimum.
_add("hs_2", rosenbrock, [2.0, 2.0], 0.0504261879 / 2, lower=[-INF, 1.5])
# The start of HS 25 lies on a bound, where the residual is nearly constant.
_add("hs_25", gulf, [100, 12.5, 3], 0.0, lower=[0.1, 0, 0], upper=[100, 25.6, 5])
_add("hs_38", wood, [-3.0, -1.0, -3.0, -1.0], 0.0, lower=-10.0, upper=10.0)
# The unbounded minimum (3, 0.5) lies on the bound: multiplier zero.
_add("beale_degenerate", beale, [1.0, 1.0], 0.0, lower=[0.6, 0.5], upper=[10.0, 100.0])
# Minimum in the corner (0.2, 0.2) of the box.
_COST = 2.0 * float(np.sum((1.0 + _upto(10) - np.exp(0.2 * _upto(10))) ** 2))
_add("jennrich_corner", jennrich_sampson, [0.1, 0.15], _COST, lower=-1.0, upper=0.2)
# Gay: the start (0, 10, 20) is clipped to a corner of the box.
_add("box_3d_gay", box_3d, [0, 9.5, 20], lower=[0, 5, 0], upper=[2, 9.5, 20])
# Gay: cost 88860.4798 / 2, which SciPy approaches linearly; 1e-6 above it at ftol 1e-8.
_LOW, _TOP = [-10.0, 0.0, -100.0, -20.0], [100.0, 15.0, 0.0, 0.2]
_add("brown_dennis_gay", brown_dennis, [25, 5, -5, -1], lower=_LOW, upper=_TOP)
_add("meyer_upper", meyer, [0.02, 4000.0, 250.0], lower=0.0, upper=[INF, INF, 340.0])
_KOWALIK_X0 = [0.25, 0.39, 0.415, 0.39]
_add("kowalik_box", kowalik_osborne, _KOWALIK_X0, lower=[0.2, 0, 0, 0], upper=0.42)
_OSB1_X0 = [0.5, 1.5, -1.0, 0.01, 0.02]
_TOP = [3.0, 3.0, 0.0, 0.1, 0.021]
_add("osborne_1_box", osborne_1, _OSB1_X0, lower=[0, 0, -3, 0, 0], upper=_TOP)
_add("chebyquad_8_box", chebyquad, _upto(8) / 9.0, lower=0.0, upper=0.9)
_add("broyden_tridiagonal_box", broyden_tridiagonal, np.full(10, -0.5), lower=-0.6)
# Two of five parameters stop at -0.5 instead of -1; the columns are orthonormal.
_add("linear_lower", linear_full_rank, np.ones(5), 2.75, lower=[-0.5, -0.5, -2, -2, -2])
_COST = 0.5 * float(scipy.optimize.nnls(NNLS_A, NNLS_B)[1]) ** 2
_add("nnls", nnls, np.ones(8), _COST, lower=0.0)
_add("decay_rate_cap", decay, [1.0, 0.5, 0.0], upper=[INF, 1.0, INF])
_add("saturation_near_bound", saturation, [1e-9, 1.0], lower=0.0, upper=[2.8, INF])
_add("underdetermined_box", underdetermined, [1, 1, 0.5, 0.1], 0.0, lower=0, upper=1.3)

# --- The collection: robust losses -----------------------------------------------

_add("rosenbrock_soft_l1", rosenbrock, [-1.2, 1.0], 0.0, loss="soft_l1", f_scale=0.5)
_add("rosenbrock_cauchy", rosenbrock, [-1.2, 1.0], 0.0, loss="cauchy", f_scale=10.0)
for _loss, _scale in (("soft_l1", 0.1), ("huber", 0.1), ("cauchy", 0.2), ("arctan", 1)):
    _add(f"decay_{_loss}", decay_outliers, [1, 0.5, 0], loss=_loss, f_scale=_scale)
_add("sine_soft_l1", sine_outliers, [1.0, 0.1, 2.5], loss="soft_l1", f_scale=0.1)
_add("line_huber", line_outliers, [1.0, 1.0], loss="huber", f_scale=0.3)
_add("osborne_1_soft_l1", osborne_1_outliers, _OSB1_X0, loss="soft_l1", f_scale=0.03)
# SciPy stops early here (status 3 or 4 at a large gradient); the minimum is 0.119678.
_add("osborne_1_huber", osborne_1_outliers, _OSB1_X0, loss="huber", f_scale=0.1)
_add(
    "decay_huber_box",
    decay_outliers,
    [1.0, 0.5, 0.1],
    lower=0.0,
    upper=[INF, 1.0, INF],
    loss="huber",
    f_scale=0.1,
)
_add(
    "peak_cauchy_box",
    peak_outliers,
    [1.0, 1.0, 0.5, 0.0],
    lower=[0.0, 0.0, 0.35, -1.0],
    upper=[5.0, 3.0, 2.0, 1.0],
    loss="cauchy",
    f_scale=0.1,
)
_add(
    "logistic_arctan_box",
    logistic_outliers,
    [2.0, 1.0, 1.0],
    lower=0.0,
    upper=[2.5, INF, INF],
    loss="arctan",
    f_scale=0.5,
)

# --- Starts without a usable reference -------------------------------------------

UNUSABLE_STARTS: set[tuple[str, float]] = {
    ("jennrich_sampson", 100.0),
    ("meyer_upper", 100.0),
}
"""Pairs (name, factor) of 1, 10, 100 at which SciPy itself cannot start.

jennrich_sampson: the residual is about e^400, its square overflows and the cost is inf
for all evaluations. meyer_upper: exp(4e5 / (t + 339.66)) overflows, the residual is not
finite and SciPy raises ValueError.

Some starts are usable but say little: the gradient vanishes at once for gulf at 100 and
logistic_arctan_box at 10 and 100; gulf at 10 is the solution; the Watson starts are
zero for all factors; many other far starts end in a poor local minimum or on a plateau.
"""


# --- SciPy as the reference ------------------------------------------------------


@cache
def _compiled(residual: Callable[[Array], Array]) -> tuple[Callable, Callable]:
    """Return the jitted residual and its Jacobian, once per residual."""
    return jax.jit(residual), jax.jit(jax.jacfwd(residual))


def scipy_solution(
    case: Case, factor: float = 1.0, **kwargs: Any
) -> scipy.optimize.OptimizeResult:
    """Solve the case in float64 with SciPy's TRF from ``case.start(factor)``."""
    fun, jac = _compiled(case.residual)
    options: dict[str, Any] = {
        "method": "trf",
        "jac": lambda x: np.asarray(jac(x)),
        "x_scale": "jac",
        "loss": case.loss,
        "f_scale": case.f_scale,
        **kwargs,
    }
    with jax.enable_x64(True), np.errstate(all="ignore"):
        return scipy.optimize.least_squares(
            lambda x: np.asarray(fun(x)),
            case.start(factor),
            bounds=(case.lower, case.upper),
            **options,
        )
