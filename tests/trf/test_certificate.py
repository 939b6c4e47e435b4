"""The certificate of convergence: what a tolerance proposes is a minimum, or told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit
from jaxfit import TRF, Problem, Status, curve_problem
from jaxfit._trf.certificate import certified, is_flat, is_stale


T = np.linspace(0.0, 5.0, 40)
NOISE = 0.05 * np.random.default_rng(1).normal(size=T.size)


def decay(t, p):
    return p[0] * jnp.exp(-p[1] * t) + p[2]


Y = np.asarray(2.5 * np.exp(-1.3 * T) + 0.5) + NOISE


def line(t, p):
    return p[0] * t + p[1]


def relative_offset(residual, x):
    """Bates and Watts (1981), by a QR factorisation of J."""
    r = np.asarray(residual(x))
    q, _ = np.linalg.qr(np.asarray(jax.jacobian(residual)(x)))
    tangent = q.T @ r
    m, p = q.shape
    normal = r @ r - tangent @ tangent
    return np.sqrt(tangent @ tangent / p) / np.sqrt(normal / (m - p))


@pytest.mark.parametrize("distance", [1e-5, 1e-4, 0.5e-3, 0.9e-3, 1.1e-3, 2e-3, 0.1])
def test_the_relative_offset_is_that_of_bates_and_watts(distance):
    """At points `distance` standard errors off, along each direction of the errors."""

    def residual(p):
        return decay(T, p) - Y

    solution = jaxfit.solve(curve_problem(decay, T, Y, jnp.array([2.0, 1.0, 0.3])))
    root = np.linalg.cholesky(np.asarray(solution.covariance()))
    for way in np.sqrt(3) * root.T:  # the norm over 3 parameters
        x = np.asarray(solution.params) + distance * way
        j, r = np.asarray(jax.jacobian(residual)(x)), np.asarray(residual(x))
        g, newton = j.T @ r, -np.linalg.solve(j.T @ j, j.T @ r)
        told = certified(
            *map(jnp.asarray, (g, newton, 3, T.size, np.linalg.norm(r), 0.0)), 1e-3
        )
        assert bool(told) == (relative_offset(residual, x) <= 1e-3)
        assert bool(told) == (distance < 1e-3)


def test_the_number_of_data_is_part_of_the_certificate():
    """A step of |Q1'r| = 1e-3 |r| is a 100th of an error of 100 data, not of 10^6."""
    g, newton, r = jnp.array([1e-3]), jnp.array([-1e-3]), jnp.array(1.0)

    def told(m):
        return bool(
            certified(g, newton, jnp.array(1), jnp.array(m), r, jnp.array(0.0), 0.02)
        )

    assert told(100)
    assert not told(10**6)


def test_squares_that_underflow_are_not_a_perfect_fit():
    g = jnp.array([1e-30, 1e-30], jnp.float32)
    zero = jnp.zeros((), jnp.float32)
    least = jnp.array(1e-35, jnp.float32)
    assert not certified(g, -g, jnp.array(2), jnp.array(10), zero, least, 1e-3)


def test_flat_and_stale_are_told():
    assert is_flat(jnp.array(1e-8), 0.0)
    assert not is_flat(jnp.array(1e-6), 0.0)
    assert is_flat(jnp.array(1e-6), 1e-5)
    assert is_stale(jnp.array([1e3, 1.0]), jnp.array([1.0, 1.0]))
    assert not is_stale(jnp.array([1e3, 1.0]), jnp.array([0.0, 1.0]))


@pytest.mark.parametrize("start", [1e-9, 1e-100, -1e-9, 1e12])
def test_a_start_of_any_size_is_none_to_stop_at(start):
    solution = jaxfit.solve(Problem(lambda p, _: p - 3.0, jnp.array([start])))
    assert solution.success
    np.testing.assert_allclose(solution.params, 3.0, rtol=1e-12)


@pytest.mark.parametrize("unit", [1e-18, 1.0, 1e8, 1e16])
@pytest.mark.parametrize("solver", [TRF(), TRF(linear_solver="gram"), TRF(ftol=1e-4)])
def test_a_straight_line_from_ones_is_found_in_any_unit(unit, solver):
    y = unit * (2 * T + 1 + NOISE)
    solution = jaxfit.solve(curve_problem(line, T, y, jnp.ones(2)), solver)
    assert solution.success
    exact = np.polyfit(T, y, 1)
    np.testing.assert_allclose(solution.params, exact, rtol=1e-4)


@pytest.mark.parametrize("loss", ["linear", "soft_l1", "cauchy"])
def test_loose_tolerances_stop_where_the_step_is_small_beside_the_errors(loss):
    """ftol of 1e-4 would do with an offset of 1e-2: it is the user's word."""
    problem = curve_problem(decay, T, Y, jnp.array([1.0, 3.0, 0.0]), loss=loss)
    tight, loose = jaxfit.solve(problem), jaxfit.solve(problem, TRF(ftol=1e-4))
    assert loose.success
    assert loose.nfev <= tight.nfev
    errors = np.sqrt(np.diagonal(tight.covariance()))
    assert np.all(np.abs(loose.params - tight.params) < 0.05 * errors)


