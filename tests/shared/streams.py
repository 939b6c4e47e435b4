"""Models, data and sources that the tests of streamed fits share."""

import time

import jax.numpy as jnp
import numpy as np

import jaxfit
from jaxfit import TRF, curve_problem


M = 211  # a prime, so that no chunk size divides it
RNG = np.random.default_rng(5)
T = np.linspace(0.0, 5.0, M)
Y = 2.5 * np.exp(-1.3 * T) + 0.5 + RNG.normal(0, 0.05, M)
SIGMA = RNG.uniform(0.03, 0.08, M)
START = np.array([1.0, 1.0, 0.2])
GRAM = TRF(linear_solver="gram")


def decay(x, p):
    return p[0] * jnp.exp(-p[1] * x) + p[2]


def peak(x, p):
    return p[0] * jnp.exp(-0.5 * ((x - p[1]) / p[2]) ** 2)


def chunks(size, *arrays):
    """A list of chunks of so many rows."""
    x, y, *sigma = arrays or (T, Y)
    return [
        (x[i : i + size], y[i : i + size], *(s[i : i + size] for s in sigma))
        for i in range(0, len(y), size)
    ]


def dense(model=decay, x=T, y=Y, p0=START, solver=GRAM, **options):
    """The answer of `solve`, all data in memory."""
    return jaxfit.solve(curve_problem(model, x, y, p0, **options), solver)


def agree(solution, reference, rtol=1e-10, rtol_covariance=1e-8, rtol_cost=1e-10):
    """Parameters to `rtol` of their size or error, covariance to that of errors."""
    # A stream keeps no residuals to estimate the noise of a robust loss from.
    scaled = reference.squares is None
    expected = np.asarray(reference.covariance(scaled))
    error = np.sqrt(np.diag(expected))
    size = np.maximum(np.abs(reference.params), error)
    assert (np.abs(solution.params - reference.params) <= rtol * size).all()
    away = np.abs(np.asarray(solution.covariance(scaled)) - expected)
    assert (away <= rtol_covariance * np.outer(error, error)).all()
    np.testing.assert_allclose(solution.cost, reference.cost, rtol=rtol_cost)
    assert solution.num_rows == reference.num_rows


def same_path(solution, reference):
    """Status, nfev, njev and steps."""
    np.testing.assert_array_equal(solution.counts, reference.counts)


def same_bits(a, b):
    """Parameters, covariance, cost and all counts."""
    for name in ("params", "cost", "counts", "grad", "num_rows"):
        np.testing.assert_array_equal(
            getattr(a.solution, name), getattr(b.solution, name)
        )
    scaled = a.solution.squares is None
    np.testing.assert_array_equal(
        a.solution.covariance(scaled), b.solution.covariance(scaled)
    )
    for key in ("passes", "nfev", "status", "rows_used", "rows_not_finite", "num_rows"):
        assert a.info[key] == b.info[key], key


class Watched:
    """A list of chunks that counts its passes, and lets chunks fail or tell."""

    def __init__(self, listed, before=None, seconds=0.0):
        self.listed, self.before, self.seconds = listed, before, seconds
        self.begun = 0  # iterations, finished or not
        self.finished = 0

    def __iter__(self):
        self.begun += 1
        for i, chunk in enumerate(self.listed):
            if self.seconds:
                time.sleep(self.seconds)
            if self.before is not None:
                self.before(self, i)
            yield chunk
        self.finished += 1
