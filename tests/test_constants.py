"""NumPy arrays that a function captures, in the precision of each fit of a process."""

import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parent.parent

# With JAX's double precision off doors in SciPy's form fit in double, and `solve` in
# single; the constants of one are not those of the other.
BOTH = """
import numpy as np, jax.numpy as jnp, jaxfit

t = np.linspace(0, 5, 60)
y = 2.5 * np.exp(-1.3 * t) + 0.5

def by_scipys_door():
    fun = lambda p: p[0] * jnp.exp(-p[1] * t) + p[2] - y
    return jaxfit.least_squares(fun, [1.0, 1.0, 0.0]).x

def by_the_kernel():
    fun = lambda p, _: p[0] * jnp.exp(-p[1] * t) + p[2] - y
    return jaxfit.solve(jaxfit.Problem(fun, jnp.array([1.0, 1.0, 0.0]))).params

for door in ({doors}):
    x = np.asarray(door())
    digits = 1e-9 if door is by_scipys_door else 1e-4
    assert np.allclose(x, [2.5, 1.3, 0.5], rtol=digits), (door, x)
"""


@pytest.mark.parametrize(
    "doors",
    ["by_scipys_door, by_the_kernel, by_scipys_door", "by_the_kernel, by_scipys_door"],
)
def test_doors_of_another_precision_do_not_spoil_one_another(doors):
    done = subprocess.run(
        [sys.executable, "-c", BOTH.format(doors=doors)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
