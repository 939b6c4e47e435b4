"""The picture of a fit: data, curve and bands above, residuals below (matplotlib)."""

from typing import Any

import numpy as np


def plot(result: Any, level: float, axes: Any) -> Any:
    """What `CurveFitResult.plot` draws; returns the pair of axes.

    **Raises:** `ImportError` without matplotlib; `ValueError` where x is not one number
    a datum, which leaves nothing to draw a curve over.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as err:
        raise ImportError(
            "plot() needs matplotlib: pip install 'jaxfit-kernel[plot]'."
        ) from err
    x, y, sigma, used = result.xdata, result.ydata, result.sigma, result.used
    if not isinstance(x, np.ndarray) or x.ndim != 1 or np.shape(y) != x.shape:
        raise ValueError(
            "plot() draws y over x, one number each, and here `xdata` has shape "
            f"{np.shape(x)}: draw result.predict(x) over what suits the data."
        )
    if axes is None:
        ratios = {"height_ratios": [3, 1]}
        _, axes = plt.subplots(2, 1, sharex=True, gridspec_kw=ratios)
    above, below = axes
    error = None
    if sigma is not None:
        error = np.sqrt(np.diag(sigma)) if np.ndim(sigma) == 2 else sigma
        error = np.broadcast_to(error, y.shape)

    def draw(ax, values):
        bars = None if error is None else error[used]
        ax.errorbar(x[used], values[used], bars, fmt=".", color="0.35", label="data")

    draw(above, y)
    fine = np.linspace(x[used].min(), x[used].max(), 400)
    above.plot(fine, result.predict(fine), color="C0", label="fit")
    percent = f"{100 * level:g}%"
    bands = [(result.confidence_band, 0.35, f"{percent} confidence")]
    if sigma is None or np.ndim(sigma) == 0:
        bands.append((result.prediction_band, 0.15, f"{percent} prediction"))
    for band, alpha, label in bands:
        low, high = band(fine, level)
        if np.isfinite(low).all() and np.isfinite(high).all():
            above.fill_between(
                fine, low, high, color="C0", alpha=alpha, lw=0, label=label
            )
    above.legend()
    above.set_ylabel("y")
    draw(below, result.residuals)
    below.axhline(0, color="C0")
    below.set_xlabel("x")
    below.set_ylabel("y - fit")
    return axes
