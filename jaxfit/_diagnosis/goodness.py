"""Goodness of fit of one solution, and tests of its residuals.

Traced. Each test supposes residuals in the order of the data:

    chi2          r'r against the chi2 distribution of dof: needs known noise
    normality     K^2 of skewness and kurtosis (D'Agostino, Belanger and D'Agostino
                  1990, The American Statistician 44)
    runs          the number of runs of one sign (Wald and Wolfowitz 1940)
    lag           the correlation of neighbours, times sqrt(N)
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.special import erfc
from jaxtyping import Array, Bool, Float, Int

from .._basics.checks import one_of
from .._basics.precision import in_own_precision
from .._basics.types import Scalar
from .._problem.problem import Problem
from .._programs.program import program
from .._solve.noise import CostNoise
from .._solve.solution import Solution
from .._uncertainty.conditions import converged
from .._uncertainty.distributions import chi2_sf
from .._uncertainty.weighted_rows import rows_at
from .criteria import criteria


Residuals = Float[Array, " m"] | np.ndarray
Used = Bool[Array, " m"] | np.ndarray


class Goodness(eqx.Module):
    """How well a model fits, NaN where a number is not defined.

    **Attributes:**

    - `chi2`, `dof`, `reduced_chi2`, and `p_value`: the probability of a chi2 as large
        if the model is right and the noise known; NaN where it is not.
    - `aic`, `aicc`, `bic`: of N data and k free parameters, with -2 log L = 2 cost
        where the noise is known, else N log(2 cost / N), up to a constant. Differences
        between models of the same data mean something, single values do not.
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


def goodness_of_fit(
    problem: Problem, solution: Solution, *, noise: CostNoise = "estimated"
) -> Goodness:
    """How well a model fits its data.

    **Arguments:** `problem` and `solution`; `noise`: "known" where residuals are in
    units of their standard deviations.

    **Returns:** a [`jaxfit.Goodness`][]: chi2 and the tests are of the residuals
    themselves, whatever the loss; AIC and BIC are of the cost that was minimised.

    **Raises:** `ValueError` for a solution that did not converge, and dof < 1.
    """
    noise = one_of("noise", noise, CostNoise)
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
    aic, aicc, bic = criteria(solution.cost, count, free, noise == "known")
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
