"""Analysers of the parameters: which the data determine, and which they need.

See `diagnose` for what an analyser is.
"""

from collections.abc import Iterator

import numpy as np
from jax.scipy.special import gammaincc

from .._uncertainty.words import combinations
from .checkup import Checkup
from .findings import ERROR, INFO, WARNING, Finding


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
            ERROR,
            f"no residual depends on {', '.join(names)}",
            "Take it out of the model, or fix it by equal bounds.",
            names,
        )
    if (weak & ~unused).any():
        names = c.named(weak & ~unused)
        yield Finding(
            "vanishing-gradient",
            ERROR,
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
    for direction in c.null:
        share = np.abs(direction) * np.where(c.norms > 0, c.norms, 1)
        which = share > 0.01 * share.max()
        if which.sum() < 2:
            continue
        names = c.named(which)
        yield Finding(
            "not-identifiable",
            ERROR,
            f"residuals stay the same{_along(c, np.where(which, direction, 0))}",
            "Only a combination of these is determined: fix all but one, or write the "
            "model in terms of the combination.",
            names,
        )


def _along(c: Checkup, direction: np.ndarray) -> str:
    """A null direction in words that are true of a step of some length, if any are.

    A straight line is a sum that the model sees, a straight line of logarithms a
    product: either is told from the other by residuals a step away, so the words do
    not hang on where along it the fit has ended.
    """
    moving = direction != 0
    step = 0.1 * direction / np.abs(direction).max()
    reach = np.abs(c.x[moving]).max()
    unit = 1 / np.where(c.norms > 0, c.norms, 1)
    (words,) = combinations(direction[None], c.names, unit)
    if _unchanged(c, step * (reach if reach > 0 else 1)):
        return f" along {words}"
    if np.all(c.x[moving] != 0):
        logs = direction / np.where(moving, c.x, 1)
        factor = np.exp(0.1 * logs / np.abs(logs).max())
        if _unchanged(c, np.where(moving, c.x * (factor - 1), 0)):
            names = [f"log {name}" for name in c.names]
            unit = unit / np.where(moving, np.abs(c.x), 1)
            (words,) = combinations(logs[None], names, unit)
            return f" along {words}"
    return f", to first order, along {words}"


def _unchanged(c: Checkup, step: np.ndarray) -> bool:
    """Whether residuals are the same a step away, this way or that."""
    tiny = float(np.finfo(c.x.dtype).eps) ** 0.4 * np.linalg.norm(c.norms * step)
    return any(
        bool(np.linalg.norm(c.residual_at(c.x + move) - c.residual) <= tiny)
        for move in (step, -step)
    )


def bounds(c: Checkup) -> Iterator[Finding]:
    """Which parameters ended at a bound?"""
    if c.active.any():
        names = c.named(c.active)
        yield Finding(
            "bound-active",
            WARNING,
            f"{', '.join(names)} ended at a bound",
            "Standard errors take it for known. If the bound is a guess, widen it; if "
            "it is physical, use profile intervals.",
            names,
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
            WARNING,
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
            INFO,
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
                WARNING,
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
                WARNING,
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
            INFO if harmless else WARNING,
            f"a unit of {names[0]} moves residuals {norms.max() / norms.min():.2g} "
            f"times as much as one of {names[1]}",
            "x_scale='jac' takes care of that in float64; float32, other solvers and "
            "priors do not: choose units in which parameters are near 1.",
            names,
        )
