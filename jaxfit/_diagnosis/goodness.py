"""Is the model right? Goodness of fit, tests of residuals, comparison of models.

Numbers of one fit, traced. Each test supposes residuals in the order of the data:

    chi2          r'r against the chi2 distribution of dof: needs known noise
    normality     K^2 of skewness and kurtosis (D'Agostino, Belanger and D'Agostino
                  1990, The American Statistician 44)
    runs          the number of runs of one sign (Wald and Wolfowitz 1940)
    lag           the correlation of neighbours, times sqrt(N)
"""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.special import erfc
from jaxtyping import Array, Bool, Float, Int

from .._basics.checks import is_concrete, one_of
from .._basics.precision import in_own_precision
from .._basics.status import Status
from .._basics.types import Scalar
from .._problem.problem import Problem
from .._programs.program import program
from .._solve.solution import Solution
from .._uncertainty.conditions import converged, dof_of, status_of
from .._uncertainty.distributions import chi2_sf, f_sf
from .._uncertainty.weighted_rows import rows_at


GoodnessNoise = Literal["known", "unknown"]
Residuals = Float[Array, " m"] | np.ndarray
Used = Bool[Array, " m"] | np.ndarray


class Goodness(eqx.Module):
    """How well a model fits, NaN where a number is not defined.

    **Attributes:**

    - `chi2`, `dof`, `reduced_chi2`, and `p_value`: the probability of a chi2 as large
        if the model is right and the noise known; NaN where it is not.
    - `aic`, `aicc`, `bic`: of N data and k free parameters, with -2 log L = chi2 where
        the noise is known, else N log(chi2 / N), up to a constant. Differences between
        models of the same data mean something, single values do not.
    - `normality`, `normality_p`; `runs`, `runs_p`; `lag`, `lag_p`: the statistics of
        the tests and their p-values. Few runs or a positive lag tell of structure that
        the model has missed.
    """

    chi2: Scalar
    dof: Int[Array, "..."]
    reduced_chi2: Scalar
    p_value: Scalar
    aic: Scalar
    aicc: Scalar
    bic: Scalar
    normality: Scalar
    normality_p: Scalar
    runs: Scalar
    runs_p: Scalar
    lag: Scalar
    lag_p: Scalar

    @in_own_precision
    def summary(self) -> str:
        """The numbers as a table."""
        tests = (
            ("normality K2", self.normality, self.normality_p),
            ("runs z", self.runs, self.runs_p),
            ("lag 1 correlation", self.lag, self.lag_p),
        )
        lines = [
            f"{'chi2':<18}{self.chi2:.6g} of {int(self.dof)} degrees of freedom, "
            f"reduced {self.reduced_chi2:.6g}, p {self.p_value:.3g}",
            f"{'AIC, AICc, BIC':<18}{self.aic:.6g}, {self.aicc:.6g}, {self.bic:.6g}",
            *(f"{name:<18}{value:.4g}, p {p:.3g}" for name, value, p in tests),
        ]
        return "\n".join(lines)


class Comparison(eqx.Module):
    """A test of a simpler model against one that contains it.

    **Attributes:** `statistic`, F or the fall of chi2; `p_value`, of one as large where
    the simpler model is right; `dof`, (2,), the parameters more and the degrees of
    freedom left; `aic`, `bic`, those of the larger model less those of the simpler one:
    negative speaks for the larger one.
    """

    statistic: Scalar
    p_value: Scalar
    dof: Int[Array, " 2"]
    aic: Scalar
    bic: Scalar
    test: Literal["f", "chi2"] = eqx.field(static=True)

    @in_own_precision
    def summary(self) -> str:
        """The comparison in a sentence."""
        return (
            f"{self.test} = {self.statistic:.6g} with {int(self.dof[0])} and "
            f"{int(self.dof[1])} degrees of freedom, p = {self.p_value:.3g}; AIC "
            f"{self.aic:+.4g}, BIC {self.bic:+.4g} for the larger model"
        )


