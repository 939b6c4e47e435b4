"""Profile intervals and regions against MINOS, root finding, lmfit and algebra."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

import jaxfit
from jaxfit import TRF, Side


# The first level is one standard deviation, which is where MINOS looks.
LEVELS = (0.6826894921370859, 0.95)
REACH = scipy.stats.norm.ppf(0.5 + 0.5 * np.array(LEVELS))
M, SIGMA = 20, 0.05
NAMES = ("amp", "base", "rate[0]", "rate[1]")
INF = np.inf


class Case(NamedTuple):
    """A model of four parameters, of which some are free."""

    model: Callable
    x: np.ndarray
    truth: tuple[float, ...]
    free: tuple[int, ...]
    lower: tuple[float, ...] = (-INF,) * 4
    upper: tuple[float, ...] = (INF,) * 4
    seed: int = 20


def grid(low, high):
    return np.linspace(low, high, M)


def decays(xp, x, p):
    """Linear in the amplitudes where the rates are fixed."""
    return p[0] * xp.exp(-p[2] * x) + p[1] * xp.exp(-p[3] * x)


FLOOR = (-INF, 0.0, -INF, -INF)
CASES = {
    "decay": Case(decays, grid(0, 3), (2.0, 0.5, 1.3, 0.0), (0, 1, 2)),
    "two decays": Case(decays, grid(0, 3), (1.0, 1.5, 0.4, 3.0), (0, 1, 2, 3), seed=26),
    # The base would be negative, and stays at its bound all along the intervals.
    "at a bound": Case(decays, grid(0, 3), (1.0, -0.3, 0.8, 0.0), (0, 1, 2), FLOOR),
    "michaelis": Case(
        lambda xp, x, p: p[0] * x / (p[1] + x),
        grid(0.1, 2),
        (1.0, 1.0, 0.0, 0.0),
        (0, 1),
        seed=21,
    ),
    "peak": Case(
        lambda xp, x, p: p[0] * xp.exp(-0.5 * ((x - p[2]) / p[3]) ** 2) + p[1],
        grid(-3, 3),
        (0.4, 0.2, 0.3, 0.8),
        (0, 1, 2, 3),
        seed=22,
    ),
    "logistic": Case(
        lambda xp, x, p: p[0] / (1 + xp.exp(-p[2] * (x - p[1]))),
        grid(-2, 2),
        (1.0, 0.3, 2.0, 0.0),
        (0, 1, 2),
    ),
    "power": Case(
        lambda xp, x, p: p[0] * xp.exp(p[1] * xp.log(x)),
        grid(0.1, 2),
        (0.5, 1.7, 0.0, 0.0),
        (0, 1),
    ),
    "rational": Case(
        lambda xp, x, p: (p[0] + p[1] * x) / (1 + p[2] * x),
        grid(0, 5),
        (0.2, 1.0, 0.7, 0.0),
        (0, 1, 2),
    ),
    "sine": Case(
        lambda xp, x, p: p[0] * xp.sin(p[1] * x + p[2]),
        grid(0, 2),
        (0.3, 2.5, 0.4, 0.0),
        (0, 1, 2),
    ),
    # All of the rise is before the first datum: it may be as fast as it likes.
    "open": Case(
        lambda xp, x, p: p[0] * (1 - xp.exp(-p[1] * x)),
        grid(1, 4),
        (1.0, 3.0, 0.0, 0.0),
        (0, 1),
        seed=29,
    ),
    # The base leaves its bound within the intervals of the others.
    "off a bound": Case(
        decays, grid(0, 3), (1.0, -0.05, 0.8, 0.0), (0, 1, 2), FLOOR, seed=28
    ),
    # Bounds of the rate between one and two standard errors away.
    "near bounds": Case(
        decays,
        grid(0, 3),
        (2.0, 0.5, 1.3, 0.0),
        (0, 1, 2),
        (-INF, -INF, 1.20, -INF),
        (INF, INF, 1.40, INF),
    ),
    "linear": Case(decays, grid(0, 3), (2.0, 0.5, 1.3, 0.0), (0, 1)),
    # Above a slope of 1.3 there is no model.
    "wall": Case(
        lambda xp, x, p: p[0] + p[1] * x + 0 * xp.log(1.3 - p[1]),
        grid(-0.1, 0.1),
        (1.0, 1.0, 0.0, 0.0),
        (0, 1),
        seed=28,
    ),
    # The cost has a second minimum, near 1, which is the lower one.
    "two minima": Case(
        lambda xp, x, p: (
            SIGMA * ((x == 0) * (p[0] ** 2 - 1) + (x == 1) * 0.4 * (p[0] - 2))
        ),
        np.arange(float(M)),
        (-1.0, 0.0, 0.0, 0.0),
        (0,),
    ),
    # All but gone before the first datum.
    "fading": Case(decays, grid(1, 4), (2.4, 0.0, 3.0, 0.0), (0, 2), seed=4),
    # A second valley, of negative amplitude and no rate, beyond a ridge.
    "ridge": Case(decays, grid(1, 4), (1.8, 0.0, 3.0, 0.0), (0, 1, 2), seed=1),
}
MINOS = list(CASES)[:10]
MODELS = list(dict.fromkeys(case.model for case in CASES.values()))


def tree(values):
    """Four numbers as the problem's parameters: amp, base, rate[0], rate[1]."""
    return {"amp": values[0], "base": values[1], "rate": np.array(values[2:])}


