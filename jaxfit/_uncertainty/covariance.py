"""Which covariance: of what curvature, under which noise, on which side of a bound.

    gauss_newton   s^2 (J'J)^-1, as `Solution.covariance`
    hessian        s^2 H^-1 with H the exact Hessian of the cost
    sandwich       H^-1 B H^-1, B = sum of psi_i^2 j_i j_i' / (1 - h_i)^2

The first two hold where all residuals have one variance s^2. The last holds whatever
variances they have and for any loss (Huber 1967; White 1982, Econometrica 50): its
filling is made of the residuals themselves, each inflated by its leverage h_i so that
few data do not make it too small ("HC3" of MacKinnon and White 1985).
"""

from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Int, PyTree

from .._basics.checks import one_of
from .._basics.names import names_of
from .._basics.precision import in_own_precision
from .._basics.types import Matrix, Scalar, Vector
from .._problem.problem import Problem
from .._programs.program import program
from .._solve.covariance import correlation_of, directions, inverse, masked
from .._solve.hessian import hessian
from .._solve.noise import Noise
from .._solve.solution import Solution
from .._solve.solver import TRF
from .._trf.linearisation import Gram
from .conditions import KNOWN, converged
from .weighted_rows import (
    dense_for,
    held_at,
    leverage,
    needs_rows,
    noise_variance,
    rows_at,
)
from .words import combinations, plainest


Kind = Literal["gauss_newton", "hessian", "sandwich"]


class Covariance(eqx.Module):
    """A covariance of the parameters, and what it does not speak of.

    **Attributes:**

    - `params`: the estimate it belongs to, in the problem's PyTree.
    - `matrix`: (n, n), in the order of `ravel_pytree(params)`. Zero for parameters that
        are fixed or dropped. A parameter that the data do not determine has variance
        inf and covariances NaN.
    - `variance`: the variance of a residual, s^2; 1 for the sandwich, which has none.
    - `fixed`, `dropped`, `undetermined`: (n,) booleans: parameters with lower == upper;
        held by an active bound and taken for known; moved by a null direction.
    - `rank`: how many directions of the others the data determine.
    - `null`: (n, n): directions in which the residuals do not change, as rows; zero
        where there are fewer.
    - `determined`: the matrix of what is determined, finite throughout: the variance of
        anything that depends on nothing else. `unit` is 1 / |J_i|.
    """

    params: PyTree[Array]
    matrix: Matrix
    variance: Scalar
    fixed: Bool[Array, " n"]
    dropped: Bool[Array, " n"]
    undetermined: Bool[Array, " n"]
    rank: Int[Array, ""]
    null: Matrix
    determined: Matrix
    unit: Vector
    kind: Kind = eqx.field(static=True)
    noise: Noise | None = eqx.field(static=True)

    @property
    @in_own_precision
    def errors(self) -> Vector:
        """Standard errors, (n,)."""
        return jnp.sqrt(jnp.diagonal(self.matrix, axis1=-2, axis2=-1))

    @property
    @in_own_precision
    def correlation(self) -> Matrix:
        """Correlations, (n, n); NaN where there are none."""
        return correlation_of(self.matrix)

    @in_own_precision
    def null_directions(self, names: Sequence[str] | None = None) -> tuple[str, ...]:
        """What cannot be told apart, in words: combinations like "a - 0.5 b".

        Each is a direction in which parameters can move without any residual changing.
        """
        unit = np.asarray(self.unit)
        unit = np.where(unit > 0, unit, 1)
        null = plainest(np.asarray(self.null), unit)
        return combinations(null, names_of(self.params, names), unit)

    @in_own_precision
    def report(self, names: Sequence[str] | None = None) -> str:
        """Estimates, standard errors, and what was dropped or not determined."""
        known = names_of(self.params, names)
        values, errors = ravel_pytree(self.params)[0], np.asarray(self.errors)
        notes = [
            "fixed"
            if fixed
            else "at its bound, taken for known"
            if dropped
            else "not determined"
            if lost
            else ""
            for fixed, dropped, lost in zip(
                self.fixed, self.dropped, self.undetermined, strict=True
            )
        ]
        width = max(map(len, known))
        lines = [
            f"{name:<{width}}  {float(value):>14.8g} +- {float(error):<10.4g} {note}"
            for name, value, error, note in zip(
                known, values, errors, notes, strict=True
            )
        ]
        says = self.kind + (f", noise {self.noise}" if self.noise else "")
        lines = [f"covariance: {says}; rank {int(self.rank)}", *map(str.rstrip, lines)]
        free = [f"residuals do not see {way}" for way in self.null_directions(names)]
        return "\n".join([*lines, *free])