def goodness_of_fit(
    problem: Problem, solution: Solution, *, noise: GoodnessNoise = "unknown"
) -> Goodness:
    """How well a model fits its data.

    **Arguments:** `problem` and `solution`; `noise`: "known" where residuals are in
    units of their standard deviations.

    **Returns:** a [`jaxfit.Goodness`][] of the residuals themselves, whatever the loss.

    **Raises:** `ValueError` for a solution that did not converge, and dof < 1.
    """
    noise = one_of("noise", noise, GoodnessNoise)
    ok = converged("goodness_of_fit", problem, solution, True)
    return _goodness(problem, solution, ok, noise)


@program(static=(3,))
def _goodness(problem, solution, ok, noise) -> Goodness:
    rows = rows_at(problem, ravel_pytree(solution.params)[0])
    r, used = rows.residual, rows.used
    count = jnp.sum(used).astype(r.dtype)
    dof = solution.dof
    free = count - dof
    chi2 = jnp.sum(r**2)
    aic, aicc, bic = criteria(chi2, count, free, noise == "known")
    p = chi2_sf(chi2, dof) if noise == "known" else jnp.full_like(chi2, jnp.nan)
    numbers = (
        chi2,
        dof,
        chi2 / dof,
        p,
        aic,
        aicc,
        bic,
        *normality(r, used),
        *runs(r, used),
        *lag(r, used),
    )
    good = ok & (dof > 0)
    return Goodness(
        *(
            a if jnp.issubdtype(a.dtype, jnp.integer) else jnp.where(good, a, jnp.nan)
            for a in numbers
        )
    )


def criteria(chi2, count, free, known: bool) -> tuple[Array, Array, Array]:
    """AIC, AICc and BIC."""
    deviance = chi2 if known else count * jnp.log(chi2 / count)
    aic = deviance + 2 * free
    left = count - free - 1
    more = 2 * free * (free + 1) / jnp.where(left > 0, left, jnp.nan)
    return aic, aic + more, deviance + free * jnp.log(count)


def normality(r: Residuals, used: Used) -> tuple[Array, Array]:
    """K^2 of skewness and kurtosis, and its p-value; NaN below 8 data."""
    n = jnp.sum(used).astype(r.dtype)
    mean = jnp.sum(jnp.where(used, r, 0)) / n
    apart = jnp.where(used, r - mean, 0)
    m2, m3, m4 = (jnp.sum(apart**k) / n for k in (2, 3, 4))
    root_b1, b2 = m3 / m2**1.5, m4 / m2**2
    y = root_b1 * jnp.sqrt((n + 1) * (n + 3) / (6 * (n - 2)))
    beta2 = 3 * (n**2 + 27 * n - 70) * (n + 1) * (n + 3)
    beta2 = beta2 / ((n - 2) * (n + 5) * (n + 7) * (n + 9))
    w2 = jnp.sqrt(2 * (beta2 - 1)) - 1
    z1 = jnp.arcsinh(y / jnp.sqrt(2 / (w2 - 1))) / jnp.sqrt(0.5 * jnp.log(w2))
    expected = 3 * (n - 1) / (n + 1)
    variance = 24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
    x = (b2 - expected) / jnp.sqrt(variance)
    root_beta1 = 6 * (n**2 - 5 * n + 2) / ((n + 7) * (n + 9))
    root_beta1 *= jnp.sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    a = 6 + 8 / root_beta1 * (2 / root_beta1 + jnp.sqrt(1 + 4 / root_beta1**2))
    ratio = (1 - 2 / a) / (1 + x * jnp.sqrt(2 / (a - 4)))
    z2 = (1 - 2 / (9 * a) - jnp.cbrt(ratio)) / jnp.sqrt(2 / (9 * a))
    k2 = jnp.where(n >= 8, z1**2 + z2**2, jnp.nan)
    return k2, jnp.exp(-k2 / 2)


def runs(r: Residuals, used: Used) -> tuple[Array, Array]:
    """The number of runs of one sign in standard deviations, and its p-value."""
    order = jnp.argsort(~used, stable=True)
    positive, counts = (r > 0)[order], used[order]
    n = jnp.sum(used).astype(r.dtype)
    above = jnp.sum(positive & counts).astype(r.dtype)
    below = n - above
    changes = (positive[1:] != positive[:-1]) & counts[1:]
    found = 1 + jnp.sum(changes)
    both = 2 * above * below
    mean = both / n + 1
    variance = both * (both - n) / (n**2 * (n - 1))
    z = (found - mean) / jnp.sqrt(jnp.where(variance > 0, variance, jnp.nan))
    return z, erfc(jnp.abs(z) / jnp.sqrt(2))


