"""One posterior from those of shards: exact where all of them are normal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit


SHARDS, SIZE = 5, 3


def normals(unit):
    """Means and covariances of shards in units that differ by parameter."""
    rng = np.random.default_rng(7)
    means = rng.normal(size=(SHARDS, SIZE))
    roots = rng.normal(size=(SHARDS, SIZE, SIZE)) + 1.5 * np.eye(SIZE)
    covariances = roots @ roots.swapaxes(1, 2)
    return means * unit, covariances * np.outer(unit, unit), (means, covariances)


def product(means, covariances):
    """Mean and covariance of the product of normal densities."""
    precisions = np.linalg.inv(covariances)
    covariance = np.linalg.inv(precisions.sum(axis=0))
    mean = covariance @ np.einsum("kij,kj->i", precisions, means)
    return mean, covariance


@pytest.mark.parametrize("unit", [np.ones(3), np.array([1e8, 1.0, 1e-8])])
def test_normal_posteriors_multiply(unit):
    """Also of parameters sixteen orders apart, as each is in its own unit."""
    means, covariances, plain = normals(unit)
    found = jaxfit.consensus(means, covariances)
    mean, covariance = product(*plain)
    np.testing.assert_allclose(found.mean / unit, mean, rtol=1e-12)
    back = np.outer(unit, unit)
    np.testing.assert_allclose(found.covariance / back, covariance, rtol=1e-12)
    total = np.sum(found.weights, axis=0) * unit / unit[:, None]
    np.testing.assert_allclose(total, np.eye(SIZE), atol=1e-13)


def test_one_shard_is_the_whole():
    means, covariances, _ = normals(np.ones(SIZE))
    found = jaxfit.consensus(means[:1], covariances[:1])
    np.testing.assert_allclose(found.mean, means[0], rtol=1e-12)
    np.testing.assert_allclose(found.covariance, covariances[0], rtol=1e-12)


def test_draws_are_combined_one_by_one():
    """Of a draw of each shard at its mean the mean; of all draws the moments."""
    means, covariances, _ = normals(np.ones(SIZE))
    found = jaxfit.consensus(means, covariances)
    mean, covariance = product(means, covariances)
    np.testing.assert_allclose(found.combine(means[:, None])[0], mean, rtol=1e-12)

    rng = np.random.default_rng(3)
    z = rng.normal(size=(SHARDS, 40_000, SIZE))
    draws = means[:, None] + z @ np.linalg.cholesky(covariances).swapaxes(1, 2)
    whole = np.asarray(found.combine(draws))
    assert whole.shape == (40_000, SIZE)
    precisions = np.linalg.inv(covariances)
    by_hand = covariance @ sum(
        p @ d[17] for p, d in zip(precisions, draws, strict=True)
    )
    np.testing.assert_allclose(whole[17], by_hand, rtol=1e-11)
    error = np.sqrt(np.diag(covariance))
    assert np.max(np.abs(whole.mean(axis=0) - mean) / error) < 5 / 200
    spread = np.cov(whole.T) / np.outer(error, error)
    np.testing.assert_allclose(spread, covariance / np.outer(error, error), atol=0.03)


X = np.linspace(-1, 1, 40)
DESIGN = np.stack([np.ones(40), X, X**2], axis=1)
SIGMA = 0.2
Y = DESIGN @ [1.0, -2.0, 0.5] + SIGMA * np.random.default_rng(1).normal(size=40)
CENTRE, WIDTH = np.array([0.5, 0.0, 1.0]), np.array([0.3, 2.0, 0.1])


def parabola(x, p):
    return p[0] + p[1] * x + p[2] * x**2


def prior(p):
    return -0.5 * jnp.sum(((p - CENTRE) / WIDTH) ** 2)


def in_parameters(laplace):
    """The normal approximation in x, which is linear in u where nothing is bounded."""
    slope = np.asarray(jax.jacobian(laplace.density.constrain)(laplace.mean))
    mean = laplace.density.constrain(laplace.mean)
    return np.asarray(mean), slope @ np.asarray(laplace.covariance) @ slope.T


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_shards_of_a_linear_fit_make_its_posterior(share):
    """Four shards with a quarter of the prior each are all data with all of it."""
    found = []
    for shard in range(4):
        rows = slice(shard, None, 4)
        problem = jaxfit.curve_problem(
            parabola, X[rows], Y[rows], np.ones(3), sigma=SIGMA
        )
        solution = jaxfit.solve(problem)
        normal = jaxfit.laplace(
            problem, solution, prior=prior, noise="known", share=share
        )
        assert normal.converged
        found.append(in_parameters(normal))
    whole = jaxfit.consensus(*map(np.stack, zip(*found, strict=True)))
    # Whole priors of four shards count four times.
    weight = 4 * share / WIDTH**2
    covariance = np.linalg.inv(DESIGN.T @ DESIGN / SIGMA**2 + np.diag(weight))
    mean = covariance @ (DESIGN.T @ Y / SIGMA**2 + weight * CENTRE)
    np.testing.assert_allclose(whole.covariance, covariance, rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(whole.mean, mean, rtol=1e-11)


def test_jit_and_single_precision():
    means, covariances, _ = normals(np.array([1e8, 1.0, 1e-8]))
    plain = jaxfit.consensus(means, covariances)
    jitted = jax.jit(jaxfit.consensus)(means, covariances)
    jax.tree.map(np.testing.assert_array_equal, plain, jitted)
    single = jaxfit.consensus(*(a.astype(np.float32) for a in (means, covariances)))
    assert single.covariance.dtype == jnp.float32
    np.testing.assert_allclose(single.mean, plain.mean, rtol=1e-4)


def test_integer_means():
    found = jaxfit.consensus(np.array([[0], [3]]), np.array([[[1.0]], [[2.0]]]))
    np.testing.assert_allclose(found.mean, [1.0], rtol=1e-14)
    np.testing.assert_allclose(found.covariance, [[2 / 3]], rtol=1e-14)


def test_bad_input():
    means, covariances, _ = normals(np.ones(SIZE))
    with pytest.raises(ValueError, match=r"`means` must be of shape \(K, n\).*\(3,\)"):
        jaxfit.consensus(means[0], covariances)
    with pytest.raises(ValueError, match=r"got \(5, 3\) and \(4, 3, 3\)"):
        jaxfit.consensus(means, covariances[:4])
    with pytest.raises(ValueError, match=r"got \(5, 3\) and \(5, 3\)"):
        jaxfit.consensus(means, means)
    bad = covariances.copy()
    bad[2] = np.diag([1.0, 1.0, -1.0])
    with pytest.raises(ValueError, match=r"`covariances\[2\]` is not positive definit"):
        jaxfit.consensus(means, bad)
    bad[2] = np.diag([1.0, np.inf, 1.0])
    with pytest.raises(ValueError, match=r"`covariances\[2\]` is not positive definit"):
        jaxfit.consensus(means, bad)
    found = jaxfit.consensus(means, covariances)
    for shape in [(SHARDS, SIZE), (SHARDS - 1, 8, SIZE), (SHARDS, 8, SIZE + 1)]:
        with pytest.raises(ValueError, match=r"`draws` must be of shape \(5, draws, 3"):
            found.combine(np.zeros(shape))
