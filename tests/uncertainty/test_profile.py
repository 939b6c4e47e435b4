"""Profile intervals against MINOS, root finding, lmfit and algebra."""

from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from profiles import (
    CASES,
    INF,
    LEVELS,
    REACH,
    M,
    box,
    chi2,
    data,
    decays,
    flat,
    linear_fit,
    problem_of,
    profiled,
    profiled_chi2,
    solved,
)

import jaxfit
from jaxfit import TRF, Side


MINOS = list(CASES)[:10]


@cache
def estimated(name):
    """The same where the noise is estimated."""
    problem, solution = problem_of(name, True), solved(name, True)
    return jaxfit.profile(problem, solution, levels=LEVELS)


def crossing(name, i, sign, rise):
    """Where the least cost with parameter i held has risen so far, by bracketing."""
    centre, error = flat(solved(name).params)[i], float(profiled(name).errors[i])
    least = 2 * float(solved(name).cost)

    def above(distance):
        held = {i: centre + sign * distance * error}
        return profiled_chi2(name, held) - least - rise

    far = 1.0
    while above(far) < 0:
        far *= 1.3
    root = scipy.optimize.brentq(above, far / 1.3 if far > 1 else 1e-9, far, xtol=1e-10)
    return centre + sign * root * error


# --- Known noise -------------------------------------------------------------------


def minos(name):
    """iminuit's fit of the free parameters, with its errors."""
    iminuit = pytest.importorskip("iminuit")
    free, (lower, upper) = list(CASES[name].free), box(name)
    p = flat(solved(name).params).copy()

    def cost(z):
        p[free] = z
        return chi2(name, p)

    fit = iminuit.Minuit(cost, p[free])
    fit.errordef, fit.strategy, fit.tol = 1, 2, 1e-5
    fit.limits = list(zip(lower[free], upper[free], strict=True))
    fit.migrad()
    fit.minos(cl=LEVELS[0])
    assert fit.valid
    return fit


@pytest.mark.parametrize("name", MINOS)
def test_intervals_are_those_of_minos(name):
    """To a thousandth of a standard error, also where a side has no end."""
    ours, fit = profiled(name), minos(name)
    for i, param in enumerate(fit.params):
        error, theirs = float(ours.errors[i]), fit.merrors[i]
        assert abs(ours.estimate[i] - param.value) < 1e-3 * error
        sides = [
            (ours.lower, ours.lower_side, theirs.lower, theirs.lower_valid),
            (ours.upper, ours.upper_side, theirs.upper, theirs.upper_valid),
        ]
        for end, side, distance, valid in sides:
            if name == "at a bound" and i == 1 and distance <= 0:
                assert theirs.at_lower_limit
                assert side[i, 0] == Side.BOUND
                assert abs(end[i, 0]) < 1e-12
            elif name == "open" and i == 1 and distance > 0:
                assert not valid
                assert side[i, 0] == Side.OPEN
                assert end[i, 0] == INF
            else:
                assert valid
                assert side[i, 0] == Side.CROSSED
                assert abs(end[i, 0] - param.value - distance) < 1e-3 * error


@pytest.mark.parametrize("name", ["decay", "off a bound"])
def test_intervals_are_where_the_profiled_cost_crosses_the_level(name):
    """Both levels, by SciPy's fits and its root finder."""
    ours = profiled(name)
    for i in range(3):
        for j, q in enumerate(REACH):
            for sign, ends, sides in (
                (-1, ours.lower, ours.lower_side),
                (1, ours.upper, ours.upper_side),
            ):
                if sides[i, j] == Side.BOUND:
                    assert (name, i, sign) == ("off a bound", 1, -1)
                    continue
                expected = crossing(name, i, sign, q**2)
                assert abs(ends[i, j] - expected) < 1e-5 * ours.errors[i]


def test_these_intervals_are_not_symmetric():
    """Else the tests above would pass for standard errors, too."""
    for name in ("decay", "michaelis", "two decays", "off a bound"):
        ours = profiled(name)
        skew = ours.lower[:, 1] + ours.upper[:, 1] - 2 * ours.estimate
        assert np.max(np.abs(skew)) > 0.02 * np.max(ours.errors)


