"""A boundary that XLA does not compute across.

On a CPU XLA makes one kernel for each result and computes what several results have in
common anew for each, unless it is an expensive operation; and it removes
`lax.optimization_barrier` before it does so. In a step of many small fits, which is a
few thousand cheap operations for a few dozen results, that triples the arithmetic. What
leaves a loop is computed before anyone asks for it: here one of a single turn, of which
the compiler cannot know that it is one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from .varying import alike


def once(fn: Callable[..., Any], count: Int[Array, "..."], *args: Any) -> Any:
    """`fn(*args)`, every result of it computed once.

    `count` is any counter, which is 0 or more.
    """
    if jax.default_backend() != "cpu":  # there several results are made by one kernel
        return fn(*args)
    blank = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(fn, *args)
    )
    go, blank = alike((jnp.any(count >= 0), blank), count)

    def turn(_):
        return ~go, fn(*args)

    return jax.lax.while_loop(lambda carry: carry[0], turn, (go, blank))[1]
