"""The normal approximation of a posterior about its mode (Laplace's method).

    p(u) ~ N(u*, H^-1),   H = -d^2 log p / du^2 at the mode u*

(Tierney and Kadane 1986, Journal of the American Statistical Association 81.)
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from .._basics.checks import is_concrete, positive_int
from .._basics.precision import in_own_precision
from .._basics.types import Matrix, Scalar, Vector
from .._problem.problem import Problem
from .._programs.program import program
from .._solve.noise import CostNoise
from .._solve.solution import Solution
from .._uncertainty.conditions import converged
from .density import LogDensity, log_density


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
    noise: CostNoise = "estimated",
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
    the noise is estimated.
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
