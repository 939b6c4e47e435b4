"""Residuals and the columns of their Jacobian, by the mode of differentiation.

    forward       n products with J, one for each parameter
    reverse       m products with J', one for each residual
    differences   2n evaluations, of the second order ("3-point")

Forward is the cheapest and the rule. A function with a derivative of its own
(`jax.custom_vjp`, as `jax.experimental.ode.odeint` has) forbids it. Then a Jacobian of
few rows is made in reverse, exactly; one of many rows by differences, since m products
with J' of a residual of length m are m^2 numbers.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._basics.types import Vector
from .._basics.varying import alike
from .._functions.differences import difference_jacobian
from .._programs.primitives import equations
from .._trf.algebra import UNROLL
from .._trf.bounds import Bounds
from .._trf.linearisation import Columns


Mode = Literal["forward", "reverse", "differences"]

# So many rows for each parameter are worth reverse mode.
_REVERSE = 10


def mode_of(
    program: Any, x: Vector, rows: Any, size: int, wanted: Literal["forward", "reverse"]
) -> Mode:
    """The mode asked for or, where the traced residual forbids forward, another."""
    if wanted == "reverse" or not any(
        eqn.primitive.name.startswith("custom_vjp_call")
        for eqn in equations(program.jaxpr)
    ):
        return wanted

    def forward(x):
        # Only of a batch of tangents does JAX say while it traces that there are none.
        _, tangents = jax.linearize(lambda x: program(x, rows), x)
        return jax.vmap(tangents)(alike(jnp.eye(x.size, dtype=x.dtype), x))

    try:
        jax.eval_shape(forward, x)
    except TypeError as err:
        if not forbids_forward(err):
            raise
    else:
        return "forward"
    return "reverse" if size <= _REVERSE * x.size else "differences"


def forbids_forward(err: BaseException) -> bool:
    """Whether JAX says that a function has no forward derivative."""
    says = str(err)
    return "forward-mode autodiff" in says and "custom_vjp" in says


def columns(
    fn: Callable[[Vector], Float[Array, " m"]],
    x: Vector,
    mode: Mode,
    bounds: Bounds | None = None,
) -> tuple[Float[Array, " m"], Columns]:
    """fn(x) and the columns of its Jacobian, in sequence or as the rows of J'."""
    if mode == "forward":
        r, tangents = jax.linearize(fn, x)
        if x.size <= UNROLL:
            # Column by column XLA sees which parameter moves and fuses what it
            # can: 3.7 ms a pass over 1e6 points where a batch of tangents took 9.
            units = np.eye(x.size, dtype=x.dtype)
            return r, tuple(tangents(alike(e, x)) for e in units)
        return r, jax.vmap(tangents)(alike(jnp.eye(x.size, dtype=x.dtype), x))
    if mode == "differences":
        limits = None if bounds is None else (bounds.lower, bounds.upper)
        return fn(x), jnp.asarray(difference_jacobian(fn, x, "3-point", None, limits)).T
    r, pullback = jax.vjp(fn, x)
    (j,) = jax.vmap(pullback)(alike(jnp.eye(r.size, dtype=r.dtype), r))
    return r, j.T