def any_model(x, p):
    """The model of any case, so that one program serves all of them."""
    branches = [lambda x, p, f=model: f(jnp, x, p) for model in MODELS]
    flat = jnp.concatenate([jnp.stack([p["amp"], p["base"]]), p["rate"]])
    return jax.lax.switch(x["model"], branches, x["x"], flat)


def decay_model(x, p):
    """The decays alone, which compile faster."""
    return decays(jnp, x, [p["amp"], p["base"], *p["rate"]])


@cache
def data(name):
    case = CASES[name]
    if name == "two minima":
        return np.zeros(M)
    noise = np.random.default_rng(case.seed).normal(size=M)
    return case.model(np, case.x, case.truth) + SIGMA * noise


@cache
def box(name):
    """Bounds that fix what is not free at its true value."""
    case = CASES[name]
    free = np.isin(np.arange(4), case.free)
    return np.where(free, case.lower, case.truth), np.where(
        free, case.upper, case.truth
    )


def problem_of(name, alone=False, y=None):
    """The problem of a case; `alone` is without the models of the others."""
    case = CASES[name]
    lower, upper = box(name)
    model, x = any_model, {"x": case.x, "model": MODELS.index(case.model)}
    if alone:
        model, x = decay_model, case.x
    return jaxfit.curve_problem(
        model,
        x,
        data(name) if y is None else y,
        tree(np.clip(case.truth, lower, upper)),
        sigma=SIGMA,
        bounds=(tree(lower), tree(upper)),
    )


@cache
def solved(name, alone=False):
    solution = jaxfit.solve(problem_of(name, alone))
    assert solution.success
    return solution


def flat(params):
    return np.asarray(jax.flatten_util.ravel_pytree(params)[0])


@cache
def profiled(name):
    """The intervals of all parameters where the noise is known."""
    problem, solution = problem_of(name), solved(name)
    return jaxfit.profile(problem, solution, levels=LEVELS, noise="known")


@cache
def estimated(name):
    """The same where the noise is estimated."""
    problem, solution = problem_of(name, True), solved(name, True)
    return jaxfit.profile(problem, solution, levels=LEVELS)


def chi2(name, p):
    """Twice the cost, by NumPy."""
    r = (CASES[name].model(np, CASES[name].x, p) - data(name)) / SIGMA
    return r @ r


def profiled_chi2(name, held):
    """Twice the least cost with some parameters held, by SciPy from the solution."""
    case = CASES[name]
    p = flat(solved(name).params).copy()
    p[list(held)] = list(held.values())
    free = [i for i in case.free if i not in held]
    if not free:
        return chi2(name, p)

    def residual(z):
        p[free] = z
        return (case.model(np, case.x, p) - data(name)) / SIGMA

    lower, upper = (side[free] for side in box(name))
    start = np.clip(p[free], lower + 1e-3, upper - 1e-3)
    tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15, "x_scale": "jac"}
    best = scipy.optimize.least_squares(
        residual, start, jac="3-point", bounds=(lower, upper), **tight
    )
    return 2 * best.cost


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


# --- Known noise -----------------------------------------------------------------


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


def linear_fit():
    """The amplitudes, (X'X)^-1 and the residuals of the linear case, by NumPy."""
    x = CASES["linear"].x
    design = np.stack([np.exp(-1.3 * x), np.ones(M)], axis=1) / SIGMA
    inverse = np.linalg.inv(design.T @ design)
    best = inverse @ design.T @ data("linear") / SIGMA
    return best, inverse, design @ best - data("linear") / SIGMA


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


