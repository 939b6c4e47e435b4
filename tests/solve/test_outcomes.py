"""How fits end: history, statuses, tolerances, scales."""

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
    stack,
)

import jaxfit
from jaxfit import TRF, Problem, Status, curve_problem


# --- History -----------------------------------------------------------------------


def test_a_history_is_the_fit_as_it_went():
    problem = curve_problem(decay, T, Y, START)
    solver = TRF(history=True, max_steps=50)
    solution = jaxfit.solve(problem, solver)
    history, steps = solution.history, int(solution.num_steps)
    assert isinstance(history, jaxfit.History)
    assert 3 < steps < 50
    for leaf in jax.tree.leaves(history):
        assert leaf.shape == (50,)
        assert np.all(np.isfinite(leaf[:steps]))
        assert np.all(np.isnan(leaf[steps:]))
    assert np.all(np.diff(history.cost[:steps]) <= 8e-16 * history.cost[0])
    close(history.cost[steps - 1], solution.cost, rtol=1e-12)
    assert history.cost[0] < 0.5 * np.sum(numpy_decay(START) ** 2)
    assert np.all(history.radius[:steps] > 0)
    assert np.all(history.step_norm[:steps] >= 0)
    # The optimality of a step is that of the point it starts from.
    close(history.optimality[0], np.abs(start_gradient()).max())
    assert history.optimality[steps - 1] < 1e-3 * history.optimality[0]


def start_gradient():
    return jax.grad(lambda p: 0.5 * jnp.sum((decay(T, p) - Y) ** 2))(START)


def test_without_a_history_nothing_of_it_remains(lane_solutions):
    assert lane_solutions.history is None
    shape = jax.eval_shape(
        jaxfit.solve, curve_problem(decay, T, Y, START), TRF(max_steps=777)
    )
    assert all(777 not in leaf.shape for leaf in jax.tree.leaves(shape))
    assert shape.history is None
    state = jax.eval_shape(lambda x: TRF(max_steps=777).init(x, None, None, 60), START)
    assert state.history is None
    assert all(777 not in leaf.shape for leaf in jax.tree.leaves(state))


def test_the_history_does_not_change_the_fit():
    problem = curve_problem(decay, T, Y, START)
    with_it = jaxfit.solve(problem, TRF(history=True, max_steps=50))
    without = jaxfit.solve(problem)
    close(with_it.params, without.params)
    assert with_it.nfev == without.nfev


# --- Outcomes ----------------------------------------------------------------------


