"""What can be wrong with a fit: one plain function for each thing to look at.

An analyser takes a `Checkup` and yields findings. Those of `ALWAYS` look at any fit,
those of `AT_A_MINIMUM` at one that converged to finite numbers. Thresholds of tests are
p-values of 1e-3 or below, so that of a thousand healthy fits one is called ill.
"""

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist

import jax
import numpy as np
from jax.scipy.special import betainc, gammainc, gammaincc

from ._checkup import Checkup
from ._evidence import MAD
from ._findings import Finding, Severity
from ._goodness import lag, normality, runs
from ._status import Status


Analyser = Callable[[Checkup], Iterator[Finding]]

_INFO, _WARNING, _ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR
_RARE = 1e-3


def convergence(c: Checkup) -> Iterator[Finding]:
    """Did it end well?"""
    status = int(c.solution.status)
    if status <= 0:
        yield Finding(
            "not-converged",
            _ERROR,
            f"the fit ended with {Status(status).name} after "
            f"{int(c.solution.num_steps)} steps: {Status(status).message}",
            "Errors and tests suppose a minimum. Start nearer, allow more steps, or "
            "look at the findings below for why.",
        )
    if not c.is_finite:
        yield Finding(
            "not-finite",
            _ERROR,
            "residuals or derivatives are not finite where the fit ended",
            "Give bounds that keep parameters where the model is defined, and mask "
            "data that are not finite.",
        )


def sensitivity(c: Checkup) -> Iterator[Finding]:
    """Do the residuals depend on each parameter, where it ended?"""
    if not c.is_finite:
        return
    # A start at 0 tells no size.
    size = np.maximum(np.abs(c.x), np.where(c.start == 0, 1, np.abs(c.start)))
    scale = np.linalg.norm(c.residual)
    if c.is_exact or scale == 0:
        scale = float(np.max(c.norms * size, initial=0))
    weak = c.free & (c.norms * size <= 1e-6 * scale)
    unused = np.zeros_like(weak)
    for i in np.flatnonzero(weak & (c.norms == 0)):
        unused[i] = not c.depends_on(int(i))
    if unused.any():
        names = c.named(unused)
        yield Finding(
            "unused-parameter",
            _ERROR,
            f"no residual depends on {', '.join(names)}",
            "Take it out of the model, or fix it by equal bounds.",
            names,
        )
    if (weak & ~unused).any():
        names = c.named(weak & ~unused)
        yield Finding(
            "vanishing-gradient",
            _ERROR,
            f"changing {', '.join(names)} by its own size moves the residuals by less "
            "than a millionth",
            "The fit has run, or was started, where the model is flat: start nearer "
            "to the data, or give bounds. Steps (floor, where) have no derivative.",
            names,
        )


def identifiability(c: Checkup) -> Iterator[Finding]:
    """Which combinations do the data not determine?"""
    if not c.is_finite or not c.singular_values.size:
        return
    null = _plainest(c.directions[c.rank :])
    null = null[np.sum(np.abs(null) > 0.01, axis=1) > 1]
    for direction, words in zip(null, c.in_words(null), strict=True):
        names = c.named(np.abs(direction) > 0.01)
        yield Finding(
            "not-identifiable",
            _ERROR,
            f"residuals stay the same along {words} (in scaled units)",
            "Only a combination of these is determined: fix all but one, or write the "
            "model in terms of the combination.",
            names,
        )


def _plainest(rows: np.ndarray) -> np.ndarray:
    """Rows that span the same space: each has a 1 where the others have none."""
    rows = rows.copy()
    for i in range(len(rows)):
        # The largest entry of the rest, so that none grows.
        k, j = np.unravel_index(np.argmax(np.abs(rows[i:])), rows[i:].shape)
        rows[[i, i + k]] = rows[[i + k, i]]
        rows[i] /= rows[i, j]
        others = np.arange(len(rows)) != i
        rows[others] -= np.outer(rows[others, j], rows[i])
    return rows


def bounds(c: Checkup) -> Iterator[Finding]:
    """Which parameters ended at a bound?"""
    if c.active.any():
        names = c.named(c.active)
        yield Finding(
            "bound-active",
            _WARNING,
            f"{', '.join(names)} ended at a bound",
            "Standard errors take it for known. If the bound is a guess, widen it; if "
            "it is physical, use profile intervals.",
            names,
        )


