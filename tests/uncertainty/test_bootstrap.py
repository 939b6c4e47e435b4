"""Bootstrap and jackknife against refits by SciPy of the same resampled data."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

import jaxfit
from jaxfit import TRF
from jaxfit._uncertainty.resampling import drawn_rows, picked


M, N = 24, 2000
KEY = jax.random.key(11)
X = np.linspace(0, 3, M)
SIGMA = 0.03 * (1 + X)
USED = ~np.isin(np.arange(M), [3, 10, 17])
_NOISE = np.random.default_rng(4).normal(size=M)
_NOISE[[0, 8]] *= [2, -2]
Y = np.where(USED, 2 * np.exp(-1.3 * X) + 0.5 + SIGMA * _NOISE, np.nan)
INF = np.inf


def decay(x, p):
    return p["amp"] * jnp.exp(-p["rate"] * x) + p["base"]


def decay_jacobian(x, p):
    fall = jnp.exp(-p["rate"] * x)
    return {"amp": fall, "base": jnp.ones_like(x), "rate": -p["amp"] * x * fall}


BY_HAND = TRF(jacobian=decay_jacobian)


def numpy_residual(p, y=Y, rows=USED, sigma=SIGMA):
    amp, base, rate = p
    return ((amp * np.exp(-rate * X) + base - y) / sigma)[rows]


def tree(amp, base, rate):
    return {"amp": float(amp), "base": float(base), "rate": float(rate)}


FREE = (-INF,) * 3, (INF,) * 3
FLOOR = (-INF, 0.48, -INF), (INF,) * 3


@cache
def fitted(box=FREE):
    """The problem, with three data masked, and its solution."""
    problem = jaxfit.curve_problem(
        decay,
        X,
        Y,
        tree(2, 0.5, 1.3),
        sigma=SIGMA,
        mask=USED,
        bounds=(tree(*box[0]), tree(*box[1])),
    )
    solution = jaxfit.solve(problem)
    assert solution.success
    return problem, solution


def flat(params):
    return np.asarray(jax.flatten_util.ravel_pytree(params)[0])


@cache
def replicates(kind, box=FREE):
    """N of them to all digits, of residuals by a Jacobian that a user wrote."""
    solver = BY_HAND if kind == "residual" else TRF()
    return jaxfit.bootstrap(*fitted(box), N, KEY, kind=kind, solver=solver)


@jax.jit
def traced(problem, solution):
    return jaxfit.bootstrap(problem, solution, N, KEY, kind="wild", solver=TRF())


@cache
def of_kind(kind):
    return traced(*fitted()) if kind == "wild" else replicates(kind)


@cache
def at_solution(box=FREE):
    """Residuals, leverage and (J'J)^-1 of what counts, by NumPy."""
    p = flat(fitted(box)[1].params)
    amp, _, rate = p
    fall = np.exp(-rate * X)
    free = np.array([1.0, box == FREE, 1.0])  # the floor is active
    jacobian = np.stack([fall, np.ones(M), -amp * X * fall], axis=1) / SIGMA[:, None]
    jacobian, r = (jacobian * free)[USED], numpy_residual(p)
    inverse = np.linalg.pinv(jacobian.T @ jacobian)
    hat = np.einsum("mi,ij,mj->m", jacobian, inverse, jacobian)
    return r, hat, inverse, jacobian


def refit(y=Y, rows=USED, box=FREE, start=None, **options):
    """SciPy's fit of other data."""
    start = flat(fitted(box)[1].params) if start is None else start
    lower, upper = (np.array(side) for side in box)
    inside = np.clip(start, lower + 1e-6, upper - 1e-6)
    tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15, "x_scale": "jac"}
    return scipy.optimize.least_squares(
        lambda p: numpy_residual(p, y, rows),
        inside,
        jac="3-point",
        bounds=(lower, upper),
        **tight,
        **options,
    ).x


def drawn(i, count=M - 3):
    """Which of the data that count replicate i draws, one for each of all rows."""
    own = jax.random.fold_in(KEY, i)
    return np.asarray(jax.random.randint(own, (M,), 0, count))


