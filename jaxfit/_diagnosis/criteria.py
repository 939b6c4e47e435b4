"""Information criteria, and measures of how well a curve fits its data.

With r the weighted residuals, N data, k free parameters and the cost that was
minimised, which is r'r / 2 without a robust loss,

    chi2 = r'r,  reduced chi2 = chi2 / (N - k)
    R2 = 1 - sum((y - f)^2) / sum((y - mean y)^2)
    -2 log L = 2 cost where the noise is known, else N log(2 cost / N), up to a constant
    AIC = -2 log L + 2k,  AICc = AIC + 2k(k + 1) / (N - k - 1)
    BIC = -2 log L + k log N

(Burnham and Anderson 2002, Model selection and multimodel inference, ch. 2; with the
cost of a robust loss for the sum of squares, Ronchetti 1985, Statistics and Probability
Letters 3, and Machado 1993, Econometric Theory 9.) The scale of the noise is counted
with neither; differences between models of the same data mean something, single values
do not. A parameter that is fixed or at an active bound is not free.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Measures:
    """Goodness of fit; NaN where a number is not defined."""

    chi2: float
    reduced_chi2: float
    r2: float
    adjusted_r2: float
    rmse: float
    mae: float
    aic: float
    aicc: float
    bic: float


def measures(
    y: np.ndarray,
    residual: np.ndarray,
    weighted: np.ndarray,
    cost: float,
    k: int,
    absolute: bool,
) -> Measures:
    """From the data used, y - f, and the weighted residuals, vectors of N numbers.

    `k` parameters were free, and `absolute` is whether the noise is known.
    """
    n = y.size
    dof = n - k
    chi2 = float(weighted @ weighted)
    ss_res = float(residual @ residual)
    deviations = y - y.mean() if n else y
    ss_tot = float(deviations @ deviations)
    r2 = 1 - ss_res / ss_tot if ss_tot > 0 else math.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        aic, aicc, bic = map(float, criteria(float(cost), n, k, absolute))
    return Measures(
        chi2=chi2,
        reduced_chi2=chi2 / dof if dof > 0 else math.nan,
        r2=r2,
        adjusted_r2=1 - (1 - r2) * (n - 1) / dof if dof > 0 else math.nan,
        rmse=math.sqrt(ss_res / n) if n else math.nan,
        mae=float(np.abs(residual).mean()) if n else math.nan,
        aic=aic,
        aicc=aicc,
        bic=bic,
    )


def criteria(cost: Any, count: Any, free: Any, known: bool) -> tuple[Any, Any, Any]:
    """AIC, AICc and BIC of a fit, of NumPy's numbers or traced ones.

    AICc is NaN where there are no more than `free` + 1 data.
    """
    xp: Any = np if isinstance(cost, float) else jnp
    deviance = 2 * cost if known else count * xp.log(2 * cost / count)
    aic = deviance + 2 * free
    left = count - free - 1
    more = 2 * free * (free + 1) / xp.where(left > 0, left, xp.nan)
    return aic, aic + more, deviance + free * xp.log(count)
