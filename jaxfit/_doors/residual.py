"""SciPy's fun(x, *args, **kwargs) and jac as the kernel's residual and its Jacobian."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._basics.checks import is_concrete
from .._functions.callables import Function
from .._functions.explain import explained
from .._programs.capture import Capture, Held, check_capture, interned


class ScipyResidual(eqx.Module):
    """`fn(x, *args, **kwargs)` as the kernel's residual(x, data).

    `rest` are the arguments that are no data. A `wide` one is its Jacobian, of shape
    (m, n).
    """

    fn: Function
    rest: Held = eqx.field(static=True)
    form: Any = eqx.field(static=True)
    capture: Capture = eqx.field(static=True)
    wide: bool = eqx.field(static=True)

    def __call__(self, x: Array, data: list) -> Any:  # complex for "cs"
        values = iter(data)
        leaves = [next(values) if a is _DATA else a for a in self.rest.value]
        args, kwargs = jax.tree.unflatten(self.form, leaves)
        name = "jac" if self.wide else "fun"
        check_capture(self.fn.wrapped, self.capture, name)
        with explained(name):
            value = jnp.asarray(self.fn(x, *args, **kwargs))
        if self.wide:
            if value.ndim > 2 or value.shape[-1:] != x.shape:
                raise ValueError(
                    "The return value of `jac` has wrong shape: it must have one row "
                    f"for each residual and {x.size} columns, and has {value.shape}."
                )
            return jnp.atleast_2d(value)
        if value.ndim > 1:
            raise ValueError(
                f"`fun` must return at most 1-d array_like. f0.shape: {value.shape}."
            )
        return jnp.atleast_1d(value)

    def jacobian(self, jac: Callable) -> "ScipyResidual":
        """A user's Jacobian, of the same arguments."""
        jac, capture = interned(jac)
        fn = Function(jac, "jac", capture)
        return dataclasses.replace(self, fn=fn, capture=capture, wide=True)


_DATA = "data"  # stands for an argument that is data


def residual_of(
    fun: Callable, capture: Capture, args: tuple, kwargs: dict[str, Any]
) -> tuple[ScipyResidual, list]:
    """The residual with its arguments taken apart: arrays and floats are data."""
    leaves, form = jax.tree.flatten((args, kwargs))
    if not is_concrete(leaves):
        raise TypeError(
            "`args` is traced by JAX, and this function works on the host: inside jit, "
            "vmap or grad call jaxfit.solve(jaxfit.Problem(...))."
        )
    kinds = jax.Array | np.ndarray | np.generic | float
    is_data = [isinstance(leaf, kinds) for leaf in leaves]
    data = [leaf for leaf, d in zip(leaves, is_data, strict=True) if d]
    rest = [_DATA if d else leaf for leaf, d in zip(leaves, is_data, strict=True)]
    residual = ScipyResidual(
        Function(fun, "fun", capture), Held(rest), form, capture, wide=False
    )
    return residual, data
