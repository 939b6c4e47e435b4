"""Comparison of a model with one that contains it: F test or likelihood ratio."""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from .._basics.checks import is_concrete, one_of
from .._basics.precision import in_own_precision
from .._basics.status import Status
from .._basics.types import Scalar
from .._solve.noise import CostNoise
from .._solve.solution import Solution
from .._uncertainty.conditions import check_solution, dof_of, status_of
from .._uncertainty.distributions import chi2_sf, f_sf
from .criteria import criteria


class Comparison(eqx.Module):
    """A test of a simpler model against one that contains it.

    **Attributes:** `statistic`, F or the fall of chi2; `p_value`, of one as large where
    the simpler model is right; `dof`, (2,), the parameters more and the degrees of
    freedom left; `aic`, `bic`, those of the larger model less those of the simpler one:
    negative speaks for the larger one.
    """

    statistic: Scalar
    p_value: Scalar
    dof: Int[Array, " 2"]
    aic: Scalar
    bic: Scalar
    test: Literal["f", "chi2"] = eqx.field(static=True)

    @in_own_precision
    def summary(self) -> str:
        """The comparison in a sentence."""
        return (
            f"{self.test} = {self.statistic:.6g} with {int(self.dof[0])} and "
            f"{int(self.dof[1])} degrees of freedom, p = {self.p_value:.3g}; AIC "
            f"{self.aic:+.4g}, BIC {self.bic:+.4g} for the larger model"
        )


def compare_models(
    simple: Solution,
    larger: Solution,
    *,
    noise: CostNoise = "estimated",
) -> Comparison:
    """Does a larger model fit better than one that it contains, more than by chance?

    F = (fall of chi2 / parameters more) / (chi2 / dof) where the noise is estimated,
    else the likelihood ratio, which is the fall of chi2 itself (Wilks 1938). chi2 is
    2 cost here, also with a robust loss: that is what both fits have minimised.

    **Arguments:** the solutions of both, of the same data and weights; `noise` as of
    [`jaxfit.goodness_of_fit`][].

    **Returns:** a [`jaxfit.Comparison`][].

    **Raises:** `ValueError` for a solution that did not converge, for other data, for a
    larger model that has no more parameters or fits worse, as it then does not contain
    the simple one or was not fitted, and for dof < 1.
    """
    noise = one_of("noise", noise, CostNoise)
    for name, one in (("simple", simple), ("larger", larger)):
        instead = "take jax.vmap of jaxfit.compare_models, or one fit of it."
        check_solution(name, one, instead)
    if is_concrete((simple, larger)):
        _check_nested(simple, larger)
    more, left = simple.dof - larger.dof, larger.dof
    fall = 2 * (simple.cost - larger.cost)
    chi2 = 2 * larger.cost
    known = noise == "known"
    statistic = fall if known else fall / more / (chi2 / left)
    p = chi2_sf(fall, more) if known else f_sf(statistic, more, left)
    count = larger.num_rows.astype(chi2.dtype)
    values = [
        criteria(one.cost, count, count - one.dof, known) for one in (simple, larger)
    ]
    ok = simple.success & larger.success & (more > 0) & (left > 0)
    statistic, p = (jnp.where(ok, a, jnp.nan) for a in (statistic, p))
    aic, _, bic = (b - a for a, b in zip(*values, strict=True))
    test = "chi2" if known else "f"
    return Comparison(statistic, p, jnp.stack([more, left]), aic, bic, test)


def _check_nested(simple: Solution, larger: Solution) -> None:
    for name, one in (("simple", simple), ("larger", larger)):
        status = status_of(one)
        if status <= 0:
            raise ValueError(f"`{name}` did not converge: {Status(status).message}")
    rows = [int(np.asarray(one.num_rows)) for one in (simple, larger)]
    if rows[0] != rows[1]:
        raise ValueError(
            f"`simple` is of {rows[0]} data and `larger` of {rows[1]}: they must be "
            "the same."
        )
    dof = [dof_of(one) for one in (simple, larger)]
    if dof[1] < 1:
        raise ValueError(f"`larger` leaves dof = {dof[1]}: nothing to test.")
    if dof[0] <= dof[1]:
        raise ValueError(
            "`larger` must have more free parameters than `simple`: their degrees of "
            f"freedom are {dof[1]} and {dof[0]} (a parameter at an active bound is not "
            "free)."
        )
    cost = [float(np.asarray(one.cost)) for one in (simple, larger)]
    if cost[1] > cost[0] * (1 + 1e-6):
        raise ValueError(
            f"`larger` fits worse ({cost[1]:.6g}) than `simple` ({cost[0]:.6g}): it "
            "does not contain it, or is in another minimum."
        )
