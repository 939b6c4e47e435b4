"""The posterior of a fit as a traced log density, and its normal approximation.

    log p(x | data) = -cost(x) [+ log prior(x)]         residuals of variance 1
                    = -m/2 log cost(x) [+ log prior]    variance s^2 with prior 1/s^2,
                                                        integrated out

Samplers want variables without bounds: the density is that of u with x = x(u)
(`_trf.unbounded`), so the log of |dx/du| is added. A robust loss counts as the density
exp(-cost) that it is, up to a constant (Student's t for "cauchy", near enough).
"""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, PyTree

from .._basics.checks import is_concrete, one_of, positive_int
from .._basics.precision import in_own_precision
from .._basics.trees import unravel_as
from .._basics.types import Matrix, Scalar, Vector
from .._functions.callables import Function
from .._problem.problem import Problem
from .._problem.sharded import objective_of
from .._programs.program import program
from .._solve.solution import Solution
from .._solve.solver import TRF
from .._trf.unbounded import Bijection
from .._uncertainty.conditions import converged, same_params


DensityNoise = Literal["known", "unknown"]


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
    noise: DensityNoise = eqx.field(static=True)

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
    noise: DensityNoise = "unknown",
    share: ArrayLike = 1.0,
) -> LogDensity:
    """The log posterior density of a problem's parameters, for a sampler.

    **Arguments:**

    - `problem`: a [`jaxfit.Problem`][]. Parameters within bounds are sampled there, and
        fixed ones stay (their coordinate is standard normal).
    - `prior`: `prior(params)` returns the log of a density; flat within bounds if None.
    - `noise`: "known" where residuals are in units of their standard deviations;
        "unknown" integrates the variance out.
    - `share`: the power of the prior, 1 / K in each of K shards of data whose
        posteriors are to be combined by [`jaxfit.consensus`][].

    **Returns:** a [`jaxfit.LogDensity`][], for `blackjax.nuts(density, ...)` or
    NumPyro's `NUTS(potential_fn=lambda u: -density(u))`.

    **Raises:** `TypeError` or `ValueError` naming the argument.
    """
    if not isinstance(problem, Problem):
        raise TypeError(
            f"`problem` must be a jaxfit.Problem, got {type(problem).__name__}."
        )
    noise = one_of("noise", noise, DensityNoise)
    if noise == "unknown" and problem.loss.rho is not None:
        raise ValueError(
            "`noise` is 'unknown', but a robust loss knows it: `f_scale` is in its "
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


class Laplace(eqx.Module):
    """A normal approximation in u about the mode of a density.

    **Attributes:** `density`, the [`jaxfit.LogDensity`][]; `mean` and `covariance`, in
    u; `converged`, whether the mode was found, with a covariance that is positive
    definite.
    """

    density: LogDensity
    mean: Vector
    covariance: Matrix
    root: Matrix  # L with L L' the covariance
    converged: Array

    @in_own_precision
    def sample(self, key: Array, n: int) -> PyTree[Array]:
        """n draws of parameters, along a first axis, all of them within bounds.

        **Raises:** `ValueError` for n < 1.
        """
        return self.density.constrain(self.sample_u(key, n))

    @in_own_precision
    def sample_u(self, key: Array, n: int) -> Float[Array, "n k"]:
        """n draws of u: starts for the chains of a sampler."""
        shape = (positive_int("n", n), self.mean.size)
        z = jax.random.normal(key, shape, self.mean.dtype)
        return self.mean + z @ self.root.T

    @in_own_precision
    def log_prob(self, u: Vector) -> Scalar:
        """The log of the normal density at u, with its constant."""
        z = jax.scipy.linalg.solve_triangular(self.root, u - self.mean, lower=True)
        size = jnp.sum(jnp.log(jnp.diagonal(self.root)))
        return -0.5 * (z @ z + u.size * jnp.log(2 * jnp.pi)) - size

    @property
    @in_own_precision
    def log_evidence(self) -> Scalar:
        """log of the integral of exp(density): its value at the mode plus a volume.

        Of use in ratios only: the density lacks the constants of the likelihood.
        """
        return self.density(self.mean) - self.log_prob(self.mean)


def laplace(
    problem: Problem,
    solution: Solution,
    *,
    prior: Callable[[Any], ArrayLike] | None = None,
    noise: DensityNoise = "unknown",
    share: ArrayLike = 1.0,
) -> Laplace:
    """The normal approximation of the posterior, where a sampler should start.

    The mode of the density of u is looked for by Newton's method from the solution, and
    the covariance is the inverse of the negative Hessian there (Tierney and Kadane
    1986, Journal of the American Statistical Association 81).

    **Arguments:** as of [`jaxfit.log_density`][], and the `solution` of the problem.

    **Returns:** a [`jaxfit.Laplace`][].

    **Raises:** `ValueError` for a solution that did not converge, and where no mode is
    found: where the data do not determine all parameters, or are fitted exactly while
    the noise is unknown.
    """
    ok = converged("laplace", problem, solution)
    at = eqx.tree_at(lambda p: p.params, problem, solution.params)
    density = log_density(at, prior=prior, noise=noise, share=share)
    found = _laplace(density, ok)
    if is_concrete(found.converged) and not bool(np.asarray(found.converged)):
        raise ValueError(
            "the density has no mode to be found from this solution: data that do not "
            "determine all parameters need a prior, and a fit without residuals has an "
            "infinite density unless the noise is known."
        )
    return found


_MOST_STEPS = 100


@program
def _laplace(density: LogDensity, ok: Array) -> Laplace:
    """Newton's method, damped until the density rises (Nocedal and Wright, 3.4)."""
    n = density.start.size
    eye = jnp.eye(n, dtype=density.start.dtype)
    eps = jnp.finfo(eye.dtype).eps

    def curvature(u):
        return -jax.hessian(density)(u)

    def step(carry):
        u, value, damping, _, count = carry
        lam, basis = jnp.linalg.eigh(curvature(u))
        grad = jax.grad(density)(u)
        least = jnp.maximum(jnp.abs(lam), eps * jnp.max(jnp.abs(lam)))
        move = basis @ ((basis.T @ grad) / (least + damping * jnp.max(least)))
        # In u a step of more than a few units is beyond what a Hessian knows.
        move = move / jnp.maximum(1, jnp.max(jnp.abs(move)) / 4)
        new = density(u + move)
        better = new >= value
        gain = jnp.where(better, grad @ move, jnp.inf)
        u = jnp.where(better, u + move, u)
        value = jnp.where(better, new, value)
        damping = jnp.where(better, damping / 10, jnp.maximum(10 * damping, 1e-3))
        return u, value, damping, gain, count + 1

    def more(carry):
        _, _, damping, gain, count = carry
        return (gain > 1e-12) & (count < _MOST_STEPS) & (damping < 1e12)

    u = density.start
    first = (u, density(u), jnp.zeros((), u.dtype), jnp.full((), jnp.inf, u.dtype), 0)
    u, value, _, gain, _ = jax.lax.while_loop(more, step, first)
    inverse = jnp.linalg.inv(curvature(u))
    covariance = 0.5 * (inverse + inverse.T)
    root = jnp.linalg.cholesky(covariance)
    found = ok & jnp.isfinite(value) & jnp.all(jnp.isfinite(root)) & (gain < 1e-3)
    return Laplace(density, u, covariance, root, found)