def covariance(
    problem: Problem,
    solution: Solution,
    *,
    kind: Kind = "gauss_newton",
    noise: Noise | None = None,
    active: Literal["drop", "keep"] = "drop",
    solver: TRF | None = None,
) -> Covariance:
    """The covariance of the parameters, of the kind that suits the data.

    A pure function: it can be jitted, batched and differentiated, by the data too, if
    the solution is computed inside.

    **Arguments:**

    - `problem`, `solution`: a problem and what [`jaxfit.solve`][] made of it.
    - `kind`: "gauss_newton", "hessian" or "sandwich", as above. The latter two evaluate
        second derivatives of the model, the last one keeps an (m, n) Jacobian.
    - `noise`: "estimated" from the cost (the default), "known" where residuals are in
        units of their standard deviations, or "robust", from the median of their
        sizes. The sandwich takes each residual at its word, and none of these.
    - `active`: "drop" takes parameters at an active bound for known, so that the others
        have the errors of the fit without them; "keep" disregards bounds.
    - `solver`: how to differentiate, as the fit's [`jaxfit.TRF`][] did.

    **Returns:** a [`jaxfit.Covariance`][], NaN inside a trace where the fit failed.

    **Raises:** `ValueError` for a solution that did not converge or is matrix-free, for
    dof < 1 where the noise is to be estimated, and for `noise` with a sandwich.
    """
    kind = one_of("kind", kind, Kind)
    active = one_of("active", active, Literal["drop", "keep"])
    if kind == "sandwich":
        if noise is not None:
            raise ValueError(
                f"`noise` is {noise!r}, but a sandwich takes residuals as they are: "
                "leave it out."
            )
    else:
        noise = one_of("noise", noise or "estimated", Noise)
    ok = converged("covariance", problem, solution, noise != "known", KNOWN)
    dense_for("covariance", solution)
    return _covariance(problem, solution, ok, solver, kind, noise, active == "drop")


@program(static=(4, 5, 6))
def _covariance(problem, solution, ok, solver, kind, noise, drop) -> Covariance:
    x = ravel_pytree(solution.params)[0]
    fixed, dropped = held_at(problem, solution, drop)
    held, rows = fixed | dropped, None
    if kind == "sandwich" or needs_rows(noise, problem):
        rows = rows_at(problem, x, solver)
    lin: Any = solution.linearisation
    if kind != "gauss_newton":
        flat = jnp.zeros_like(x)
        exact = hessian(problem, solution.params)
        lin = Gram(solution.cost, flat, exact, jnp.zeros_like(solution.cost))
    ways = directions(lin, held)
    w = ways.determined
    known = inverse(lin.gram, jax.lax.stop_gradient(w.T @ w))
    variance = jnp.ones_like(solution.cost)
    if kind == "sandwich":
        known = _sandwich(known, held, rows)
    else:
        dof = solution.num_rows - x.size + jnp.sum(held)
        variance = noise_variance(noise, solution, rows, dof)
    known = known * jnp.where(ok, variance, jnp.nan)
    null = jnp.any(ways.null != 0, axis=1)
    return Covariance(
        params=solution.params,
        matrix=masked(known, ways.lost),
        variance=jnp.where(ok, variance, jnp.nan),
        fixed=fixed,
        dropped=dropped,
        undetermined=ways.lost,
        rank=jnp.sum(~held) - jnp.sum(null),
        null=ways.null,
        determined=known,
        unit=ways.unit,
        kind=kind,
        noise=noise,
    )


def _sandwich(bread: Matrix, held: Bool[Array, " n"], rows: Any) -> Matrix:
    """H^-1 B H^-1, with the bread H^-1 of what is determined."""
    shares = rows.scores / (1 - leverage(rows, held))[:, None] @ bread
    return shares.T @ shares
