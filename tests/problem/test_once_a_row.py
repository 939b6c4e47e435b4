"""Linearisations with each number computed once: sums of rows, and derivatives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit
from jaxfit._problem.forms import GRAM, TRIANGLE
from jaxfit._problem.objective import Objective


@jax.jit
def wave(x, b):
    return jnp.sin(b * x)


@jax.custom_jvp
def own_rule(x):
    return jnp.cos(x)


own_rule.defjvp(lambda p, t: (jnp.cos(p[0]), -jnp.sin(p[0]) * t[0]))


def oscillation(x, p):
    return p[0] * jnp.exp(-p[1] * x) * wave(x, p[2]) + 0.1 * own_rule(p[2] * x)


def gamma(x, p):
    return p[0] * jax.lax.lgamma(p[1] + x) + p[2] * jnp.abs(jnp.exp(1j * p[1] * x) + 1)


def no_sine(x, p):
    return p[0] * jnp.exp(-p[1] * x) + p[2]


TRUE = jnp.array([1.5, 0.4, 2.0])


def problem_of(model, dtype=jnp.float64, size=500, **options):
    x = np.linspace(0.1, 4.0, size)
    y = np.asarray(model(jnp.asarray(x), TRUE)) + 0.01 * np.cos(37 * x)
    if options.pop("masked", False):
        options["mask"] = np.arange(size) % 7 != 3
    if options.pop("weighted", False):
        options["sigma"] = 0.1 + 0.01 * x
    y = y.astype(dtype)
    return jaxfit.curve_problem(
        model, x.astype(dtype), y, TRUE.astype(dtype) + 0.01, **options
    )


OPTIONS = {
    "plain": {},
    "masked": {"masked": True},
    "weighted": {"masked": True, "weighted": True},
    "robust": {"loss": "cauchy", "f_scale": 0.02, "masked": True},
}


# The form and the rows of a block, which cut 500 evenly or not.
FORMS = [(GRAM, 500), (GRAM, 64), (GRAM, 100), (TRIANGLE, 500), (TRIANGLE, 64)]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("model", [oscillation, gamma, no_sine])
def test_the_sums_are_those_of_the_rows(model, options):
    for dtype in jnp.float64, jnp.float32:
        problem = problem_of(model, dtype, **OPTIONS[options])
        x = problem.params

        @jax.jit
        def both(problem, x):
            objective = Objective.of(problem, x, jaxfit.TRF())
            r, j = objective.rows_at(x)
            weighted = objective.weighted_rows(x, objective.rows, objective.mask)[1]
            cost = objective.loss.cost(r)
            forms = [
                Objective.of(problem, x, jaxfit.TRF(), form, block)
                for form, block in FORMS
            ]
            return [one.linearise(x) for one in forms], weighted, j, cost

        linearisations, r, j, cost = both(problem, x)
        r, j = np.asarray(r, float), np.asarray(j, float)
        digits = 200 * float(jnp.finfo(dtype).eps)
        for one in linearisations:
            assert one.gram.dtype == dtype
            scale = np.linalg.norm(j, axis=0)
            at_most = digits * np.outer(scale, scale)
            assert np.all(np.abs(one.gram - j.T @ j) <= at_most)
            at_most = digits * scale * np.linalg.norm(r)
            assert np.all(np.abs(one.grad - j.T @ r) <= at_most)
            np.testing.assert_allclose(one.cost, cost, rtol=digits)


SOLVER = jaxfit.TRF(linear_solver="gram", chunk_size=64)


@pytest.mark.parametrize("options", ["plain", "robust"])
def test_a_fit_has_derivatives_in_both_modes(options):
    problem = problem_of(oscillation, **OPTIONS[options])

    def of(scale):
        moved = eqx.tree_at(lambda p: p.args.y, problem, problem.args.y * scale)
        return jaxfit.solve(moved, SOLVER).params

    forward = jax.jit(jax.jacfwd(of))(1.0)
    reverse = jax.jit(jax.jacrev(of))(1.0)
    fit = jax.jit(of)
    step = 1e-4
    slope = (fit(1 + step) - fit(1 - step)) / (2 * step)
    np.testing.assert_allclose(forward, slope, rtol=1e-5)
    np.testing.assert_allclose(reverse, forward, rtol=1e-9)


def test_lanes_of_a_vmap_are_fits_alone():
    problem = problem_of(oscillation)
    starts = jnp.stack([TRUE + 0.01, TRUE + 0.03, TRUE - 0.02])

    def of(start):
        moved = eqx.tree_at(lambda p: p.params, problem, start)
        return jaxfit.solve(moved, SOLVER)

    lanes = jax.jit(jax.vmap(of))(starts)
    alone = [jax.jit(of)(start) for start in starts]
    assert lanes.success.all()
    for i, one in enumerate(alone):
        np.testing.assert_allclose(lanes.params[i], one.params, rtol=1e-9)
        assert lanes.counts[i, 1] == one.counts[1]


def test_derivatives_that_are_not_finite_are_repaired():
    def model(x, p):
        return p[0] * jnp.sin(p[1] * x) * (x * p[2]) ** jnp.abs(p[1])

    x = np.linspace(0.0, 2.0, 200)
    true = jnp.array([2.0, 0.6, 1.5])
    y = np.asarray(model(jnp.asarray(x), true))
    problem = jaxfit.curve_problem(model, x, y, true * 1.1)
    solution = jaxfit.solve(problem, SOLVER)
    assert solution.success
    np.testing.assert_allclose(model(x, solution.params), y, atol=1e-6)
