"""What a fit returns."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._basics.checks import is_concrete
from .._basics.precision import in_own_settings
from .._basics.status import Status
from .._trf.state import History
from .covariance import covariance, dense
from .covariance import scaled as times
from .noise import variance_of


class Counted(eqx.Module):
    """What results of one fit and of many share: counts in one array, and sizes."""

    counts: eqx.AbstractVar[Int[Array, "... 4"]]
    num_rows: eqx.AbstractVar[Int[Array, "..."]]
    num_params: eqx.AbstractVar[int]
    active_mask: eqx.AbstractVar[PyTree[Array]]
    cost: eqx.AbstractVar[Float[Array, "..."]]
    squares: eqx.AbstractVar[Float[Array, "..."] | None]
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
        """Degrees of freedom: residuals that counted less parameters that were free.

        Not free are those that are fixed and those held by an active bound.
        """
        held = 0 if self.fixed is None else jnp.sum(self.held, axis=-1)
        return self.num_rows - self.num_params + held

    @property
    @in_own_settings
    def held(self) -> Bool[Array, "... n"]:
        """Parameters that are fixed or held by an active bound, as one vector."""
        leaves = jax.tree.leaves(self.active_mask)
        ahead = self.counts.shape[:-1]
        return jnp.concatenate([a.reshape(*ahead, -1) for a in leaves], axis=-1) != 0

    def _noise_variance(self) -> Float[Array, "..."]:
        """s^2 by the cost or, with a robust loss, by Huber's sums (`noise`)."""
        squares = 2 * self.cost if self.squares is None else self.squares
        return variance_of(squares, self.dof)


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
    - `squares`: with a robust loss sum(psi^2) / mean(psi'), which over `dof` is the
        variance of a residual (Huber 1981); NaN after a streamed fit, which keeps no
        residuals. None without one: it is 2 `cost` then.
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
    squares: Float[Array, "..."] | None = None

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

        The same as [`jaxfit.covariance`][] with its defaults: `scaled` multiplies
        (J'J)^-1 by the estimated variance of a residual, which suits unknown or
        relative `sigma`; False suits known `sigma`. A parameter that is fixed or held
        by an active bound has variance 0. One that the data do not determine has
        variance inf and covariances NaN; all are NaN where `scaled` and dof < 1.

        **Raises:** `ValueError` after a matrix-free fit, which has no J'J, for a batch
        of solutions, and for `scaled` after a streamed fit with a robust loss.
        """
        self._single("covariance", "jax.vmap(lambda s: s.covariance())(solution)")
        lin = dense(self.linearisation, " and has no covariance")
        held = None if self.fixed is None else self.held
        inverse = covariance(lin, held)
        if not scaled:
            return inverse
        if self._has_no_squares():
            raise ValueError(
                "a streamed fit with a robust loss keeps no residuals to estimate the "
                "noise from: scaled=False suits known sigma."
            )
        return times(inverse, self._noise_variance())

    def _has_no_squares(self) -> bool:
        if self.squares is None or not is_concrete((self.squares, self.cost)):
            return False
        return bool(np.isnan(self.squares)) and bool(np.isfinite(self.cost))

    def _single(self, what: str, instead: str) -> None:
        if self.counts.ndim > 1:
            raise ValueError(
                f"`{what}` is of one fit, and this solution holds a batch of shape "
                f"{self.counts.shape[:-1]}: {instead}."
            )
