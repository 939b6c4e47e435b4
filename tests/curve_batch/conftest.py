"""Batches that several files look at."""

import pytest
from curve_batches import fit


@pytest.fixture(scope="module")
def plain():
    return fit()
