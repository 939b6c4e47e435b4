"""Linearisations: sums over rows, and that statistics of data add."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfit._trf.algebra import UNROLL
from jaxfit._trf.linearisation import Gram
from jaxfit._trf.matrix_free import conjugate_gradients
from jaxfit._trf.triangle import Triangle


HUGE, ZERO = jnp.asarray(1e30), jnp.zeros(())


def rows(m: int, n: int, condition: float = 10.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    j = rng.normal(size=(m, n)) @ np.diag(np.geomspace(1, 1 / condition, n))
    return jnp.asarray(rng.normal(size=m)), jnp.asarray(j)


def linearise(form, r, j):
    return form.of_rows(0.5 * r * r, r, j.T).total()


@pytest.mark.parametrize("form", [Triangle, Gram])
@pytest.mark.parametrize("n", [1, 3, UNROLL, UNROLL + 3])
@pytest.mark.parametrize("m", [2, 50])
def test_definition(form, n, m):
    """Cost, gradient, J'J and column norms; m < n included."""
    r, j = rows(m, n)
    lin = linearise(form, r, j)
    np.testing.assert_allclose(lin.cost, 0.5 * r @ r, rtol=1e-13)
    np.testing.assert_allclose(lin.grad, j.T @ r, atol=1e-13)
    np.testing.assert_allclose(lin.gram, j.T @ j, atol=1e-13)
    np.testing.assert_allclose(lin.column_norms, np.linalg.norm(j, axis=0), rtol=1e-12)
    s = jnp.arange(1.0, n + 1)
    np.testing.assert_allclose(lin.product(s), j.T @ (j @ s), atol=1e-11)


@pytest.mark.parametrize("form", [Triangle, Gram])
@pytest.mark.parametrize("n", [3, UNROLL + 3])
def test_addition_is_union(form, n):
    r, j = rows(40, n)
    cut = 20 if form is Gram else 13  # row products add lane by lane
    parts = [(r[:cut], j[:cut]), (r[cut:], j[cut:])]
    first, second = (form.of_rows(0.5 * r * r, r, j.T) for r, j in parts)
    both, whole = (first + second).total(), linearise(form, r, j)
    np.testing.assert_allclose(both.cost, whole.cost, rtol=1e-13)
    np.testing.assert_allclose(both.grad, whole.grad, atol=1e-12)
    np.testing.assert_allclose(both.gram, whole.gram, atol=1e-12)
    zero = form.zero(n, 40, cut, r.dtype)
    np.testing.assert_allclose((zero + first).total().gram, first.total().gram)


def test_triangle_does_not_square_the_condition_number():
    """At condition 1e9 the triangle's step has digits, and J'J is singular."""
    r, j = rows(60, 4)
    j = j.at[:, 3].set(j[:, 0] + 1e-9 * j[:, 3])
    exact = np.linalg.lstsq(np.asarray(j), -np.asarray(r), rcond=None)[0]
    d = jnp.ones(4)
    step, _ = linearise(Triangle, r, j).subproblem(d, None).step(HUGE, ZERO)
    np.testing.assert_allclose(step, exact, rtol=1e-5)
    assert linearise(Gram, r, j).subproblem(d, None).own.rank < 4


@pytest.mark.parametrize("form", [Triangle, Gram])
def test_subproblem_is_the_scaled_model(form):
    """B = D J'J D + C and gradient D g, seen through its product with unit vectors."""
    r, j = rows(30, 3)
    d, c = jnp.array([1.0, 2.0, 0.5]), jnp.array([0.0, 3.0, 0.1])
    sub = linearise(form, r, j).subproblem(d, c)
    b = np.diag(d) @ (j.T @ j) @ np.diag(d) + np.diag(c)
    got = np.stack([sub.product(e) for e in jnp.eye(3)])
    np.testing.assert_allclose(got, b, atol=1e-12)
    step, _ = sub.step(HUGE, ZERO)
    np.testing.assert_allclose(step, -np.linalg.solve(b, d * (j.T @ r)), rtol=1e-9)


def test_conjugate_gradients_solve_in_n_products():
    _, j = rows(30, 6)
    b = j.T @ j
    rhs = jnp.arange(1.0, 7.0)
    p = conjugate_gradients(lambda s: b @ s, rhs, 40)
    np.testing.assert_allclose(b @ p, rhs, atol=1e-6 * np.linalg.norm(rhs))
    singular = jnp.diag(jnp.array([1.0, 2.0, 0.0]))
    p = conjugate_gradients(lambda s: singular @ s, jnp.array([1.0, 1.0, 0.0]), 40)
    np.testing.assert_allclose(p, [1.0, 0.5, 0.0], atol=1e-8)