def resampled(kind, i, box=FREE):
    """The data of replicate i, by the textbook, and the rows of them that count."""
    r, hat, inverse, _ = at_solution(box)
    own = jax.random.fold_in(KEY, i)
    if kind == "pairs":
        return Y, np.flatnonzero(USED)[drawn(i)[: USED.sum()]]
    if kind == "residual":
        whole = r / np.sqrt(1 - hat)
        new = (whole - whole.mean())[drawn(i)][USED]
    elif kind == "wild":
        signs = np.asarray(jax.random.rademacher(own, (M,), float))
        new = signs[USED] * r / (1 - hat)
    else:
        normal = np.asarray(jax.random.normal(own, (M,), float))
        new = normal[USED] * np.sqrt(r @ r / (USED.sum() - len(inverse)))
    y = Y.copy()
    y[USED] += SIGMA[USED] * (r - new)
    return y, USED


KINDS = ("residual", "pairs", "wild", "parametric")


# --- What is drawn ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_replicates_are_refits_of_resampled_data(kind):
    found = of_kind(kind)
    assert found.kind == kind
    assert found.samples.shape == (N, 3)
    assert found.num_failed == 0
    errors = np.sqrt(np.diag(at_solution()[2]))
    for i in (0, 1, 7, N - 1):
        expected = refit(*resampled(kind, i))
        assert np.max(np.abs(found.samples[i] - expected) / errors) < 1e-6
        assert np.max(np.abs(expected - flat(found.estimate)) / errors) > 0.1
        for k, name in enumerate(("amp", "base", "rate")):
            assert found.params[name][i] == found.samples[i, k]
    r = numpy_residual(found.samples[7], *resampled(kind, 7))
    np.testing.assert_allclose(found.cost[7], 0.5 * r @ r, rtol=1e-9)


def test_rows_that_are_masked_are_never_drawn():
    order = jnp.argsort(~jnp.asarray(USED), stable=True)
    keys = jax.random.split(KEY, 400)
    which = jax.vmap(lambda key: drawn_rows(key, jnp.asarray(USED), order))(keys)
    counts = np.bincount(np.ravel(which), minlength=M)
    assert np.all(counts[~USED] == 0)
    expected = which.size / USED.sum()
    assert np.all(np.abs(counts[USED] - expected) < 5 * np.sqrt(expected))


def test_rows_picked_from_data_are_rows_picked_from_residuals():
    problem, _ = fitted()
    p = jax.tree.map(jnp.asarray, tree(1.9, 0.4, 1.2))
    which = jnp.asarray(np.flatnonzero(USED)[drawn(5) % USED.sum()])
    counts = jnp.arange(M) < USED.sum()
    values = []
    for rowwise in (True, False):
        other = picked(problem, which, counts, rowwise)
        np.testing.assert_array_equal(jnp.ravel(other.mask), counts)
        values.append(other.residual(p, other.args))
    expected = numpy_residual([1.9, 0.4, 1.2], rows=np.asarray(which))
    np.testing.assert_allclose(values[0], expected, rtol=1e-12)
    np.testing.assert_allclose(values[1], expected, rtol=1e-12)


def test_data_on_several_devices_are_one_program(monkeypatch):
    """Threads would mix programs whose devices wait for one another."""
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((8,), ("rows",), axis_types=auto)
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))
    problem = jaxfit.curve_problem(
        decay,
        jax.device_put(X, rows),
        jax.device_put(np.nan_to_num(Y), rows),
        tree(2, 0.5, 1.3),
        mask=USED,
    )
    solution = jaxfit.solve(problem)
    monkeypatch.setattr("jaxfit._batch.refits._on_threads", None)
    found = jaxfit.bootstrap(problem, solution, 16, KEY)
    assert found.num_failed == 0


def test_a_key_decides_everything():
    def another(key):
        return jaxfit.bootstrap(*fitted(), N, key, kind="pairs", solver=TRF())

    whole = replicates("pairs")
    jax.tree.map(np.testing.assert_array_equal, another(KEY), whole)
    np.testing.assert_array_equal(another(11).samples, whole.samples)
    assert np.all(another(12).samples != whole.samples)


