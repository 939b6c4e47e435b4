"""Curves written once for NumPy and for JAX."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Curve:
    """`model(xp, x, *params)` in xp, which is NumPy or jax.numpy."""

    name: str
    model: Callable

    @functools.cached_property
    def jax(self) -> Callable:
        """f(x, *params) with jax.numpy; always the same object, compiled once."""
        return functools.partial(self.model, jnp)

    @functools.cached_property
    def numpy(self) -> Callable:
        """f(x, *params) with NumPy."""
        return functools.partial(self.model, np)


def decay(xp: Any, x, a, b, c):
    return a * xp.exp(-b * x) + c


def two_decays(xp: Any, x, a, b, c, d):
    return a * xp.exp(-b * x) + c * xp.exp(-d * x)


def gaussian(xp: Any, x, height, centre, width, level):
    return height * xp.exp(-0.5 * ((x - centre) / width) ** 2) + level


def michaelis_menten(xp: Any, x, top, half):
    return top * x / (half + x)


def power_law(xp: Any, x, a, b):
    return a * x**b