def test_steps_run_out():
    problem = curve_problem(decay, T, Y, START)
    solution = jaxfit.solve(problem, TRF(max_steps=2))
    assert solution.status == Status.MAX_STEPS
    assert (int(solution.num_steps), int(solution.njev)) == (2, 3)
    assert not solution.success
    assert solution.message == "The maximum number of steps or evaluations was reached."
    # What is returned is the last point, with its own cost, gradient and covariance.
    assert solution.cost < 0.5 * np.sum(numpy_decay(START) ** 2)
    residual = numpy_decay(np.asarray(solution.params))
    close(solution.cost, 0.5 * residual @ residual)
    close(solution.optimality, np.abs(solution.grad).max())
    assert np.all(np.isfinite(covariance(solution)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_start_that_is_not_finite_is_an_outcome(bad):
    y = np.where(np.arange(30) == 7, bad, Y)
    solution = jaxfit.solve(curve_problem(decay, T, y, START))
    assert solution.status == Status.NONFINITE_START
    assert not solution.success
    np.testing.assert_array_equal(solution.params, START)
    assert (int(solution.nfev), int(solution.num_steps)) == (1, 0)


def test_an_infeasible_start_is_an_outcome_of_its_lane():
    starts = np.tile(START, (4, 1))
    starts[1, 1], starts[3, 0] = 9.5, np.nan
    solutions = bounded_fit(starts, np.full(4, -9.0), np.full(4, 9.0))
    infeasible = Status.INFEASIBLE_START
    np.testing.assert_array_equal(
        solutions.status == infeasible, [False, True, False, True]
    )
    np.testing.assert_array_equal(solutions.success, [True, False, True, False])
    np.testing.assert_array_equal(solutions.params[1], starts[1])
    np.testing.assert_array_equal(solutions.nfev[1], 0)
    reference = scipy_fit(numpy_decay, START).x
    close(solutions.params[0], reference, rtol=1e-7)
    close(solutions.params[2], reference, rtol=1e-7)


def test_crossed_bounds_in_a_trace_are_an_infeasible_start():
    lower, upper = np.array([-9.0, 9.0, np.nan, -9.0]), np.array([9.0, -9.0, 9.0, 9.0])
    status = bounded_fit(np.tile(START, (4, 1)), lower, upper).status
    np.testing.assert_array_equal(
        status == Status.INFEASIBLE_START, [False, True, True, False]
    )
    assert status[0] > 0


def test_a_jacobian_that_is_not_finite_is_stepped_back_from():
    # The Gauss-Newton step from 2 ends at 0, where the residual is exactly 0 and its
    # derivative is that of the square root of 0. What a user's Jacobian says stands:
    # the fit stays on this side of the edge.
    def residual(p, _):
        return jnp.sqrt(jnp.maximum(p - 1, 0))

    solver = jaxfit.TRF(jacobian=jax.grad(residual))
    solution = jaxfit.solve(Problem(residual, 2.0), solver)
    assert solution.params > 1
    assert solution.cost < 1e-6
    assert np.isfinite(solution.grad)


def test_trial_points_that_are_not_finite_are_rejected():
    # The Gauss-Newton step from 10 leads to -33, outside the domain of the logarithm.
    def residual(p, _):
        return jnp.log(p) + 2

    solution = jaxfit.solve(Problem(residual, 10.0))
    assert solution.success
    close(solution.params, np.exp(-2.0), rtol=1e-10)
    # More evaluations than linearisations: the difference was rejected.
    assert solution.nfev > solution.njev


@pytest.mark.parametrize("cost", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("lanes", [False, True])
def test_a_trial_cost_that_is_not_finite_is_rejected(cost, lanes):
    """That of a loss too, which may be -inf: the lowest of costs, and no minimum."""

    def residual(p, _):
        return jnp.log(p) + 2

    def wild(p, _):  # the Gauss-Newton step from 10 leads to -33
        return jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1)) + 2, 1e3)

    def loss(z):
        return jnp.where(z > 100.0, cost, z)

    def solve(problem):
        if lanes:
            return jaxfit.solve_batch(stack(problem, problem))
        return jaxfit.solve(problem)

    solution = solve(Problem(wild, 10.0, loss=loss))
    assert np.all(solution.success)
    assert np.all(np.isfinite(solution.cost))
    close(solution.params, solve(Problem(residual, 10.0)).params, rtol=1e-7)
    assert lanes or solution.nfev > solution.njev  # the difference was rejected


def test_a_fit_walled_in_by_nan_stays_and_shows_its_gradient():
    def residual(p, _):
        return jnp.where(p == 1.0, p, jnp.nan)

    solution = jaxfit.solve(Problem(residual, 1.0), TRF(max_steps=30))
    assert solution.params == 1.0
    assert solution.optimality == 1.0
    assert solution.status != Status.GTOL


def test_gtol_is_met_at_once_by_a_perfect_start():
    problem = curve_problem(decay, T, decay(T, START), START)
    solution = jaxfit.solve(problem)
    assert solution.status == Status.GTOL
    assert (int(solution.nfev), int(solution.njev)) == (1, 1)
    np.testing.assert_array_equal(solution.params, START)
    assert solution.cost == 0.0


@pytest.mark.parametrize(
    ("tolerances", "status"),
    [
        ({"ftol": 1e-3, "xtol": 0.0, "gtol": 0.0}, Status.FTOL),
        ({"ftol": 0.0, "xtol": 1e-3, "gtol": 0.0}, Status.XTOL),
        ({"ftol": 0.0, "xtol": 0.0, "gtol": 1e-3}, Status.GTOL),
        ({"ftol": 1e-2, "xtol": 1e-2, "gtol": 0.0}, Status.FTOL_XTOL),
        ({"ftol": 0.0, "xtol": 0.0, "gtol": 0.0, "atol": 1e-3}, Status.GTOL),
    ],
)
def test_each_tolerance_has_its_status(tolerances, status):
    solver = TRF(**{"atol": 0.0, **tolerances})
    solution = jaxfit.solve(curve_problem(decay, T, Y, START), solver)
    assert solution.status == status
    close(solution.params, scipy_fit(numpy_decay, START).x, rtol=0.05)


