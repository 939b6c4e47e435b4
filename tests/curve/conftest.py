"""Fits that several files look at."""

import pytest
from curve_fits import SIGMA, X, Y, decay

from jaxfit import curve_fit


@pytest.fixture(scope="module")
def plain():
    return curve_fit(decay, X, Y)


@pytest.fixture(scope="module")
def weighted():
    return curve_fit(decay, X, Y, sigma=SIGMA, absolute_sigma=True)
