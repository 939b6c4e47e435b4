"""The bootstrap at bounds, under losses, where fits fail; what is refused."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from replicates import (
    INF,
    KEY,
    SIGMA,
    USED,
    X,
    Y,
    at_solution,
    decay,
    decay_jacobian,
    fitted,
    flat,
    refit,
    replicates,
    resampled,
    traced,
    tree,
)

import jaxfit
from jaxfit import TRF
from jaxfit._uncertainty.resampling import picked


FLOOR = (-INF, 0.48, -INF), (INF,) * 3


# --- Bounds, losses, failures ------------------------------------------------------


def test_replicates_stay_within_bounds():
    found, solution = replicates("residual", FLOOR), fitted(FLOOR)[1]
    assert solution.active_mask["base"] == -1
    base, errors = np.asarray(found.params["base"]), np.sqrt(np.diag(at_solution()[2]))
    assert base.min() >= 0.48
    assert 0.02 < np.mean(base < 0.48 + 1e-6) < 0.9
    at_bound = np.flatnonzero(base < 0.48 + 1e-6)[0]
    for i in (0, 1, at_bound):
        y, rows = resampled("residual", i, FLOOR)
        expected = refit(y, rows, FLOOR)
        assert np.max(np.abs(found.samples[i] - expected) / errors) < 1e-5


def closed(p, args):
    """Data that the residual closes over: nobody can pick rows of them."""
    return (decay(jnp.asarray(X), p) - jnp.nan_to_num(args)) / SIGMA


def closed_jacobian(p, args):
    del args
    blocks = decay_jacobian(jnp.asarray(X), p)
    return jax.tree.map(lambda block: block / SIGMA, blocks)


def whole_rows(p, args):
    """A residual that mixes its rows, though to no effect."""
    r = closed(p, args)
    return r + 0 * jnp.sum(r)


@cache
def robust():
    """Pairs of a robust fit that is not row-wise, of which some do not converge."""
    problem = jaxfit.Problem(
        whole_rows,
        tree(2, 0.5, 1.3),
        Y,
        mask=USED,
        loss="soft_l1",
        f_scale=0.8,
    )
    solution = jaxfit.solve(problem)
    solver = TRF(jacobian=closed_jacobian, max_steps=9)
    found = jaxfit.bootstrap(problem, solution, 60, KEY, kind="pairs", solver=solver)
    return solution, found


def test_pairs_of_a_robust_fit_that_is_not_row_wise():
    solution, found = robust()
    errors, start = np.sqrt(np.diag(at_solution()[2])), flat(solution.params)
    good = np.flatnonzero(found.status > 0)
    assert len(good) > 20
    for i in good[[0, 1, -1]]:
        y, rows = resampled("pairs", i)
        expected = refit(y, rows, start=start, loss="soft_l1", f_scale=0.8)
        assert np.max(np.abs(found.samples[i] - expected) / errors) < 1e-5


def test_fits_that_fail_are_nan_and_left_out():
    found = robust()[1]
    failed = np.asarray(found.status) <= 0
    assert 0 < found.num_failed == failed.sum() < 40
    np.testing.assert_array_equal(np.isnan(found.samples).all(axis=1), failed)
    np.testing.assert_array_equal(np.isnan(found.samples).any(axis=1), failed)
    good = np.asarray(found.samples)[~failed]
    np.testing.assert_allclose(found.covariance(), np.cov(good.T), rtol=1e-9)
    bias = good.mean(axis=0) - flat(found.estimate)
    np.testing.assert_allclose(flat(found.bias()), bias, rtol=1e-8)
    low, high = found.interval(0.8, "percentile")
    np.testing.assert_allclose(flat(low), np.quantile(good, 0.1, axis=0), rtol=1e-9)
    np.testing.assert_allclose(flat(high), np.quantile(good, 0.9, axis=0), rtol=1e-9)


def rise(x, p):
    return p[0] + p[1] * jnp.log(x - p[2])


def test_no_replicate_is_lost_where_the_linear_model_leaves_the_domain():
    """Each of them can be fitted from the solution, where the logarithm exists."""
    x = np.linspace(0.05, 3, 25)
    y = 1 + 0.7 * np.log(x + 0.02) + 0.3 * np.random.default_rng(0).normal(size=25)
    problem = jaxfit.curve_problem(rise, x, y, np.array([1.0, 0.7, -0.02]))
    found = jaxfit.bootstrap(problem, jaxfit.solve(problem), 400, 0)
    assert found.num_failed == 0


def unfit(solution):
    return eqx.tree_at(lambda s: s.counts, solution, solution.counts.at[0].set(0))


def test_inside_jit_a_fit_that_failed_makes_all_nan():
    problem, solution = fitted()
    assert np.isfinite(traced(problem, solution).samples).all()
    assert np.isnan(traced(problem, unfit(solution)).samples).all()


# --- Bad input ---------------------------------------------------------------------


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"n": 0}, ValueError, "`n` must be at least 1, got 0"),
        ({"n": 10.0}, TypeError, "`n` must be an integer, got 10.0"),
        ({"kind": "residuals"}, ValueError, "`kind` must be one of .*'residuals'"),
        ({"noise": "robust"}, ValueError, "`noise` must be one of .*'robust'"),
        ({"noise": "known"}, ValueError, "kind='residual' takes it from the resid"),
        (
            {"noise": "known", "kind": "pairs"},
            ValueError,
            "`noise` is 'known', but kind='pairs' .* kind='parametric'",
        ),
        ({"devices": 9}, ValueError, "`devices` is 9 but there are 8"),
        ({"lanes": 0}, ValueError, "`lanes` must be at least 1"),
    ],
)
def test_bad_options(options, error, text):
    given = {"n": 10, "key": KEY, **options}
    with pytest.raises(error, match=text):
        jaxfit.bootstrap(*fitted(), **given)


@pytest.mark.usefixtures("without_type_checks")
def test_bad_solutions():
    problem, solution = fitted()
    for call in (
        lambda s: jaxfit.bootstrap(problem, s, 10, KEY),
        lambda s: jaxfit.jackknife(problem, s),
    ):
        with pytest.raises(ValueError, match=r"of a fit that converged.*MAX_STEPS"):
            call(unfit(solution))
        with pytest.raises(TypeError, match=r"`solution` must be a jaxfit\.Solution"):
            call(solution.params)
        free = eqx.tree_at(lambda s: s.linearisation, solution, None)
        with pytest.raises(ValueError, match="matrix-free fit forms no J'J"):
            jaxfit.bootstrap(problem, free, 10, KEY)
    exact = eqx.tree_at(lambda s: s.num_rows, solution, jnp.array(3, jnp.int32))
    with pytest.raises(ValueError, match=r"dof is 0.*noise='known'"):
        jaxfit.bootstrap(problem, exact, 10, KEY, kind="parametric")


@pytest.mark.usefixtures("without_type_checks")
def test_bad_intervals():
    found = replicates("residual")
    for level in (0.0, 1.0, 95, np.nan):
        with pytest.raises(ValueError, match="`levels` must be between 0 and 1"):
            found.interval(level)
    with pytest.raises(ValueError, match=r"`kind` must be one of .*'normal'"):
        found.interval(0.9, "normal")


def test_parameters_that_are_held_are_no_rows_however_many_data_there_are():
    """Four data and four parameters, two of them held, which pairs leave alone."""
    x = np.array([0.0, 1.0, 2.0, 3.0])
    fit = jaxfit.curve_fit(
        lambda x, a, b, c, d: a + b * x + (c - 10) + (d - 20),
        x,
        1 + 2 * x + np.array([0.1, -0.1, 0.1, -0.1]),
        [1.0, 1.0, 10.0, 20.0],
        fixed={"c": 10.0, "d": 20.0},
    )
    with fit._again() as (problem, _):
        drawn = picked(problem, jnp.array([3, 3, 0, 1]), jnp.ones(4, bool), True)
    np.testing.assert_array_equal(drawn.args.x.x, [3, 3, 0, 1])
    np.testing.assert_array_equal(drawn.args.x.start, problem.args.x.start)