# --- Estimated noise -------------------------------------------------------------


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


# --- Sides that are no crossings -------------------------------------------------


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


# --- Selection, transformations, presentation ------------------------------------


def some(problem, solution, params=("rate", "base"), names=None):
    return jaxfit.profile(problem, solution, params, LEVELS, noise="known", names=names)


def test_parameters_are_chosen_by_name_and_index():
    problem, solution = problem_of("decay", True), solved("decay", True)
    whole, order = profiled("decay"), np.array([2, 3, 1])
    assert whole.names == NAMES
    by_name = some(problem, solution)
    assert by_name.names == ("rate[0]", "rate[1]", "base")
    for field in ("estimate", "errors", "lower", "upper", "lower_side", "upper_side"):
        expected = np.asarray(getattr(whole, field))[order]
        np.testing.assert_allclose(getattr(by_name, field), expected, rtol=1e-6)
    by_index = some(problem, solution, (2, 3, "base"))
    jax.tree.map(np.testing.assert_array_equal, by_index, by_name)
    renamed = some(problem, solution, ["k", 3, "c"], "ackz")
    assert renamed.names == ("k", "z", "c")
    assert renamed.interval("c", 0.95) == by_name.interval("base", 0.95)
    (one,) = some(problem, solution, ["rate[0]", 3, "base", "rate", 1]).lower[:1]
    np.testing.assert_array_equal(one, by_name.lower[0])


def fit_and_profile(y):
    problem = problem_of("decay", True, y)
    return some(problem, jaxfit.solve(problem))


def test_a_batch_inside_jit_equals_single_calls():
    """And a fit that fails is NaN there, without harm to its neighbours."""
    rng = np.random.default_rng(3)
    y = data("decay") + SIGMA * rng.normal(size=(4, M))
    y[2] = np.nan
    batch = jax.jit(jax.vmap(fit_and_profile))(y)
    assert batch.lower.shape == (4, 3, 2)
    assert batch.names == ("rate[0]", "rate[1]", "base")
    for i in (0, 1, 3):
        single = fit_and_profile(y[i])
        for field in ("estimate", "errors", "lower", "upper", "lower_params"):
            theirs = getattr(single, field)
            np.testing.assert_allclose(getattr(batch, field)[i], theirs, rtol=1e-6)
        np.testing.assert_array_equal(batch.upper_side[i], single.upper_side)
    assert np.isnan(batch.lower[2]).all()
    assert np.isnan(batch.upper[2]).all()


def test_an_interval_is_read_by_name_and_level():
    ours = profiled("decay")
    assert ours.interval("rate[0]", 0.95) == (ours.lower[2, 1], ours.upper[2, 1])
    with pytest.raises(ValueError, match=r"`level` must be one of \(0.68.*got 0.9"):
        ours.interval("amp", 0.9)
    with pytest.raises(ValueError, match="'amp1': did you mean 'amp'"):
        ours.interval("amp1", 0.95)


def test_the_summary_is_a_table_with_reasons():
    lines = profiled("open").summary().splitlines()
    assert " ".join(lines[0].split()) == (
        "parameter estimate std. error 68.2689% from to 95% from to"
    )
    row = lines[2].split()
    lower = profiled("open").lower
    assert row[0] == "base"
    assert row[3:] == [f"{lower[1, 0]:.6g}", "inf", f"{lower[1, 1]:.6g}", "inf"]
    assert len({len(text) for text in lines[:5]}) == 1
    text = "\n".join(lines[5:])
    assert "base, above, 95%: the cost never rises to the level" in text
    assert "base, below" not in text
    assert "amp" not in text


def test_pictures():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    ours = profiled("open")
    axes = ours.plot()
    assert [ax.get_xlabel() for ax in axes] == list(NAMES)
    x, tau = axes[1].lines[0].get_data()
    # Two crossings below the estimate, none above.
    np.testing.assert_allclose(x, [*ours.lower[1, ::-1], ours.estimate[1]])
    np.testing.assert_allclose(tau, [-REACH[1], -REACH[0], 0])
    _, given = plt.subplots(1, 4)
    assert ours.plot(given)[0] is given[0]
    with pytest.raises(ValueError, match="`axes` must be 4, one for each picture: 1"):
        ours.plot(given[0])

    ax = edges("decay").plot()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("amp", "base")
    # The widest first, closed.
    for line, j in zip(ax.lines, (1, 0), strict=False):
        drawn = line.get_xydata()
        np.testing.assert_allclose(drawn[:-1], edges("decay").points[j])
        np.testing.assert_array_equal(drawn[-1], drawn[0])
        assert line.get_label().startswith(f"{100 * JOINT[j]:.3g}")
    plt.close("all")


