"""The posterior as a density for samplers, against algebra, quadrature and samplers."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxfit
from jaxfit._solve.unbounded import Bijection
from jaxfit._trf.bounds import Bounds


SAMPLE = "needs the extra jaxfit-kernel[sample]"
INF = np.inf
M = 12
X = np.linspace(0, 2, M)
SIGMA = 0.15
Y = 2 * np.exp(-1.3 * X) + SIGMA * np.random.default_rng(6).normal(size=M)


# --- Variables without bounds ----------------------------------------------------

# Free, from 0; free; from below; from above; within; on a bound; fixed.
LOWER = np.array([-INF, -INF, 2.0, -INF, -3.0, 0.0, 0.7])
UPPER = np.array([INF, INF, INF, -1.0, 5.0, INF, 0.7])
CENTRE = np.array([0.0, -40.0, 2.5, -9.0, 4.0, 0.0, 0.7])
FIXED = LOWER == UPPER


@functools.cache
def bijection():
    bounds = Bounds(jnp.asarray(LOWER), jnp.asarray(UPPER))
    return Bijection.of(bounds, jnp.asarray(CENTRE))


def points():
    return 3 * jnp.asarray(np.random.default_rng(2).normal(size=(20, 7)))


def test_any_u_is_within_bounds_and_comes_back():
    there = bijection()
    for u in points():
        x = there.forward(u)
        assert np.all((x >= LOWER) & (x <= UPPER))
        assert np.all((x > LOWER)[~FIXED] & (x < UPPER)[~FIXED])
        expected = np.where(FIXED, 0, u)
        np.testing.assert_allclose(there.inverse(x), expected, atol=1e-9)


def test_the_centre_is_zero_moved_off_its_bound():
    x = np.asarray(bijection().forward(jnp.zeros(7)))
    np.testing.assert_allclose(x[[0, 1, 2, 3, 4, 6]], CENTRE[[0, 1, 2, 3, 4, 6]])
    assert 0 < x[5] < 0.01


def test_the_slope_is_that_of_the_map():
    there, slope = bijection(), jax.jit(jax.jacobian(bijection().forward))
    for u in points():
        jacobian = np.asarray(slope(u))
        diagonal = np.diag(jacobian)
        np.testing.assert_array_equal(jacobian, np.diag(diagonal))
        assert diagonal[FIXED] == 0
        expected = np.sum(np.log(diagonal[~FIXED]))
        np.testing.assert_allclose(there.log_slope(u), expected, rtol=1e-11)
    size = np.abs(np.diag(slope(jnp.zeros(7))))
    # A unit of u is about the parameter's size, or its distance to a bound.
    np.testing.assert_allclose(size[:4], [1, 40, 0.5, 8], rtol=1e-12)


def test_nothing_overflows():
    """Samplers try absurd points: x stays within bounds, and no derivative is NaN."""
    there = bijection()
    gradient = jax.jit(jax.grad(lambda u: jnp.sum(there.forward(u))))
    for u in (-800.0, -40.0, 40.0, 800.0):
        far = jnp.full(7, u)
        x = np.asarray(there.forward(far))
        assert np.all((x >= LOWER) & (x <= UPPER))
        assert not np.isnan(there.log_slope(far))
        slope = np.asarray(gradient(far))
        assert np.all(np.isfinite(slope) | ~np.isfinite(x)), slope


def test_without_bounds_it_is_a_change_of_units():
    there = Bijection.of(None, jnp.array([3.0, 0.0, -2.0]))
    u = jnp.array([0.5, 0.5, 0.5])
    np.testing.assert_allclose(there.forward(u), [4.5, 0.5, -1.0], rtol=1e-15)
    np.testing.assert_allclose(there.inverse(there.forward(u)), u, rtol=1e-15)
    np.testing.assert_allclose(there.log_slope(u), np.log(6), rtol=1e-15)
    given = Bijection.of(None, jnp.zeros(2), jnp.array([10.0, 0.1]))
    np.testing.assert_allclose(given.forward(jnp.ones(2)), [10, 0.1], rtol=1e-15)


# --- The density -----------------------------------------------------------------


def decay(x, p):
    return p["amp"] * jnp.exp(-p["rate"] * x) + p["base"]


def tree(amp, base, rate):
    return {"amp": float(amp), "base": float(base), "rate": float(rate)}


BOX = tree(0, 0, 0), tree(INF, 0, 4)


def problem(loss="linear", start=(1.5, 0, 1)):
    """A positive amplitude, a rate of 0 to 4 and no base."""
    return jaxfit.curve_problem(
        decay, X, Y, tree(*start), sigma=SIGMA, bounds=BOX, loss=loss
    )


def prior(p):
    return -0.5 * ((p["amp"] - 1) / 0.2) ** 2 - p["rate"]


@functools.cache
def solution():
    return jaxfit.solve(problem())


@functools.cache
def density(noise="estimated", with_prior=False, share=1.0, loss="linear"):
    given = prior if with_prior else None
    return jaxfit.log_density(problem(loss), prior=given, noise=noise, share=share)


@functools.cache
def compiled(*args):
    """The density and its gradient."""
    return jax.jit(jax.value_and_grad(density(*args)))


def by_hand(u, noise, with_prior, share, loss="linear"):
    """amp = 1.5 exp(u), rate = 4 / (1 + 3 exp(-u)), and the base's own normal."""
    amp, odds = 1.5 * np.exp(u[0]), np.exp(u[2]) / 3
    rate = 4 * odds / (1 + odds)
    r = (amp * np.exp(-rate * X) - Y) / SIGMA
    cost = 0.5 * r @ r
    if loss == "cauchy":
        cost = 0.5 * np.sum(np.log1p(r**2))
    value = -cost if noise == "known" else -0.5 * M * np.log(cost)
    before = np.log(amp) + np.log(rate * (4 - rate) / 4)
    if with_prior:
        before += -0.5 * ((amp - 1) / 0.2) ** 2 - rate
    return value + share * before - 0.5 * u[1] ** 2


