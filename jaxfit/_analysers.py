"""What can be wrong with a fit: one plain function for each thing to look at.

An analyser takes a `Checkup` and yields findings. Those of `ALWAYS` look at any fit,
those of `AT_A_MINIMUM` at one that converged to finite numbers. Thresholds of tests are
p-values of 1e-3 or below, so that of a thousand healthy fits one is called ill.
"""

from collections.abc import Callable, Iterator

import numpy as np

from ._checkup import Checkup
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
    size = np.maximum(np.abs(c.x), np.abs(c.start))
    scale = np.linalg.norm(c.residual)
    if c.is_exact or scale == 0:
        scale = float(np.max(c.norms * size, initial=0))
    felt = c.norms * np.where(size > 0, size, 1)
    weak = c.free & (felt <= 1e-6 * scale)
    if not weak.any():
        return
    begin = np.linalg.norm(np.nan_to_num(c.jacobian_at_start), axis=0)
    unused = weak & (c.norms == 0) & (begin == 0)
    if unused.any():
        names = c.named(unused)
        yield Finding(
            "unused-parameter",
            _ERROR,
            f"no residual depends on {', '.join(names)}, at the start or the solution",
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
            "to the data, or give bounds.",
            names,
        )


def identifiability(c: Checkup) -> Iterator[Finding]:
    """Which combinations do the data not determine?"""
    if not c.is_finite or not c.singular_values.size:
        return
    null = c.directions[c.rank :]
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
    elif c.dof < max(3, n / 2):
        yield Finding(
            "few-data",
            _WARNING,
            f"only {c.dof} degrees of freedom for {n} free parameters",
            "The estimate of the noise is poor, and so are all errors: intervals need "
            "Student's t, and a simpler model may serve.",
        )


def stationarity(c: Checkup) -> Iterator[Finding]:
    """Is the gradient zero, in units of its own?"""
    if c.is_exact:
        return
    worst = float(c.cosines.max(initial=0))
    if worst > 1e-3:
        names = c.named(c.cosines == worst)
        yield Finding(
            "not-stationary",
            _WARNING,
            f"the residual still has a share of {worst:.2g} along {names[0]}",
            "The fit stopped before the minimum: tighten ftol and xtol, or solve "
            "again from here.",
            names,
        )


