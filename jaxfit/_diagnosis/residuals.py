"""Analysers of the residuals: outliers, influence, unequal noise, structure.

Thresholds of tests are p-values of 1e-3 or below, so that of a thousand healthy fits
one is called ill. See `diagnose` for what an analyser is.
"""

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from jax.scipy.special import betainc, gammainc, gammaincc

from .._programs.program import program
from .._uncertainty.weighted_rows import MAD
from .checkup import Checkup
from .findings import INFO, WARNING, Finding
from .goodness import lag, normality, runs


_RARE = 1e-3


def outliers(c: Checkup) -> Iterator[Finding]:
    """Are there data that the noise of the others does not explain?"""
    m = len(c.residual)
    if c.is_exact or c.dof < 3:
        return
    size = np.abs(c.residual) / np.sqrt(1 - c.hat)
    # The median of what few parameters were fitted to is too small by sqrt(m / dof).
    middle = MAD * np.median(np.abs(c.residual)) * np.sqrt(m / c.dof)
    if not middle > 0:
        return
    # The last factor is simulated, of polynomials fitted to 7 to 600 normal numbers.
    limit = -NormalDist().inv_cdf(0.5 * _RARE / m) * (1 + 10 / c.dof)
    far = np.flatnonzero(size > limit * middle)
    if far.size:
        data = tuple(int(c.where[i]) for i in far)
        worst = float(size.max() / middle)
        shown = ", ".join(map(str, data[:8])) + (", ..." if len(data) > 8 else "")
        yield Finding(
            "outliers",
            INFO if c.is_robust else WARNING,
            f"{len(data)} of {m} residuals lie beyond {limit:.2g} deviations (at "
            f"{shown}), the farthest {worst:.3g}",
            "Look at them. A robust loss (loss='soft_l1', f_scale at the noise) and "
            "the sandwich covariance live with them.",
            data=data,
        )


def influences(c: Checkup) -> Iterator[Finding]:
    """Does a single datum decide?"""
    if c.dof < 3 or c.is_exact:
        return
    variance = float(c.weighted @ c.weighted) / c.dof
    k = max(int(c.free.sum()), 1)
    t2 = c.weighted**2 / (1 - c.hat) / variance
    cook = t2 * c.hat / (1 - c.hat) / k
    far = np.flatnonzero(cook > 1)
    if far.size:
        data = tuple(int(c.where[i]) for i in far)
        # In few data one at an end moves the fit that far in one fit of ten: is it
        # farther from the fit without it than noise explains, by Student's t?
        left = np.maximum(1 - t2[far] / c.dof, 0)
        p = float(np.min(betainc((c.dof - 1) / 2, 0.5, left)))
        yield Finding(
            "influential-data",
            WARNING if p < _RARE / len(cook) else INFO,
            f"without the datum {data[int(np.argmax(cook[far]))]} the fit would move "
            f"by more than its errors (Cook's distance {cook.max():.3g})",
            "See jaxfit.influence for how; more data near it would help.",
            data=data,
        )
    alone = np.flatnonzero(c.hat > 0.95)
    if alone.size:
        data = tuple(int(c.where[i]) for i in alone)
        yield Finding(
            "high-leverage",
            INFO,
            f"the fit goes through the data {', '.join(map(str, data[:8]))} whatever "
            "their value (leverage above 0.95)",
            "Their errors cannot be seen in the residuals.",
            data=data,
        )


def weights(c: Checkup) -> Iterator[Finding]:
    """Does the noise have the size, and everywhere the same size, that is supposed?"""
    if c.is_exact or c.dof < 1:
        return
    if c.noise == "known":
        seen, over, under = _size_of_noise(c)
        if over < 1e-4:
            yield Finding(
                "noise-underestimated",
                WARNING,
                f"{seen} (p = {over:.2g})",
                "sigma is too small or the model is wrong: see the other findings, or "
                "estimate the noise.",
            )
        if under < 1e-4:
            yield Finding(
                "noise-overestimated",
                WARNING,
                f"{seen} (p = {under:.2g})",
                "sigma is too large, or data were smoothed: errors are too large too.",
            )
    if c.dof < 8:
        return
    tried = {"the order of the data": np.arange(len(c.residual), dtype=float)}
    if c.fitted is not None:
        tried["the size of the model"] = np.abs(c.fitted)
    size = _ranks(c.residual**2 / (1 - c.hat)) ** 2
    for what, along in tried.items():
        if not np.ptp(along) > 1e-9 * np.abs(along).max(initial=0):
            continue
        # Squares of ranks (Mood 1954) are bounded: neither an outlier nor a datum
        # where the model is far larger than elsewhere decides.
        share = float(np.corrcoef(along, size)[0, 1])
        p = math.erfc(abs(share) * math.sqrt((len(size) - 1) / 2))
        if p < _RARE:
            yield Finding(
                "wrong-weights",
                WARNING,
                f"residuals {'grow' if share > 0 else 'shrink'} with {what} "
                f"(p = {p:.2g})",
                "Give sigma for each datum; until then the sandwich covariance or a "
                "wild bootstrap is right where standard errors are not.",
            )
            return


def _size_of_noise(c: Checkup) -> tuple[str, float, float]:
    """Of residuals in their deviations: in words, and p of one larger and smaller."""
    if c.is_robust:
        # Outliers are allowed for: how many lie beyond the middle of normal ones?
        size = np.abs(c.residual) / np.sqrt(1 - c.hat)
        m, beyond = len(size), int(np.sum(size > 0.6744897501960817))
        z = (2 * beyond - m) / math.sqrt(2 * m)
        words = f"{beyond} of {m} residuals lie beyond 0.67 deviations, not half"
        return words, math.erfc(z) / 2, math.erfc(-z) / 2
    chi2 = float(c.residual @ c.residual)
    words = f"reduced chi2 is {chi2 / c.dof:.3g} of {c.dof} degrees of freedom"
    tail = float(gammaincc(c.dof / 2, chi2 / 2)), float(gammainc(c.dof / 2, chi2 / 2))
    return words, *tail


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, equal values sharing the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def structure(c: Checkup) -> Iterator[Finding]:
    """Do residuals look like noise?"""
    if c.is_exact or c.dof < 8:
        return
    # To a power of two: one program for data of many sizes.
    m = len(c.residual)
    more = 2 ** (m - 1).bit_length() - m
    r, influence = (np.pad(a, (0, more)) for a in (c.residual, c.influence))
    tests = _tests_of(r, influence, np.arange(m + more) < m)
    z, p_runs, value, p_lag, k2, p_normal = map(float, tests)
    few, follows = z < 0 and p_runs < _RARE, value > 0 and p_lag < _RARE
    if few or follows:
        seen = f"runs of one sign: z = {z:.3g}" if few else f"lag 1: {value:.3g}"
        p = p_runs if few else p_lag
        yield Finding(
            "structured-residuals",
            WARNING,
            f"neighbouring residuals are alike ({seen}, p = {p:.2g})",
            "The model misses something, or the noise is correlated: errors are too "
            "small. Plot the residuals.",
        )
    if p_normal < _RARE:
        yield Finding(
            "non-normal-residuals",
            INFO,
            f"skewness and kurtosis are not those of normal noise (K2 = {k2:.3g}, "
            f"p = {p_normal:.2g})",
            "Standard errors hold for many data all the same; intervals of few data "
            "and chi2 do not. See outliers, if there are any.",
        )


@program
def _tests_of(residual, influence, used):
    """Statistics and p-values of runs, lag and normality."""
    return *runs(residual, used), *lag(influence, used), *normality(residual, used)
