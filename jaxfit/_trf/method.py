"""The constants of the method: tolerances, scales of the parameters, and limits."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from .._basics.types import Vector
from .certificate import OFFSET


class Method(eqx.Module):
    """What the loop reads of a solver; [`jaxfit.TRF`][] tells what each field means.

    Nothing here says how a residual is evaluated. Tolerances of None follow the dtype
    of the parameters.
    """

    ftol: ArrayLike | None = None
    xtol: ArrayLike | None = None
    gtol: ArrayLike | None = None
    atol: ArrayLike | None = None
    max_nfev: ArrayLike | None = None
    factor: ArrayLike = 3.0
    x_scale: Array | None = None  # None stands for "jac"
    max_steps: int = eqx.field(static=True, default=2000)
    trials: int = eqx.field(static=True, default=4)
    history: bool = eqx.field(static=True, default=False)

    def tolerances(self, dtype) -> tuple[ArrayLike, ArrayLike, ArrayLike]:
        """`ftol`, `xtol` and `gtol`; where None eps, eps^(2/3) and eps^(3/4)."""
        eps = float(jnp.finfo(dtype).eps)
        return (
            eps if self.ftol is None else self.ftol,
            eps ** (2 / 3) if self.xtol is None else self.xtol,
            eps**0.75 if self.gtol is None else self.gtol,
        )

    def offset(self, dtype) -> ArrayLike:
        """The relative offset that the certificate asks for.

        1e-3, or the largest of `xtol`, `gtol` and sqrt(`ftol`) that the user has set.
        """
        level: ArrayLike = OFFSET
        for tol, power in self.offsets:
            level = jnp.maximum(level, jnp.asarray(tol, dtype) ** power)
        return level

    @property
    def offsets(self) -> list[tuple[ArrayLike, float | int]]:
        """The tolerances that are set, each with its power that is an offset."""
        powers = (self.xtol, 1), (self.gtol, 1), (self.ftol, 0.5)
        return [(tol, power) for tol, power in powers if tol is not None]

    def inv_scale(self, previous: Vector, norms: Vector) -> Vector:
        """1 / s of the scales s of the parameters, by column norms at x and before.

        **Raises:** `ValueError` where `x_scale` has another number of parameters.
        """
        if self.x_scale is None:
            return jnp.maximum(previous, norms)
        scale = self.x_scale
        if scale.ndim and scale.shape != previous.shape[:1]:
            raise ValueError(
                f"`x_scale` has shape {scale.shape} for {len(previous)} "
                "parameters: give one number, or one for each in the order of "
                "ravel_pytree(params)."
            )
        if scale.ndim:
            scale = scale.reshape(scale.shape + (1,) * (previous.ndim - 1))
        return jnp.broadcast_to(1 / scale.astype(previous.dtype), previous.shape)
