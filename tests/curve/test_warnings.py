"""What `curve_fit` warns of: what `diagnose` would call wrong, and nothing else."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import OptimizeWarning

from jaxfit import Severity, curve_fit


T = np.linspace(0, 5, 60)
WIDE = np.linspace(-5, 5, 100)
UNITS = [1e-15, 1.0, 1e12]


def noise(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size)


def gauss(x, height, centre, width):
    return height * jnp.exp(-0.5 * ((x - centre) / width) ** 2)


def decays(t, a1, k1, a2, k2):
    return a1 * jnp.exp(-k1 * t) + a2 * jnp.exp(-k2 * t)


PEAK = gauss(WIDE, 3.0, 0.4, 0.8) + 0.1 * noise(100)
DECAYS = decays(T, 2.0, 2.0, 1.0, 0.8) + 0.005 * noise(60)
START = [1.0, 3.0, 1.0, 0.5]


@pytest.mark.parametrize("unit", UNITS)
def test_a_fit_that_loose_tolerances_stop_early(unit):
    start = np.array(START) * [unit, 1, unit, 1]
    with pytest.warns(
        OptimizeWarning, match="before the minimum: the next step"
    ) as seen:
        fit = curve_fit(decays, T, unit * DECAYS, start, ftol=0.1, xtol=0.1)
    assert len(seen) == 1
    assert "not-stationary" in fit.diagnose().codes


def test_healthy_fits_are_left_alone():
    fits = [
        curve_fit(gauss, WIDE, PEAK, [2.0, 1.0, 1.0]),
        curve_fit(decays, T, DECAYS, START),
        curve_fit(decays, T, DECAYS, START, ftol=1e-4, xtol=1e-4, gtol=1e-4),
        curve_fit(decays, T, DECAYS, START, bounds=(0, [9, 9, 9, 0.7])),
        curve_fit(decays, T, decays(T, 2.0, 2.0, 1.0, 0.8), START),
        curve_fit(lambda x, a, b: a + b * x, T, 3 + 0 * T),
        curve_fit(lambda x, a, b: a + b * x, WIDE, np.cos(WIDE), [1.0, 1e-3]),
    ]
    for fit in fits:
        assert fit.success and fit.diagnose().worst != Severity.ERROR


def test_as_many_data_as_parameters_will_do_where_the_noise_is_known():
    x, sigma = np.array([1.0, 2.0]), np.array([0.1, 0.1])
    fit = curve_fit(
        lambda x, a, b: a + b * x, x, 3 * x, sigma=sigma, absolute_sigma=True
    )
    assert fit.diagnose().worst != Severity.ERROR
