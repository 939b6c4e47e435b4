"""Influence of single data against hat matrices and explicit refits in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit
from jaxfit import TRF


M, N = 14, 3
X = np.linspace(-1.0, 1.3, M)
RNG = np.random.default_rng(11)
Y = 1.0 + 2.0 * X - 0.7 * X**2 + 0.2 * RNG.standard_normal(M)
Y[3] += 1.0
SIGMA = np.linspace(0.5, 1.5, M)
DESIGN = np.vander(X, N) / SIGMA[:, None]
TARGET = Y / SIGMA
MASK = np.arange(M) % 6 != 1
FREE = np.array([-9.0, -9.0, -9.0]), np.array([9.0, 9.0, 9.0])


def parabola(x, p):
    """A model that is linear in its parameters."""
    return jnp.polyval(p, x)


def problem(y=Y, **options):
    options = {"sigma": SIGMA, **options}
    return jaxfit.curve_problem(parabola, X, y, np.zeros(N), **options)


def close(actual, desired, rtol=1e-8, atol=1e-10):
    np.testing.assert_allclose(actual, desired, rtol=rtol, atol=atol)


def fitted(design, target):
    return np.linalg.lstsq(design, target)[0]


def hat(design):
    q, _ = np.linalg.qr(design)
    return np.sum(q**2, axis=1)


def refits(design, target):
    """For each row: the fit without it, its parameters and its noise variance."""
    m, n = design.shape
    for i in range(m):
        left = np.arange(m) != i
        beta = fitted(design[left], target[left])
        r = design[left] @ beta - target[left]
        yield i, beta, r @ r / (m - 1 - n)


def check(found, design, target, used=None):
    """All numbers of a linear fit against what leaving each row out in turn gives."""
    used = np.ones(len(design), bool) if used is None else used
    design, target = design[used], target[used]
    m, n = design.shape
    beta = fitted(design, target)
    r = design @ beta - target
    gram, variance = design.T @ design, r @ r / (m - n)
    expected = {"deleted": np.zeros(m), "cook": np.zeros(m), "change": np.zeros((m, n))}
    for i, without, noise in refits(design, target):
        # The error of predicting a datum that the fit has not seen.
        left = np.delete(design, i, axis=0)
        spread = 1 + design[i] @ np.linalg.solve(left.T @ left, design[i])
        miss = design[i] @ without - target[i]
        expected["deleted"][i] = miss / np.sqrt(noise * spread)
        moved = without - beta
        expected["cook"][i] = moved @ gram @ moved / (n * variance)
        expected["change"][i] = moved
    h = np.diagonal(design @ np.linalg.solve(gram, design.T))
    close(found.leverage[used], h)
    close(found.studentised[used], r / np.sqrt(variance * (1 - h)))
    close(found.deleted[used], expected["deleted"])
    close(found.cooks_distance[used], expected["cook"])
    close(found.change[used], expected["change"])


@pytest.fixture(scope="module")
def solution():
    return jaxfit.solve(problem())


@pytest.fixture(scope="module")
def found(solution):
    return jaxfit.influence(problem(), solution)


def test_leverage_is_the_diagonal_of_the_hat_matrix(found):
    close(found.leverage, hat(DESIGN))
    close(found.leverage.sum(), N)
    assert np.all((found.leverage > 0) & (found.leverage < 1))
    assert np.all(found.used)


def test_all_numbers_equal_explicit_refits(found):
    check(found, DESIGN, TARGET)


def test_the_outlier_stands_out(found):
    assert np.argmax(np.abs(found.deleted)) == 3
    assert np.abs(found.deleted[3]) > 4
    assert np.abs(found.deleted[3]) > np.abs(found.studentised[3]) > 2


def test_where_the_noise_is_known_nothing_is_to_be_estimated_again(solution, found):
    known = jaxfit.influence(problem(), solution, noise="known")
    r = DESIGN @ fitted(DESIGN, TARGET) - TARGET
    close(known.studentised, r / np.sqrt(1 - hat(DESIGN)))
    np.testing.assert_array_equal(known.deleted, known.studentised)
    cook = np.einsum("ij,jk,ik->i", found.change, DESIGN.T @ DESIGN, found.change)
    close(known.cooks_distance, cook / N)
    close(known.change, found.change)
    close(known.leverage, found.leverage)


def test_robust_noise_is_the_median_of_sizes(solution, found):
    robust = jaxfit.influence(problem(), solution, noise="robust")
    r = DESIGN @ fitted(DESIGN, TARGET) - TARGET
    s = 1.482602218505602 * np.median(np.abs(r)) * np.sqrt(M / (M - N))
    close(robust.studentised, r / (s * np.sqrt(1 - hat(DESIGN))))
    assert np.abs(robust.studentised[3]) > np.abs(found.studentised[3])


def test_masked_rows_are_nan_and_count_for_nothing():
    there = problem(np.where(MASK, Y, np.nan), mask=MASK)
    found = jaxfit.influence(there, jaxfit.solve(there))
    check(found, DESIGN, TARGET, MASK)
    np.testing.assert_array_equal(found.used, MASK)
    for leaf in (
        found.leverage,
        found.studentised,
        found.deleted,
        found.cooks_distance,
        found.change,
    ):
        assert np.all(np.isnan(leaf[~MASK]))
        assert np.all(np.isfinite(leaf[MASK]))
    close(np.nansum(found.leverage), N)


def bounded(lower, upper, start):
    there = jaxfit.curve_problem(
        parabola, X, Y, start, sigma=SIGMA, bounds=(lower, upper)
    )
    return there, jaxfit.solve(there, TRF(ftol=0.0, xtol=1e-15, gtol=1e-15))


def held_at(value):
    """The fit with the last coefficient fixed."""
    lower, upper = (np.array([a, a, b]) for a, b in ((-9.0, value), (9.0, value)))
    return bounded(lower, upper, np.array([0.0, 0.0, value]))


def test_a_fixed_parameter_has_no_share():
    there, solution = held_at(0.8)
    found = jaxfit.influence(there, solution)
    np.testing.assert_array_equal(found.change[:, 2], 0)
    close(found.leverage.sum(), N - 1)
    # What remains is a linear fit of two parameters to what the third one leaves.
    rest = jaxfit.Influence(
        found.leverage,
        found.studentised,
        found.deleted,
        found.cooks_distance,
        found.change[:, :2],
        found.used,
    )
    check(rest, DESIGN[:, :2], TARGET - 0.8 * DESIGN[:, 2])


def test_a_parameter_at_an_active_bound_is_as_good_as_fixed():
    lower, upper = np.full(3, -9.0), np.array([9.0, 9.0, 0.8])
    there, solution = bounded(lower, upper, np.zeros(3))
    np.testing.assert_array_equal(solution.active_mask, [0, 0, 1])
    found = jaxfit.influence(there, solution)
    close(found.leverage, hat(DESIGN[:, :2]))
    close(found.leverage.sum(), N - 1)
    expected = jaxfit.influence(*held_at(0.8))
    close(found.change, expected.change, 1e-6)
    close(found.studentised, expected.studentised, 1e-6)
    close(found.deleted, expected.deleted, 1e-6)
    close(found.cooks_distance, expected.cooks_distance, 1e-6)


def test_leverage_adds_up_to_the_rank():
    """A parameter that stands for another one is not determined."""

    def twice(x, p):
        return (p[0] + p[2]) * x + p[1]

    there = jaxfit.curve_problem(twice, X, Y, np.ones(3), sigma=SIGMA)
    found = jaxfit.influence(there, jaxfit.solve(there))
    close(found.leverage, hat(np.stack([X, np.ones(M)], axis=1) / SIGMA[:, None]))
    close(found.leverage.sum(), 2)


def test_a_robust_loss_weighs_the_rows():
    there = problem(loss="soft_l1", f_scale=0.3)
    solution = jaxfit.solve(there)
    found = jaxfit.influence(there, solution, noise="known")
    r = DESIGN @ np.asarray(solution.params) - TARGET
    z = (r / 0.3) ** 2
    influence, slope = r / np.sqrt(1 + z), (1 + z) ** -1.5
    weighted = DESIGN * np.sqrt(slope)[:, None]
    h = hat(weighted)
    close(found.leverage, h)
    close(found.studentised, influence / np.sqrt(slope * (1 - h)))
    steps = np.linalg.solve(weighted.T @ weighted, DESIGN.T * influence).T
    close(found.change, steps / (1 - h)[:, None])


def test_of_a_nonlinear_model_it_is_the_linearisation():
    """Leverage is that of the Jacobian, and changes are right to first order."""

    def decay(x, p):
        return p["a"] * jnp.exp(-p["b"] * x)

    y = 2 * np.exp(-0.8 * X) + 0.02 * RNG.standard_normal(M)
    start = {"a": 1.0, "b": 1.0}
    there = jaxfit.curve_problem(decay, X, y, start)
    solution = jaxfit.solve(there)
    found = jaxfit.influence(there, solution)
    a, b = (float(solution.params[k]) for k in "ab")
    e = np.exp(-b * X)
    jacobian = np.stack([e, -a * X * e], axis=1)
    close(found.leverage, hat(jacobian))
    r = a * e - y
    step = np.linalg.solve(jacobian.T @ jacobian, jacobian.T * r)
    close(found.change, step.T / (1 - hat(jacobian))[:, None])
    # Against real refits of Gauss and Newton, to the size of the curvature.
    for i in (0, 5, 13):
        left, p = np.arange(M) != i, np.array([a, b])
        for _ in range(20):
            e = np.exp(-p[1] * X[left])
            j = np.stack([e, -p[0] * X[left] * e], axis=1)
            p = p - np.linalg.lstsq(j, p[0] * e - y[left])[0]
        close(found.change[i], p - [a, b], rtol=0.05, atol=1e-5)


def test_lanes_equal_single_fits():
    data = np.stack([Y, Y[::-1], Y + np.sin(5 * X)])

    @jax.jit
    @jax.vmap
    def all_of(y):
        return jaxfit.influence(problem(y), jaxfit.solve(problem(y)))

    lanes = all_of(data)
    for i, y in enumerate(data):
        check(jax.tree.map(lambda a, i=i: a[i], lanes), DESIGN, y / SIGMA)


def test_a_jitted_function_may_close_over_a_solution(solution, found):
    there = problem()
    inside = jax.jit(lambda: jaxfit.influence(there, solution).leverage)()
    close(inside, found.leverage)
