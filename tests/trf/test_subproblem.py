"""The trust-region subproblem: its optimality conditions, on every representation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfit._trf.algebra import UNROLL, cholesky, solve_lower, solve_upper
from jaxfit._trf.subproblem import Factored, Spectral


def model(n: int, condition: float, rank: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    lam = np.geomspace(1, 1 / condition, n)
    lam[rank:] = 0
    b = (q * lam) @ q.T
    g = q[:, :rank] @ rng.normal(size=rank)
    return jnp.asarray((b + b.T) / 2), jnp.asarray(g)


class Guarded:
    """`Factored` with its spectrum to fall back on."""

    @staticmethod
    def of_matrix(b, g):
        return Factored.of_matrix(
            b, g, True, lambda one: Spectral.of_matrix(b * one, g)
        )


ZERO = jnp.zeros(())
step = jax.jit(lambda sub, radius: sub.step(radius + ZERO, ZERO))


@pytest.mark.smoke
@pytest.mark.parametrize("form", [Spectral, Guarded])
@pytest.mark.parametrize("n", [1, 4, UNROLL + 2])
@pytest.mark.parametrize("condition", [1.0, 1e6])
def test_optimality_conditions(form, n, condition):
    """(B + alpha I) p = -g up to 1% of the length, |p| <= radius, and one is tight."""
    b, g = model(n, condition, n)
    newton = np.linalg.norm(np.linalg.solve(b, g))
    for factor in (1e-3, 0.1, 0.9, 1.1, 1e3):
        radius = factor * newton
        p, alpha = step(form.of_matrix(b, g), radius)
        length = np.linalg.norm(p)
        if factor > 1:
            assert alpha == 0
            np.testing.assert_allclose(b @ p, -g, atol=1e-8 * np.linalg.norm(g))
        else:
            assert alpha > 0
            np.testing.assert_allclose(length, radius, rtol=1e-12)
            exact = np.linalg.solve(b + alpha * np.eye(n), -g)
            np.testing.assert_allclose(
                exact * radius / np.linalg.norm(exact), p, rtol=1e-6, atol=1e-9 * radius
            )
            # The exact minimiser at this radius is no better by more than 2%.
            assert abs(np.linalg.norm(exact) - radius) < 0.011 * radius


@pytest.mark.parametrize("form", [Spectral, Guarded])
def test_null_directions_get_the_minimum_norm_step(form):
    """With room to spare the step is B^+ g, not stretched to the radius."""
    b, g = model(5, 10.0, 3)
    sub = form.of_matrix(b, g)
    p, alpha = step(sub, 1e3)
    assert alpha == 0
    np.testing.assert_allclose(p, -np.linalg.pinv(b, rcond=1e-12) @ g, rtol=1e-9)
    p, alpha = step(sub, 0.1)
    np.testing.assert_allclose(np.linalg.norm(p), 0.1, rtol=1e-12)


def test_zero_gradient_gives_no_step():
    b, _ = model(3, 2.0, 3)
    for form in (Spectral, Guarded):
        p, _ = step(form.of_matrix(b, jnp.zeros(3)), 1.0)
        np.testing.assert_array_equal(p, np.zeros(3))


@pytest.mark.parametrize("n", [1, 3, UNROLL, UNROLL + 1])
def test_cholesky_and_solves(n):
    b, g = model(n, 100.0, n, seed=n)
    lower, definite = cholesky(b)
    assert definite
    np.testing.assert_allclose(lower, np.linalg.cholesky(b), atol=1e-12)
    np.testing.assert_allclose(lower @ solve_lower(lower, g), g, atol=1e-12)
    np.testing.assert_allclose(lower.T @ solve_upper(lower, g), g, atol=1e-12)


@pytest.mark.parametrize("n", [2, UNROLL + 1])
def test_cholesky_refuses_what_rounding_decides(n):
    b, _ = model(n, 1.0, n - 1)
    assert not cholesky(b)[1]
    assert not cholesky(-b)[1]
    assert not cholesky(b * jnp.nan)[1]


def test_lanes_fall_back_one_by_one():
    """A singular lane takes its spectrum; its neighbour's step does not change."""
    good, g = model(3, 10.0, 3)
    bad, h = model(3, 10.0, 2)
    both = jax.vmap(lambda b, g: step(Guarded.of_matrix(b, g), 1e3))
    p, _ = both(jnp.stack([good, bad]), jnp.stack([g, h]))
    np.testing.assert_allclose(p[0], -np.linalg.solve(good, g), rtol=1e-10)
    np.testing.assert_allclose(p[1], -np.linalg.pinv(bad, rcond=1e-12) @ h, rtol=1e-9)
