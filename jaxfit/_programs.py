"""Compiled programs of one function, and the time that each call spends on what."""

import math
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Timing(NamedTuple):
    """Seconds spent in tracing and compiling (0 if done before) and in running."""

    compile_time: float
    run_time: float


class Programs:
    """`jax.jit` of a function `fn(*args) -> (kept, wanted)` of PyTrees.

    What is wanted comes to the host as NumPy arrays, in one transfer: every array by
    itself would cost 8 us. What is kept stays where it is. The cache is that of
    `jax.jit`: one program for each structure, shapes and dtypes.
    """

    def __init__(self, fn: Callable[..., tuple[Any, Any]]):
        self._form: Any = None  # of what is wanted, as of the last trace
        self._lock = threading.Lock()

        def packed(leaves, treedef):
            kept, wanted = fn(*jax.tree.unflatten(treedef, leaves))
            parts, form = jax.tree.flatten(wanted)
            self._form = form, [(a.shape, np.dtype(a.dtype)) for a in parts]
            vector = jnp.concatenate([jnp.ravel(a).astype(float) for a in parts])
            return kept, vector

        self._jit = jax.jit(packed, static_argnums=1)
        self._known: dict[Any, Any] = {}

    def __call__(self, *args) -> tuple[Any, Any, Timing]:
        """What is kept, what is wanted, and the timing of the call."""
        leaves, treedef = jax.tree.flatten(args)
        shapes = tuple((np.shape(a), getattr(a, "dtype", type(a))) for a in leaves)
        key = treedef, shapes, jax.config.read("jax_enable_x64")
        start = time.perf_counter()
        compiled = 0.0
        known = self._known.get(key)
        if known is None:
            with self._lock:  # a trace tells its form by an attribute
                self._jit.lower(leaves, treedef).compile()
                known = self._known[key] = self._form
            if len(self._known) > 4096:
                self._known.pop(next(iter(self._known)), None)
            compiled = time.perf_counter() - start
        form, parts = known
        kept, vector = self._jit(leaves, treedef)
        vector = np.asarray(vector)
        wanted, i = [], 0
        for shape, dtype in parts:
            size = math.prod(shape)
            part = vector[i : i + size].reshape(shape)
            wanted.append(part if dtype == part.dtype else part.astype(dtype))
            i += size
        timing = Timing(compiled, time.perf_counter() - start - compiled)
        return kept, jax.tree.unflatten(form, wanted), timing
