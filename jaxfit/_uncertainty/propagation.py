"""Errors of what is derived from parameters, by the delta method.

The covariance of f(x) is F C F', with F the derivative of f and C that of x (Rao 1973,
Linear statistical inference, 6a.2). Nothing as large as the square of f's values is
made unless it is asked for.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from .._basics.names import names_of
from .._basics.precision import in_own_precision
from .._basics.rounding import Style, pretty
from .._basics.types import Matrix
from .._solve.covariance import correlation_of, derived, masked
from .conditions import same_params
from .covariance import Covariance


class Propagated(eqx.Module):
    """Values with their errors.

    **Attributes:** `value`, what the function returned; `errors`, standard errors in
    the same structure: inf where a value depends on what the data do not determine.
    """

    value: PyTree[Array]
    errors: PyTree[Array]
    slopes: Float[Array, "p n"]
    determined: Matrix
    lost: Bool[Array, " p"]

    @in_own_precision
    def covariance(self) -> Matrix:
        """The covariance of all p values in the order of `ravel_pytree`, (p, p)."""
        return masked(self.slopes @ self.determined @ self.slopes.T, self.lost)

    @in_own_precision
    def correlation(self) -> Matrix:
        """Their correlations, (p, p); NaN where there are none."""
        return correlation_of(self.covariance())

    @in_own_precision
    def pretty(self, style: Style = "pm") -> dict[str, str]:
        """Each value with its error, as text by name."""
        values, errors = (ravel_pytree(t)[0] for t in (self.value, self.errors))
        named = zip(_names(self.value), values, errors, strict=True)
        return {name: pretty(value, error, style) for name, value, error in named}

    def __str__(self) -> str:
        return "\n".join(f"{name} = {text}" for name, text in self.pretty().items())


def propagate(
    fn: Callable[[Any], Any], covariance: Covariance, params: Any = None
) -> Propagated:
    """Errors of `fn(params)`, with all correlations of the parameters.

    Bands are the errors of a model's values: `propagate(lambda p: model(x, p), c)`.

    **Arguments:**

    - `fn`: a traced function of the parameters, in the problem's PyTree, that returns a
        PyTree of real arrays. It is evaluated and differentiated once.
    - `covariance`: a [`jaxfit.Covariance`][], of the kind that suits the data.
    - `params`: where to take the values; the estimate if None.

    **Returns:** a [`jaxfit.Propagated`][].

    **Raises:** `TypeError` where `covariance` is none or `fn` not real, `ValueError`
    for `params` of another structure.
    """
    if not isinstance(covariance, Covariance):
        raise TypeError(
            "`covariance` must be a jaxfit.Covariance, got "
            f"{type(covariance).__name__}: jaxfit.covariance(problem, solution)."
        )
    if not callable(fn):
        raise TypeError(f"`fn` must be callable, got {type(fn).__name__}.")
    x, unravel = ravel_pytree(covariance.params)
    if params is not None:
        same_params("params", params, covariance.params)
        x = ravel_pytree(params)[0].astype(x.dtype)

    def flat(x):
        values = fn(unravel(x))
        for leaf in jax.tree.leaves(values):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise TypeError(
                    f"`fn` must return real numbers, got {jnp.result_type(leaf)}."
                )
        return ravel_pytree(values)[0], values

    _, tangents, values = jax.linearize(flat, x, has_aux=True)
    slopes = jax.vmap(tangents)(jnp.eye(x.size, dtype=x.dtype)).T
    c = covariance.determined
    known = jnp.sum((slopes @ c) * slopes, axis=1)
    variance = derived(known, slopes, covariance.null, covariance.unit)
    errors, lost = jnp.sqrt(variance), jnp.isinf(variance)
    return Propagated(values, ravel_pytree(values)[1](errors), slopes, c, lost)


def _names(value: PyTree[ArrayLike]) -> tuple[str, ...]:
    """Names of derived values: as of parameters, but that one number is "value"."""
    if len(names_of(value)) == 1 and jax.tree.structure(value) == jax.tree.structure(0):
        return ("value",)
    return tuple(
        name.replace("params[", "value[", 1) if name.startswith("params[") else name
        for name in names_of(value)
    )
