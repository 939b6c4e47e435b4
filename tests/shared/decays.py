"""A decay with an offset: fits of it, and their covariances in closed form."""

import jax.numpy as jnp
import numpy as np

import jaxfit
from jaxfit import TRF


M = 18
X = np.linspace(0.0, 3.0, M)
RNG = np.random.default_rng(3)
Y = 2.5 * np.exp(-1.3 * X) + 0.5 + 0.08 * RNG.standard_normal(M)
Y[4] += 0.3
SIGMA = np.linspace(0.06, 0.12, M)
START = {"a": 2.0, "b": 1.0, "c": 0.1}
TIGHT = TRF(ftol=0.0, xtol=1e-15, gtol=1e-15)
MAD = 1.482602218505602
ALL = np.ones(M, bool)


def decay(x, p):
    return p["a"] * jnp.exp(-p["b"] * x) + p["c"]


def problem(y=Y, start=START, **options):
    return jaxfit.curve_problem(decay, X, y, start, sigma=SIGMA, **options)


def solve(there):
    return jaxfit.solve(there, TIGHT)


def close(actual, desired, rtol=1e-7, atol=1e-13):
    np.testing.assert_allclose(actual, desired, rtol=rtol, atol=atol)


class Formulas:
    """What the covariances of `decay` are, from closed forms at given parameters.

    Of a loss: the slope psi of the cost by a residual and its derivative psi'. Only
    the parameters in `free` vary, and only the rows in `used` count.
    """

    def __init__(self, params, y=Y, free=(0, 1, 2), used=ALL, scale=None):
        a, b, c = (float(params[k]) for k in "abc")
        x, sigma, free = X[used], SIGMA[used], list(free)
        e = np.exp(-b * x)
        j = np.stack([e, -a * x * e, np.ones_like(x)], axis=1) / sigma[:, None]
        r = (a * e + c - y[used]) / sigma
        z = 0 if scale is None else (r / scale) ** 2  # of the loss "soft_l1"
        psi, slope = r / np.sqrt(1 + z), (1 + z) ** -1.5 * np.ones_like(r)
        second = np.zeros((3, 3))
        second[0, 1] = second[1, 0] = psi @ (-x * e / sigma)
        second[1, 1] = psi @ (a * x**2 * e / sigma)
        grid = np.ix_(free, free)
        fisher = ((j.T * slope) @ j)[grid]
        exact = fisher + second[grid]
        self.dof = x.size - len(free)
        self.estimated = psi @ psi / self.dof / slope.mean()
        self.robust = (MAD * np.median(np.abs(r))) ** 2 * x.size / self.dof
        weighted = (j * np.sqrt(slope)[:, None])[:, free]
        q, _ = np.linalg.qr(weighted)
        scores = (j * (psi / (1 - np.sum(q**2, axis=1)))[:, None])[:, free]
        bread = np.linalg.inv(exact)
        self.grid = grid
        self.gauss_newton = self.full(np.linalg.inv(fisher))
        self.hessian = self.full(bread)
        self.sandwich = self.full(bread @ scores.T @ scores @ bread)

    def full(self, matrix):
        whole = np.zeros((3, 3))
        whole[self.grid] = matrix
        return whole

    def of(self, kind, noise=None):
        """The matrix of a kind, where the noise is estimated unless it is said."""
        if kind == "sandwich":
            return self.sandwich
        known = {"known": 1.0, "robust": self.robust, None: self.estimated}
        return getattr(self, kind) * known[noise]
