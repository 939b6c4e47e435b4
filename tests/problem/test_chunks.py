"""How many rows are visited at a time."""

import jax
import jax.numpy as jnp
import pytest

import jaxfit
from jaxfit._problem.objective import Objective


def decay(x, p):
    return p[0] * jnp.exp(-p[1] * x) + p[2]


def block_of(size):
    """The block of an objective of so many rows, traced and not evaluated."""
    found = []

    def trace():
        x = jnp.linspace(0.0, 4.0, size)
        start = jnp.array([2.0, 0.5, 0.1])
        problem = jaxfit.curve_problem(decay, x, jnp.exp(-x), start)
        found.append(Objective.of(problem, start, jaxfit.TRF()).block)

    jax.eval_shape(trace)
    return found[0]


@pytest.mark.parametrize(
    "size", [65_536, 100_003, 999_983, 999_999, 10**6, 2**20, 1_234_567, 7_654_321]
)
def test_blocks_are_whole_vectors_and_few_rows_are_seen_twice(size):
    block = block_of(size)
    assert block % 16 == 0
    assert 2**12 <= block <= 2**14
    blocks = -(-size // block)
    assert blocks * block - size < 16 * blocks
    if size in (10**6, 2**20):
        assert size % block == 0