def test_a_replicate_is_the_same_whatever_its_neighbours():
    """For any number of replicates, of lanes and of devices."""
    how = {"kind": "pairs", "solver": TRF(), "lanes": 16, "devices": 8}
    few = jaxfit.bootstrap(*fitted(), 50, KEY, **how)
    whole = replicates("pairs")
    np.testing.assert_allclose(few.samples, whole.samples[:50], rtol=1e-8)
    np.testing.assert_array_equal(few.status > 0, whole.status[:50] > 0)
    np.testing.assert_allclose(few.change, whole.change, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["residual", "wild", "parametric"])
def test_a_replicate_is_the_same_for_any_number_of_lanes(kind):
    how = {"kind": kind, "solver": BY_HAND if kind == "residual" else TRF()}
    few = jaxfit.bootstrap(*fitted(), 200, KEY, lanes=64, **how)
    whole = of_kind(kind).samples[:200]
    np.testing.assert_allclose(few.samples, whole, rtol=1e-8)


# --- Standard errors and intervals -----------------------------------------------


@pytest.mark.parametrize("kind", ["residual", "wild", "parametric"])
def test_errors_are_those_of_the_linear_model_of_the_same_draws(kind):
    """2,000 replicates tell a standard error to 2 %."""
    r, hat, inverse, jacobian = at_solution()
    if kind == "wild":
        filling = jacobian.T @ ((r / (1 - hat)) ** 2 * jacobian.T).T
        covariance = inverse @ filling @ inverse
    elif kind == "residual":
        covariance = inverse * np.var(r / np.sqrt(1 - hat))
    else:
        covariance = inverse * (r @ r) / (USED.sum() - 3)
    found, errors = of_kind(kind), np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(flat(found.errors()), errors, rtol=0.06)
    samples = np.asarray(found.samples)
    np.testing.assert_allclose(found.covariance(), np.cov(samples.T), rtol=1e-10)
    bias = samples.mean(axis=0) - flat(found.estimate)
    np.testing.assert_allclose(flat(found.bias()), bias, rtol=1e-8, atol=1e-12)
    assert np.all(np.abs(bias) < 0.25 * errors)


def test_a_known_noise_is_that_of_the_sigmas():
    """These data scatter more than they should, so it is not the estimated one.

    By default replicates are fitted to a hundredth of a standard error.
    """
    found = jaxfit.bootstrap(*fitted(), N, KEY, kind="parametric", noise="known")
    for i in (0, 5):
        y, own = Y.copy(), jax.random.fold_in(KEY, i)
        new = np.asarray(jax.random.normal(own, (M,), float))[USED]
        y[USED] += SIGMA[USED] * (at_solution()[0] - new)
        away = found.samples[i] - refit(y)
        assert np.max(np.abs(away) / np.sqrt(np.diag(at_solution()[2]))) < 1e-2
    errors = np.sqrt(np.diag(at_solution()[2]))
    np.testing.assert_allclose(flat(found.errors()), errors, rtol=0.06)
    estimated = flat(replicates("parametric").errors())
    assert np.all(np.abs(np.log(estimated / errors)) > 0.15)


def corrected(samples, estimate, change, level):
    """Efron's BCa limits (1987), one parameter at a time."""
    z = scipy.stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    ends = []
    for draws, centre, moved in zip(samples.T, estimate, change.T, strict=True):
        below = np.mean(draws < centre) + 0.5 * np.mean(draws == centre)
        bias = scipy.stats.norm.ppf(below)
        away = moved.mean() - moved
        skew = np.sum(away**3) / (6 * np.sum(away**2) ** 1.5)
        share = scipy.stats.norm.cdf(bias + (bias + z) / (1 - skew * (bias + z)))
        ends.append(np.quantile(draws, share))
    return np.array(ends).T


