"""Axes of matplotlib, those given or new ones."""

from typing import Any

import numpy as np


def subplots(count: int, axes: Any) -> Any:
    """`count` axes in a row, those given or new ones.

    **Raises:** `ImportError` without matplotlib, `ValueError` for another number.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as err:
        raise ImportError(
            "plot() needs matplotlib: pip install 'jaxfit-kernel[plot]'."
        ) from err
    if axes is None:
        _, axes = plt.subplots(
            1, count, figsize=(3.6 * count, 3.2), layout="constrained", squeeze=False
        )
    axes = np.ravel(np.asarray(axes, object))
    if axes.size != count:
        raise ValueError(f"`axes` must be {count}, one for each picture: {axes.size}.")
    return axes
