"""Which data decide the fit: leverage, studentised residuals, Cook's distance.

All from the final linearisation, without a refit: of a linear model they are exact, of
another one to first order (Cook and Weisberg 1982, Residuals and influence in
regression; Ross 1987, Canadian Journal of Statistics 15, for nonlinear models).
"""

import equinox as eqx
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from .._basics.checks import one_of
from .._problem.problem import Problem
from .._programs.program import program
from .._solve.covariance import directions
from .._solve.noise import Noise
from .._solve.solution import Solution
from .._solve.solver import TRF
from .conditions import KNOWN, converged
from .weighted_rows import dense_for, held_at, leverage, noise_variance, rows_at


class Influence(eqx.Module):
    """What each of m residuals does to the fit; NaN where it is masked.

    **Attributes:**

    - `leverage`: (m,), how much of a residual's error the fit takes over, 0 to 1; they
        add up to the number of parameters that are free and determined.
    - `studentised`: (m,), residuals over the deviation that they should have, which is
        that of the noise times sqrt(1 - leverage).
    - `deleted`: (m,), the same with the noise estimated without that residual, which
        follows Student's t with dof - 1 degrees of freedom; equal to `studentised`
        where the noise is known.
    - `cooks_distance`: (m,), how far the fit would move without the residual, squared,
        in units of its covariance, a parameter.
    - `change`: (m, n), by how much the parameters would change without it, in the order
        of `ravel_pytree(params)`.
    """

    leverage: Float[Array, " m"]
    studentised: Float[Array, " m"]
    deleted: Float[Array, " m"]
    cooks_distance: Float[Array, " m"]
    change: Float[Array, "m n"]
    used: Bool[Array, " m"]


def influence(
    problem: Problem,
    solution: Solution,
    *,
    noise: Noise = "estimated",
    solver: TRF | None = None,
) -> Influence:
    """What each residual does to the fit, from the linearisation at the solution.

    **Arguments:** as of [`jaxfit.covariance`][]. Parameters at an active bound are
    taken for known.

    **Returns:** a [`jaxfit.Influence`][], NaN inside a trace where the fit failed.

    **Raises:** `ValueError` for a solution that did not converge or is matrix-free, and
    for dof < 1 unless the noise is known.
    """
    noise = one_of("noise", noise, Noise)
    ok = converged("influence", problem, solution, noise != "known", KNOWN)
    dense_for("influence", solution)
    return _influence(problem, solution, ok, noise, solver)


@program(static=(3,))
def _influence(problem, solution, ok, noise, solver) -> Influence:
    rows = rows_at(problem, ravel_pytree(solution.params)[0], solver)
    fixed, dropped = held_at(problem, solution, True)
    held = fixed | dropped
    h = leverage(rows, held)
    w = directions(dense_for("influence", solution), held).determined
    variance = noise_variance(noise, solution, rows)
    # Without a datum that the fit goes through whatever it is, there is no fit.
    rest = jnp.where(h < 1 - 2 * jnp.sqrt(jnp.finfo(h.dtype).eps), 1 - h, jnp.nan)
    size = rows.weighted / jnp.sqrt(rest)
    studentised = size / jnp.sqrt(variance)
    dof = solution.dof.astype(h.dtype)
    deleted = studentised
    if noise == "estimated":
        left = (dof - studentised**2) / jnp.where(dof > 1, dof - 1, jnp.nan)
        deleted = studentised / jnp.sqrt(jnp.maximum(left, jnp.finfo(h.dtype).tiny))
    free = jnp.maximum(jnp.sum(h), 1)
    # Without row i the minimum moves by (J'J)^-1 j_i r_i / (1 - h_i).
    change = (rows.scores / rest[:, None]) @ w.T @ w

    def known(a):
        used = rows.used & ok
        return jnp.where(used if a.ndim == 1 else used[:, None], a, jnp.nan)

    return Influence(
        leverage=known(h),
        studentised=known(studentised),
        deleted=known(deleted),
        cooks_distance=known(studentised**2 * h / rest / free),
        change=known(change),
        used=rows.used,
    )