@pytest.mark.parametrize("name", ["decay", "open", "at a bound"])
def test_the_fits_at_the_ends_have_the_cost_of_the_level(name):
    ours, least = profiled(name), 2 * float(solved(name).cost)
    for i in CASES[name].free:
        for j, q in enumerate(REACH):
            for end, params, side in (
                (ours.lower, ours.lower_params, ours.lower_side),
                (ours.upper, ours.upper_params, ours.upper_side),
            ):
                if side[i, j] == Side.CROSSED:
                    assert params[i, j, i] == end[i, j]
                    rise = chi2(name, np.asarray(params[i, j])) - least
                    np.testing.assert_allclose(np.sqrt(rise), q, rtol=2e-6)


def test_a_linear_model_has_the_interval_of_its_standard_error():
    best, inverse, r = linear_fit()
    known = np.sqrt(np.diag(inverse))
    unknown = known * np.sqrt(r @ r / (M - 2))
    student = scipy.stats.t.ppf(0.5 + 0.5 * np.array(LEVELS), M - 2)
    for ours, errors, far in (
        (profiled("linear"), known, REACH),
        (estimated("linear"), unknown, student),
    ):
        np.testing.assert_allclose(ours.errors[:2], errors, rtol=1e-9)
        away = far * errors[:, None]
        np.testing.assert_allclose(ours.lower[:2], best[:, None] - away, rtol=1e-6)
        np.testing.assert_allclose(ours.upper[:2], best[:, None] + away, rtol=1e-6)
        np.testing.assert_allclose(ours.reach, far, rtol=1e-9)


# --- Estimated noise ---------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_estimated_noise_is_the_f_test_of_lmfit():
    lmfit = pytest.importorskip("lmfit")
    names, x = ["a", "c", "b"], CASES["decay"].x

    def residual(params):
        return decays(np, x, [*(params[k].value for k in names), 0]) - data("decay")

    start = lmfit.Parameters()
    for name, value in zip(names, flat(solved("decay").params), strict=False):
        start.add(name, value)
    fitter = lmfit.Minimizer(residual, start)
    fit = fitter.minimize(ftol=1e-14, xtol=1e-14, gtol=1e-14)
    theirs = lmfit.conf_interval(fitter, fit, sigmas=LEVELS)
    ours = estimated("decay")
    for i, name in enumerate(names):
        # From the lower end of the widest to the upper end of the widest.
        (_, low2), (_, low1), (_, best), (_, up1), (_, up2) = theirs[name]
        error = float(ours.errors[i])
        np.testing.assert_allclose(error, fit.params[name].stderr, rtol=1e-3)
        assert abs(ours.estimate[i] - best) < 1e-4 * error
        # Its own root finder stops at 5e-5 of the value.
        tolerance = 1e-3 * error + 1e-4 * abs(best)
        np.testing.assert_allclose(ours.lower[i], [low1, low2], atol=tolerance)
        np.testing.assert_allclose(ours.upper[i], [up1, up2], atol=tolerance)


def test_estimated_noise_allows_the_rise_of_the_f_distribution():
    """To six digits: the quantile by SciPy, the crossing by its root finder."""
    ours, dof = estimated("decay"), M - 3
    variance = 2 * float(solved("decay").cost) / dof
    for j, level in enumerate(LEVELS):
        rise = variance * scipy.stats.f.ppf(level, 1, dof)
        for ends, sign in ((ours.lower, -1), (ours.upper, 1)):
            expected = crossing("decay", 2, sign, rise)
            assert abs(ends[2, j] - expected) < 1e-5 * ours.errors[2]


# --- Sides that are no crossings ---------------------------------------------------


