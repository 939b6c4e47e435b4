"""The bootstrap against refits by SciPy of the same resampled data."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from replicates import (
    BY_HAND,
    INF,
    KEY,
    SIGMA,
    USED,
    M,
    N,
    X,
    Y,
    at_solution,
    decay,
    drawn,
    fitted,
    flat,
    numpy_residual,
    refit,
    replicates,
    resampled,
    traced,
    tree,
)

import jaxfit
from jaxfit import TRF
from jaxfit._uncertainty.resampling import drawn_rows, picked


@cache
def of_kind(kind):
    return traced(*fitted()) if kind == "wild" else replicates(kind)


KINDS = ("residual", "pairs", "wild", "parametric")


# --- What is drawn -----------------------------------------------------------------


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


# --- Standard errors and intervals -------------------------------------------------


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