def test_masked_data_do_not_count():
    """10^5 masked rows make nothing more certain."""
    many = 10**5
    t = np.concatenate([T, np.zeros(many)])
    y = np.concatenate([Y, np.full(many, 1e3)])
    mask = np.arange(t.size) < T.size
    start = jnp.array([1.0, 1.0, 0.0])
    some = jaxfit.solve(curve_problem(decay, t, y, start, mask=mask))
    alone = jaxfit.solve(curve_problem(decay, T, Y, start))
    assert some.success
    np.testing.assert_allclose(some.params, alone.params, rtol=1e-8)


def test_a_peak_that_left_its_data_is_told():
    """Far from the data a peak has no derivative by which it would come back."""

    def peak(t, p):
        return p[0] * jnp.exp(-0.5 * ((t - p[1]) / p[2]) ** 2)

    y = np.asarray(peak(T, [2.0, 1.5, 0.3])) + NOISE
    solution = jaxfit.solve(curve_problem(peak, T, y, jnp.array([1.0, 4.5, 0.1])))
    if solution.success:
        np.testing.assert_allclose(solution.params[1], 1.5, atol=0.1)
    else:
        assert Status(int(solution.status)) in (Status.LEFT_THE_DATA, Status.STALLED)


def test_a_decay_into_a_straight_line_is_no_minimum():
    """a (1 - exp(-b t)) with a = 1e8, b = 1e-8: the cost still falls a little."""

    def rise(t, p):
        return p[0] * (1 - jnp.exp(-p[1] * t))

    y = np.asarray(rise(T, [4.0, 0.8])) + NOISE
    solution = jaxfit.solve(curve_problem(rise, T, y, jnp.array([1e8, 1e-8])))
    right = np.abs(solution.params - np.array([4.0, 0.8])).max() < 0.2
    assert right or not solution.success or not np.isfinite(solution.covariance()).all()


def test_a_column_of_rounding_waits_until_there_is_one():
    """The angle of an ellipse that starts as a circle."""
    rng = np.random.default_rng(0)
    v, u = np.mgrid[:20, :20] - 9.5
    uv = np.stack([u.ravel(), v.ravel()])

    def spot(uv, p):
        a, width, height, angle = p
        c, s = jnp.cos(angle), jnp.sin(angle)
        along, across = uv[0] * c - uv[1] * s, uv[0] * s + uv[1] * c
        return a * jnp.exp(-0.5 * ((along / width) ** 2 + (across / height) ** 2))

    z = np.asarray(spot(uv, [1.0, 3.0, 5.0, 0.4])) + 0.02 * rng.normal(size=400)
    start = jnp.array([0.8, 4.0, 4.0, 0.1])
    solution = jaxfit.solve(curve_problem(spot, uv, z, start))
    assert solution.success
    np.testing.assert_allclose(solution.params, [1.0, 3.0, 5.0, 0.4], atol=0.1)


@pytest.mark.parametrize("unit", [1.0, 1e-12, 1e-18])
def test_a_bound_of_zero_is_as_near_in_any_unit(unit):
    """A start at the solution is not moved away from a bound far in its unit."""
    y = unit * Y
    sized = np.array([unit, 1.0, unit])
    start = sized * np.array([2.0, 1.0, 0.4])
    problem = curve_problem(decay, T, y, start, bounds=(jnp.zeros(3), jnp.inf))
    solution = jaxfit.solve(problem)
    assert solution.success
    free = jaxfit.solve(curve_problem(decay, T, Y, jnp.array([2.0, 1.0, 0.4])))
    np.testing.assert_allclose(solution.params / sized, free.params, rtol=1e-6)


def test_points_without_derivatives_are_stepped_back_from():
    """A user's Jacobian that ends: the fit goes on this side of where it does."""

    def residual(p, _):
        return jnp.stack([p[0] - 2.0, 0.1 * p[0]])

    def jacobian(p, _):
        slope = jnp.where(p[0] > 1.99, jnp.nan, 1.0)
        return jnp.stack([slope[None], jnp.array([0.1])])

    solution = jaxfit.solve(Problem(residual, jnp.array([0.5])), TRF(jacobian=jacobian))
    assert solution.success
    np.testing.assert_allclose(solution.params, 2.0 / 1.01, rtol=1e-9)


def test_as_many_parameters_as_data_end_at_a_residual_that_is_none():
    """Freudenstein and Roth: a root at (5, 4), and a minimum where J is singular."""

    def residual(p, _):
        x, y = p
        return jnp.stack(
            [-13 + x + ((5 - y) * y - 2) * y, -29 + x + ((y + 1) * y - 14) * y]
        )

    solution = jaxfit.solve(Problem(residual, jnp.array([4.0, 3.5])))
    assert solution.success
    np.testing.assert_allclose(solution.params, [5.0, 4.0], rtol=1e-9)
    other = jaxfit.solve(Problem(residual, jnp.array([0.5, -2.0])))
    assert not other.success or np.isclose(2 * other.cost, 48.98425, rtol=1e-6)


def test_lanes_and_single_fits_agree_on_who_has_converged():
    """Fits that end well, badly and not at all, side by side."""
    starts = jnp.array([[2.0, 1.0, 0.3], [1.0, 3.0, 0.0], [1.0, -500.0, 0.0]])

    def problem(start):
        return curve_problem(decay, T, Y, start)

    solver = TRF(linear_solver="gram")
    batch = jaxfit.solve_batch(jax.vmap(problem)(starts), solver)
    for i, start in enumerate(starts):
        one = jaxfit.solve(problem(start), solver)
        assert bool(batch.success[i]) == bool(one.success)
        if one.success:
            np.testing.assert_allclose(batch.cost[i], one.cost, rtol=1e-6)
