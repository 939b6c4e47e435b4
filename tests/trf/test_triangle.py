"""Products of columns in place of reflections: where they are as good."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit
from jaxfit import Triangle


def rows(m=40, n=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=m), rng.normal(size=(m, n))


def both(r, j):
    """The triangle by reflections, that by products, and whether those are sound."""
    r, j = jnp.asarray(r), jnp.asarray(j)
    cost = 0.5 * r * r
    exact = Triangle.of_rows(cost, r, tuple(j.T))
    whole = jnp.stack([*j.T, r])
    return exact, *Triangle.of_products(whole @ whole.T, exact)


@pytest.mark.smoke
@pytest.mark.parametrize("n", [1, 3, 8])
def test_products_are_the_triangle_of_reflections(n):
    exact, found, sound = both(*rows(n=n))
    assert sound
    np.testing.assert_allclose(found.root, exact.root, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(found.z, exact.z, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(found.cost, exact.cost, rtol=1e-14)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda j: np.column_stack([j[:, 0], j[:, 1], j[:, 0]]),
        lambda j: np.column_stack([j[:, 0], j[:, 1], j[:, 0] + 1e-9 * j[:, 2]]),
        lambda j: j * [1, 0, 1],
        lambda j: j * [1, 1e-160, 1],
        lambda j: j * [1, 1e160, 1],
        lambda j: j * [1, np.nan, 1],
    ],
    ids=["equal", "nearly equal", "zero", "underflow", "overflow", "nan"],
)
def test_products_that_lose_digits_are_told(spoil):
    r, j = rows()
    assert not both(r, spoil(j))[2]


def test_a_triangle_is_laid_out_and_back():
    exact, *_ = both(*rows())
    exact = jaxfit.Triangle(*(exact.cost, exact.root, exact.z, jnp.ones(())), exact.cut)
    again = Triangle.as_laid(exact.as_products(), exact)
    for name in ("cost", "root", "z", "differenced"):
        np.testing.assert_array_equal(getattr(again, name), getattr(exact, name))


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-6])
def test_a_fit_has_the_digits_of_reflections(spread):
    """Two nearly equal decay rates: the condition grows as 1/spread."""
    x = np.linspace(0, 3, 60)
    truth = np.array([1.0, 2.0])
    rates = np.array([1.0, 1.0 + spread])
    y = np.exp(-np.outer(x, rates)) @ truth

    def line(x, p):
        return jnp.exp(-x[:, None] * rates) @ p

    fit = jaxfit.solve(jaxfit.curve_problem(line, x, y, np.ones(2)))
    assert fit.success
    condition = np.linalg.cond(np.exp(-np.outer(x, rates)))
    error = np.max(np.abs(np.asarray(fit.params) / truth - 1))
    assert error < 1e-14 * max(condition, 100)


def test_a_sum_is_no_more_exact_than_its_parts():
    """What is known of the rounding of columns is told on."""
    part, *_ = both(*rows())
    noisy = part.with_noise(1e-6)
    for whole in (part + noisy, noisy + part, noisy + noisy):
        assert whole.noise == 1e-6
    assert (part + part).noise == 0
