"""Shapes and jaxpr of a function, without keeping the function.

JAX remembers the PyTree structures of what it traces, for ever, and the structure of a
problem holds its model. It is shown leaves only.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr


def abstract(fn: Callable, *args: Any) -> tuple[ClosedJaxpr, Any]:
    """The jaxpr of `fn(*args)`, and its value with shapes in the place of arrays."""
    leaves, treedef = jax.tree.flatten(args)
    form: Any = None

    def flat(leaves):
        nonlocal form
        out, form = jax.tree.flatten(fn(*jax.tree.unflatten(treedef, leaves)))
        return out

    closed, shapes = jax.make_jaxpr(flat, return_shape=True)(leaves)
    return closed, jax.tree.unflatten(form, shapes)
