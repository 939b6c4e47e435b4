"""Robust losses: SciPy's values and the promise of the Triggs correction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares

from jaxfit._problem.loss import LOSSES, Loss


R = jnp.array([0.0, 0.3, -0.9, 1.1, -4.0, 60.0])


def loss_named(name: str) -> Loss:
    return Loss(LOSSES[name], jnp.asarray(0.7))


@pytest.mark.smoke
@pytest.mark.parametrize("name", list(LOSSES))
def test_cost_is_scipys(name):
    """SciPy reports the cost of its start, which is that of our residual."""
    r = np.asarray(R)
    there = least_squares(
        lambda x: r + x, [0.0], loss=name, f_scale=0.7, max_nfev=1, method="trf"
    )
    np.testing.assert_allclose(loss_named(name).cost(R), there.cost, rtol=1e-12)


@pytest.mark.parametrize("name", list(LOSSES))
def test_corrected_rows_keep_the_gradient(name):
    """J'r of the corrected rows is the gradient of the robust cost, to the last digit.

    The outliers are the point: past the inflection of cauchy and arctan the row
    scale is floored, and the gradient must not notice.
    """
    loss = loss_named(name)
    cost, corrected, row_scale = loss.robustify(R)
    scale = jnp.ones_like(R) if row_scale is None else row_scale
    np.testing.assert_allclose(
        scale * corrected, jax.grad(loss.cost)(R), rtol=1e-13, atol=1e-16
    )
    np.testing.assert_allclose(jnp.sum(cost), loss.cost(R), rtol=1e-14)
    # Floored at rho'/1000, so a corrected residual is at most sqrt(1000 rho') r.
    assert np.all(np.abs(corrected) <= 32 * np.abs(R) + 1e-12)


def test_inliers_get_the_second_order_curvature():
    """s^2 is the second derivative of the cost where that is positive."""
    loss, r = loss_named("cauchy"), jnp.array([0.1, -0.4])
    _, _, row_scale = loss.robustify(r)
    curvature = jax.vmap(jax.grad(jax.grad(lambda r: loss.cost(r[None]))))(r)
    np.testing.assert_allclose(row_scale**2, curvature, rtol=1e-12)


def test_an_outlier_beyond_all_range_is_a_row_of_zeros():
    """exp(-z) underflows: neither NaN nor inf may come of it."""
    loss = Loss(lambda z: 1 - jnp.exp(-z), jnp.asarray(1.0))
    cost, corrected, row_scale = loss.robustify(jnp.array([0.5, 1e3]))
    assert np.all(np.isfinite([*cost, *corrected, *row_scale]))
    assert row_scale[1] == 0 and row_scale[0] > 0
