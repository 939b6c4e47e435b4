"""Boundaries that XLA does not compute across: loops of one turn, or of none.

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
from jaxtyping import Array, Bool, Int

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


def only_where(
    needed: Bool[Array, "..."], fn: Callable[[Array], Any], otherwise: Any
) -> Any:
    """`fn(one)` where `needed`, else `otherwise`; computed only if it is needed.

    `one` is 1, but the compiler cannot know it: what is multiplied by it is not moved
    out of the loop, which would compute it always. Under `vmap`, where a `cond` would
    compute both for every lane, the loop runs if one of the lanes needs it.
    """

    def turn(carry):
        left, one, _ = carry
        return left & (one < 1), one + 1, fn(one)

    dtype = jnp.result_type(*jax.tree.leaves(otherwise), float)
    one = alike(jnp.ones((), dtype), needed)
    start = needed, one, alike(otherwise, needed)
    return jax.lax.while_loop(lambda carry: carry[0], turn, start)[2]