# --- Joint regions ---------------------------------------------------------------

# Of two parameters together, where the cost has risen as far as at LEVELS for one.
JOINT = tuple(1 - np.exp(-0.5 * REACH**2))
POINTS = 40


@cache
def edges(name):
    """The region of the amplitudes where the noise is known."""
    return jaxfit.contour(
        problem_of(name, True),
        solved(name, True),
        ["amp", "base"],
        JOINT,
        points=POINTS,
        noise="known",
    )


@cache
def wide_edges(name):
    """The region of amplitude and rate where the noise is estimated."""
    problem, solution = problem_of(name, True), solved(name, True)
    return jaxfit.contour(problem, solution, ("rate[0]", 0), LEVELS, points=24)


def test_the_region_of_a_linear_model_is_its_ellipse():
    ours, (best, inverse, _) = edges("linear"), linear_fit()
    assert ours.points.shape == (2, POINTS, 2)
    assert ours.names == ("amp", "base")
    assert np.all(ours.side == Side.CROSSED)
    away = np.asarray(ours.points) - best
    size = np.einsum("lpi,ij,lpj->lp", away, np.linalg.inv(inverse), away)
    expected = scipy.stats.chi2.ppf(JOINT, 2)
    np.testing.assert_allclose(size.T, np.tile(expected, (POINTS, 1)), rtol=1e-6)
    # Evenly spread in the units of the ellipse, and all around it.
    circle = np.linalg.solve(np.linalg.cholesky(inverse), away[0].T)
    angle = np.unwrap(np.arctan2(circle[1], circle[0]))
    np.testing.assert_allclose(np.diff(angle), 2 * np.pi / POINTS, rtol=1e-6)


@pytest.mark.parametrize("name", ["decay", "two decays"])
def test_the_edge_of_a_region_is_where_the_refitted_cost_is_the_level(name):
    ours, least = edges(name), 2 * float(solved(name).cost)
    for j, q in enumerate(REACH):
        for place in range(0, POINTS, 7):
            amp, base = np.asarray(ours.points[j, place])
            rise = profiled_chi2(name, {0: amp, 1: base}) - least
            np.testing.assert_allclose(rise, q**2, rtol=5e-6)


@pytest.mark.parametrize("name", ["decay", "two decays"])
def test_a_region_reaches_as_far_as_the_interval_of_the_same_cost(name):
    """Its points come as near as the curvature of an edge between two of them."""
    ours, single = edges(name), profiled(name)
    for i in (0, 1):
        width = single.upper[i] - single.lower[i]
        low = (ours.points[:, :, i].min(axis=1) - single.lower[i]) / width
        high = (single.upper[i] - ours.points[:, :, i].max(axis=1)) / width
        for gap in (low, high):
            assert np.all(gap > -1e-6)
            assert np.all(gap < (np.pi / POINTS) ** 2 / 2)


def test_an_estimated_noise_widens_a_region_by_the_f_distribution():
    ours, least = wide_edges("decay"), 2 * float(solved("decay").cost)
    assert ours.names == ("rate[0]", "amp")
    np.testing.assert_allclose(ours.estimate, flat(solved("decay").params)[[2, 0]])
    for j, level in enumerate(LEVELS):
        allowed = 2 * scipy.stats.f.ppf(level, 2, M - 3) * least / (M - 3)
        for place in range(0, 24, 5):
            rate, amp = np.asarray(ours.points[j, place])
            rise = profiled_chi2("decay", {0: amp, 2: rate}) - least
            np.testing.assert_allclose(rise, allowed, rtol=5e-6)


def test_no_edge_is_nan():
    """What fades before the first datum may be as large as it likes, if fast."""
    ours, least = wide_edges("fading"), 2 * float(solved("fading").cost)
    allowed = 2 * scipy.stats.f.ppf(LEVELS, 2, M - 2) * least / (M - 2)
    gone = chi2("fading", np.zeros(4)) - least
    assert allowed[0] < gone < allowed[1]
    assert np.all(ours.side[0] == Side.CROSSED)
    lost = np.asarray(ours.side[1] == Side.OPEN)
    # Larger and faster at once, and never smaller.
    assert lost[:5].all()
    assert not lost[6:19].any()
    np.testing.assert_array_equal(np.isnan(ours.points[1]).any(axis=1), lost)


