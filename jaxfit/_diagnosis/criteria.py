"""How well a curve fits: numbers made of data, prediction and weights alone.

With r the weighted residuals, N data and k free parameters,

    chi2 = r'r,  reduced chi2 = chi2 / (N - k)
    R2 = 1 - sum((y - f)^2) / sum((y - mean y)^2)
    -2 log L = chi2 where sigma is absolute, else N log(chi2 / N), up to a constant
    AIC = -2 log L + 2k,  AICc = AIC + 2k(k + 1) / (N - k - 1)
    BIC = -2 log L + k log N

(Burnham and Anderson 2002, Model selection and multimodel inference, ch. 2.) The scale
of the noise is counted with neither; differences between models of the same data mean
something, single values do not. A robust loss changes none of these.
"""

import dataclasses
import math

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
    y: np.ndarray, residual: np.ndarray, weighted: np.ndarray, k: int, absolute: bool
) -> Measures:
    """From the data used, y - f, and the weighted residuals, vectors of N numbers."""
    n = y.size
    dof = n - k
    chi2 = float(weighted @ weighted)
    ss_res = float(residual @ residual)
    deviations = y - y.mean() if n else y
    ss_tot = float(deviations @ deviations)
    r2 = 1 - ss_res / ss_tot if ss_tot > 0 else math.nan
    deviance = chi2
    if not absolute:
        deviance = n * math.log(chi2 / n) if chi2 > 0 else -math.inf
    aic = deviance + 2 * k
    return Measures(
        chi2=chi2,
        reduced_chi2=chi2 / dof if dof > 0 else math.nan,
        r2=r2,
        adjusted_r2=1 - (1 - r2) * (n - 1) / dof if dof > 0 else math.nan,
        rmse=math.sqrt(ss_res / n) if n else math.nan,
        mae=float(np.abs(residual).mean()) if n else math.nan,
        aic=aic,
        aicc=aic + 2 * k * (k + 1) / (n - k - 1) if n - k - 1 > 0 else math.nan,
        bic=deviance + k * math.log(n) if n else math.nan,
    )


def quantile(level: float, dof: int | None) -> float:
    """The half width of the central interval of probability `level`, in deviations.

    Student's t with `dof` degrees of freedom, or the normal distribution for None.

    **Raises:** `ValueError` unless 0 < level < 1.
    """
    from scipy.special import ndtri, stdtrit

    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1, got {level!r}.")
    upper = 0.5 + 0.5 * level
    if dof is None:
        return float(ndtri(upper))
    return float(stdtrit(dof, upper)) if dof > 0 else math.nan
