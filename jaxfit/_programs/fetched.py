"""Programs of the doors: results to the host at once, and the time each call takes."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .program import Program


class Timing(NamedTuple):
    """Seconds spent in tracing and compiling (0 if done before) and in running."""

    compile_time: float
    run_time: float


@jax.tree_util.register_static
class _Form:
    """How a vector is cut into arrays, and those are put together."""

    def __init__(self, wanted: Any):
        parts, self.treedef = jax.tree.flatten(wanted)
        self.parts = [(a.shape, np.dtype(a.dtype)) for a in parts]


class Programs:
    """Programs of a function `fn(*args) -> (kept, wanted)` of PyTrees.

    What is wanted comes to the host as NumPy arrays, in one transfer: every array by
    itself would cost 8 us. What is kept stays where it is.
    """

    def __init__(self, fn: Callable[..., tuple[Any, Any]]):
        def packed(*args):
            kept, wanted = fn(*args)
            parts = [jnp.ravel(a).astype(float) for a in jax.tree.leaves(wanted)]
            return kept, jnp.concatenate(parts), _Form(wanted)

        packed.__name__ = fn.__name__
        self._program = Program(packed, (), {})

    def __call__(self, *args) -> tuple[Any, Any, Timing]:
        """What is kept, what is wanted, and the timing of the call."""
        start = time.perf_counter()
        call, compiled = self._program.ready(*args)
        kept, vector, form = call()
        vector = np.asarray(vector)
        wanted, i = [], 0
        for shape, dtype in form.parts:
            size = math.prod(shape)
            part = vector[i : i + size].reshape(shape)
            wanted.append(part if dtype == part.dtype else part.astype(dtype))
            i += size
        timing = Timing(compiled, time.perf_counter() - start - compiled)
        return kept, jax.tree.unflatten(form.treedef, wanted), timing