@pytest.mark.parametrize(
    "args",
    [
        ("known", False, 1.0),
        ("estimated", False, 1.0),
        ("known", True, 0.25),
        ("known", False, 1.0, "cauchy"),
    ],
    ids=str,
)
def test_the_density_is_the_likelihood_times_the_slope_and_the_prior(args):
    for u in np.random.default_rng(3).normal(size=(5, 3)):
        value, gradient = compiled(*args)(jnp.asarray(u))
        np.testing.assert_allclose(value, by_hand(u, *args), rtol=1e-12)
        step = 1e-6 * np.eye(3)
        slope = [(by_hand(u + e, *args) - by_hand(u - e, *args)) / 2e-6 for e in step]
        least = 1e-9 * np.max(np.abs(slope))
        np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-7 + least)


def test_the_start_is_that_of_the_problem():
    there = density()
    np.testing.assert_array_equal(there.start, np.zeros(3))
    np.testing.assert_allclose(
        jax.tree.leaves(there.constrain(there.start)), [1.5, 0, 1], rtol=1e-12
    )


def test_between_u_and_parameters():
    there, u = density(), np.random.default_rng(4).normal(size=(2, 5, 3))
    params = there.constrain(jnp.asarray(u))
    assert params["rate"].shape == (2, 5)
    np.testing.assert_allclose(params["amp"], 1.5 * np.exp(u[..., 0]), rtol=1e-12)
    np.testing.assert_array_equal(params["base"], 0)
    one = jax.tree.map(lambda leaf: leaf[1, 2], params)
    back = np.where([True, False, True], u[1, 2], 0)
    np.testing.assert_allclose(there.unconstrain(one), back, rtol=1e-10, atol=1e-14)
    edge = there.unconstrain(tree(0, 0, 4))
    np.testing.assert_array_equal(edge, [-INF, 0, INF])


def test_far_away_the_density_and_its_slope_are_numbers():
    """Or no density at all, which a sampler rejects; never NaN."""
    for sign in (-1, 1):
        value, gradient = compiled("known", False, 1.0)(jnp.full(3, sign * 30.0))
        assert not np.isnan(value)
        assert not np.isnan(gradient).any()
    value, _ = compiled("known", False, 1.0)(jnp.array([800.0, 0, 0]))
    assert value == -INF