def freedom(c: Checkup) -> Iterator[Finding]:
    """Are there enough data?"""
    n = int((~c.fixed).sum())
    if c.dof <= 0:
        yield Finding(
            "no-degrees-of-freedom",
            _ERROR,
            f"{int(c.solution.num_rows)} residuals for {n} free parameters",
            "There is nothing to estimate the noise from: fix parameters, or give "
            "sigma and ask for known noise.",
        )
    elif c.noise == "unknown" and c.dof < max(3, n / 2):
        yield Finding(
            "few-data",
            _WARNING,
            f"only {c.dof} degrees of freedom for {n} free parameters",
            "The estimate of the noise is poor, and so are all errors: intervals need "
            "Student's t, and a simpler model may serve.",
        )


def stationarity(c: Checkup) -> Iterator[Finding]:
    """Is it at the minimum, as far as errors go?"""
    if c.is_exact or c.dof <= 0:
        return
    worst = float(c.offset.max(initial=0))
    if worst > 0.1:
        names = c.named(c.offset == worst)
        yield Finding(
            "not-stationary",
            _WARNING,
            f"the next step would move {names[0]} by {worst:.2g} of its error",
            "The fit stopped before the minimum: tighten ftol and xtol, or solve "
            "again from here.",
            names,
        )


def minimum(c: Checkup) -> Iterator[Finding]:
    """Is it a minimum, and is it as round as J'J says?"""
    if c.is_exact or not c.free.any():
        return
    h, norms = c.hessian[np.ix_(c.free, c.free)], c.norms[c.free]
    own = np.sqrt(np.abs(np.diag(h)))
    size = np.where(norms > 0, norms, np.where(own > 0, own, 1))
    unit = 1 / size
    h = h * np.outer(unit, unit)
    lam, basis = np.linalg.eigh(h)
    tiny = len(c.residual) * np.finfo(h.dtype).eps * abs(lam[-1])
    if lam[0] < -max(tiny, 1e-6 * abs(lam[-1])):
        direction = np.zeros(c.x.size)
        direction[c.free] = basis[:, 0]
        (words,) = c.in_words(direction[None])
        yield Finding(
            "not-a-minimum",
            _ERROR,
            f"the cost falls on both sides along {words}: a saddle",
            "Start elsewhere: the gradient is zero here, but this is no minimum.",
            c.named(np.abs(direction) > 0.1),
        )
        return
    if lam[0] <= tiny or c.rank < c.free.sum():
        return
    exact = np.sqrt(np.diag(np.linalg.inv(h))) * unit
    plain = np.sqrt(np.diag(c._inverse))
    ratio = exact / plain
    apart = np.maximum(ratio, 1 / ratio)
    worst = int(np.argmax(apart))
    name = c.names[np.flatnonzero(c.free)[worst]]
    if apart[worst] > 1.2:
        yield Finding(
            "strong-curvature",
            _WARNING if apart[worst] > 2 else _INFO,
            f"by the exact Hessian the error of {name} is {ratio[worst]:.2g} times "
            "that by J'J",
            "The model bends within its errors, or residuals are large: prefer "
            "profile intervals to standard errors.",
            (name,),
        )


def correlations(c: Checkup) -> Iterator[Finding]:
    """Which parameters trade off, and how sloppy is the model?"""
    if not c.is_finite or not c.singular_values.size:
        return
    together = np.abs(np.triu(np.nan_to_num(c.correlation), 1))
    pairs = np.argwhere(together > 0.999)
    if len(pairs):
        pairs = pairs[np.argsort(-together[tuple(pairs.T)], kind="stable")]
        shown = "; ".join(
            f"{c.names[i]} and {c.names[j]} {c.correlation[i, j]:+.6f}"
            for i, j in pairs[:4]
        )
        more = f", and {len(pairs) - 4} pairs more" if len(pairs) > 4 else ""
        yield Finding(
            "collinear",
            _WARNING,
            f"correlations beyond 0.999: {shown}{more}",
            "The data determine little but one combination of them: fix one, or "
            "choose parameters that do not trade off (a sum, a ratio, a centre).",
            tuple(c.names[i] for i in dict.fromkeys(pairs.ravel().tolist())),
        )
    if c.condition > 1e3 and c.rank == c.free.sum():
        stiff, sloppy = c.in_words(c.directions[[0, -1]])
        ratio = float((c.singular_values[0] / c.singular_values[-1]) ** 2)
        yield Finding(
            "sloppy",
            _INFO,
            f"eigenvalues of the scaled Fisher information span {ratio:.2g}: stiff "
            f"along {stiff}, sloppy along {sloppy}",
            "Predictions may be good where parameters are not: trust combinations, "
            "propagate with all correlations.",
            c.named(np.abs(c.directions[-1]) > 0.1),
        )


