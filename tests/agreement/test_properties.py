"""Properties that hold for every data set: hypothesis looks for one that breaks them.

All problems share shapes, so that a few compiled programs serve all examples.
"""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxfit


M, N = 30, 3
X = np.linspace(0, 4, M)
TIGHT = jaxfit.TRF(ftol=0.0, gtol=1e-14, xtol=1e-13)
common = settings(max_examples=25, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**32 - 1)


def model(x, p):
    return p[0] * jnp.exp(-p[1] * x) + p[2]


def data(seed: int):
    """A noisy decay with x in random order and its standard deviations."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform([1, 0.5, 0.2], [3, 2, 1])
    x = rng.permutation(X)
    sigma = rng.uniform(0.5, 2.0, M)
    y = np.asarray(model(x, truth)) + 0.05 * sigma * rng.normal(size=M)
    return x, y, sigma, rng


@jax.jit
def fit(x, y, sigma, mask, scale, lower, upper):
    """The fit of p = q / scale: parameters rescaled by `scale`, answer scaled back."""
    problem = jaxfit.curve_problem(
        lambda x, q: model(x, q / scale),
        x,
        y,
        jnp.ones(N) * scale,
        sigma=sigma,
        mask=mask,
        bounds=(lower * scale, upper * scale),
        loss="soft_l1",
        f_scale=0.1,
    )
    solution = jaxfit.solve(problem, TIGHT)
    return solution.params / scale, solution


ALL, ONE = np.ones(M, bool), np.ones(N)
FREE = -np.inf * ONE, np.inf * ONE


@common
@given(seeds)
def test_permuting_rows_changes_nothing(seed):
    x, y, sigma, rng = data(seed)
    order = rng.permutation(M)
    p, _ = fit(x, y, sigma, ALL, ONE, *FREE)
    q, _ = fit(x[order], y[order], sigma[order], ALL, ONE, *FREE)
    np.testing.assert_allclose(p, q, rtol=1e-9)


@common
@given(seeds, st.lists(st.integers(-8, 8), min_size=N, max_size=N))
def test_rescaling_parameters_changes_nothing(seed, powers):
    """The same solution in the same number of steps for units of 10^-8 to 10^8."""
    x, y, sigma, _ = data(seed)
    p, plain = fit(x, y, sigma, ALL, ONE, *FREE)
    q, scaled = fit(x, y, sigma, ALL, 10.0 ** np.array(powers), *FREE)
    np.testing.assert_allclose(p, q, rtol=1e-9)
    # The last steps are about rounding, which differs; all before must agree.
    assert abs(int(plain.num_steps) - int(scaled.num_steps)) <= 3


@common
@given(seeds, st.integers(1, 20))
def test_masked_rows_do_not_exist(seed, count):
    """Whatever they hold, NaN and infinities included."""
    x, y, sigma, rng = data(seed)
    out = rng.permutation(M)[:count]
    mask = ALL.copy()
    mask[out] = False
    keep = rng.permutation(np.flatnonzero(mask))
    # The same rows twice: once masked, once replaced by rows of no weight.
    dirty_x, dirty_y, dirty_sigma = x.copy(), y.copy(), sigma.copy()
    dirty_x[out], dirty_y[out], dirty_sigma[out] = np.nan, np.inf, -1.0
    p, left = fit(dirty_x, dirty_y, dirty_sigma, mask, ONE, *FREE)
    filler = np.resize(keep, M)
    q, right = fit(
        x[filler], y[filler], sigma[filler], np.arange(M) < keep.size, ONE, *FREE
    )
    if M - count > N + 2:
        np.testing.assert_allclose(p, q, rtol=1e-8)
    assert int(left.num_rows) == int(right.num_rows) == M - count


@common
@given(seeds, st.lists(st.floats(0.01, 0.99), min_size=N, max_size=N))
def test_bounded_fits_meet_the_first_order_conditions(seed, where):
    """Inside, and v g = 0: free parameters have no slope, active ones push outwards."""
    x, y, sigma, rng = data(seed)
    centre = rng.uniform([0.5, 0.3, 0.1], [4, 3, 1.5])
    lower = centre - np.array([1.0, 0.5, 0.3]) * np.array(where)
    upper = centre + np.array([1.0, 0.5, 0.3]) * (1 - np.array(where))
    start = np.clip(1.0, lower, upper)
    solution = bounded(x, y, sigma, start, lower, upper)
    assert solution.success
    assert np.all((solution.params >= lower) & (solution.params <= upper))
    grad, active = np.asarray(solution.grad), np.asarray(solution.active_mask)
    scale = np.asarray(solution.linearisation.column_norms)
    size = scale * np.sqrt(2 * float(solution.cost))
    assert np.all(np.abs(grad[active == 0]) <= 1e-7 * size[active == 0])
    assert np.all(grad[active == -1] >= -1e-7 * size[active == -1])
    assert np.all(grad[active == 1] <= 1e-7 * size[active == 1])


@jax.jit
def bounded(x, y, sigma, start, lower, upper):
    problem = jaxfit.curve_problem(
        model, x, y, start, sigma=sigma, bounds=(lower, upper)
    )
    return jaxfit.solve(problem, TIGHT)


BACK_ENDS = [
    jaxfit.TRF(linear_solver=name, ftol=0.0, gtol=1e-14, xtol=1e-13)
    for name in ("qr", "gram", "matrix_free")
]


@jax.jit
def by_all(x, y, sigma, upper):
    problem = jaxfit.curve_problem(
        model, x, y, 0.5 * jnp.ones(N), sigma=sigma, bounds=(0.0, upper)
    )
    return [jaxfit.solve(problem, solver) for solver in BACK_ENDS]


@common
@given(seeds, st.booleans())
def test_all_back_ends_agree(seed, active):
    x, y, sigma, _ = data(seed)
    upper = np.array([0.9 if active else 20.0, 20.0, 20.0])
    qr, gram, free = by_all(x, y, sigma, upper)
    # Where the bound makes a large residual, J'J misses half of the curvature: such
    # fits end by shrinking their steps, at the cost's own resolution sqrt(eps).
    rtol = 1e-7 if active else 1e-9
    np.testing.assert_allclose(gram.params, qr.params, rtol=rtol)
    np.testing.assert_allclose(free.params, qr.params, rtol=rtol)
    np.testing.assert_array_equal(gram.active_mask, qr.active_mask)
    np.testing.assert_allclose(gram.covariance(), qr.covariance(), rtol=1e-6)