def test_a_mask_leaves_data_out_of_an_unknown_noise():
    mask, u = np.arange(M) != 5, jnp.array([0.3, -0.2])
    y = np.where(mask, Y, np.nan)

    def model(x, p):
        return p[0] * jnp.exp(-p[1] * x)

    there = jaxfit.curve_problem(model, X, y, np.array([1.5, 1.0]), mask=mask)
    amp, rate = 1.5 * 1.3, 1 * 0.8
    r = (amp * np.exp(-rate * X) - y)[mask]
    expected = -0.5 * (M - 1) * np.log(0.5 * r @ r) + np.log(1.5)
    found = jaxfit.log_density(there)(u)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_density_is_a_pytree_that_can_be_batched_with_its_data():
    """One sampler of many data sets: each has its own density."""

    def value(y, u):
        there = eqx.tree_at(lambda p: p.args.y, problem(), y)
        return jaxfit.log_density(there, noise="known")(u)

    u = jnp.array([0.2, 0.0, 0.1])
    ys = jnp.stack([jnp.asarray(Y), 2 * Y])
    batch = jax.jit(jax.vmap(value, in_axes=(0, None)))(ys, u)
    np.testing.assert_allclose(batch[0], by_hand(u, "known", False, 1.0), rtol=1e-12)
    amp, rate = 1.5 * np.exp(0.2), float(density().constrain(u)["rate"])
    r = (amp * np.exp(-rate * X) - np.array([[1], [2]]) * Y) / SIGMA
    costs = 0.5 * np.sum(r**2, axis=1)
    np.testing.assert_allclose(batch[1] - batch[0], costs[0] - costs[1], rtol=1e-10)


# --- The normal approximation ----------------------------------------------------


def line(x, p):
    return p[0] + p[1] * x


@functools.cache
def linear(noise):
    there = jaxfit.curve_problem(line, X, Y, np.array([1.0, -0.5]), sigma=SIGMA)
    return jaxfit.laplace(there, jaxfit.solve(there), noise=noise)


def linear_by_hand():
    design = np.stack([np.ones(M), X], axis=1) / SIGMA
    inverse = np.linalg.inv(design.T @ design)
    best = inverse @ design.T @ Y / SIGMA
    r = design @ best - Y / SIGMA
    return best, inverse, 0.5 * r @ r


def in_parameters(normal):
    slope = np.asarray(jax.jacobian(normal.density.constrain)(normal.mean))
    mean = np.asarray(normal.density.constrain(normal.mean))
    return mean, slope @ np.asarray(normal.covariance) @ slope.T


def test_of_a_linear_model_it_is_the_posterior():
    best, inverse, cost = linear_by_hand()
    mean, covariance = in_parameters(linear("known"))
    np.testing.assert_allclose(mean, best, rtol=1e-9)
    np.testing.assert_allclose(covariance, inverse, rtol=1e-10)
    # The integral of exp(-cost) over all parameters.
    volume = np.log(2 * np.pi) + 0.5 * np.log(np.linalg.det(inverse))
    np.testing.assert_allclose(linear("known").log_evidence, volume - cost, rtol=1e-11)


def test_of_an_unknown_noise_it_has_the_curvature_of_students_t():
    best, inverse, cost = linear_by_hand()
    normal = linear("estimated")
    assert normal.converged
    mean, covariance = in_parameters(normal)
    np.testing.assert_allclose(mean, best, rtol=1e-9)
    np.testing.assert_allclose(covariance, inverse * 2 * cost / M, rtol=1e-8)


def test_its_density_and_draws_are_those_of_a_normal():
    normal, u = linear("known"), jnp.array([0.4, -0.1])
    mean, covariance = np.asarray(normal.mean), np.asarray(normal.covariance)
    np.testing.assert_allclose(normal.root @ normal.root.T, covariance, rtol=1e-12)
    expected = scipy.stats.multivariate_normal(mean, covariance).logpdf(u)
    np.testing.assert_allclose(normal.log_prob(u), expected, rtol=1e-11)
    draws = np.asarray(normal.sample_u(jax.random.key(1), 40_000))
    errors = np.sqrt(np.diag(covariance))
    assert np.max(np.abs(draws.mean(axis=0) - mean) / errors) < 5 / 200
    spread = np.cov(draws.T) / np.outer(errors, errors)
    np.testing.assert_allclose(spread, covariance / np.outer(errors, errors), atol=0.03)
    params = normal.sample(jax.random.key(1), 40_000)
    np.testing.assert_array_equal(params, normal.density.constrain(jnp.asarray(draws)))