def lag(r: Residuals, used: Used) -> tuple[Array, Array]:
    """The correlation of neighbouring residuals, and its p-value."""
    order = jnp.argsort(~used, stable=True)
    row, counts = jnp.where(used, r, 0)[order], used[order]
    n = jnp.sum(used).astype(r.dtype)
    together = jnp.sum(jnp.where(counts[1:], row[1:] * row[:-1], 0))
    value = together / jnp.sum(row**2)
    return value, erfc(jnp.abs(value) * jnp.sqrt(n / 2))


def compare_models(
    simple: Solution,
    larger: Solution,
    *,
    noise: GoodnessNoise = "unknown",
) -> Comparison:
    """Does a larger model fit better than one that it contains, more than by chance?

    F = (fall of chi2 / parameters more) / (chi2 / dof) where the noise is unknown, else
    the likelihood ratio, which is the fall of chi2 itself (Wilks 1938).

    **Arguments:** the solutions of both, of the same data and weights; `noise` as of
    [`jaxfit.goodness_of_fit`][].

    **Returns:** a [`jaxfit.Comparison`][].

    **Raises:** `ValueError` for a solution that did not converge, for other data, for a
    larger model that has no more parameters or fits worse, as it then does not contain
    the simple one or was not fitted, and for dof < 1.
    """
    noise = one_of("noise", noise, GoodnessNoise)
    for name, one in (("simple", simple), ("larger", larger)):
        if not isinstance(one, Solution):
            raise TypeError(f"`{name}` must be a jaxfit.Solution, got {one!r:.60}.")
        if one.counts.ndim > 1:
            raise ValueError(
                f"`{name}` holds a batch of shape {one.counts.shape[:-1]}: take "
                "jax.vmap of jaxfit.compare_models, or one fit of it."
            )
    if is_concrete((simple, larger)):
        _check_nested(simple, larger)
    more, left = simple.dof - larger.dof, larger.dof
    fall = 2 * (simple.cost - larger.cost)
    chi2 = 2 * larger.cost
    known = noise == "known"
    statistic = fall if known else fall / more / (chi2 / left)
    p = chi2_sf(fall, more) if known else f_sf(statistic, more, left)
    count = larger.num_rows.astype(chi2.dtype)
    values = [
        criteria(2 * one.cost, count, count - one.dof, known)
        for one in (simple, larger)
    ]
    ok = simple.success & larger.success & (more > 0) & (left > 0)
    statistic, p = (jnp.where(ok, a, jnp.nan) for a in (statistic, p))
    aic, _, bic = (b - a for a, b in zip(*values, strict=True))
    test = "chi2" if known else "f"
    return Comparison(statistic, p, jnp.stack([more, left]), aic, bic, test)


def _check_nested(simple: Solution, larger: Solution) -> None:
    for name, one in (("simple", simple), ("larger", larger)):
        status = status_of(one)
        if status <= 0:
            raise ValueError(f"`{name}` did not converge: {Status(status).message}")
    rows = [int(np.asarray(one.num_rows)) for one in (simple, larger)]
    if rows[0] != rows[1]:
        raise ValueError(
            f"`simple` is of {rows[0]} data and `larger` of {rows[1]}: they must be "
            "the same."
        )
    dof = [dof_of(one) for one in (simple, larger)]
    if dof[1] < 1:
        raise ValueError(f"`larger` leaves dof = {dof[1]}: nothing to test.")
    if dof[0] <= dof[1]:
        raise ValueError(
            "`larger` must have more free parameters than `simple`: their degrees of "
            f"freedom are {dof[1]} and {dof[0]}."
        )
    cost = [float(np.asarray(one.cost)) for one in (simple, larger)]
    if cost[1] > cost[0] * (1 + 1e-6):
        raise ValueError(
            f"`larger` fits worse ({cost[1]:.6g}) than `simple` ({cost[0]:.6g}): it "
            "does not contain it, or is in another minimum."
        )