@pytest.mark.xfail(reason="a first step as long as the linear region jumps a ridge")
def test_a_region_is_all_within_its_level():
    """No edge lies beyond a ridge: the cost is lower all the way to it."""
    ours, least = wide_edges("ridge"), 2 * float(solved("ridge").cost)
    centre = np.asarray(ours.estimate)
    allowed = 2 * scipy.stats.f.ppf(LEVELS[1], 2, M - 3) * least / (M - 3)
    for edge in np.asarray(ours.points[1]):
        for share in (0.25, 0.5, 0.75):
            rate, amp = centre + share * (edge - centre)
            # The base that is left is a mean.
            rest = data("ridge") - amp * np.exp(-rate * CASES["ridge"].x)
            rise = np.sum((rest - rest.mean()) ** 2) / SIGMA**2 - least
            assert not rise > allowed


# --- Bad input -------------------------------------------------------------------


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("function", [jaxfit.profile, jaxfit.contour])
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"levels": 0.0}, ValueError, r"`levels` must be between 0 and 1, got 0.0"),
        ({"levels": (0.5, 1.0)}, ValueError, r"between 0 and 1, got 1.0: 0.95 is 95%"),
        ({"levels": 95}, ValueError, "between 0 and 1, got 95.0"),
        ({"levels": np.nan}, ValueError, "between 0 and 1, got nan"),
        ({"levels": ()}, ValueError, "`levels` is empty"),
        ({"noise": "robust"}, ValueError, r"`noise` must be one of .*'robust'"),
        (
            {"params": "rate[2]"},
            ValueError,
            r"'rate\[2\]': did you mean 'rate\[[01]\]'",
        ),
        ({"params": ["amp", "bases"]}, ValueError, "'bases': did you mean 'base'"),
        ({"params": 4}, ValueError, "holds 4, but .* counted from 0 to 3"),
        ({"params": -1}, ValueError, "holds -1"),
        ({"params": 1.5}, TypeError, "names or indices of parameters, got 1.5"),
        ({"params": []}, ValueError, "`params` is empty"),
        ({"names": "abc"}, ValueError, "`names` must be 4 different names"),
    ],
)
def test_bad_options(function, options, error, text):
    given = {"params": ["amp", "base"], "noise": "known", **options}
    with pytest.raises(error, match=text):
        function(problem_of("decay"), solved("decay"), **given)


@pytest.mark.usefixtures("without_type_checks")
def test_a_contour_is_of_two_parameters_that_are_free():
    problem, solution = problem_of("decay"), solved("decay")
    for params in ("amp", ["amp", "base", "rate[0]"], ["amp", "amp"]):
        with pytest.raises(ValueError, match="`params` must be two, got"):
            jaxfit.contour(problem, solution, params)
    with pytest.raises(ValueError, match="`points` must be at least 1, got 0"):
        jaxfit.contour(problem, solution, [0, 1], points=0)
    with pytest.raises(ValueError, match=r"rate\[0\] and amp have no joint region"):
        wide_edges("linear")


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("function", [jaxfit.profile, jaxfit.contour])
def test_a_solution_must_have_converged_and_leave_data_for_the_noise(function):
    problem, solution = problem_of("decay"), solved("decay")

    def changed(where, value):
        return eqx.tree_at(where, solution, value)

    unfit = changed(lambda s: s.counts, solution.counts.at[0].set(0))
    with pytest.raises(ValueError, match=rf"{function.__name__} .* MAX_STEPS"):
        function(problem, unfit, [0, 1])
    with pytest.raises(TypeError, match=r"`problem` must be a jaxfit\.Problem"):
        function(None, solution, [0, 1])
    with pytest.raises(TypeError, match=r"`solution` must be what jaxfit\.solve"):
        function(problem, solution.params, [0, 1])
    few = changed(lambda s: s.num_rows, jnp.array(3, jnp.int32))
    with pytest.raises(ValueError, match=r"dof is 0.*noise='known'"):
        function(problem, few, [0, 1])
    free = changed(lambda s: s.linearisation, None)
    with pytest.raises(ValueError, match="matrix-free fit forms no J'J"):
        function(problem, free, [0, 1])