@jax.jit
def traced(given):
    return jaxfit.laplace(problem(), given, noise="known")


@functools.cache
def approximation(noise="estimated"):
    if noise == "known":
        return traced(solution())
    return jaxfit.laplace(problem(), solution(), noise=noise)


@pytest.mark.parametrize("noise", ["known", "estimated"])
def test_the_mode_is_that_of_the_density(noise):
    """And the covariance the inverse curvature there; of what is fixed, 1."""
    normal, args = approximation(noise), (noise, False, 1.0)
    assert normal.converged
    assert normal.mean[1] == 0
    params = normal.density.constrain(normal.mean)
    # The centre is another one here, which shifts u by constants.
    u = np.asarray(density(*args).unconstrain(params))
    step = 1e-4 * np.eye(3)
    gradient = [(by_hand(u + e, *args) - by_hand(u - e, *args)) / 2e-4 for e in step]
    assert np.max(np.abs(gradient)) < 1e-5
    curvature = [
        [
            by_hand(u + d + e, *args)
            - by_hand(u + d - e, *args)
            - by_hand(u - d + e, *args)
            + by_hand(u - d - e, *args)
            for d in step
        ]
        for e in step
    ]
    expected = np.linalg.inv(-np.array(curvature) / 4e-8)
    np.testing.assert_allclose(normal.covariance, expected, rtol=1e-4, atol=1e-7)
    # The mode in u is not the solution, because u counts volumes otherwise.
    errors = np.sqrt(np.diag(np.asarray(solution().covariance())))[[0, 2]]
    away = np.abs(flat_params(params) - flat_params(solution().params))[[0, 2]]
    assert np.all((away > 0.01 * errors) & (away < 0.5 * errors))


def flat_params(params):
    return np.asarray(jax.flatten_util.ravel_pytree(params)[0])


def test_draws_stay_within_bounds():
    draws = approximation().sample(jax.random.key(0), 2000)
    assert draws["rate"].shape == (2000,)
    assert draws["amp"].min() > 0
    assert draws["rate"].min() > 0
    assert draws["rate"].max() < 4
    np.testing.assert_array_equal(draws["base"], 0)
    assert draws["rate"].std() > 0.05


def test_a_solution_on_a_bound_has_a_mode_beside_it():
    """A base that would be negative: its posterior is a slope down from zero."""
    box = tree(0, 0, 0), tree(INF, INF, 4)
    there = jaxfit.curve_problem(
        decay, X, Y - 0.2, tree(1.5, 0.1, 1), sigma=SIGMA, bounds=box
    )
    at = jaxfit.solve(there)
    assert at.active_mask["base"] == -1
    normal = jaxfit.laplace(there, at, noise="known")
    assert normal.converged
    found = normal.sample(jax.random.key(0), 4000)["base"]
    assert found.min() > 0
    base = np.linspace(0, 1, 101)[:, None, None, None]
    amp = np.linspace(0, 4, 81)[:, None, None]
    rate = np.linspace(0, 4, 81)[:, None]
    r = (amp * np.exp(-rate * X) + base - Y + 0.2) / SIGMA
    weight = np.exp(-0.5 * np.sum(r**2, axis=-1)).sum(axis=(1, 2))
    weight[0] /= 2
    below = np.cumsum(weight) / np.sum(weight)
    median = np.interp(0.5, below, base.ravel())
    assert abs(np.log(np.median(found) / median)) < 0.5


def test_inside_jit_a_fit_that_failed_has_not_converged():
    bad = eqx.tree_at(lambda s: s.counts, solution(), solution().counts.at[0].set(0))
    assert traced(solution()).converged
    assert not traced(bad).converged


# --- Samplers --------------------------------------------------------------------

WARMUP, DRAWS = 500, 1000