@pytest.mark.parametrize("level", [0.68, 0.95])
def test_intervals_are_those_of_the_textbook(level):
    found = replicates("residual")
    samples, estimate = np.asarray(found.samples), flat(found.estimate)
    tails = [(1 - level) / 2, (1 + level) / 2]
    plain = np.quantile(samples, tails, axis=0)
    r, hat, inverse, jacobian = at_solution()
    # Of the data that count alone: one that is masked is not left out.
    change = (inverse @ (jacobian * (r / (1 - hat))[:, None]).T).T
    expected = {
        "percentile": plain,
        "basic": 2 * estimate - plain[::-1],
        "bca": corrected(samples, estimate, change, level),
    }
    width = plain[1] - plain[0]
    for kind, ends in expected.items():
        low, high = (flat(side) for side in found.interval(level, kind))
        assert np.max(np.abs(low - ends[0]) / width) < 1e-7
        assert np.max(np.abs(high - ends[1]) / width) < 1e-7
    # They differ by more than that.
    gap = np.abs(expected["bca"] - expected["percentile"]) / width
    assert np.max(gap) > 0.01
    assert jax.tree.structure(found.interval()[0]) == jax.tree.structure(tree(1, 2, 3))


def test_bca_of_a_mean_is_that_of_scipy():
    """Of skewed data, with draws of their own each, hence to a few percent."""
    y = np.random.default_rng(8).exponential(size=M)
    fixed = (0.0, -INF, 1.0), (0.0, INF, 1.0)
    problem = jaxfit.curve_problem(
        decay,
        X,
        y,
        tree(0, 0.5, 1),
        sigma=np.ones(M),
        mask=np.ones(M, bool),
        bounds=(tree(*fixed[0]), tree(*fixed[1])),
    )
    solution = jaxfit.solve(problem)
    np.testing.assert_allclose(solution.params["base"], y.mean(), rtol=1e-9)
    found = jaxfit.bootstrap(problem, solution, N, KEY, kind="pairs", solver=TRF())
    means = [y[drawn(i, M)].mean() for i in range(20)]
    np.testing.assert_allclose(found.params["base"][:20], means, rtol=1e-9)
    np.testing.assert_array_equal(found.params["amp"], 0)

    samples = np.asarray(found.params["base"])[:, None]
    # Without datum i the mean moves so far.
    change = (y.mean() - y)[:, None] / (M - 1)
    low, high = found.interval(0.9)
    by_hand = corrected(samples, [y.mean()], change, 0.9)
    np.testing.assert_allclose([low["base"], high["base"]], by_hand[:, 0], rtol=1e-8)

    theirs = scipy.stats.bootstrap(
        (y,), np.mean, confidence_level=0.9, n_resamples=20_000, rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    assert abs(low["base"] - theirs.low) < 0.05 * width
    assert abs(high["base"] - theirs.high) < 0.05 * width
    plain = found.interval(0.9, "percentile")[1]["base"]
    assert high["base"] - plain > 0.05 * width


# --- Bounds, losses, failures ----------------------------------------------------


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


# --- Jackknife -------------------------------------------------------------------


def test_jackknife_is_the_fits_without_each_datum():
    found = jaxfit.jackknife(*fitted(), solver=TRF())
    errors, fits = np.sqrt(np.diag(at_solution()[2])), []
    samples = np.stack([found.params[k] for k in ("amp", "base", "rate")], axis=1)
    for i in range(M):
        if USED[i]:
            fits.append(refit(rows=USED & (np.arange(M) != i)))
            assert np.max(np.abs(samples[i] - fits[-1]) / errors) < 1e-6
        else:
            assert np.isnan(samples[i]).all()
    count, fits = USED.sum(), np.array(fits)
    assert np.all(np.asarray(found.status)[USED] > 0)
    covariance = np.cov(fits.T, ddof=0) * (count - 1)
    np.testing.assert_allclose(found.covariance(), covariance, rtol=1e-5)
    np.testing.assert_allclose(
        flat(found.errors()), np.sqrt(np.diag(covariance)), rtol=1e-5
    )
    bias = (count - 1) * (fits.mean(axis=0) - flat(found.estimate))
    assert np.max(np.abs(flat(found.bias()) - bias) / errors) < 1e-4


# --- Bad input -------------------------------------------------------------------


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
        with pytest.raises(TypeError, match=r"`solution` must be what jaxfit\.solve"):
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
