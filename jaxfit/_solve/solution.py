"""What a fit returns."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._basics.precision import in_own_settings
from .._basics.status import Status
from .._trf.state import History
from .covariance import covariance


class Counted(eqx.Module):
    """What results of one fit and of many share: counts in one array, and sizes."""

    counts: eqx.AbstractVar[Int[Array, "... 4"]]
    num_rows: eqx.AbstractVar[Int[Array, "..."]]
    num_params: eqx.AbstractVar[int]
    fixed: eqx.AbstractVar[Bool[Array, "... n"] | None]

    @property
    @in_own_settings
    def status(self) -> Int[Array, "..."]:
        """The outcome, as the integer of a `Status`."""
        return self.counts[..., 0]

    @property
    @in_own_settings
    def nfev(self) -> Int[Array, "..."]:
        """The number of evaluations of the residual."""
        return self.counts[..., 1]

    @property
    @in_own_settings
    def njev(self) -> Int[Array, "..."]:
        """The number of evaluations of the Jacobian."""
        return self.counts[..., 2]

    @property
    @in_own_settings
    def num_steps(self) -> Int[Array, "..."]:
        """The number of outer steps."""
        return self.counts[..., 3]

    @property
    @in_own_settings
    def success(self) -> Bool[Array, "..."]:
        """Whether one of the tolerances was met."""
        return self.status > 0

    @property
    @in_own_settings
    def dof(self) -> Int[Array, "..."]:
        """Degrees of freedom: residuals that counted less parameters that were free."""
        fixed = 0 if self.fixed is None else jnp.sum(self.fixed, axis=-1)
        return self.num_rows - self.num_params + fixed


class Solution(Counted):
    """A fit's result: a PyTree that can be batched, differentiated and saved.

    **Attributes:**

    - `params`: the solution, like `Problem.params`.
    - `cost`: 1/2 C^2 sum(rho(r^2 / C^2)) there.
    - `optimality`: the largest |v_i g_i| (SciPy's measure; v is the Coleman-Li vector).
    - `counts`: four integers in one array, to be read by name: `status`, an integer of
        [`jaxfit.Status`][] (`success` is `status > 0`); `nfev` and `njev`, evaluations
        of the residual and of its Jacobian; `num_steps`, outer steps taken.
    - `active_mask`: like `params`: -1 at an active lower bound, 1 at an upper one, else
        0; -1 for a fixed parameter.
    - `grad`: the gradient of the cost, like `params`.
    - `linearisation`: the linearisation at the solution: [`jaxfit.Triangle`][] or
        [`jaxfit.Gram`][], or None after a matrix-free fit.
    - `num_rows`: the number m of residuals that counted; `num_params` is n.
    - `fixed`: booleans of shape (n,): parameters with lower == upper; None without
        bounds.
    - `history`: a [`jaxfit.History`][] if it was asked for.
    - `differenced`: whether some derivatives at the solution are differences, because
        automatic ones are not finite there while the residual is, or because the
        residual forbids forward mode. None after a streamed fit, which does not look.
    """

    params: PyTree[Array]
    cost: Float[Array, "..."]
    optimality: Float[Array, "..."]
    counts: Int[Array, "... 4"]  # status, nfev, njev, num_steps: one array, not four
    active_mask: PyTree[Array]
    grad: PyTree[Array]
    linearisation: Any
    num_rows: Int[Array, "..."]
    num_params: int = eqx.field(static=True)
    fixed: Bool[Array, "... n"] | None
    history: History | None
    differenced: Bool[Array, "..."] | None

    @property
    def message(self) -> str:
        """The outcome of a single fit in words.

        **Raises:** `ValueError` for a batch: look at `status`.
        """
        self._single("message", "look at `status`")
        return Status(int(self.status)).message

    @in_own_settings
    def covariance(self, scaled: bool = True) -> Float[Array, "n n"]:
        """The covariance of the parameters in the order of `ravel_pytree(params)`.

        `scaled` multiplies (J'J)^-1 by 2 cost / dof, which suits unknown or relative
        `sigma`; False suits known `sigma`. Bounds that are active are disregarded.
        A fixed parameter has variance 0. One that the data do not determine has
        variance inf and covariances NaN; all are NaN where `scaled` and dof < 1.

        **Raises:** `ValueError` after a matrix-free fit, which has no J'J, and for a
        batch of solutions.
        """
        self._single("covariance", "jax.vmap(lambda s: s.covariance())(solution)")
        if self.linearisation is None:
            raise ValueError(
                "a matrix-free fit forms no J'J and has no covariance: solve again "
                "from the solution with TRF(linear_solver='qr')."
            )
        inverse = covariance(self.linearisation, self.fixed)
        if not scaled:
            return inverse
        dof = self.dof
        variance = 2 * self.cost / jnp.where(dof > 0, dof, 1)
        return inverse * jnp.where(dof > 0, variance, jnp.nan)

    def _single(self, what: str, instead: str) -> None:
        if self.counts.ndim > 1:
            raise ValueError(
                f"`{what}` is of one fit, and this solution holds a batch of shape "
                f"{self.counts.shape[:-1]}: {instead}."
            )
