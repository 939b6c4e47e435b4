"""A fit without a certificate: a minimum by its Hessian, a kink, or neither."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import OptimizeWarning

import jaxfit
from jaxfit import TRF, Problem, Status, curve_fit, least_squares, solve
from jaxfit._curve.nonfinite import first_in_rows
from jaxfit._solve.second_opinion import is_limit, is_minimum, second_opinion


ORDER = np.arange(1, 11)
T = np.linspace(0, 1, 30)


def jennrich_sampson(x):
    return 2 + 2 * ORDER - (jnp.exp(ORDER * x[0]) + jnp.exp(ORDER * x[1]))


def looked_at(residual, x, bounds=None):
    """Whether x itself is found to be a minimum."""
    x = np.asarray(x, float)
    problem = Problem(residual, x, bounds=bounds)
    # A step of no length is the only one: the solution is the start.
    solution = solve(problem, TRF(max_steps=1, trials=1, x_scale=1e-290))
    np.testing.assert_allclose(np.asarray(solution.params), x, rtol=1e-9)
    return is_minimum(problem, TRF(), solution)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_a_minimum_where_the_jacobian_is_singular(unit):
    assert looked_at(lambda x, _: unit * (1 + x**2), [1e-9])
    assert looked_at(lambda x, _: 1 + (x / unit - 1) ** 2, [(1 + 1e-9) * unit])
    assert not looked_at(lambda x, _: unit * (1 - x**2), [1e-9])
    assert not looked_at(lambda x, _: unit * (1 + x**2), [0.1])


def test_a_saddle_is_none():
    def residual(x, _):
        return jnp.stack([1 + x[0] ** 2, 1 - x[1] ** 2])

    assert not looked_at(residual, [1e-9, 1e-9])


@pytest.mark.parametrize("x", [1.0, 10.0, 30.0, 1e3, 1e6])
@pytest.mark.parametrize(
    "fall",
    [
        lambda x: 1 / x,
        lambda x: jnp.exp(-x),
        lambda x: x**-0.1,
    ],
)
def test_a_valley_to_infinity_is_none(fall, x):
    assert not looked_at(lambda p, _: jnp.stack([1 + fall(p[0]), 1 - 0 * p[0]]), [x])


@pytest.mark.parametrize("k", [1e-2, 1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("bend", [-0.5, 0.0, 0.5])
def test_a_decay_on_its_way_to_a_line_is_none(k, bend):
    rng = np.random.default_rng(0)
    y = 1 + 2 * T + bend * T**2 + 0.01 * rng.normal(size=T.size)
    a, c = np.linalg.lstsq(np.stack([np.exp(-k * T), 1 + 0 * T], 1), y)[0]
    assert not looked_at(lambda p, _: p[0] * jnp.exp(-p[1] * T) + p[2] - y, [a, k, c])


@pytest.mark.parametrize("width", [1e1, 1e3, 1e5, 1e8])
def test_a_peak_on_its_way_to_a_constant_is_none(width):
    y = 1 + 0.01 * np.random.default_rng(1).normal(size=T.size)

    def residual(p, _):
        return p[0] * jnp.exp(-(((T - p[1]) / p[2]) ** 2)) - y

    assert not looked_at(residual, [y.mean(), 0.5, width])


def test_at_a_bound_the_gradient_has_to_push_outwards():
    def residual(x, _):
        return jnp.stack([1 + x[0] ** 2, x[1] + 1])

    bounds = ([-1.0, 0.0], [1.0, 3.0])
    assert looked_at(residual, [1e-9, 1e-12], bounds)
    assert not looked_at(residual, [1e-9, 3 - 1e-9], bounds)
    assert not looked_at(residual, [1e-9, 0.1], bounds)


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e7])
def test_both_doors_know_the_minimum_of_jennrich_and_sampson(scale):
    # `gtol`, as SciPy's, is in units of the cost.
    done = least_squares(lambda x: scale * jennrich_sampson(x), [0.3, 0.4], gtol=None)
    assert done.success and done.status in (1, 2, 3, 4)
    np.testing.assert_allclose(done.x, 0.257825, rtol=1e-5)
    np.testing.assert_allclose(done.cost, scale**2 * 62.181, rtol=1e-4)

    def model(i, a, b):
        return jnp.exp(i * a) + jnp.exp(i * b)

    with pytest.warns(match="nearly singular"):
        fit = curve_fit(model, ORDER, 2.0 + 2 * ORDER, [0.3, 0.4])
    assert fit.outcome == Status.HESSIAN and fit.status == 1 and fit.success
    assert "second derivatives" in fit.message
    assert fit.solution.status == Status.HESSIAN


def test_solve_keeps_the_status_that_it_can_tell_by_itself():
    problem = Problem(lambda x, _: jennrich_sampson(x), jnp.array([0.3, 0.4]))
    solution = solve(problem)
    assert solution.status == Status.STALLED
    assert second_opinion(problem, TRF(), solution) == Status.HESSIAN


def test_a_kink_is_told_and_is_no_success():
    def folded(x):
        return jnp.stack([2 + 3 * jnp.abs(x[0] - 1), x[1] - 2])

    done = least_squares(folded, [3.0, 1.0])
    assert (done.outcome, done.status, done.success) == (Status.AT_A_KINK, 0, False)
    assert "kink" in done.message
    np.testing.assert_allclose(done.x, [1, 2], rtol=1e-3)

    def model(t, a, b):
        return a * t + 3 * jnp.abs(b - 1)

    with pytest.raises(jaxfit.FitError, match="kink") as raised:
        curve_fit(model, T, T - 2.0, [2.0, 3.0])
    result = raised.value.result
    assert (result.outcome, result.status) == (Status.AT_A_KINK, 0)
    np.testing.assert_allclose(result.popt[1], 1, rtol=1e-3)
    read = jaxfit.CurveFitResult.from_json(result.to_json())
    assert read.outcome is Status.AT_A_KINK


def test_a_kink_of_a_host_function_is_told():
    @jaxfit.from_numpy
    def folded(x):
        return np.array([2 + 3 * np.abs(x[0] - 1), x[1] - 2])

    done = least_squares(folded, [3.0, 1.0])
    assert (done.outcome, done.status) == (Status.AT_A_KINK, 0)


def test_a_derivative_that_forbids_another_leaves_the_status():
    @jax.custom_vjp
    def exponential(x):
        return jnp.exp(x)

    exponential.defvjp(
        lambda x: (exponential(x), exponential(x)),
        lambda value, g: (g * inner(value),),
    )

    @jax.custom_vjp
    def inner(value):
        return value

    inner.defvjp(lambda v: (v, None), lambda _, g: (g,))

    def residual(x, _):
        return 2 + 2 * ORDER - (exponential(ORDER * x[0]) + exponential(ORDER * x[1]))

    problem = Problem(residual, jnp.array([0.25782521, 0.25782522]))
    solution = solve(problem)
    if solution.status == Status.STALLED:
        assert second_opinion(problem, TRF(), solution) == Status.STALLED
    assert not is_minimum(problem, TRF(), solution)


def test_a_fit_that_needs_the_scale_of_one_gets_it():
    """Chebyshev quadrature from far: scales by the Jacobian lead it astray."""

    def chebyquad(x):
        shifted, before, now = 2 * x - 1, jnp.ones_like(x), 2 * x - 1
        out = []
        for i in range(1, x.size + 1):
            exact = 0.0 if i % 2 else -1 / (i**2 - 1)
            out.append(jnp.mean(now) - exact)
            before, now = now, 2 * shifted * now - before
        return jnp.stack(out)

    start = 10 * np.arange(1, 9) / 9
    plain = least_squares(chebyquad, start, x_scale="jac")
    done = least_squares(chebyquad, start)
    assert done.success
    if not plain.success:
        assert done.nfev > plain.nfev
    limited = least_squares(chebyquad, start, max_nfev=40)
    assert limited.nfev <= 40


def test_what_is_not_finite_is_named():
    with pytest.raises(ValueError, match=r"index 15, with x\[0\]=0.5"):
        least_squares(lambda x: jnp.sqrt(x[0] - T), [0.5])

    def jac(x):
        return jnp.array([[1.0, 1.0], [1.0, np.nan], [1.0, 2.0]])

    with pytest.raises(ValueError, match=r"`jac` by x\[1\] is nan at index 1"):
        least_squares(lambda x: x[0] * jnp.arange(3.0) + x[1], [0.5, 1], jac=jac)


def test_the_first_that_is_not_finite_is_found():
    fun, jac = np.ones(3), np.ones((3, 2))
    assert first_in_rows(fun, jac) is None and first_in_rows(fun, None) is None
    jac[2, 0] = jac[1, 1] = np.inf
    spot = first_in_rows(fun, jac)
    assert spot is not None and (spot.row, spot.param, spot.value) == (
        1,
        "x[1]",
        np.inf,
    )
    fun[2] = np.nan
    spot = first_in_rows(fun, jac)
    assert spot is not None and (spot.row, spot.param) == (2, None)


def test_a_minimum_to_which_a_column_vanishes():
    """The data cease to determine x[1] by J, and their second derivatives do."""

    def residual(x):
        return jnp.stack([1 + x[0] ** 2, 2 + x[1] ** 2, x[0]])

    done = least_squares(residual, [3.0, 1.0])
    assert (done.outcome, done.status) == (Status.HESSIAN, 1)
    np.testing.assert_allclose(done.x, 0, atol=1e-3)


@pytest.mark.parametrize("seed", [0, 1, 2, 4])
@pytest.mark.parametrize("unit", [1.0, 1e-12])
def test_a_valley_to_infinity_that_falls_no_more(seed, unit):
    # A power law with noise bends the wrong way for a log-logistic curve with a lower
    # end, c: the cost falls for as long as c and e grow, to that of the power law.
    x = np.repeat([0.0, 1.0, 2.0, 4.0, 8.0, 16.0], 8)
    noise = np.random.default_rng(seed).standard_normal(x.size)
    y = unit * (3 - 0.02 * x**1.6 + 0.4 * noise)

    def model(x, b, c, d, e):
        return c + (d - c) / (1 + (x / e) ** b)

    with pytest.warns(OptimizeWarning, match="do not determine .*c.*e"):
        fit = curve_fit(model, x, y, [1.0, y.min(), y.max(), 4.0])
    assert fit.outcome == Status.AT_A_LIMIT and fit.success and fit.status == 2
    assert np.isinf(fit.pcov).all() and "limit" in fit.message
    assert {"c", "e"} <= set(fit.undetermined) and np.isfinite(fit.perr[2])
    best = curve_fit(
        lambda x, d, k, b: d - k * x**b, x, y, [3 * unit, 0.02 * unit, 1.5]
    )
    np.testing.assert_allclose(fit.cost, best.cost, rtol=1e-6)


def test_a_valley_that_still_falls_is_at_no_limit():
    # Towards x = inf the cost falls from 1 + 0.1 to 1.
    def residual(x, _):
        return jnp.stack([1.0 + 0 * x[0], jnp.sqrt(0.2) * jnp.exp(-x[0] / 50)])

    problem = Problem(residual, jnp.array([10.0]))
    solution = solve(problem, TRF(max_steps=1))
    assert not is_limit(problem, TRF(), solution)
