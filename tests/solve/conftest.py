"""Lanes that several files look at."""

import jax
import pytest
from single_fits import NOISE, SHIFTS, START, T, Y, decay, stack

import jaxfit
from jaxfit import curve_problem


@pytest.fixture(scope="module")
def lanes():
    """Fits of equal structure to data of different amplitude and noise."""
    return [curve_problem(decay, T, s * Y + 0.3 * s**2 * NOISE, START) for s in SHIFTS]


@pytest.fixture(scope="module")
def lane_solutions(lanes):
    return jax.vmap(jaxfit.solve)(stack(*lanes))
