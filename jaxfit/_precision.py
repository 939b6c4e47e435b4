"""Double precision for what is double, wherever JAX's own default is single.

The doors fit in float64 by `jax.enable_x64` for the time of a call, whatever the
process has set. Results that hold such arrays compute with them in the same way.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def precision(dtype: np.dtype) -> contextlib.AbstractContextManager:
    """Double precision for float64, for the time and the thread of the caller only."""
    if dtype == np.float64:
        return jax.enable_x64(True)
    return contextlib.nullcontext()


def in_own_precision(method: Callable) -> Callable:
    """A method of a PyTree that computes in float64 if one of its arrays is of that."""

    @functools.wraps(method)
    def run(self, *args: Any, **kwargs: Any):
        double = any(
            getattr(leaf, "dtype", None) == np.float64 for leaf in jax.tree.leaves(self)
        )
        with precision(np.dtype(np.float64 if double else np.float32)):
            return method(self, *args, **kwargs)

    return run