def parsimony(c: Checkup) -> Iterator[Finding]:
    """Are there more parameters than the data ask for?"""
    if c.dof <= 0 or c.is_exact:
        return
    known = c.free & np.isfinite(c.errors) & (c.errors > 0)
    z = np.where(known, np.abs(c.x) / np.where(known, c.errors, 1), np.inf)
    idle = False
    for i in np.flatnonzero(z < 4):
        empty, rise = c.without(int(i))
        # A term that is not there gains up to 9 at the place that suits noise best.
        if empty.any() and rise < 9:
            idle = True
            others = c.named(empty)
            yield Finding(
                "over-parameterised",
                _WARNING,
                f"{c.names[i]} may be 0, as chi2 would rise by {rise:.2g} variances of "
                f"the noise, and nothing would depend on {', '.join(others)} then",
                "The term may not be there: fit without it, and compare by BIC.",
                (c.names[i], *others),
            )
    group = _zero_together(c, np.flatnonzero(z < 2))
    if not idle and len(group) > 1:
        strong = float(np.abs(np.triu(c.correlation[np.ix_(group, group)], 1)).max())
        if strong > 0.9:
            names = tuple(c.names[i] for i in group)
            yield Finding(
                "over-parameterised",
                _WARNING,
                f"{', '.join(names)} cannot be told from 0 together, with correlations "
                f"up to {strong:.4f}",
                "Fewer terms may fit as well: compare by jaxfit.compare_models or BIC.",
                names,
            )


def _zero_together(c: Checkup, group: np.ndarray) -> np.ndarray:
    """Those of a group of parameters that may all be 0 at once, by Wald's test."""
    z = c.x / np.where(c.errors > 0, c.errors, 1)
    while len(group) > 1:
        inverse = np.linalg.pinv(c.correlation[np.ix_(group, group)], hermitian=True)
        pull = inverse @ z[group]
        if gammaincc(len(group) / 2, z[group] @ pull / 2) > 0.05:
            break
        # What the statistic falls by without each of them.
        falls = pull**2 / np.maximum(np.diag(inverse), np.finfo(float).tiny)
        group = np.delete(group, np.argmax(falls))
    return group


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
            _INFO if c.is_robust else _WARNING,
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
            _WARNING if p < _RARE / len(cook) else _INFO,
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
            _INFO,
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
                _WARNING,
                f"{seen} (p = {over:.2g})",
                "sigma is too small or the model is wrong: see the other findings, or "
                "estimate the noise.",
            )
        if under < 1e-4:
            yield Finding(
                "noise-overestimated",
                _WARNING,
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
                _WARNING,
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
            _WARNING,
            f"neighbouring residuals are alike ({seen}, p = {p:.2g})",
            "The model misses something, or the noise is correlated: errors are too "
            "small. Plot the residuals.",
        )
    if p_normal < _RARE:
        yield Finding(
            "non-normal-residuals",
            _INFO,
            f"skewness and kurtosis are not those of normal noise (K2 = {k2:.3g}, "
            f"p = {p_normal:.2g})",
            "Standard errors hold for many data all the same; intervals of few data "
            "and chi2 do not. See outliers, if there are any.",
        )


@jax.jit
def _tests_of(residual, influence, used):
    """Statistics and p-values of runs, lag and normality."""
    return *runs(residual, used), *lag(influence, used), *normality(residual, used)