def test_a_bound_that_comes_before_the_level_ends_the_interval():
    ours = profiled("near bounds")
    free = profiled("decay")
    # The bounds lie where they were meant to: within the wider interval only.
    np.testing.assert_allclose(ours.estimate, free.estimate, rtol=1e-7)
    assert ours.lower_side[2].tolist() == [Side.CROSSED, Side.BOUND]
    assert ours.upper_side[2].tolist() == [Side.CROSSED, Side.BOUND]
    np.testing.assert_allclose(ours.lower[2, 0], free.lower[2, 0], rtol=1e-6)
    assert (ours.lower[2, 1], ours.upper[2, 1]) == (1.20, 1.40)
    # The others cannot follow it beyond its bound: their intervals are shorter.
    assert free.lower[1, 1] < ours.lower[1, 1] < ours.lower[1, 0]


def test_a_fixed_parameter_has_the_interval_of_its_value():
    for ours in (profiled("decay"), estimated("decay")):
        np.testing.assert_array_equal(ours.lower[3], 0)
        np.testing.assert_array_equal(ours.upper[3], 0)
        np.testing.assert_array_equal(ours.lower_side[3], Side.BOUND)
        assert ours.errors[3] == 0


def test_a_lower_minimum_on_the_way_is_told():
    """The solution is a minimum, but not the lowest one within the interval."""
    solution, ours = solved("two minima"), profiled("two minima")
    assert solution.params["amp"] < 0
    assert chi2("two minima", [0.98]) < 2 * solution.cost
    assert ours.upper_side[0, 1] == Side.LOWER_MINIMUM
    assert np.isnan(ours.upper[0, 1])
    assert ours.lower_side[0].tolist() == [Side.CROSSED, Side.CROSSED]
    rise = chi2("two minima", ours.lower_params[0, 1]) - 2 * float(solution.cost)
    np.testing.assert_allclose(rise, REACH[1] ** 2, rtol=1e-5)


def test_an_interval_ends_where_the_model_does():
    ours = profiled("wall")
    assert ours.estimate[1] + REACH[1] * ours.errors[1] > 1.3
    np.testing.assert_allclose(ours.upper[1, 1], 1.3, rtol=1e-5)
    lower = ours.estimate[1] - REACH * ours.errors[1]
    np.testing.assert_allclose(ours.lower[1], lower, rtol=1e-6)


def test_fits_that_fail_on_the_way_make_it_nan():
    problem, solution = problem_of("two decays", True), solved("two decays", True)
    hasty = TRF(max_steps=1)
    ours = jaxfit.profile(problem, solution, "amp", LEVELS, solver=hasty)
    assert ours.upper_side.tolist() == [[Side.FAILED, Side.FAILED]]
    assert np.isnan(ours.upper).all()
    assert np.isfinite(ours.estimate).all()
    assert "amp, above, 95%: the fits on the way did not converge" in ours.summary()


def test_a_fit_that_goes_astray_too_far_out_is_made_nearer():
    """With a small limiting rate held the half saturation runs into the pole."""
    x = np.linspace(0.1, 1, M)
    noise = np.random.default_rng(0).standard_normal((1086, M))[-1]
    y = x / (1 + x) + 0.05 * noise

    def model(x, p):
        return p[0] * x / (p[1] + x)

    def residuals(rate, half):
        return rate * x / (half + x) - y

    problem = jaxfit.curve_problem(model, x, y, jnp.ones(2))
    solution = jaxfit.solve(problem)
    ours = jaxfit.profile(problem, solution, levels=0.95)
    best = np.asarray(solution.params)

    def rise(rate):
        fit = scipy.optimize.least_squares(
            lambda p: residuals(rate, p[0]),
            [best[1] * rate / best[0]],
            bounds=(0, INF),
            xtol=1e-14,
            ftol=1e-14,
        )
        dof = M - 2
        limit = scipy.stats.t.ppf(0.975, dof) ** 2
        return (fit.cost / float(solution.cost) - 1) * dof - limit

    lower = scipy.optimize.brentq(rise, 0.3 * best[0], 0.99 * best[0], xtol=1e-12)
    np.testing.assert_allclose(ours.lower[0, 0], lower, rtol=1e-5)
    assert ours.lower_side.tolist() == [[Side.CROSSED]] * 2
    assert ours.upper_side.tolist() == [[Side.OPEN]] * 2
