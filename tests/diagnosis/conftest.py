"""Reports that several files look at."""

import pytest
from health import NOISY, START, T, decay

import jaxfit
from jaxfit import curve_problem


@pytest.fixture(scope="module")
def fit():
    y = NOISY.copy()
    y[40] += 1
    problem = curve_problem(decay, T, y, START)
    return problem, jaxfit.solve(problem)


@pytest.fixture(scope="module")
def report(fit):
    return jaxfit.diagnose(*fit)