@functools.cache
def quadrature():
    """Mean and deviation of amplitude and rate under an unknown noise, on a grid."""
    amp, rate = np.meshgrid(
        np.linspace(0, 6, 801), np.linspace(0, 4, 801), indexing="ij"
    )
    r = amp[..., None] * np.exp(-rate[..., None] * X) - Y
    log = -0.5 * M * np.log(np.sum(r**2, axis=-1))
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    mean = [np.sum(weight * v) for v in (amp, rate)]
    spread = [
        np.sqrt(np.sum(weight * (v - m) ** 2))
        for v, m in zip((amp, rate), mean, strict=True)
    ]
    return np.array(mean), np.array(spread)


def agree(draws):
    """Draws of a chain with the grid, and the normal approximation with both.

    About every third draw counts, so a mean is known to 5 % of the deviation.
    """
    mean, spread = quadrature()
    params = density().constrain(draws)
    found = np.stack([params["amp"], params["rate"]])
    assert np.all(np.abs(found.mean(axis=1) - mean) < 0.2 * spread)
    np.testing.assert_allclose(found.std(axis=1), spread, rtol=0.15)
    # What is fixed is a standard normal of its own.
    idle = np.asarray(draws)[:, 1]
    assert abs(idle.mean()) < 0.2
    np.testing.assert_allclose(idle.std(), 1, rtol=0.15)


@pytest.mark.smoke
def test_the_normal_approximation_is_near():
    mean, spread = quadrature()
    draws = approximation().sample(jax.random.key(5), 20_000)
    found = np.stack([draws["amp"], draws["rate"]])
    assert np.all(np.abs(found.mean(axis=1) - mean) < 0.2 * spread)
    np.testing.assert_allclose(found.std(axis=1), spread, rtol=0.25)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_nuts_of_blackjax_samples_the_posterior():
    blackjax = pytest.importorskip("blackjax", reason=SAMPLE)
    there = density()

    @jax.jit
    def run(key, start):
        first, second = jax.random.split(key)
        adapt = blackjax.window_adaptation(blackjax.nuts, there)
        (state, tuned), _ = adapt.run(first, start, WARMUP)
        kernel = blackjax.nuts(there, **tuned)

        def step(state, key):
            state, _ = kernel.step(key, state)
            return state, state.position

        keys = jax.random.split(second, DRAWS)
        return jax.lax.scan(step, state, keys)[1]

    agree(run(jax.random.key(0), approximation().mean))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_nuts_of_numpyro_samples_the_posterior():
    infer = pytest.importorskip("numpyro.infer", reason=SAMPLE)
    there = density()
    kernel = infer.NUTS(potential_fn=lambda u: -there(u))
    chain = infer.MCMC(kernel, num_warmup=WARMUP, num_samples=DRAWS, progress_bar=False)
    chain.run(jax.random.key(1), init_params=there.start)
    agree(chain.get_samples())


# --- Bad input -------------------------------------------------------------------


@pytest.mark.usefixtures("without_type_checks")
def test_bad_input():
    with pytest.raises(TypeError, match=r"`problem` must be a jaxfit\.Problem, got fu"):
        jaxfit.log_density(decay)
    with pytest.raises(ValueError, match=r"`noise` must be one of .*'known'"):
        jaxfit.log_density(problem(), noise="unknown")
    with pytest.raises(ValueError, match=r"robust loss .*noise='known'"):
        jaxfit.log_density(problem("cauchy"))
    with pytest.raises(TypeError, match="`prior` must be callable, got float"):
        jaxfit.log_density(problem(), prior=1.0)
    with pytest.raises(ValueError, match="`params` has structure"):
        density().unconstrain(np.ones(3))
    bad = eqx.tree_at(lambda s: s.counts, solution(), solution().counts.at[0].set(0))
    with pytest.raises(ValueError, match=r"jaxfit\.laplace is of a fit that converged"):
        jaxfit.laplace(problem(), bad)
    with pytest.raises(TypeError, match=r"`solution` must be a jaxfit\.Solution"):
        jaxfit.laplace(problem(), solution().params)
    with pytest.raises(ValueError, match="`n` must be at least 1, got 0"):
        approximation().sample(jax.random.key(0), 0)


def test_an_exact_fit_of_an_unknown_noise_is_refused():
    """Its posterior is infinite, as the cost is zero."""
    there = jaxfit.curve_problem(line, X, 2 + X, np.array([2.0, 1.0]))
    with pytest.raises(ValueError, match=r"exact|known"):
        jaxfit.laplace(there, jaxfit.solve(there))
