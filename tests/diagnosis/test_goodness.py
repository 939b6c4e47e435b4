"""Goodness of fit and comparison of models against formulas and SciPy's tests."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxfit
from jaxfit import TRF
from jaxfit._diagnosis.goodness import lag, normality, runs


M = 24
X = np.linspace(-1.0, 1.0, M)
RNG = np.random.default_rng(5)
Y = 1.0 + 2.0 * X - 0.4 * X**2 + 0.3 * RNG.standard_normal(M)
SIGMA = np.linspace(0.2, 0.4, M)
MASK = np.arange(M) % 5 != 2


def polynomial(x, p):
    """Of the degree that the number of coefficients tells; linear in all of them."""
    return jnp.polyval(p, x)


def problem(degree, y=Y, **options):
    options = {"sigma": SIGMA, **options}
    return jaxfit.curve_problem(polynomial, X, y, np.zeros(degree + 1), **options)


def residuals(degree, y=Y, used=None):
    """Those of the weighted fit, by NumPy."""
    used = np.ones(M, bool) if used is None else used
    design = np.vander(X[used], degree + 1) / SIGMA[used, None]
    target = y[used] / SIGMA[used]
    return design @ np.linalg.lstsq(design, target)[0] - target


def close(actual, desired, rtol=1e-9):
    np.testing.assert_allclose(actual, desired, rtol=rtol)


@pytest.fixture(scope="module")
def line():
    return jaxfit.solve(problem(1))


@pytest.fixture(scope="module")
def parabola():
    return jaxfit.solve(problem(2))


# --- The tests of residuals ------------------------------------------------------


def count_runs(r):
    """Runs of one sign and their standardised number, as counted by hand."""
    found = len(list(itertools.groupby(r > 0)))
    above, below = int(np.sum(r > 0)), int(np.sum(r <= 0))
    n = above + below
    mean = 2 * above * below / n + 1
    variance = (mean - 1) * (mean - 2) / (n - 1)
    return (found - mean) / np.sqrt(variance)


def two_sided(z):
    return 2 * scipy.stats.norm.sf(np.abs(z))


SAMPLES = np.stack(
    [
        np.random.default_rng(1).standard_normal(40),
        np.random.default_rng(2).standard_t(2, 40),
        np.random.default_rng(3).exponential(size=40) - 0.9,
        np.random.default_rng(4).uniform(-1, 1, 40),
        np.sin(np.arange(40) / 4.0),
        0.7 + np.random.default_rng(6).standard_normal(40),
    ]
)
ALL = np.ones(SAMPLES.shape, bool)
lanes_of = {test: jax.jit(jax.vmap(test)) for test in (normality, runs, lag)}
SOME = np.random.default_rng(7).uniform(size=SAMPLES.shape) < 0.6


@pytest.mark.parametrize("used", [ALL, SOME], ids=["all", "masked"])
def test_normality_is_scipys(used):
    statistic, p = lanes_of[normality](SAMPLES, used)
    for i, (r, keep) in enumerate(zip(SAMPLES, used, strict=True)):
        expected = scipy.stats.normaltest(r[keep])
        close([statistic[i], p[i]], [expected.statistic, expected.pvalue], 1e-10)
    # Heavy tails are told from a normal distribution, normal data are not.
    assert p[1] < 0.01 < p[0]


@pytest.mark.parametrize("used", [ALL, SOME], ids=["all", "masked"])
def test_runs_are_counted_over_what_is_used(used):
    z, p = lanes_of[runs](SAMPLES, used)
    expected = [count_runs(r[keep]) for r, keep in zip(SAMPLES, used, strict=True)]
    close(z, expected, 1e-12)
    close(p, two_sided(expected), 1e-11)
    # A sine has far too few runs.
    assert z[4] < -3
    assert p[4] < 0.01 < p[0]


@pytest.mark.parametrize("used", [ALL, SOME], ids=["all", "masked"])
def test_lag_is_the_correlation_of_neighbours_that_are_used(used):
    value, p = lanes_of[lag](SAMPLES, used)
    kept = [r[keep] for r, keep in zip(SAMPLES, used, strict=True)]
    expected = np.array([r[1:] @ r[:-1] / (r @ r) for r in kept])
    close(value, expected, 1e-12)
    sizes = np.sqrt([r.size for r in kept])
    close(p, two_sided(expected * sizes), 1e-10)
    assert value[4] > 0.8


def test_what_is_not_used_may_be_nan():
    r = np.where(SOME, SAMPLES, np.nan)
    for test in (normality, runs, lag):
        pair = lanes_of[test](r, SOME)
        same = lanes_of[test](SAMPLES, SOME)
        np.testing.assert_array_equal(pair, same)
        assert np.all(np.isfinite(pair))


def test_too_few_data_for_a_test_are_nan():
    first = np.arange(SAMPLES.shape[1])
    eight, seven = (np.broadcast_to(first < n, SAMPLES.shape) for n in (8, 7))
    k2, p = lanes_of[normality](SAMPLES, eight)
    expected = scipy.stats.normaltest(SAMPLES[0, :8])
    close([k2[0], p[0]], [expected.statistic, expected.pvalue], 1e-10)
    assert np.all(np.isnan(lanes_of[normality](SAMPLES, seven)))
    # Of residuals of one sign there is one run, and nothing to compare it with.
    assert np.all(np.isnan(lanes_of[runs](1 + np.abs(SAMPLES), eight)))


# --- One fit ---------------------------------------------------------------------


def check(found, r, free, known, cost=None):
    """All numbers of a fit with residuals r and `free` parameters.

    `cost` is half their sum of squares if None.
    """
    n, chi2 = r.size, r @ r
    close(found.chi2, chi2)
    assert int(found.dof) == n - free
    close(found.reduced_chi2, chi2 / (n - free))
    if known:
        close(found.p_value, scipy.stats.chi2.sf(chi2, n - free))
    else:
        assert np.isnan(found.p_value)
    squares = chi2 if cost is None else 2 * cost
    deviance = squares if known else n * np.log(squares / n)
    aic = deviance + 2 * free
    close(found.aic, aic)
    close(found.aicc, aic + 2 * free * (free + 1) / (n - free - 1))
    close(found.bic, deviance + free * np.log(n))
    close([found.normality, found.normality_p], scipy.stats.normaltest(r), 1e-6)
    z = count_runs(r)
    close([found.runs, found.runs_p], [z, two_sided(z)])
    value = r[1:] @ r[:-1] / (r @ r)
    close([found.lag, found.lag_p], [value, two_sided(value * np.sqrt(n))], 1e-6)


@pytest.mark.parametrize("noise", ["estimated", "known"])
def test_numbers_of_a_fit(parabola, noise):
    found = jaxfit.goodness_of_fit(problem(2), parabola, noise=noise)
    check(found, residuals(2), 3, noise == "known")


def test_the_noise_is_not_known_unless_it_is_said(line):
    assert np.isnan(jaxfit.goodness_of_fit(problem(1), line).p_value)


def test_masked_data_count_for_nothing():
    y = np.where(MASK, Y, np.nan)
    there = problem(1, y, mask=MASK)
    found = jaxfit.goodness_of_fit(there, jaxfit.solve(there), noise="known")
    check(found, residuals(1, used=MASK), 2, True)


def test_of_a_robust_loss_chi2_is_of_residuals_and_criteria_of_the_cost():
    there = problem(1, loss="huber", f_scale=0.5)
    solution = jaxfit.solve(there)
    found = jaxfit.goodness_of_fit(there, solution, noise="known")
    r = (np.polyval(solution.params, X) - Y) / SIGMA
    z = (r / 0.5) ** 2
    cost = 0.5 * 0.25 * np.sum(np.where(z <= 1, z, 2 * np.sqrt(z) - 1))
    check(found, r, 2, True, cost)
    assert found.chi2 > 2.1 * solution.cost
    estimated = jaxfit.goodness_of_fit(there, solution)
    check(estimated, r, 2, False, cost)
    # So differences are those of a comparison, which knows costs alone.
    larger = problem(2, loss="huber", f_scale=0.5)
    for noise in ("known", "estimated"):
        a = jaxfit.goodness_of_fit(there, solution, noise=noise)
        best = jaxfit.solve(larger)
        b = jaxfit.goodness_of_fit(larger, best, noise=noise)
        found = jaxfit.compare_models(solution, best, noise=noise)
        close([found.aic, found.bic], [b.aic - a.aic, b.bic - a.bic])


def test_fixed_parameters_are_not_counted():
    fixed = (np.array([0.0, -9.0, -9.0]), np.array([0.0, 9.0, 9.0]))
    there = problem(2, bounds=fixed)
    found = jaxfit.goodness_of_fit(there, jaxfit.solve(there), noise="known")
    check(found, residuals(1), 2, True)


def test_the_summary_has_the_numbers(parabola):
    found = jaxfit.goodness_of_fit(problem(2), parabola, noise="known")
    lines = found.summary().splitlines()
    firsts = [line.split()[0] for line in lines]
    assert firsts == ["chi2", "AIC,", "normality", "runs", "lag"]
    assert f"{float(found.chi2):.6g} of 21 degrees of freedom" in lines[0]
    assert f"p {float(found.p_value):.3g}" in lines[0]
    assert f"{float(found.bic):.6g}" in lines[1]
    for text, p in zip(
        lines[2:], (found.normality_p, found.runs_p, found.lag_p), strict=True
    ):
        assert text.endswith(f"p {float(p):.3g}")


def test_lanes_equal_the_formulas_of_each():
    scales = np.array([0.5, 1.0, 3.0])
    noise = np.random.default_rng(8).standard_normal((3, M))
    data = Y + scales[:, None] * noise

    @jax.jit
    @jax.vmap
    def all_of(y):
        there = problem(1, y)
        solution = jaxfit.solve(there)
        return jaxfit.goodness_of_fit(there, solution, noise="known")

    lanes = all_of(data)
    for i, y in enumerate(data):
        check(jax.tree.map(lambda a, i=i: a[i], lanes), residuals(1, y), 2, True)


def test_a_jitted_function_may_close_over_a_solution(line):
    there, r = problem(1), residuals(1)
    inside = jax.jit(lambda: jaxfit.goodness_of_fit(there, line).chi2)()
    close(inside, r @ r)


# --- Two models ------------------------------------------------------------------


def test_the_f_test_in_closed_form(line, parabola):
    found = jaxfit.compare_models(line, parabola)
    simple, larger = residuals(1), residuals(2)
    chi2 = larger @ larger
    f = (simple @ simple - chi2) / (chi2 / (M - 3))
    close(found.statistic, f, 1e-7)
    close(found.p_value, scipy.stats.f.sf(f, 1, M - 3), 1e-7)
    # With one parameter more it is the test of that parameter.
    t = parabola.params[0] / np.sqrt(parabola.covariance()[0, 0])
    close(found.statistic, t**2, 1e-6)
    close(found.p_value, 2 * scipy.stats.t.sf(np.abs(t), M - 3), 1e-6)
    assert found.test == "f"
    np.testing.assert_array_equal(found.dof, [1, M - 3])
    change = M * np.log(chi2 / (simple @ simple))
    close(found.aic, change + 2, 1e-7)
    close(found.bic, change + np.log(M), 1e-7)


def test_the_likelihood_ratio_where_the_noise_is_known(line, parabola):
    found = jaxfit.compare_models(line, parabola, noise="known")
    simple, larger = residuals(1), residuals(2)
    fall = simple @ simple - larger @ larger
    close(found.statistic, fall, 1e-7)
    close(found.p_value, scipy.stats.chi2.sf(fall, 1), 1e-7)
    assert found.test == "chi2"
    close(found.aic, 2 - fall, 1e-7)
    close(found.bic, np.log(M) - fall, 1e-7)


def test_the_comparison_in_a_sentence(line, parabola):
    found = jaxfit.compare_models(line, parabola)
    text = found.summary()
    assert text.startswith(f"f = {float(found.statistic):.6g} with 1 and 21 degrees")
    assert f"p = {float(found.p_value):.3g}" in text
    assert f"AIC {float(found.aic):+.4g}, BIC {float(found.bic):+.4g}" in text
    assert jaxfit.compare_models(line, parabola, noise="known").summary()[:4] == "chi2"


def test_two_parameters_more_and_criteria_of_each():
    """Differences are those of `goodness_of_fit`, whatever it counts."""
    simple, larger = (jaxfit.solve(problem(k)) for k in (0, 2))
    found = jaxfit.compare_models(simple, larger)
    np.testing.assert_array_equal(found.dof, [2, M - 3])
    r0, r2 = residuals(0), residuals(2)
    f = (r0 @ r0 - r2 @ r2) / 2 / (r2 @ r2 / (M - 3))
    close(found.statistic, f, 1e-7)
    close(found.p_value, scipy.stats.f.sf(f, 2, M - 3), 1e-6)
    a, b = (
        jaxfit.goodness_of_fit(problem(k), s) for k, s in ((0, simple), (2, larger))
    )
    close(found.aic, b.aic - a.aic, 1e-7)
    close(found.bic, b.bic - a.bic, 1e-7)


def test_comparisons_of_lanes_and_of_what_is_not_nested(line, parabola):
    """Inside a trace nothing can be raised: what has no meaning is NaN."""

    @jax.jit
    @jax.vmap
    def both(y):
        simple, larger = (jaxfit.solve(problem(k, y)) for k in (1, 2))
        forth = jaxfit.compare_models(simple, larger)
        back = jaxfit.compare_models(larger, simple)
        return forth.statistic, forth.p_value, back.statistic, back.p_value

    data = np.stack([Y, Y + X**2])
    f, p, back, back_p = both(data)
    alone = jaxfit.compare_models(line, parabola)
    close([f[0], p[0]], [alone.statistic, alone.p_value], 1e-6)
    a, b = (residuals(k, data[1]) for k in (1, 2))
    close(f[1], (a @ a - b @ b) / (b @ b / (M - 3)), 1e-6)
    assert np.all(np.isnan([back, back_p]))


def test_a_jitted_function_may_close_over_both_solutions(line, parabola):
    inside = jax.jit(lambda: jaxfit.compare_models(line, parabola).statistic)()
    close(inside, jaxfit.compare_models(line, parabola).statistic, 1e-12)


def test_a_larger_model_must_have_more_parameters(line, parabola):
    text = r"`larger` must have more free parameters than `simple`.*22 and 21"
    with pytest.raises(ValueError, match=text):
        jaxfit.compare_models(parabola, line)
    with pytest.raises(ValueError, match="`larger` must have more free"):
        jaxfit.compare_models(line, line)


def test_a_larger_model_must_fit_at_least_as_well(parabola):
    """Of other data of the same number, or without the simple model's terms."""
    flat = jaxfit.solve(problem(1, np.zeros(M)))
    with pytest.raises(ValueError, match=r"`larger` fits worse .* does not contain it"):
        jaxfit.compare_models(flat, parabola)


def test_models_must_be_of_the_same_data(line):
    fewer = problem(2, mask=MASK)
    text = rf"`simple` is of {M} data and `larger` of {MASK.sum()}"
    with pytest.raises(ValueError, match=text):
        jaxfit.compare_models(line, jaxfit.solve(fewer))


def test_models_must_have_been_fitted(line, parabola):
    ended = jaxfit.solve(problem(2), TRF(max_steps=1))
    assert ended.status == jaxfit.Status.MAX_STEPS
    with pytest.raises(ValueError, match="`larger` did not converge: The maximum"):
        jaxfit.compare_models(line, ended)
    with pytest.raises(ValueError, match="`simple` did not converge: The maximum"):
        jaxfit.compare_models(ended, parabola)
