"""x as a model sees it: floating point numbers, so that nothing wraps or overflows.

An `int16` squared wraps at 181, a `float16` ends at 65,504, and neither says so. Arrays
stay as narrow as they came, in memory and on disk; what the model is given is as wide
as its parameters.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def as_floats(fn: Callable[[Any], Any], x: Any, dtype: Any) -> Any:
    """`x` with every array at least as wide as `dtype`, integers and booleans too.

    But for those that `fn(x)` refuses so by a `TypeError`: an index or a condition
    stays what it is. Only shapes are asked for; nothing is computed.
    """
    leaves, treedef = jax.tree.flatten(x)
    dtypes = [jnp.result_type(leaf) for leaf in leaves]
    whole = [i for i, a in enumerate(dtypes) if not jnp.issubdtype(a, jnp.inexact)]
    narrow = [
        i
        for i, a in enumerate(dtypes)
        if jnp.issubdtype(a, jnp.floating) and a.itemsize < jnp.dtype(dtype).itemsize
    ]

    def widened(which: Sequence[int]) -> Any:
        given = [
            jnp.asarray(leaf).astype(dtype) if i in which else leaf
            for i, leaf in enumerate(leaves)
        ]
        return jax.tree.unflatten(treedef, given)

    def is_refused(which: Sequence[int]) -> bool:
        try:
            jax.eval_shape(lambda: fn(widened([*narrow, *which])))
        except TypeError:
            return True
        return False

    if whole and is_refused(whole):
        whole = [i for i in whole if not is_refused([i])]
    return widened([*narrow, *whole])
