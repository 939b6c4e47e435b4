"""The results of a batch of fits as a structure of arrays."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._basics.precision import in_own_settings
from .._basics.status import Status
from .._solve.covariance import masked
from .._solve.solution import Counted


class BatchSolution(Counted):
    """The results of p fits: a PyTree of arrays with the fits along the first axis.

    **Attributes:**

    - `params`: the solutions, like the problems' `params`.
    - `cost`, `optimality`: (p,), as in [`jaxfit.Solution`][].
    - `counts`: (p, 4), to be read by name: `status`, `nfev`, `njev`, `num_steps`, each
        (p,), and `success`.
    - `active_mask`: like `params`, as in [`jaxfit.Solution`][].
    - `num_rows`: (p,), the residuals that counted; `num_params` is n.
    - `fixed`: booleans (p, n) or (n,), or None without bounds.
    - `half`: the lower half of (J'J)^-1 row by row, (p, n(n+1)/2), or None; `lost`
        tells the parameters that the data do not determine, (p, n). `covariance()` and
        `perr()` make something of them.
    - `differenced`, `squares`: (p,), as in [`jaxfit.Solution`][]; no `squares` without
        `half`.
    - `lane_efficiency`: the share of lane steps that were steps of a fit.
    """

    params: PyTree[Array]
    cost: Float[Array, " p"]
    optimality: Float[Array, " p"]
    counts: Int[Array, "p 4"]
    active_mask: PyTree[Array]
    num_rows: Int[Array, " p"]
    num_params: int = eqx.field(static=True)
    fixed: Bool[Array, "*p n"] | None
    half: Float[Array, "p h"] | None
    lost: Bool[Array, "p n"] | None
    differenced: Bool[Array, " p"]
    squares: Float[Array, " p"] | None
    lane_efficiency: Float[Array, ""]

    @in_own_settings
    def covariance(self, scaled: bool = True) -> Float[Array, "p n n"]:
        """The covariances of the parameters, as of [`jaxfit.Solution`][].

        Of a fit that failed all is NaN.

        **Raises:** `ValueError` where the batch was solved with `covariance=False`.
        """
        half, lost = self._half()
        n = self.num_params
        i, j = np.tril_indices(n)
        where = np.zeros((n, n), int)
        where[i, j] = where[j, i] = np.arange(len(i))
        factor = self._variance(scaled)[:, None, None]
        known = half[:, where] * factor
        return masked(known, lost & jnp.isfinite(factor[:, 0]))

    @in_own_settings
    def perr(self, scaled: bool = True) -> Float[Array, "p n"]:
        """The standard errors, the roots of the diagonals of `covariance`."""
        half, lost = self._half()
        i = np.arange(self.num_params)
        factor, of_unit = self._variance(scaled)[:, None], half[:, i * (i + 3) // 2]
        held = of_unit == 0  # the root of 0 has no derivative
        of_unit = jnp.where(held, 1, of_unit)
        variance = of_unit * factor
        # Where the product is below the smallest number its factors are not.
        small = variance < jnp.finfo(half.dtype).tiny
        roots = jnp.sqrt(of_unit) * jnp.sqrt(factor)
        known = jnp.where(small, roots, jnp.sqrt(jnp.where(small, 1, variance)))
        known = jnp.where(held, 0 * factor, known)
        return jnp.where(lost & jnp.isfinite(factor), jnp.inf, known)

    @property
    def outcomes(self) -> dict[Status, int]:
        """How many fits ended in which way, the most frequent first."""
        return outcomes(np.asarray(self.status))

    def summary(self) -> str:
        """The outcomes as a table."""
        lost = None if self.lost is None else np.asarray(self.lost)
        return summary(np.asarray(self.status), lost)

    @property
    def failed(self) -> np.ndarray:
        """The indices of the fits that met no tolerance."""
        return np.flatnonzero(~np.asarray(self.success))

    def _half(self):
        if self.half is None or self.lost is None:
            raise ValueError("this batch was solved with covariance=False.")
        return self.half, self.lost

    def _variance(self, scaled: bool) -> Float[Array, " p"]:
        ok = self.status >= 0
        variance = self._noise_variance() if scaled else jnp.ones_like(self.cost)
        return jnp.where(ok, variance, jnp.nan)


def outcomes(status: np.ndarray) -> dict[Status, int]:
    """How often each status occurs, the most frequent first."""
    values, counts = np.unique(status, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {Status(int(values[i])): int(counts[i]) for i in order}


def summary(
    status: np.ndarray,
    undetermined: np.ndarray | None,
    names: Sequence[str] | None = None,
) -> str:
    """A table of outcomes, and what the data of fits that converged do not determine.

    `undetermined` are booleans (p, n), or None where nothing is known.
    """
    total = status.size
    lines = [f"{total} fits, {int((status > 0).sum())} of them converged"]
    for outcome, count in outcomes(status).items():
        share = f"{100 * count / total:.4g}%"
        lines.append(f"{count:>12}  {share:>8}  {outcome.name}: {outcome.message}")
    if undetermined is None:
        return "\n".join(lines)
    lost = undetermined[status > 0]
    count = int(lost.any(axis=1).sum())
    if count:
        names = names or [str(i) for i in range(lost.shape[1])]
        each = ", ".join(
            f"{name} in {k}"
            for name, k in zip(names, lost.sum(axis=0), strict=True)
            if k
        )
        lines.append(
            f"{count} that converged have parameters that the data do not determine: "
            f"{each}"
        )
    return "\n".join(lines)
