"""One posterior from those of shards of the data.

Where shard k has the posterior of its own data under the prior to the power 1 / K, the
whole has their product. Of normal ones that is exact: precisions add, and means are
weighted by them. Draws are combined one by one with the same full matrices (Scott et
al. 2016, "Bayes and big data: the consensus Monte Carlo algorithm").
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._basics.checks import is_concrete
from .._basics.precision import in_own_precision
from .._basics.types import Matrix, Vector
from .._programs.program import program


class Consensus(eqx.Module):
    """A combined posterior: `mean`, (n,), and `covariance`, (n, n); the `weights` of K
    shards, (K, n, n), add up to the identity.
    """

    mean: Vector
    covariance: Matrix
    weights: Float[Array, "K n n"]

    @in_own_precision
    def combine(self, draws: ArrayLike) -> Float[Array, "s n"]:
        """Draws of the whole from s draws of each shard, (K, s, n).

        **Raises:** `ValueError` where they are not of that shape.
        """
        given = jnp.asarray(draws)
        shards, n, _ = self.weights.shape
        if given.ndim != 3 or given.shape[::2] != (shards, n):
            raise ValueError(
                f"`draws` must be of shape ({shards}, draws, {n}), got {given.shape}."
            )
        return jnp.einsum("kij,ksj->si", self.weights, given)


def consensus(means: ArrayLike, covariances: ArrayLike) -> Consensus:
    """Combine the posteriors of K shards of data.

    **Arguments:**

    - `means`: (K, n), of each shard's posterior, in variables that are the same for all
        of them: parameters, say. The variables u of a [`jaxfit.Laplace`][] are centred
        at its own solution, and are not.
    - `covariances`: (K, n, n).

    **Returns:** a [`jaxfit.Consensus`][]: exact where all posteriors are normal.

    **Raises:** `ValueError` for other shapes, and for a covariance that is not positive
    definite, naming its shard.
    """
    means, covariances = jnp.asarray(means), jnp.asarray(covariances)
    if means.ndim != 2 or covariances.shape != (*means.shape, means.shape[1]):
        raise ValueError(
            "`means` must be of shape (K, n) and `covariances` (K, n, n), got "
            f"{means.shape} and {covariances.shape}."
        )
    if not jnp.issubdtype(means.dtype, jnp.floating):
        means = means.astype(covariances.dtype)
    found = _consensus(means, covariances)
    if is_concrete(found.weights):
        bad = ~jnp.all(jnp.isfinite(jnp.linalg.cholesky(covariances)), axis=(1, 2))
        if bad.any():
            raise ValueError(
                f"`covariances[{int(jnp.argmax(bad))}]` is not positive definite: its "
                "shard does not determine all parameters."
            )
    return found


@program
def _consensus(means: Array, covariances: Array) -> Consensus:
    # In units in which the first shard's deviations are 1 nothing is badly scaled.
    unit = jnp.sqrt(jnp.abs(jnp.diagonal(covariances[0])))
    scaled = covariances / unit / unit[:, None]
    eye = jnp.eye(unit.size, dtype=means.dtype)

    def inverse(matrix):
        return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), eye)

    precisions = jax.vmap(inverse)(scaled)
    covariance = inverse(jnp.sum(precisions, axis=0))
    weights = covariance @ precisions
    mean = unit * jnp.einsum("kij,kj->i", weights, means / unit)
    outer = unit * unit[:, None]
    back = unit[:, None] / unit
    return Consensus(mean, covariance * outer, weights * back)
