"""Losses by SciPy's names or as its callables: rho(z) of z = (r / f_scale)^2."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._functions.callables import Function
from .._functions.explain import explained
from .._problem.loss import LOSSES
from .._programs.capture import Capture, interned


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class NamedLoss:
    """A loss of the kernel's, by name."""

    name: str


class ScipyLoss(eqx.Module):
    """A user's loss as rho(z): as SciPy's, it may return (rho, rho', rho'') stacked."""

    fn: Function
    capture: Capture = eqx.field(static=True)

    def __call__(self, z: Array) -> Array:
        with explained("loss"):
            value = jnp.asarray(self.fn(z))
        if value.shape == (3, *z.shape):
            return value[0]
        if value.shape != z.shape:
            raise ValueError(
                "The return value of `loss` callable has wrong shape: rho(z) must have "
                f"that of z, {z.shape}, or be stacked with its derivatives, "
                f"{(3, *z.shape)}; got {value.shape}."
            )
        return value


def read_loss(loss: Any, method: str) -> NamedLoss | ScipyLoss:
    if not callable(loss) and loss not in LOSSES:
        raise ValueError(
            f"`loss` must be one of {list(LOSSES)} or a callable, got {loss!r}."
        )
    if method == "lm" and loss != "linear":
        raise ValueError("method='lm' supports only 'linear' loss function.")
    if callable(loss):
        loss, capture = interned(loss)
        return ScipyLoss(Function(loss, "loss", capture), capture)
    return NamedLoss(loss)


def check_f_scale(f_scale: Any) -> None:
    number = isinstance(f_scale, int | float | np.number) or np.shape(f_scale) == ()
    if isinstance(f_scale, str) or not (number and 0 < float(f_scale) < np.inf):
        raise ValueError(f"`f_scale` must be positive and finite, got {f_scale!r}.")
