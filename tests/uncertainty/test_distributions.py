"""Distribution functions and quantiles against SciPy's, far into the tails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxfit._uncertainty.distributions import (
    chi2_sf,
    f_sf,
    normal_quantile,
    reach,
    student_quantile,
    student_sf,
)


LEVELS = np.array([0.01, 0.3, 0.5, 0.6827, 0.95, 0.9973, 1 - 1e-6, 1 - 1e-9])
DOFS = np.array([1, 2, 3, 4, 7, 10, 29, 100, 1000, 10**5])
quantile = jax.jit(student_quantile)
distance = jax.jit(reach, static_argnums=2)


def close(actual, desired, rtol):
    np.testing.assert_allclose(actual, desired, rtol=rtol, atol=0)


@pytest.fixture(scope="module")
def quantiles():
    """Of all levels and degrees of freedom, (8, 10)."""
    return np.asarray(quantile(LEVELS[:, None], DOFS))


def test_normal_quantile():
    # SciPy's upper tail keeps the digits that 0.5 + level / 2 would round away.
    close(normal_quantile(LEVELS), scipy.stats.norm.isf(0.5 * (1 - LEVELS)), 1e-8)


def test_student_quantile_on_a_grid(quantiles):
    expected = scipy.stats.t.isf(0.5 * (1 - LEVELS[:, None]), DOFS)
    close(quantiles[0], expected[0], 1e-8)
    close(quantiles[1:], expected[1:], 1e-9)
    close(quantiles[:, :8], expected[:, :8], 1e-10)


def test_student_quantile_of_one_and_two_degrees_in_closed_form(quantiles):
    outside = 1 - LEVELS
    close(quantiles[:, 0], 1 / np.tan(0.5 * np.pi * outside), 1e-11)
    expected = LEVELS * np.sqrt(2 / (outside * (1 + LEVELS)))
    close(quantiles[:, 1], expected, 1e-11)


def test_student_quantile_falls_towards_the_normal_one(quantiles):
    assert np.all(np.diff(quantiles, axis=1) < 0)
    assert np.all(quantiles[:, -1] > normal_quantile(LEVELS))
    close(quantiles[1:4, -1], normal_quantile(LEVELS[1:4]), 1e-5)


def test_student_quantile_is_the_inverse_of_the_distribution(quantiles):
    outside = np.broadcast_to(1 - LEVELS[:, None], quantiles.shape)
    found = np.asarray(student_sf(quantiles, DOFS))
    close(found, outside, 1e-9)


def test_student_quantile_at_the_ends_and_without_degrees_of_freedom():
    level = np.array([0.0, 1.0, 0.95, 0.95, 0.95])
    dof = np.array([7, 7, 0, -1, -100])
    found = np.asarray(quantile(level, dof))
    assert 0 <= found[0] < 1e-6
    assert found[1] > 1e9
    assert np.all(np.isnan(found[2:]))


def test_student_quantile_in_single_precision():
    level = np.array([0.1, 0.6827, 0.95, 0.999], np.float32)
    found = quantile(level, jnp.array(7))
    assert found.dtype == jnp.float32
    close(found, scipy.stats.t.isf(0.5 * (1 - level.astype(float)), 7), 1e-4)


def test_chi2_on_a_grid():
    dof = DOFS[:8, None]
    value = dof * np.array([0.0, 0.1, 0.5, 1.0, 2.0, 5.0])
    close(chi2_sf(value, dof), scipy.stats.chi2.sf(value, dof), 1e-10)


def test_f_on_a_grid():
    value = np.array([0.0, 0.01, 0.3, 1.0, 2.5, 10.0, 300.0])[:, None, None]
    d1, d2 = np.array([1, 2, 3, 8, 20])[:, None], DOFS[:8]
    close(f_sf(value, d1, d2), scipy.stats.f.sf(value, d1, d2), 1e-9)


def test_student_on_a_grid():
    value = np.array([0.0, 0.2, -0.2, 1.0, -2.0, 6.0, -6.0, 40.0])[:, None]
    expected = 2 * scipy.stats.t.sf(np.abs(value), DOFS)
    close(student_sf(value, DOFS), expected, 1e-9)


def test_reach_in_one_dimension():
    """Its square is a quantile of chi2 and of F with one degree of freedom."""
    outside = 1 - LEVELS
    close(distance(LEVELS, None, 1) ** 2, scipy.stats.chi2.isf(outside, 1), 1e-8)
    squares = distance(LEVELS[:, None], DOFS, 1) ** 2
    close(squares, scipy.stats.f.isf(outside[:, None], 1, DOFS), 1e-7)
    close(reach(0.95, None), 1.959963984540054, 1e-10)


def test_reach_in_two_dimensions():
    outside = 1 - LEVELS
    close(distance(LEVELS, None, 2) ** 2, scipy.stats.chi2.isf(outside, 2), 1e-9)
    squares = distance(LEVELS[:, None], DOFS, 2) ** 2
    close(squares, 2 * scipy.stats.f.isf(outside[:, None], 2, DOFS), 1e-8)
    close(reach(0.5, 2, 2), np.sqrt(2.0), 1e-12)


def test_reach_is_further_in_two_dimensions_and_with_fewer_data():
    one, two = (distance(0.95, None, k) for k in (1, 2))
    few_one, few_two = (distance(0.95, 5, k) for k in (1, 2))
    assert one < two < few_two
    assert one < few_one < few_two


def test_all_of_them_can_be_jitted_and_batched():
    """Degrees of freedom, too, may be traced and differ between lanes."""

    def all_of(level, dof):
        return jnp.stack(
            [
                student_quantile(level, dof),
                chi2_sf(10 * level, dof),
                f_sf(3 * level, 2, dof),
                student_sf(3 * level, dof),
                reach(level, dof, 2),
            ]
        )

    p, dof = np.array([0.3, 0.6827, 0.95]), np.array([2, 5, 40])
    lanes = jax.jit(jax.vmap(all_of))(p, dof)
    expected = [
        scipy.stats.t.isf(0.5 * (1 - p), dof),
        scipy.stats.chi2.sf(10 * p, dof),
        scipy.stats.f.sf(3 * p, 2, dof),
        2 * scipy.stats.t.sf(3 * p, dof),
        np.sqrt(2 * scipy.stats.f.isf(1 - p, 2, dof)),
    ]
    close(lanes, np.stack(expected, axis=1), 1e-10)