def test_default_tolerances_are_powers_of_eps():
    eps = np.finfo(float).eps
    problem = curve_problem(decay, T, Y, START)
    solver = TRF(ftol=eps, xtol=eps ** (2 / 3), gtol=eps ** (3 / 4))
    explicit, default = jaxfit.solve(problem, solver), jaxfit.solve(problem)
    close(explicit.params, default.params, rtol=1e-14)
    assert explicit.nfev == default.nfev
    assert explicit.status == default.status


def test_x_scale_is_the_size_of_the_parameters():
    problem = curve_problem(decay, T, Y, START)
    size = np.array([2.0, 1.0, 0.5])
    solution = jaxfit.solve(
        problem, TRF(x_scale=size, factor=1.0, history=True, max_steps=50)
    )
    close(solution.params, scipy_fit(numpy_decay, START).x, rtol=1e-7)
    # The first radius is the length of the start in units of x_scale; then it is halved
    # or doubled as often as the first step's trials ask for.
    growth = np.log2(solution.history.radius[0] / np.linalg.norm(START / size))
    close(growth, np.round(growth))


def test_fewer_data_than_parameters():
    def residual(p, _):
        return jnp.stack([jnp.sum(p**2) - 4.0, p[0] * p[1] - p[2]])

    solution = jaxfit.solve(Problem(residual, np.array([1.0, 2.0, 3.0])))
    assert solution.success
    assert solution.cost < 1e-20
    assert np.all(np.isnan(covariance(solution)))
    unscaled = covariance(solution, scaled=False)
    assert np.all(np.isinf(np.diagonal(unscaled)))


def test_parameters_that_the_data_do_not_determine():
    def model(x, p):
        return p[0] * jnp.exp(-p[1] * x) + p[2] + p[3] + 0 * p[4]

    start = np.array([1.0, 1.0, 0.0, 0.0, 7.0])
    solution = jaxfit.solve(curve_problem(model, T, Y, start))
    reference = jaxfit.solve(curve_problem(decay, T, Y, START))
    assert solution.success
    close(solution.cost, reference.cost)
    close(solution.params[2] + solution.params[3], reference.params[2], rtol=1e-7)
    assert solution.params[4] == 7.0
    matrix = covariance(solution, scaled=False)
    np.testing.assert_array_equal(np.isinf(np.diagonal(matrix)), [0, 0, 1, 1, 1])
    inverse = np.linalg.inv(reference.linearisation.gram)
    close(matrix[:2, :2], inverse[:2, :2], rtol=1e-6)
    assert np.isnan(matrix[2, 3]) and np.isnan(matrix[0, 4])


def test_gtol_is_about_the_columns_at_hand():
    """A Jacobian that has shrunk by many orders since the start ends no fit early."""
    far = jaxfit.Problem(lambda p, _: jnp.exp(p) - 1.0, jnp.array([60.0]))
    solution = jaxfit.solve(far)
    np.testing.assert_allclose(solution.params, 0.0, atol=1e-8)

    def rosenbrock(p, _):
        return jnp.stack([10 * (p[1] - p[0] ** 2), 1 - p[0]])

    problem = jaxfit.Problem(rosenbrock, jnp.array([-1.2, 1.0]))
    solution = jaxfit.solve(problem, jaxfit.TRF(x_scale=1e-12))
    assert not solution.success or solution.cost < 1e-12


@pytest.mark.parametrize("upper", [False, True])
def test_gtol_counts_a_parameter_at_its_bound_by_the_distance_to_it(upper):
    """The gradient there does not vanish, and its part of the way to the bound does."""
    sign = -1.0 if upper else 1.0

    def residual(p, _):
        return jnp.stack([sign * p[0] + 1.0, p[1] - 2.0, 0.3 * sign * p[0] + p[1]])

    bounds = (-np.inf, [0.0, np.inf]) if upper else ([0.0, -np.inf], np.inf)
    problem = Problem(residual, np.array([sign, 1.0]), bounds=bounds)
    solution = jaxfit.solve(problem, TRF(ftol=0.0, xtol=0.0, gtol=1e-8, max_steps=60))
    assert solution.status == Status.GTOL
    close(solution.params, [0.0, 1.0], rtol=1e-6, atol=1e-6)
    # The cosine of what is free of its bound decides as without one.
    solution = jaxfit.solve(
        Problem(residual, np.array([sign, 1.0])), TRF(ftol=0.0, xtol=0.0, gtol=1e-8)
    )
    assert solution.status == Status.GTOL
