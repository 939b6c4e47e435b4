"""Streamed fits with checkpoints.

What a killed process leaves is a checkpoint of some moment. So besides real kills, the
folder is copied at every moment at which a checkpoint can be written.
"""

import numpy as np
from streams import START, T, Y, chunks, decay

from jaxfit import fit_stream


ROWS = 200  # so that chunks of 20 divide them: one program for all blocks
DATA = T[:ROWS], Y[:ROWS]
FAR = np.array([1e3, 20.0, -100.0])  # from where some steps are rejected


def stream(source=None, p0=START, model=decay, chunk_size=20, **options):
    source = chunks(20, *DATA) if source is None else source
    return fit_stream(model, source, p0, chunk_size=chunk_size, **options)
