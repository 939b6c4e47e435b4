"""Analysers of the fit itself: convergence, minimum, path, arithmetic.

See `diagnose` for what an analyser is.
"""

from collections.abc import Iterator

import numpy as np

from .._basics.status import Status
from .._solve.noise import variance_of
from .checkup import Checkup
from .findings import ERROR, INFO, WARNING, Finding


def convergence(c: Checkup) -> Iterator[Finding]:
    """Did it end well?"""
    status = int(c.solution.status)
    if status <= 0:
        yield Finding(
            "not-converged",
            ERROR,
            f"the fit ended with {Status(status).name} after "
            f"{int(c.solution.num_steps)} steps: {Status(status).message}",
            "Errors and tests suppose a minimum. Start nearer, allow more steps, or "
            "look at the findings below for why.",
        )
    if not c.is_finite:
        yield Finding(
            "not-finite",
            ERROR,
            "residuals or derivatives are not finite where the fit ended",
            "Give bounds that keep parameters where the model is defined, and mask "
            "data that are not finite.",
        )


def exactness(c: Checkup) -> Iterator[Finding]:
    """Are there errors to speak of?"""
    if c.is_exact:
        yield Finding(
            "exact-fit",
            INFO,
            "residuals are no more than rounding",
            "Standard errors are those of rounding, and tests of residuals were left "
            "out.",
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
            WARNING,
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
            ERROR,
            f"the cost falls on both sides along {words}: a saddle",
            "Start elsewhere: the gradient is zero here, but this is no minimum.",
            c.named(np.abs(direction) > 0.1),
        )
        return
    if lam[0] <= tiny or c.rank < c.free.sum():
        return
    exact = np.sqrt(np.diag(np.linalg.inv(h))) * unit
    plain = np.sqrt(np.diag(c.inverse))[c.free]
    ratio = exact / plain
    apart = np.maximum(ratio, 1 / ratio)
    worst = int(np.argmax(apart))
    name = c.names[np.flatnonzero(c.free)[worst]]
    if apart[worst] > 1.2:
        yield Finding(
            "strong-curvature",
            WARNING if apart[worst] > 2 else INFO,
            f"by the exact Hessian the error of {name} is {ratio[worst]:.2g} times "
            "that by J'J",
            "The model bends within its errors, or residuals are large: prefer "
            "profile intervals to standard errors.",
            (name,),
        )


def freedom(c: Checkup) -> Iterator[Finding]:
    """Are there enough data?"""
    n = int((~c.fixed).sum())
    # Of known noise no more data are needed than parameters.
    if c.dof < 0 or (c.dof == 0 and c.noise != "known"):
        yield Finding(
            "no-degrees-of-freedom",
            ERROR,
            f"{int(c.solution.num_rows)} residuals for {n} free parameters",
            "There is nothing to estimate the noise from: fix parameters, or give "
            "sigma and ask for known noise.",
        )
    elif c.noise == "estimated" and c.dof < max(3, n / 2):
        yield Finding(
            "few-data",
            WARNING,
            f"only {c.dof} degrees of freedom for {n} free parameters",
            "The estimate of the noise is poor, and so are all errors: intervals need "
            "Student's t, and a simpler model may serve.",
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
            WARNING,
            "in float32 J has no full rank, in float64 it may have",
            "Use float64 (jax_enable_x64) to see whether that is rounding.",
        )
    lost = c.condition**2 * eps if c.by_gram else c.condition * eps
    if np.isfinite(lost) and lost > 1e-3:
        how = "J'J" if c.by_gram else "J"
        yield Finding(
            "precision",
            WARNING,
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
                WARNING,
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
    variance = variance_of(2 * cost[-1], max(c.dof, 1))
    hardly = fall < np.minimum(square / 2000, variance / 10)
    flat = hardly & (square > 0.01 * variance)
    count = int(flat.sum())
    if count >= 20:
        yield Finding(
            "stagnation",
            INFO if int(c.solution.status) > 0 else WARNING,
            f"{count} of {len(cost)} steps moved the parameters and hardly lowered the "
            "cost",
            "The path follows a flat valley: parameters trade off. Loosen ftol, or "
            "choose other parameters.",
        )
    if optimality[-1] > 1e3 * np.nanmin(optimality[: len(optimality) // 2]):
        yield Finding(
            "growing-gradient",
            INFO,
            "the gradient was smaller in the first half of the fit than at its end",
            "The path crossed a plateau: another start may lead elsewhere.",
        )
