"""Streamed fits, and the same fits in memory."""

import numpy as np
from streams import (
    RNG,
    START,
    M,
    T,
    Y,
    chunks,
    decay,
    peak,
)

from jaxfit import fit_stream


# With a bound that is active, a robust loss and outliers.
Y_ODD = Y.copy()
Y_ODD[::20] += 1.0
HARD = {"bounds": ([0, 0, 0], [9, 9, 0.45]), "loss": "soft_l1", "f_scale": 2.0}
X_ILL = np.linspace(1.0, 1.002, M)
Y_ILL = 1.0 + 2.0 * X_ILL**3 + 1e-9 * RNG.normal(size=M)
Y_PEAK = np.asarray(peak(T, np.array([3.0, 2.0, 0.6]))) + RNG.normal(0, 0.05, M)


def stream(source=None, model=decay, p0=START, chunk_size=64, **options):
    source = chunks(50) if source is None else source
    return fit_stream(model, source, p0, chunk_size=chunk_size, **options)
