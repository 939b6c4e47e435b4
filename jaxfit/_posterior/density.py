"""The log posterior density of a fit, in variables without bounds.

    log p(x | data) = -cost(x) [+ log prior(x)]         residuals of variance 1
                    = -m/2 log cost(x) [+ log prior]    variance s^2 with prior 1/s^2,
                                                        integrated out

Samplers want variables without bounds: the density is that of u with x = x(u)
(`_solve.unbounded`), so the log of |dx/du| is added. A robust loss counts as the
density exp(-cost) that it is, up to a constant (Student's t for "cauchy", near enough).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, PyTree

from .._basics.checks import one_of
from .._basics.precision import in_own_precision
from .._basics.trees import unravel_as
from .._basics.types import Scalar, Vector
from .._functions.callables import Function
from .._problem.problem import Problem, check_problem
from .._problem.sharded import objective_of
from .._solve.noise import CostNoise
from .._solve.solver import TRF
from .._solve.unbounded import Bijection
from .._uncertainty.conditions import same_params


class LogDensity(eqx.Module):
    """A log density of u, a vector of n numbers without bounds.

    Callable: `density(u)` is a number up to a constant, traced; a PyTree of arrays, so
    that samplers may jit and batch it with its data. `constrain` and `unconstrain` go
    between u and parameters; `start` is the u of the problem's start.
    """

    problem: Problem
    prior: Function | None
    bijection: Bijection
    share: Scalar
    noise: CostNoise = eqx.field(static=True)

    def __call__(self, u: Vector) -> Scalar:
        x = self.bijection.forward(u)
        objective = objective_of(self.problem, x, _SOLVER)
        cost = objective.cost(x)
        if self.noise == "known":
            value = -cost
        else:
            value = -0.5 * objective.num_rows * jnp.log(cost)
        prior = self.bijection.log_slope(u)
        if self.prior is not None:
            prior += self.prior(unravel_as(self.problem.params, x))
        # What a fixed parameter's coordinate does matters to nothing: standard normal,
        # so that a sampler's walk along it stays where it is.
        idle = 0.5 * jnp.sum(jnp.where(self.bijection.fixed, u, 0) ** 2)
        total = value + self.share * prior - idle
        return jnp.where(jnp.isnan(total), -jnp.inf, total)

    @property
    def start(self) -> Vector:
        """u = 0."""
        return jnp.zeros_like(self.bijection.centre)

    @in_own_precision
    def constrain(self, u: Float[Array, "... n"]) -> PyTree[Array]:
        """Parameters of u, or of many with any axes before."""
        flat = u.reshape(-1, u.shape[-1])
        x = jax.vmap(self.bijection.forward)(flat).reshape(u.shape)
        return unravel_as(self.problem.params, x)

    @in_own_precision
    def unconstrain(self, params: PyTree[ArrayLike]) -> Vector:
        """The u of parameters; infinite on a bound.

        **Raises:** `ValueError` where their structure is not the problem's.
        """
        same_params("params", params, self.problem.params)
        return self.bijection.inverse(ravel_pytree(params)[0])


_SOLVER = TRF(linear_solver="gram", chunk_size=None)


def log_density(
    problem: Problem,
    *,
    prior: Callable[[Any], ArrayLike] | None = None,
    noise: CostNoise = "estimated",
    share: ArrayLike = 1.0,
) -> LogDensity:
    """The log posterior density of a problem's parameters, for a sampler.

    **Arguments:**

    - `problem`: a [`jaxfit.Problem`][]. Parameters within bounds are sampled there, and
        fixed ones stay (their coordinate is standard normal).
    - `prior`: `prior(params)` returns the log of a density; flat within bounds if None.
    - `noise`: "known" where residuals are in units of their standard deviations;
        "estimated" integrates the variance out.
    - `share`: the power of the prior, 1 / K in each of K shards of data whose
        posteriors are to be combined by [`jaxfit.consensus`][].

    **Returns:** a [`jaxfit.LogDensity`][], for `blackjax.nuts(density, ...)` or
    NumPyro's `NUTS(potential_fn=lambda u: -density(u))`.

    **Raises:** `TypeError` or `ValueError` naming the argument.
    """
    check_problem(problem)
    noise = one_of("noise", noise, CostNoise)
    if noise == "estimated" and problem.loss.rho is not None:
        raise ValueError(
            "`noise` is 'estimated', but a robust loss knows it: `f_scale` is in its "
            "units. Give noise='known' and residuals in units of their deviations."
        )
    x = ravel_pytree(problem.params)[0]
    return LogDensity(
        problem=problem,
        prior=None if prior is None else Function(prior, "prior"),
        bijection=Bijection.of(problem.bounds, x),
        share=jnp.asarray(share, x.dtype),
        noise=noise,
    )
