"""Masks, standard deviations and losses of `solve`."""

import jax
import numpy as np
import pytest
from single_fits import START, T, Y, close, covariance, decay, numpy_decay, scipy_fit

import jaxfit
from jaxfit import Problem, curve_problem


# --- Masks and weights -------------------------------------------------------------


MASK = np.arange(30) % 4 != 1
DIRTY_Y = np.where(MASK, Y, np.nan)
DIRTY_X = np.where(MASK, T, np.nan)
SIGMA = 0.1 + 0.02 * np.arange(30.0)
DIRTY_SIGMA = np.where(MASK, SIGMA, np.nan)


@pytest.fixture(scope="module")
def compacted():
    problem = curve_problem(decay, T[MASK], Y[MASK], START, sigma=SIGMA[MASK])
    return jaxfit.solve(problem)


@pytest.mark.parametrize(
    ("x", "y", "sigma"),
    [
        (T, Y, SIGMA),
        (T, DIRTY_Y, SIGMA),
        (DIRTY_X, DIRTY_Y, DIRTY_SIGMA),
        (np.where(MASK, T, np.inf), np.where(MASK, Y, 1e300), np.where(MASK, SIGMA, 0)),
    ],
    ids=["clean", "nan-y", "all-nan", "extremes"],
)
def test_a_mask_equals_compacted_data(x, y, sigma, compacted):
    problem = curve_problem(decay, x, y, START, sigma=sigma, mask=MASK)
    solution = jaxfit.solve(problem)
    close(solution.params, compacted.params)
    close(solution.cost, compacted.cost)
    close(covariance(solution), covariance(compacted), rtol=1e-8)
    assert int(solution.num_rows) == MASK.sum() == 22
    assert solution.dof == compacted.dof


def test_gradients_pass_a_mask_over_nan():
    def rate(x, y, sigma, mask, solver=None):
        problem = curve_problem(decay, x, y, START, sigma=sigma, mask=mask)
        return jaxfit.solve(problem, solver).params[1]

    gradient = jax.jit(jax.grad(rate, argnums=(0, 1, 2)))
    masked = gradient(DIRTY_X, DIRTY_Y, DIRTY_SIGMA, MASK)
    short = gradient(T[MASK], Y[MASK], SIGMA[MASK], None)
    for mine, reference in zip(masked, short, strict=True):
        close(mine[MASK], reference, rtol=1e-8)
        np.testing.assert_array_equal(mine[~MASK], 0.0)
        assert np.abs(reference).min() > 1e-6


def test_a_mask_of_a_residual_hides_its_rows(compacted):
    def residual(p, data):
        x, y = data
        return (decay(x, p) - y) / SIGMA

    problem = Problem(residual, START, (T, np.where(MASK, Y, 50.0)), mask=MASK)
    close(jaxfit.solve(problem).params, compacted.params)


def test_masks_and_sigmas_of_two_outputs_may_be_prefixes():
    def model(x, p):
        return {"a": decay(x, p), "b": 2 * decay(x, p)}

    y = {"a": Y, "b": 2 * Y[::-1]}
    prefix = {"a": np.array(True), "b": np.array(False)}
    problem = curve_problem(model, T, y, START, mask=prefix, sigma={"a": 0.5, "b": 1})
    reference = jaxfit.solve(curve_problem(decay, T, Y, START))
    solution = jaxfit.solve(problem)
    close(solution.params, reference.params)
    close(solution.cost, 4 * reference.cost)
    assert solution.num_rows == 30


def test_a_scalar_sigma_scales_the_cost_and_an_array_weighs_the_data():
    plain = jaxfit.solve(curve_problem(decay, T, Y, START))
    scalar = jaxfit.solve(curve_problem(decay, T, Y, START, sigma=0.5))
    close(scalar.params, plain.params)
    close(scalar.cost, 4 * plain.cost)
    close(covariance(scalar), covariance(plain), rtol=1e-8)
    close(
        covariance(scalar, scaled=False), covariance(plain, scaled=False) / 4, rtol=1e-8
    )
    weighed = jaxfit.solve(curve_problem(decay, T, Y, START, sigma=SIGMA))
    reference = scipy_fit(lambda p: numpy_decay(p) / SIGMA, START)
    close(weighed.params, reference.x, rtol=1e-7)
    close(weighed.cost, reference.cost)


# --- Losses ------------------------------------------------------------------------


OUTLIERS = Y + np.where(np.arange(30) % 9 == 4, 2.0, 0.0)


def generalised(z):
    """Barron's loss with shape -2 (Geman-McClure), made to have rho'(0) = 1."""
    return z / (1 + z / 4)


def scipy_generalised(z):
    s = 1 + z / 4
    return np.stack([z / s, 1 / s**2, -0.5 / s**3])


@pytest.mark.parametrize(
    ("loss", "reference"),
    [
        ("linear", "linear"),
        ("soft_l1", "soft_l1"),
        ("huber", "huber"),
        ("cauchy", "cauchy"),
        ("arctan", "arctan"),
        (generalised, scipy_generalised),
    ],
)
def test_every_loss_agrees_with_scipy(loss, reference):
    scale = 0.3
    problem = curve_problem(decay, T, OUTLIERS, START, loss=loss, f_scale=scale)
    solution = jaxfit.solve(problem)
    expected = scipy_fit(
        lambda p: numpy_decay(p) + Y - OUTLIERS,
        np.array([2.5, 1.3, 0.5]),
        loss=reference,
        f_scale=scale,
    )
    assert solution.success
    close(solution.params, expected.x, rtol=1e-6)
    close(solution.cost, expected.cost, rtol=1e-10)
    if loss != "linear":
        close(solution.params, [2.5, 1.3, 0.5], rtol=0.3)
        assert solution.optimality < 1e-6


def test_a_loss_works_in_units_of_its_scale():
    def fit(unit):
        """The same fit with the response in another unit."""
        start = START / [unit, 1.0, unit]
        scale = 0.3 / unit
        y = OUTLIERS / unit
        problem = curve_problem(decay, T, y, start, loss="cauchy", f_scale=scale)
        return jaxfit.solve(problem)

    one, other = fit(1.0), fit(0.3)
    close(one.params, other.params * np.array([0.3, 1.0, 0.3]), rtol=1e-8)
    close(one.cost, 0.3**2 * other.cost, rtol=1e-8)