def minimum(c: Checkup) -> Iterator[Finding]:
    """Is it a minimum, and is it as round as J'J says?"""
    if c.is_exact or c.rank < c.free.sum() or not c.free.any():
        return
    unit = 1 / c.norms[c.free]
    h = c.hessian[np.ix_(c.free, c.free)] * np.outer(unit, unit)
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
    if lam[0] <= tiny:
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
    if not c.singular_values.size:
        return
    together = np.abs(np.triu(np.nan_to_num(c.correlation), 1))
    for i, j in np.argwhere(together > 0.999):
        rho = c.correlation[i, j]
        yield Finding(
            "collinear",
            _WARNING,
            f"{c.names[i]} and {c.names[j]} have a correlation of {rho:+.6f}",
            "The data determine little but one combination of them: fix one, or "
            "choose parameters that do not trade off (a sum, a ratio, a centre).",
            (c.names[i], c.names[j]),
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
    some = c.free & np.isfinite(c.errors)
    if c.dof <= 0 or some.sum() < 2 or c.is_exact:
        return
    lost = c.free & (~np.isfinite(c.errors) | (np.abs(c.x) < c.errors))
    strong = np.nanmax(np.abs(np.where(np.eye(c.x.size), np.nan, c.correlation)))
    if lost.sum() >= max(2, c.free.sum() / 3) and strong > 0.9:
        names = c.named(lost)
        yield Finding(
            "over-parameterised",
            _WARNING,
            f"{', '.join(names)} cannot be told from 0 together, with correlations up "
            f"to {strong:.4f}",
            "Fewer terms may fit as well: compare by jaxfit.compare_models or BIC.",
            names,
        )


def outliers(c: Checkup) -> Iterator[Finding]:
    """Are there data that the noise of the others does not explain?"""
    from jax.scipy.special import ndtri

    m = len(c.residual)
    if c.is_exact or c.dof < 3:
        return
    size = np.abs(c.residual) / np.sqrt(1 - c.hat)
    # The median of what few parameters were fitted to is too small by sqrt(m / dof).
    middle = 1.482602218505602 * np.median(np.abs(c.residual)) * np.sqrt(m / c.dof)
    if not middle > 0:
        return
    limit = float(-ndtri(0.5 * _RARE / m)) * (1 + 4 / c.dof)
    far = np.flatnonzero(size > limit * middle)
    if far.size:
        data = tuple(int(c.where[i]) for i in far)
        worst = float(size.max() / middle)
        shown = ", ".join(map(str, data[:8])) + (", ..." if len(data) > 8 else "")
        yield Finding(
            "outliers",
            _WARNING,
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
    variance = float(c.residual @ c.residual) / c.dof
    k = max(int(c.free.sum()), 1)
    t2 = c.residual**2 / (1 - c.hat) / variance
    cook = t2 * c.hat / (1 - c.hat) / k
    far = np.flatnonzero(cook > 1)
    if far.size:
        data = tuple(int(c.where[i]) for i in far)
        yield Finding(
            "influential-data",
            _WARNING,
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
    from jax.scipy.special import gammainc, gammaincc

    if c.is_exact or c.dof < 1:
        return
    chi2 = float(c.residual @ c.residual)
    if c.noise == "known":
        over = float(gammaincc(c.dof / 2, chi2 / 2))
        under = float(gammainc(c.dof / 2, chi2 / 2))
        if over < 1e-4:
            yield Finding(
                "noise-underestimated",
                _WARNING,
                f"reduced chi2 is {chi2 / c.dof:.3g} of {c.dof} degrees of freedom "
                f"(p = {over:.2g})",
                "sigma is too small or the model is wrong: see the other findings, or "
                "estimate the noise.",
            )
        if under < 1e-4:
            yield Finding(
                "noise-overestimated",
                _WARNING,
                f"reduced chi2 is {chi2 / c.dof:.3g} of {c.dof} degrees of freedom "
                f"(p = {under:.2g})",
                "sigma is too large, or data were smoothed: errors are too large too.",
            )
    if c.dof < 8:
        return
    tried = {"the order of the data": np.arange(len(c.residual), dtype=float)}
    if c.fitted is not None:
        tried["the size of the model"] = np.abs(c.fitted)
    square = np.minimum(c.residual**2 / (1 - c.hat), 16 * chi2 / c.dof)
    for what, along in tried.items():
        apart = along - along.mean()
        if not np.ptp(along) > 1e-9 * np.abs(along).max(initial=0):
            continue
        # Koenker's form of the test of Breusch and Pagan: m R^2 ~ chi2 of 1.
        share = np.corrcoef(apart, square)[0, 1]
        p = float(gammaincc(0.5, len(square) * share**2 / 2))
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


def structure(c: Checkup) -> Iterator[Finding]:
    """Do residuals look like noise?"""
    if c.is_exact or c.dof < 8:
        return
    used = np.ones(len(c.residual), bool)
    z, p_runs = map(float, runs(c.residual, used))
    value, p_lag = map(float, lag(c.residual, used))
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
    k2, p = map(float, normality(c.residual, used))
    if p < _RARE:
        yield Finding(
            "non-normal-residuals",
            _INFO,
            f"skewness and kurtosis are not those of normal noise (K2 = {k2:.3g}, "
            f"p = {p:.2g})",
            "Standard errors hold for many data all the same; intervals of few data "
            "and chi2 do not. See outliers, if there are any.",
        )


def scaling(c: Checkup) -> Iterator[Finding]:
    """Are parameters of very unequal size?"""
    norms = c.norms[c.free & (c.norms > 0)]
    if norms.size and norms.max() > 1e8 * norms.min():
        free = np.where(c.free & (c.norms > 0), c.norms, np.nan)
        names = c.names[int(np.nanargmax(free))], c.names[int(np.nanargmin(free))]
        yield Finding(
            "bad-scaling",
            _WARNING,
            f"a unit of {names[0]} moves residuals {norms.max() / norms.min():.2g} "
            f"times as much as one of {names[1]}",
            "This solver scales for itself; differences, float32, other solvers and "
            "priors do not: choose units in which parameters are near 1.",
            names,
        )


def precision(c: Checkup) -> Iterator[Finding]:
    """Is the arithmetic good enough for this problem?"""
    eps = float(np.finfo(c.x.dtype).eps)
    single = c.x.dtype == np.float32
    if not np.isfinite(c.condition):
        return
    lost = c.condition**2 * eps if c.by_gram else c.condition * eps
    if lost > 1e-3:
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
    cost = np.asarray(c.solution.history.cost, float)
    optimality = np.asarray(c.solution.history.optimality, float)
    steps = np.isfinite(cost)
    cost, optimality = cost[steps], optimality[steps]
    if len(cost) < 20:
        return
    tail = cost[len(cost) // 2 :]
    if tail[0] - tail[-1] < 1e-6 * tail[0] and not c.is_exact:
        yield Finding(
            "stagnation",
            _WARNING,
            f"the last {len(tail)} of {len(cost)} steps lowered the cost by "
            f"{(tail[0] - tail[-1]) / tail[0]:.2g} of it",
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
    history,
)
AT_A_MINIMUM: tuple[Analyser, ...] = (
    exactness,
    stationarity,
    minimum,
    correlations,
    parsimony,
    outliers,
    influences,
    weights,
    structure,
    precision,
)
