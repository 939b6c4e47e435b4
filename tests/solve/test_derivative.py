"""Derivatives of a fit against central differences of tightly converged fits.

One function of a dictionary `theta` of everything that a fit depends on serves all
tests; what it returns (solution, cost, covariance) is differentiated as a whole.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxfit
from jaxfit import TRF, Problem, Status, curve_problem


TIGHT = {"ftol": 0.0, "xtol": 1e-14, "gtol": 1e-15}
T = np.linspace(0.0, 2.0, 11)
NOISE = 0.03 * np.sin(9.0 * np.arange(11.0) ** 1.5)
Y = 2.0 * np.exp(-1.3 * T) + 0.4 * T + 0.3 + NOISE
OUTLIER = 0.6 * (np.arange(11) == 4)

# What a fit may depend on. The amplitude ends at its upper bound `top`, the rate stays
# away from its lower bound `low`, the offset is fixed at `fix`; the slope is free.
THETA = {
    "x": T,
    "y": Y + OUTLIER,
    "sigma": 0.5 + 0.05 * np.arange(11.0),
    "top": np.array(1.8),
    "low": np.array(0.1),
    "fix": np.array(0.25),
    "f_scale": np.array(0.4),
    "knob": np.array(0.7),
}


def model(knob):
    """A curve with a closure over `knob`, which may be traced."""

    def curve(x, p):
        return p[0] * jnp.exp(-p[1] * x) + p[2] + p[3] * x + 0.1 * knob * jnp.sin(x)

    return curve


def bounded(theta, loss, solver):
    """Solution, cost and unscaled covariance: one active bound, one fixed parameter."""
    inf = jnp.array(jnp.inf)
    start = jnp.stack(
        [theta["top"] - 0.5, theta["low"] + 1, theta["fix"], jnp.zeros(())]
    )
    lower = jnp.stack([-inf, theta["low"], theta["fix"], -inf])
    upper = jnp.stack([theta["top"], inf, theta["fix"], inf])
    problem = curve_problem(
        model(theta["knob"]),
        theta["x"],
        theta["y"],
        start,
        sigma=theta["sigma"],
        bounds=(lower, upper),
        loss=loss,
        f_scale=theta["f_scale"],
    )
    solution = jaxfit.solve(problem, solver)
    out = {"params": solution.params, "cost": solution.cost}
    if solution.linearisation is not None:
        out["covariance"] = solution.covariance()
    return out


def differences(function, theta, step=1e-3):
    """d function / d theta by fourth order central differences, all lanes at once."""
    flat, unravel = ravel_pytree(theta)
    steps = step * np.eye(flat.size)
    lanes = flat + np.stack([-2 * steps, -steps, steps, 2 * steps]).reshape(
        -1, flat.size
    )
    values = jax.jit(jax.vmap(lambda v: function(unravel(v))))(lanes)

    def combine(value):
        a, b, c, d = np.asarray(value).reshape(4, flat.size, *value.shape[1:])
        slope = np.moveaxis((a - 8 * b + 8 * c - d) / (12 * step), 0, -1)
        parts, start = {}, 0
        for name, leaf in sorted(theta.items()):
            stop = start + leaf.size
            shape = slope.shape[:-1] + leaf.shape
            parts[name] = slope[..., start:stop].reshape(shape)
            start = stop
        return parts

    return {name: combine(value) for name, value in values.items()}


def compare(derivative, reference, rtol=1e-6):
    """Relative to the largest entry of each block; blocks of zeros to one."""
    assert derivative.keys() == reference.keys()
    for output, blocks in reference.items():
        assert derivative[output].keys() == blocks.keys()
        for name, block in blocks.items():
            size = np.abs(block).max()
            error = np.abs(derivative[output][name] - block).max()
            assert error <= rtol * (size if size > 1e-8 else 1.0), (output, name)


@functools.cache
def reference(loss):
    return differences(lambda theta: bounded(theta, loss, TRF(**TIGHT)), THETA)


# --- Everything a fit depends on -------------------------------------------------


@pytest.mark.parametrize("loss", ["linear", "cauchy"])
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_every_input_with_an_active_bound_and_a_fixed_parameter(loss, mode):
    transform = {"forward": jax.jacfwd, "reverse": jax.jacrev}[mode]
    derivative = transform(lambda theta: bounded(theta, loss, TRF(**TIGHT)))
    compare(jax.jit(derivative)(THETA), reference(loss))


def test_the_reference_is_not_trivial():
    """The bound is active and every input moves the solution, but for two."""
    solution = reference("cauchy")["params"]
    for name in THETA:
        moved = np.abs(solution[name]).max()
        assert (moved < 1e-8) if name == "low" else (moved > 1e-3)
    np.testing.assert_allclose(solution["top"][0], 1.0, rtol=1e-8)
    np.testing.assert_allclose(solution["fix"][2], 1.0, rtol=1e-8)
    # f_scale does nothing to least squares.
    assert np.abs(reference("linear")["params"]["f_scale"]).max() < 1e-8


@pytest.mark.parametrize("linear_solver", ["gram", "matrix_free"])
def test_the_other_back_ends_have_the_same_derivative(linear_solver):
    solver = TRF(linear_solver=linear_solver, **TIGHT)
    derivative = jax.jit(jax.jacrev(lambda theta: bounded(theta, "cauchy", solver)))
    expected = dict(reference("cauchy"))
    if linear_solver == "matrix_free":
        expected.pop("covariance")
    compare(derivative(THETA), expected)


def test_under_jit_and_vmap_every_lane_has_its_own_derivative():
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.9 * leaf, 1.1 * leaf]), THETA)

    def value(theta):
        return bounded(theta, "cauchy", TRF(**TIGHT))["params"]

    both = jax.jit(jax.vmap(jax.jacrev(value)))(batch)
    one = reference("cauchy")["params"]
    for name in THETA:
        block = both[name]
        size = np.abs(one[name]).max()
        scale = size if size > 1e-8 else 1.0
        assert np.abs(block[0] - one[name]).max() <= 1e-6 * scale
        if size > 1e-8:
            assert np.abs(block[1] - block[0]).max() > 1e-4 * size


# --- Without bounds: exact against closed forms ----------------------------------


def decay(x, p):
    return p[0] * jnp.exp(-p[1] * x)


START = np.array([1.0, 1.0])
EXACT = 2.0 * np.exp(-1.3 * T)


def jacobian_of_decay(p):
    e = np.exp(-p[1] * T)
    return np.stack([e, -p[0] * T * e], axis=1)


@functools.cache
def slopes(derivative):
    """The jitted solution and d params / d y of an unbounded fit to y."""

    def value(y):
        solver = TRF(derivative=derivative, **TIGHT)
        params = jaxfit.solve(curve_problem(decay, T, y, START), solver).params
        return params, params

    return jax.jit(jax.jacrev(value, has_aux=True))


def test_gauss_newton_is_the_exact_derivative_where_the_residual_vanishes():
    exact, params = slopes("hessian")(EXACT)
    approximate, _ = slopes("gauss_newton")(EXACT)
    by_hand = np.linalg.pinv(jacobian_of_decay([2.0, 1.3]))
    np.testing.assert_allclose(params, [2.0, 1.3], rtol=1e-12)
    np.testing.assert_allclose(exact, by_hand, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(approximate, by_hand, rtol=1e-9, atol=1e-12)


def test_gauss_newton_leaves_out_the_curvature_of_the_residual():
    y = EXACT + 10 * NOISE
    exact, params = slopes("hessian")(y)
    approximate, _ = slopes("gauss_newton")(y)
    j = jacobian_of_decay(params)
    np.testing.assert_allclose(approximate, np.linalg.pinv(j), rtol=1e-9)
    r = params[0] * np.exp(-params[1] * T) - y
    e = np.exp(-params[1] * T)
    curvature = np.array(
        [[0.0, r @ (-T * e)], [r @ (-T * e), r @ (params[0] * T**2 * e)]]
    )
    by_hand = np.linalg.solve(j.T @ j + curvature, j.T)
    np.testing.assert_allclose(exact, by_hand, rtol=1e-9)
    assert np.abs(exact - approximate).max() > 1e-3 * np.abs(exact).max()


def test_second_derivatives():
    directions = np.stack([np.sin(T), np.where(T > 1, 1.0, -0.3)])

    def rate(t):
        problem = curve_problem(
            decay, T, Y - 0.3 + t @ directions, START, loss="soft_l1", f_scale=0.2
        )
        return jaxfit.solve(problem, TRF(**TIGHT)).params[1]

    t = jnp.array([0.02, -0.03])
    mine = jax.jit(jax.jacfwd(jax.jacrev(rate)))(t)
    step = 1e-3
    shifts = np.array([-2, -1, 1, 2])[:, None, None] * step * np.eye(2)
    slope = jax.jit(jax.vmap(jax.grad(rate)))(t + shifts.reshape(-1, 2))
    a, b, c, d = np.asarray(slope).reshape(4, 2, 2)
    reference = (a - 8 * b + 8 * c - d) / (12 * step)
    np.testing.assert_allclose(mine, mine.T, rtol=1e-8)
    np.testing.assert_allclose(mine, reference, rtol=1e-6)
    assert np.abs(reference).min() > 1e-3


def test_args_closure_and_start_of_a_residual():
    """A linear problem: its solution and all derivatives are those of lstsq."""

    def fit(matrix, rhs, weight, start):
        def residual(p, args):
            return weight * (args["a"] @ p["x"] - args["b"])

        problem = Problem(residual, {"x": start}, {"a": matrix, "b": rhs})
        return jaxfit.solve(problem, TRF(**TIGHT)).params["x"]

    def by_hand(matrix, rhs, weight, start):
        del start
        a, b = weight[:, None] * matrix, weight * rhs
        return jnp.linalg.solve(a.T @ a, a.T @ b)

    matrix = np.cos(np.arange(12.0) ** 1.7).reshape(6, 2)
    arguments = (matrix, np.arange(6.0), 1 + 0.1 * np.arange(6.0), np.zeros(2))
    everything = (0, 1, 2, 3)
    mine = jax.jit(jax.jacrev(fit, argnums=everything))(*arguments)
    reference = jax.jit(jax.jacrev(by_hand, argnums=everything))(*arguments)
    for a, b in zip(mine, reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)
    # The solution does not remember where the fit began.
    np.testing.assert_array_equal(mine[3], 0.0)


# --- Fits without a derivative ---------------------------------------------------


@functools.cache
def lanes_of_decay():
    """Sum over lanes of the rate, with its gradient by everything they share."""

    def total(x, sigma, gain, starts, ys):
        def rate(start, y):
            def curve(x, p):
                return gain * decay(x, p)

            problem = curve_problem(curve, x, y, start, sigma=sigma, bounds=(-5.0, 5.0))
            solution = jaxfit.solve(problem, TRF(**TIGHT))
            return solution.params[1], solution.status

        rates, status = jax.vmap(rate)(starts, ys)
        return jnp.sum(rates), status

    return jax.jit(jax.grad(total, argnums=(0, 1, 2, 4), has_aux=True))


def test_failed_lanes_have_derivative_0_and_spoil_nothing():
    starts = np.tile(START, (4, 1))
    ys = np.stack([Y, Y[::-1] + Y, EXACT, EXACT + NOISE])
    shared = (T, 1 + 0.1 * T, np.array(1.1))
    good, status = lanes_of_decay()(*shared, starts, ys)
    assert np.all(status > 0)

    # Lane 0 is not finite, lane 1 starts outside its bounds.
    bad_ys, bad_starts = ys.copy(), starts.copy()
    bad_ys[0, 3], bad_starts[1, 0] = np.nan, 7.0
    mine, status = lanes_of_decay()(*shared, bad_starts, bad_ys)
    np.testing.assert_array_equal(
        status[:2], [Status.NONFINITE_START, Status.INFEASIBLE_START]
    )
    assert np.all(status[2:] > 0)
    np.testing.assert_array_equal(mine[3][:2], 0.0)
    np.testing.assert_allclose(mine[3][2:], good[3][2:], rtol=1e-9)

    # What remains is what the two good lanes give twice.
    twice, _ = lanes_of_decay()(*shared, starts, np.stack([ys[2], ys[3]] * 2))
    for a, b in zip(mine[:3], twice[:3], strict=True):
        assert np.all(np.isfinite(a))
        np.testing.assert_allclose(2 * a, b, rtol=1e-9)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_a_bound_exactly_at_the_free_minimum_gives_something_finite(mode):
    """Zero gradient on an active bound: the solution has two one-sided slopes there."""
    design = np.stack([np.ones_like(T), T], axis=1)
    x = np.array([1.0, -0.5])

    def fit(y, top):
        upper = jnp.stack([top, jnp.inf])
        problem = Problem(
            lambda p, y: design @ p - y, np.zeros(2), y, bounds=(-jnp.inf, upper)
        )
        return jaxfit.solve(problem, TRF(**TIGHT)).params

    transform = {"forward": jax.jacfwd, "reverse": jax.jacrev}[mode]
    by_y, by_top = jax.jit(transform(fit, argnums=(0, 1)))(design @ x, jnp.array(1.0))
    assert np.all(np.isfinite(by_y)) and np.all(np.isfinite(by_top))
    # Between the slope of the free fit and that of the fit held at its bound.
    free = np.linalg.pinv(design)
    assert -1e-6 <= by_top[0] <= 1 + 1e-6
    assert np.all(np.abs(by_y[0]) <= np.abs(free[0]) + 1e-6)


def test_a_direction_that_the_data_do_not_determine_has_derivative_0():
    def fit(y):
        problem = Problem(lambda p, y: (p[0] + p[1]) * T - y, np.array([1.0, 3.0]), y)
        return jaxfit.solve(problem, TRF(**TIGHT)).params

    derivative = jax.jit(jax.jacfwd(fit))(EXACT)
    total = T / (T @ T)
    np.testing.assert_allclose(derivative[0] + derivative[1], total, atol=1e-10)
    np.testing.assert_allclose(derivative[0], derivative[1], atol=1e-8)


def test_a_fit_out_of_steps_is_differentiated_as_if_at_its_solution():
    def fit(y):
        solver = TRF(max_steps=1, **TIGHT)
        solution = jaxfit.solve(curve_problem(decay, T, y, START), solver)
        return solution.params, solution.status

    derivative, status = jax.jit(jax.jacfwd(fit, has_aux=True))(EXACT)
    assert status == Status.MAX_STEPS
    assert np.all(np.isfinite(derivative))
    assert np.abs(derivative).max() > 0.1


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_by_a_bound_and_nothing_else(mode):
    # The offset is held at its lower bound; the rest follows.
    t = np.linspace(0, 4, 40)
    y = 2 * np.exp(-1.3 * t) + 0.5

    def params(bound):
        low, first = jnp.stack([0.0, 0.0, bound]), jnp.stack([1.0, 1.0, bound + 0.5])
        curve = curve_problem(
            lambda t, p: p[0] * jnp.exp(-p[1] * t) + p[2], t, y, first, bounds=(low, 10)
        )
        solution = jaxfit.solve(curve)
        return jnp.append(solution.params, solution.cost)

    slope = mode(params)(0.6)
    ahead, behind = params(0.6 + 1e-4), params(0.6 - 1e-4)
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-4, rtol=1e-5)
    assert slope[2] == pytest.approx(1.0) and abs(slope[1]) > 0.1
