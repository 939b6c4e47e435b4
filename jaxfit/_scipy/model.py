"""A model f(x, *params) as the kernel's model(x, params).

The kernel sees the free parameters only; the others keep their starts. Where the rows
of x were turned to the front, f sees them last again.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._basics.types import Vector
from .._functions.callables import Function
from .._functions.explain import explained
from .._functions.floating import as_floats
from .._problem.per_row import Shared
from .._programs.capture import Capture, check_capture


class Inputs(eqx.Module):
    """What such a model is given in the place of x."""

    x: Any
    shared: Shared

    def __init__(self, x: Any, start: Any):
        self.x, self.shared = x, Shared(start)

    @property
    def start(self) -> Any:
        """All parameters, free or not, a vector."""
        return self.shared.value


class ScipyModel(eqx.Module):
    """`fn(x, *params)` of the free parameters at positions `free`.

    `capture` is what `fn` captured: part of the structure, so that a program compiled
    for other values is not used again.
    """

    fn: Function
    free: tuple[int, ...] = eqx.field(static=True)
    rows_last: bool = eqx.field(static=True)
    capture: Capture = eqx.field(static=True)

    def __call__(self, inputs: Inputs, params: Array) -> Any:
        check_capture(self.fn.wrapped, self.capture, "f")
        with explained("f"):
            return self.fn(*self.arguments(self.fn, inputs, params))

    def arguments(self, fn: Callable, inputs: Inputs, params: Array) -> tuple:
        """x and every parameter, as the user's function takes them."""
        p = inputs.start
        if len(self.free) == p.size:
            p = params
        else:
            p = p.at[jnp.array(self.free)].set(params)
        x = jnp.moveaxis(inputs.x, 0, -1) if self.rows_last else inputs.x
        separate = [p[i] for i in range(p.size)]
        return as_floats(lambda x: fn(x, *separate), x, p.dtype), *separate


class ScipyJacobian(eqx.Module):
    """A user's `jac(x, *params)`, of shape (M, n), by the free parameters."""

    model: ScipyModel
    jac: Function
    capture: Capture = eqx.field(static=True)

    def __call__(self, inputs: Inputs, params: Vector) -> PyTree[Array]:
        n, free = inputs.start.size, jnp.array(self.model.free)

        def columns(j):
            j = jnp.asarray(j)
            if j.ndim < 2 or j.shape[-1] != n:
                raise ValueError(
                    "The return value of `jac` has wrong shape: it must have one row "
                    f"for each datum and one column for each of the {n} parameters, "
                    f"and has {j.shape}."
                )
            return j[..., free]

        check_capture(self.jac.wrapped, self.capture, "jac")
        with explained("jac"):
            j = self.jac(*self.model.arguments(self.jac, inputs, params))
        return jax.tree.map(columns, j)


def is_cut_off(model: ScipyModel, x: Any, start: np.ndarray, num_rows: int) -> bool:
    """Whether x is of another length than y, and f gives a value for each x.

    **Raises:** what tracing the model raises.
    """
    if not isinstance(x, np.ndarray) or x.ndim != 1 or len(x) == num_rows:
        return False
    inputs, free = Inputs(x, start), start[list(model.free)]
    return getattr(jax.eval_shape(model, inputs, free), "shape", None) == x.shape
