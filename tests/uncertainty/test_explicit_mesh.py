"""Uncertainty of data on a mesh whose axes are of type Explicit: that of plain data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxfit


T = np.linspace(0, 5, 64)
Y = 2.5 * np.exp(-1.3 * T) + 0.5 + 0.01 * np.random.default_rng(0).normal(size=64)


def decay(t, p):
    return p[0] * jnp.exp(-p[1] * t) + p[2]


@pytest.fixture(scope="module")
def fits():
    """A problem and its solution, plain and with the rows on eight devices."""
    mesh = Mesh(np.array(jax.devices()[:8]), ("d",), axis_types=(AxisType.Explicit,))
    rows = NamedSharding(mesh, PartitionSpec("d"))
    start = jnp.array([2.0, 1.0, 0.4])
    problems = [
        jaxfit.curve_problem(decay, T, Y, start),
        jaxfit.curve_problem(
            decay, jax.device_put(T, rows), jax.device_put(Y, rows), start
        ),
    ]
    return [(problem, jaxfit.solve(problem)) for problem in problems]


@pytest.mark.parametrize(
    "ask",
    [
        lambda *of: jaxfit.covariance(*of, kind="sandwich").matrix,
        lambda *of: jaxfit.influence(*of).change,
        lambda *of: jaxfit.bootstrap(*of, key=jax.random.key(0), n=8).params,
        lambda *of: jaxfit.bootstrap(*of, key=0, n=8, kind="pairs").params,
        lambda *of: jaxfit.jackknife(*of).params,
    ],
    ids=["sandwich", "influence", "bootstrap", "pairs", "jackknife"],
)
def test_rows_on_explicit_axes_are_asked_as_plain_ones(fits, ask):
    plain, spread = (ask(*fit) for fit in fits)
    np.testing.assert_allclose(spread, plain, rtol=1e-9, atol=1e-15)
