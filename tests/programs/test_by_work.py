"""Programs that are compiled with less care where they have little to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfit._programs.by_work import ByWork


def decayed(x, rate, power):
    return jnp.exp(-rate * x) ** power


PROGRAMS = ByWork(decayed, static=(2,))
CPU = jax.default_backend() == "cpu"


@pytest.mark.smoke
def test_little_work_and_much_give_the_same():
    x = np.linspace(0, 3, 50)
    little, much = PROGRAMS.of(50), PROGRAMS.of(10**9)
    assert (little is not much) == CPU
    expected = np.exp(-1.5 * x) ** 2
    for chosen in (little, much):
        np.testing.assert_allclose(chosen(x, 1.5, 2), expected, rtol=1e-14)


def test_each_is_one_program_for_all_sizes():
    assert PROGRAMS.of(1) is PROGRAMS.of(2**18)
    assert PROGRAMS.of(2**18 + 1) is PROGRAMS.of(float("inf"))


@pytest.mark.skipif(not CPU, reason="options of XLA for CPUs")
def test_only_little_work_is_left_unoptimised():
    unoptimised = {"xla_backend_optimization_level": 0}
    assert PROGRAMS._quick._of_compiler == unoptimised
    assert PROGRAMS._careful._of_compiler == {}


@pytest.mark.parametrize("numbers", [50, 10**9])
def test_inside_a_program_of_the_user(numbers):
    """JAX takes options for the outermost program only."""
    chosen = PROGRAMS.of(numbers)
    x = np.linspace(0, 3, 50)
    value = jax.jit(lambda x: chosen(x, 1.5, 2).sum())(x)
    slope = jax.grad(lambda rate: chosen(x, rate, 2).sum())(1.5)
    np.testing.assert_allclose(value, np.sum(np.exp(-3 * x)), rtol=1e-13)
    np.testing.assert_allclose(slope, np.sum(-2 * x * np.exp(-3 * x)), rtol=1e-12)
