"""Parameters of `solve` as PyTrees, and their bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from single_fits import (
    START,
    T,
    Y,
    bounded_fit,
    close,
    covariance,
    decay,
    numpy_decay,
    scipy_fit,
)

import jaxfit
from jaxfit import TRF, curve_problem


TIGHT = TRF(ftol=0.0, xtol=1e-15, gtol=1e-15)


# --- Parameters and bounds ---------------------------------------------------------


def nested(x, p):
    return p["amp"] * jnp.exp(-p["rest"][0][0] * x) + p["rest"][1]


NESTED = {"amp": 1.0, "rest": (np.array([1.0]), 0.0)}


def test_nested_parameters_come_back_as_they_went_in():
    everything = (-np.inf, np.inf)
    solution = jaxfit.solve(curve_problem(nested, T, Y, NESTED, bounds=everything))
    flat = jaxfit.solve(curve_problem(decay, T, Y, START)).params
    assert jax.tree.structure(solution.params) == jax.tree.structure(NESTED)
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(solution.params)]
    assert shapes == [(), (1,), ()]
    close(jnp.hstack(jax.tree.leaves(solution.params)), flat)
    for like in (solution.grad, solution.active_mask):
        assert jax.tree.structure(like) == jax.tree.structure(NESTED)


@pytest.mark.parametrize(
    ("bounds", "lower", "upper"),
    [
        ((0.0, 2.0), [0, 0, 0], [2, 2, 2]),
        ((-np.inf, 2.0), [-np.inf] * 3, [2, 2, 2]),
        ((0.0, {"amp": 2.0, "rest": 3.0}), [0, 0, 0], [2, 3, 3]),
        (
            ({"amp": 0, "rest": (np.array([1.0]), -np.inf)}, np.inf),
            [0, 1, -np.inf],
            [np.inf] * 3,
        ),
        ([0, 2], [0, 0, 0], [2, 2, 2]),
    ],
    ids=["scalars", "one-sided", "prefix", "full", "list-of-integers"],
)
def test_bounds_may_be_a_prefix_of_the_parameters(bounds, lower, upper):
    problem = curve_problem(nested, T, Y, NESTED, bounds=bounds)
    np.testing.assert_array_equal(problem.lower, lower)
    np.testing.assert_array_equal(problem.upper, upper)
    solution = jaxfit.solve(problem)
    x = np.hstack(jax.tree.leaves(solution.params))
    inside = np.clip(START + 0.1, np.add(lower, 0.01), np.subtract(upper, 0.01))
    reference = scipy_fit(numpy_decay, inside, bounds=(lower, upper))
    close(x, reference.x, rtol=1e-6, atol=1e-7)
    close(solution.cost, reference.cost, rtol=1e-8)
    assert np.all(np.less_equal(lower, x)) and np.all(np.less_equal(x, upper))
    mask = np.hstack(jax.tree.leaves(solution.active_mask))
    at = np.isclose(x, upper, rtol=1e-6).astype(int) - np.isclose(x, lower, rtol=1e-6)
    np.testing.assert_array_equal(mask, at)
    assert solution.success


def test_a_scalar_parameter_with_a_bound_on_one_side():
    def model(x, p):
        return jnp.exp(-p * x)

    def fit(top):
        bounds = (-np.inf, top)
        return jaxfit.solve(
            curve_problem(model, T, np.exp(-1.3 * T), 1.0, bounds=bounds)
        )

    free, solution = fit(9.0), fit(1.2)
    close(free.params, 1.3)
    assert free.params.shape == ()
    assert free.active_mask == 0
    close(solution.params, 1.2)
    assert solution.params < 1.2
    assert solution.active_mask == 1
    assert solution.grad < -1e-3
    assert solution.optimality < 1e-9


def test_every_lane_has_its_own_bounds():
    tops = np.array([1.5, 2.0, 2.4, 9.0])
    solutions = bounded_fit(np.tile(START + 0.1, (4, 1)), np.zeros(4), tops)
    for top, x, active in zip(
        tops, solutions.params, solutions.active_mask, strict=True
    ):
        reference = scipy_fit(numpy_decay, START + 0.1, bounds=(0.0, top))
        close(x, reference.x, rtol=1e-6)
        np.testing.assert_array_equal(active, np.isclose(reference.x, top))
    assert np.unique(solutions.active_mask.sum(axis=1)).size > 1


def test_equal_bounds_fix_a_parameter():
    fixed = (np.array([-9.0, 1.1, -9.0]), np.array([9.0, 1.1, 9.0]))
    start = np.array([1.0, 1.1, 0.0])
    problem = curve_problem(decay, T, Y, start, bounds=fixed)
    solution = jaxfit.solve(problem, TIGHT)

    def reduced(x, p):
        return p[0] * jnp.exp(-1.1 * x) + p[1]

    smaller = curve_problem(reduced, T, Y, start[::2], bounds=(-9.0, 9.0))
    reference = jaxfit.solve(smaller, TIGHT)
    assert solution.params[1] == 1.1
    close(solution.params[::2], reference.params, rtol=1e-12)
    close(solution.cost, reference.cost, rtol=1e-12)
    close(solution.optimality, reference.optimality, atol=1e-12)
    np.testing.assert_array_equal(solution.fixed, [False, True, False])
    assert solution.dof == reference.dof == 28
    matrix = covariance(solution)
    inverse = np.linalg.inv(reference.linearisation.gram)
    close(matrix[::2, ::2], inverse * 2 * reference.cost / 28, rtol=1e-9)
    np.testing.assert_array_equal(matrix[1], 0.0)
    np.testing.assert_array_equal(matrix[:, 1], 0.0)


def test_all_parameters_fixed_is_an_evaluation():
    problem = curve_problem(decay, T, Y, START, bounds=(START, START))
    solution = jaxfit.solve(problem, TIGHT)
    np.testing.assert_array_equal(solution.params, START)
    close(solution.cost, 0.5 * np.sum(numpy_decay(START) ** 2))
    assert solution.success
    assert (solution.nfev, solution.njev) == (1, 1)


def test_a_start_on_its_bound_moves_away():
    bounds = (np.array([0.0, 1.0, 0.0]), np.array([9.0, 9.0, 9.0]))
    problem = curve_problem(decay, T, Y, START, bounds=bounds)
    solution = jaxfit.solve(problem, TIGHT)
    close(solution.params, scipy_fit(numpy_decay, START).x, rtol=1e-7)
