"""The Hessian of the cost against finite differences and the linearisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit


X = jnp.linspace(0, 3, 20)
Y = 2 * jnp.exp(-X) + 0.3 * jnp.cos(9 * X)


def problem(loss="linear"):
    def model(x, p):
        return p["a"] * jnp.exp(-p["b"] * x)

    start = {"a": 1.5, "b": 0.7}
    return jaxfit.curve_problem(model, X, Y, start, loss=loss, f_scale=0.2)


@pytest.mark.parametrize("loss", ["linear", "cauchy"])
def test_exact_hessian_is_the_slope_of_the_gradient(loss):
    there = problem(loss)
    h = jaxfit.hessian(there)

    def gradient(a, b):
        moved = jax.tree.map(jnp.asarray, {"a": a, "b": b})

        def cost(p):
            return there.loss.cost(jnp.ravel(there.residual(p, there.args)))

        g = jax.grad(cost)(moved)
        return np.array([g["a"], g["b"]])

    step = 1e-6
    columns = [
        (gradient(1.5 + step, 0.7) - gradient(1.5 - step, 0.7)) / (2 * step),
        (gradient(1.5, 0.7 + step) - gradient(1.5, 0.7 - step)) / (2 * step),
    ]
    np.testing.assert_allclose(h, np.array(columns), rtol=1e-7, atol=1e-8)


def test_gauss_newton_is_the_linearisations():
    solution = jaxfit.solve(problem())
    h = jaxfit.hessian(problem(), solution.params, kind="gauss_newton")
    np.testing.assert_allclose(h, solution.linearisation.gram, rtol=1e-10)
    exact = jaxfit.hessian(problem(), solution.params)
    assert np.max(np.abs(exact - h)) > 0.02 * np.max(np.abs(h))


def test_bad_input():
    with pytest.raises(ValueError, match=r"`kind`.*'gauss'"):
        jaxfit.hessian(problem(), kind="gauss")
    with pytest.raises(ValueError, match="`params` has structure"):
        jaxfit.hessian(problem(), jnp.ones(2))
