"""Directions in words: one text for each subspace, whatever basis it comes in."""

import numpy as np
import pytest

from jaxfit._uncertainty.words import combinations, plainest


SPACES = {
    "pairs": [[1.0, -0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]],
    "a sum of three": [[1.0, 0.0, -1.0, 0.0], [0.0, 1.0, -1.0, 0.0]],
    "one parameter": [[0.0, 1.0, 0.0, 0.0]],
    "all": np.eye(4),
    "of unequal size": [[1.0, -1e6, 0.0, 0.0], [0.0, 0.0, 1.0, -1e-6]],
}
WORDS = {
    "pairs": ("a - 0.5 b", "c + d"),
    "a sum of three": ("a - c", "b - c"),
    "one parameter": ("b",),
    "all": ("a", "b", "c", "d"),
    "of unequal size": ("b - 1e-06 a", "c - 1e-06 d"),
}


@pytest.mark.parametrize("name", SPACES)
def test_the_words_of_a_space_are_those_of_any_basis(name):
    rows = np.array(SPACES[name], float)
    unit = np.array([1.0, 1e6, 1.0, 1e-6]) if "unequal" in name else np.ones(4)
    rng = np.random.default_rng(1)
    for _ in range(50):
        mixed = rng.standard_normal((len(rows), len(rows))) @ rows
        mixed *= 1 + 4e-16 * rng.integers(-9, 9, mixed.shape)
        basis = np.linalg.qr((mixed / unit).T)[0].T * unit
        assert combinations(plainest(basis, unit), "abcd", unit) == WORDS[name]


def test_rows_of_zeros_are_no_directions():
    assert len(plainest(np.zeros((3, 3)), np.ones(3))) == 0
    assert len(plainest(np.zeros((0, 3)), np.ones(3))) == 0
    rows = np.array([[0.0, 0.0], [2.0, -1.0]])
    np.testing.assert_allclose(plainest(rows, np.ones(2)), [[1.0, -0.5]])


@pytest.mark.parametrize("tilt", [0.0, 1e-15, -1e-15])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_sign_of_the_first_is_never_lost(sign, tilt):
    """Shares of one size are told apart by rounding alone."""
    direction = sign * np.array([[-1.0, 1.0 + tilt]])
    assert combinations(direction, "cd") == ("c - d",)
