"""The Gram form of many fits at once, lanes along the last axis.

`linearisation` and `subproblem` for arrays of shape (n, lanes) and (n, n, lanes): sums
over rows instead of matrix products, and elimination instead of factorisations.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._trf.algebra import diagonal, matvec
from .._trf.linearisation import Columns, Products, hat
from .._trf.subproblem import Factored


class LaneGram(eqx.Module):
    """The Gram form of each lane: cost, J'r and J'J."""

    cost: Float[Array, " l"]
    grad: Float[Array, "n l"]
    gram: Float[Array, "n n l"]
    differenced: Float[Array, " l"]

    @staticmethod
    def blank(x: Float[Array, "n l"]) -> "LaneGram":
        """NaN everywhere: nothing has been seen yet at x."""
        nan = jnp.full((len(x), *x.shape), jnp.nan, x.dtype)
        return LaneGram(nan[0, 0], nan[0], nan, nan[0, 0])

    @staticmethod
    def zero(x: Float[Array, "n l"]) -> "LaneGram":
        """The statistics of no rows at all."""
        none = jnp.zeros((len(x), *x.shape), x.dtype)
        return LaneGram(none[0, 0], none[0], none, none[0, 0])

    @staticmethod
    def of_rows(
        cost: Float[Array, "b l"], r: Float[Array, "b l"], columns: Columns
    ) -> "LaneGram":
        """Of b rows of each lane, with the cost of each row."""
        if isinstance(columns, tuple):
            sums = Products.of_rows(cost, r, columns).total()
            return LaneGram(sums.cost, sums.grad, sums.gram, sums.differenced)
        gram = jnp.sum(columns[:, None] * columns, axis=2)
        cost = jnp.sum(cost, axis=0)
        grad = jnp.sum(columns * r, axis=1)
        return LaneGram(cost, grad, gram, jnp.zeros_like(cost))

    def __add__(self, other: "LaneGram") -> "LaneGram":
        return jax.tree.map(jnp.add, self, other)

    def summary(self) -> "LaneGram":
        return self

    def without(self, columns: Bool[Array, "n l"]) -> "LaneGram":
        """As if J had zeros in some columns."""
        either = columns | columns[:, None]
        grad, gram = jnp.where(columns, 0, self.grad), jnp.where(either, 0, self.gram)
        return LaneGram(self.cost, grad, gram, self.differenced)

    def product(self, s: Float[Array, "n l"]) -> Float[Array, "n l"]:
        return matvec(self.gram, s)

    @property
    def column_norms(self) -> Float[Array, "n l"]:
        return jnp.sqrt(diagonal(self.gram))

    def subproblem(self, d: Array, c: Array | None) -> Factored:
        """The model in hat space, of elimination alone."""
        return Factored.of_matrix(hat(self.gram, d, c), d * self.grad)