def scaling(c: Checkup) -> Iterator[Finding]:
    """Are parameters of very unequal size?"""
    if not c.is_finite:
        return
    norms = c.norms[c.free & (c.norms > 0)]
    if norms.size and norms.max() > 1e8 * norms.min():
        free = np.where(c.free & (c.norms > 0), c.norms, np.nan)
        names = c.names[int(np.nanargmax(free))], c.names[int(np.nanargmin(free))]
        harmless = c.solver.x_scale is None and c.x.dtype == np.float64
        yield Finding(
            "bad-scaling",
            _INFO if harmless else _WARNING,
            f"a unit of {names[0]} moves residuals {norms.max() / norms.min():.2g} "
            f"times as much as one of {names[1]}",
            "x_scale='jac' takes care of that in float64; float32, other solvers and "
            "priors do not: choose units in which parameters are near 1.",
            names,
        )


def precision(c: Checkup) -> Iterator[Finding]:
    """Is the arithmetic good enough for this problem?"""
    if not c.is_finite:
        return
    eps = float(np.finfo(c.x.dtype).eps)
    single = c.x.dtype == np.float32
    if single and c.rank < (c.free & (c.norms > 0)).sum():
        yield Finding(
            "precision",
            _WARNING,
            "in float32 J has no full rank, in float64 it may have",
            "Use float64 (jax_enable_x64) to see whether that is rounding.",
        )
    lost = c.condition**2 * eps if c.by_gram else c.condition * eps
    if np.isfinite(lost) and lost > 1e-3:
        how = "J'J" if c.by_gram else "J"
        yield Finding(
            "precision",
            _WARNING,
            f"{c.x.dtype} and a condition of {c.condition:.2g}: by {how} about "
            f"{lost:.1g} of the sloppiest direction is rounding",
            "Use float64 (jax_enable_x64)." if single else "Use linear_solver='qr'.",
        )
    y = c.fitted
    if single and y is not None:
        noise = np.linalg.norm(c.residual) / np.sqrt(max(len(c.residual), 1))
        if c.problem.args.sigma is None and noise < 32 * eps * np.abs(y).max():
            yield Finding(
                "precision",
                _WARNING,
                f"residuals of {noise:.2g} are near the rounding of float32 data of "
                f"size {np.abs(y).max():.2g}",
                "Use float64 (jax_enable_x64), or subtract what is large and known.",
            )


def history(c: Checkup) -> Iterator[Finding]:
    """How did it get there? Needs a solver with history=True."""
    if c.solution.history is None:
        return
    path = c.solution.history
    cost, optimality, moved = (
        np.asarray(a, float) for a in (path.cost, path.optimality, path.step_norm)
    )
    steps = np.isfinite(cost)
    cost, optimality, moved = cost[steps], optimality[steps], moved[steps]
    if len(cost) < 20 or c.is_exact:
        return
    # A step as long as `moved`, in units of the residual, lowers the cost of parameters
    # that do not trade off by half its square.
    fall, square = -np.diff(cost), moved[1:] ** 2
    variance = 2 * cost[-1] / max(c.dof, 1)
    hardly = fall < np.minimum(square / 2000, variance / 10)
    flat = hardly & (square > 0.01 * variance)
    count = int(flat.sum())
    if count >= 20:
        yield Finding(
            "stagnation",
            _INFO if int(c.solution.status) > 0 else _WARNING,
            f"{count} of {len(cost)} steps moved the parameters and hardly lowered the "
            "cost",
            "The path follows a flat valley: parameters trade off. Loosen ftol, or "
            "choose other parameters.",
        )
    if optimality[-1] > 1e3 * np.nanmin(optimality[: len(optimality) // 2]):
        yield Finding(
            "growing-gradient",
            _INFO,
            "the gradient was smaller in the first half of the fit than at its end",
            "The path crossed a plateau: another start may lead elsewhere.",
        )


def exactness(c: Checkup) -> Iterator[Finding]:
    """Are there errors to speak of?"""
    if c.is_exact:
        yield Finding(
            "exact-fit",
            _INFO,
            "residuals are no more than rounding",
            "Standard errors are those of rounding, and tests of residuals were left "
            "out.",
        )


ALWAYS: tuple[Analyser, ...] = (
    convergence,
    sensitivity,
    identifiability,
    bounds,
    freedom,
    scaling,
    correlations,
    precision,
    history,
)
AT_A_MINIMUM: tuple[Analyser, ...] = (
    exactness,
    stationarity,
    minimum,
    parsimony,
    outliers,
    influences,
    weights,
    structure,
)
