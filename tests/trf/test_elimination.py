"""Elimination on lanes: shifted solutions, and inverses that know their rank."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfit import Gram
from jaxfit._solve.covariance import covariance
from jaxfit._trf.elimination import inverse_of, solve_shifted


LANES = 5
SHIFTS = [0.0, 1e-6, 0.3, 40.0, 0.0]
EPS32 = float(np.finfo(np.float32).eps)

solve = jax.jit(solve_shifted)
inverse = jax.jit(inverse_of)


def jacobians(n: int, lanes: int = LANES, seed: int = 0) -> np.ndarray:
    """Matrices J of n + 6 rows, lanes first."""
    return np.random.default_rng(seed).normal(size=(lanes, n + 6, n))


def grams(j: np.ndarray) -> np.ndarray:
    return np.swapaxes(j, 1, 2) @ j


def last(a: np.ndarray) -> jax.Array:
    """Lanes along the last axis."""
    return jnp.asarray(np.moveaxis(a, 0, -1))


# --- Solutions -------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_a_solution_and_its_slope_are_those_of_numpy(n):
    """Each lane with a shift of its own, 0 among them."""
    b = grams(jacobians(n))
    g = np.random.default_rng(1).normal(size=(LANES, n))
    p, slope, rank = solve(last(b), last(g), jnp.array(SHIFTS))
    assert (p.shape, slope.shape, rank.shape) == ((n, LANES), (LANES,), (LANES,))
    assert np.all(rank == n)
    for i, alpha in enumerate(SHIFTS):
        shifted = b[i] + alpha * np.eye(n)
        exact = -np.linalg.solve(shifted, g[i])
        np.testing.assert_allclose(p[:, i], exact, rtol=1e-10, atol=1e-12)
        # p' dp/dalpha with dp/dalpha = -(B + alpha I)^-1 p
        by_hand = -exact @ np.linalg.solve(shifted, exact)
        np.testing.assert_allclose(slope[i], by_hand, rtol=1e-9)


def test_the_slope_is_the_derivative_of_half_the_squared_length():
    b, g = last(grams(jacobians(3))), last(np.ones((LANES, 3)))

    def half_square(alpha):
        p, _, _ = solve(b, g, alpha)
        return jnp.sum(p * p) / 2

    alpha = jnp.array([0.1, 0.2, 0.5, 1.0, 3.0])
    _, slope, _ = solve(b, g, alpha)
    np.testing.assert_allclose(slope, jax.grad(half_square)(alpha), rtol=1e-10)


def singular(kind: str, n: int = 5) -> tuple[np.ndarray, list[int]]:
    """A matrix J without full rank, and the unknowns that depend on earlier ones."""
    j = jacobians(n, 1)[0]
    if kind == "collinear":
        j[:, 3] = 2 * j[:, 0] - j[:, 1]
        return j, [3]
    if kind == "equal":
        j[:, 4] = j[:, 0]
        return j, [4]
    if kind == "zero":
        j[:, 2] = 0
        return j, [2]
    if kind == "two":
        j[:, 1] = -3 * j[:, 0]
        j[:, 4] = 0
        return j, [1, 4]
    j[:] = 0
    return j, list(range(n))


KINDS = ["collinear", "equal", "zero", "two", "nothing"]


@pytest.mark.smoke
def test_a_singular_consistent_system_has_a_basic_solution():
    """Kinds side by side: a column that depends on others gets an unknown of 0."""
    j, dropped = zip(*map(singular, KINDS), strict=True)
    r = np.random.default_rng(2).normal(size=j[0].shape[0])
    b, g = grams(np.stack(j)), np.stack([a.T @ r for a in j])
    p, slope, rank = solve(last(b), last(g), jnp.zeros(len(KINDS)))
    np.testing.assert_array_equal(rank, [5 - len(which) for which in dropped])
    for i, which in enumerate(dropped):
        np.testing.assert_allclose(b[i] @ p[:, i], -g[i], atol=1e-10)
        np.testing.assert_array_equal(p[np.array(which), i], 0)
        rest = np.setdiff1d(np.arange(5), which)
        exact = -np.linalg.solve(b[i][np.ix_(rest, rest)], g[i][rest])
        np.testing.assert_allclose(p[rest, i], exact, rtol=1e-8)
    assert np.all(np.isfinite(slope))


def test_a_shift_makes_a_singular_matrix_definite():
    j = np.stack([singular(kind)[0] for kind in KINDS])
    b, g = grams(j), np.ones((len(KINDS), 5))
    p, _, rank = solve(last(b), last(g), jnp.full(len(KINDS), 0.1))
    assert np.all(rank == 5)
    exact = -np.linalg.solve(b + 0.1 * np.eye(5), g[..., None])[..., 0]
    np.testing.assert_allclose(p.T, exact, rtol=1e-9)


def test_lanes_do_not_see_one_another():
    """NaN in one lane and a singular matrix in another change no bit of the rest."""
    b, g = grams(jacobians(4)), np.ones((LANES, 4))
    clean = solve(last(b), last(g), jnp.array(SHIFTS))
    b[1], g[3], b[3] = np.nan, np.inf, 0
    poisoned = solve(last(b), last(g), jnp.array(SHIFTS))
    for one, other in zip(clean, poisoned, strict=True):
        np.testing.assert_array_equal(one[..., [0, 2, 4]], other[..., [0, 2, 4]])
    assert not poisoned[2][1]


def test_a_solution_in_float32_stays_in_float32():
    b = grams(jacobians(4)).astype(np.float32)
    g = np.ones((LANES, 4), np.float32)
    p, slope, rank = solve(last(b), last(g), jnp.array(SHIFTS, np.float32))
    assert p.dtype == slope.dtype == np.float32
    assert np.all(rank == 4)
    shifted = b + np.array(SHIFTS, np.float32)[:, None, None] * np.eye(4)
    exact = -np.linalg.solve(shifted.astype(float), g[..., None])[..., 0]
    np.testing.assert_allclose(p.T, exact, rtol=1e3 * EPS32)


# --- Inverses --------------------------------------------------------------------


def matrices(half, lost) -> np.ndarray:
    """The matrices of lower halves, lanes first, as `covariance` gives them."""
    lost = np.asarray(lost).T
    n = lost.shape[1]
    i, j = np.tril_indices(n)
    full = np.empty((len(lost), n, n), np.asarray(half[0]).dtype)
    full[:, i, j] = full[:, j, i] = np.stack(half, axis=1)
    full[lost[:, :, None] | lost[:, None, :]] = np.nan
    full[:, np.arange(n), np.arange(n)] = np.where(
        lost, np.inf, full[:, np.arange(n), np.arange(n)]
    )
    return full


def expected(gram: np.ndarray, fixed: np.ndarray | None) -> np.ndarray:
    """`covariance` of each lane."""
    if fixed is None:
        return np.asarray(jax.jit(jax.vmap(lambda a: of_one(a, None)))(gram))
    return np.asarray(jax.jit(jax.vmap(of_one))(gram, fixed))


def of_one(gram, fixed):
    none = jnp.zeros_like(gram[0])
    return covariance(Gram(none[0], none, gram, none[0]), fixed)


def check(j: np.ndarray, fixed: np.ndarray | None = None, rtol: float = 1e-8):
    """The inverse of lanes against `covariance`, in correlations and variances."""
    gram = grams(j)
    half, lost = inverse(last(gram), None if fixed is None else last(fixed))
    assert all(entry.dtype == j.dtype for entry in half)
    got, want = matrices(half, lost), expected(gram, fixed)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
    variance = np.diagonal(want, axis1=1, axis2=2)
    known = np.isfinite(variance) & (variance > 0)
    size = np.sqrt(np.where(known, variance, 1))
    scale = size[:, :, None] * size[:, None, :]
    np.testing.assert_allclose(got / scale, want / scale, rtol=0, atol=rtol)
    return got, np.asarray(lost).T


@pytest.mark.parametrize("n", [1, 3, 5, pytest.param(12, marks=pytest.mark.slow)])
def test_an_inverse_of_full_rank(n):
    j = jacobians(n)
    got, lost = check(j)
    assert not lost.any()
    np.testing.assert_allclose(got, np.linalg.inv(grams(j)), rtol=1e-9, atol=1e-12)


def test_an_inverse_of_badly_scaled_columns():
    """Units of 1e-8 to 1e8, in another order in each lane."""
    rng = np.random.default_rng(3)
    sizes = np.stack([rng.permutation(10.0 ** np.arange(-8, 9, 4)) for _ in range(4)])
    j = jacobians(5, 4)
    got, lost = check(j * sizes[:, None, :], rtol=1e-9)
    assert not lost.any()
    exact = np.linalg.inv(grams(j)) / (sizes[:, :, None] * sizes[:, None, :])
    np.testing.assert_allclose(got, exact, rtol=1e-8)


def kinds(n: int = 5) -> tuple[np.ndarray, list[list[int]]]:
    """Lanes of different kinds, and the parameters that each leaves undetermined."""
    j = jacobians(n, 8, seed=4)
    sizes = 10.0 ** np.linspace(-8, 8, n)
    j[1, :, 3] = 2 * j[1, :, 0]  # two parameters of one direction
    j[2, :, 2] = 0  # one without any effect
    j[3, :, 4] = j[3, :, 0] - j[3, :, 1] + j[3, :, 2]  # four of one direction
    j[4, :, 1] = j[4, :, 0]  # two null directions
    j[4, :, 4] = -j[4, :, 2]
    j[5, :, 1:] = 0  # one parameter alone is determined
    j[6] = j[1] * sizes  # badly scaled and collinear
    j[7, :, 2] = 0  # a zero column and a collinear one
    j[7, :, 3] = 0.5 * j[7, :, 1]
    lost = [
        [],
        [0, 3],
        [2],
        [0, 1, 2, 4],
        [0, 1, 2, 4],
        [1, 2, 3, 4],
        [0, 3],
        [1, 2, 3],
    ]
    return j, lost


def test_inverses_of_different_kinds_side_by_side():
    j, expected_lost = kinds()
    _, lost = check(j)
    assert [list(np.flatnonzero(row)) for row in lost] == expected_lost


def test_fixed_parameters_have_variance_zero_and_determine_the_others():
    """A null direction is none where one of its parameters is held."""
    j, _ = kinds()
    fixed = np.zeros((8, 5), bool)
    fixed[0, 1] = True
    fixed[1, 3] = True  # the collinear one: nothing is lost
    fixed[2, 0] = True  # another one: the zero column stays lost
    fixed[3, [0, 1]] = True
    fixed[4, 1] = True  # one of the two null directions
    fixed[5, 1:] = True
    fixed[6, 0] = True
    fixed[7] = True  # everything
    got, lost = check(j, fixed)
    assert [list(np.flatnonzero(row)) for row in lost] == [
        [],
        [],
        [2],
        [],
        [2, 4],
        [],
        [],
        [],
    ]
    variances = np.diagonal(got, axis1=1, axis2=2)
    np.testing.assert_array_equal(variances[fixed], 0)
    rows = got[~lost.any(axis=1)]
    np.testing.assert_array_equal(rows[fixed[~lost.any(axis=1)]], 0)
    for i in (0, 1, 3, 5, 6):
        free = np.flatnonzero(~fixed[i])
        exact = np.linalg.inv(grams(j)[i][np.ix_(free, free)])
        np.testing.assert_allclose(got[i][np.ix_(free, free)], exact, rtol=1e-7)


@pytest.mark.bits
def test_nothing_fixed_is_as_no_word_of_fixed():
    j, _ = kinds()
    plain = inverse(last(grams(j)), None)
    fixed = inverse(last(grams(j)), jnp.zeros((5, 8), bool))
    for one, other in zip(plain[0], fixed[0], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14)
    np.testing.assert_array_equal(plain[1], fixed[1])


def test_inverses_in_float32():
    """The kinds in single precision, with what is lost by its coarser measure."""
    j, expected_lost = kinds()
    j = j[:6].astype(np.float32)
    _, lost = check(j, rtol=1e4 * EPS32)
    assert [list(np.flatnonzero(row)) for row in lost] == expected_lost[:6]
    fixed = np.zeros((6, 5), bool)
    fixed[:, 2] = True
    check(j, fixed, rtol=1e4 * EPS32)


def test_an_inverse_of_nan_harms_no_other_lane():
    gram = grams(kinds()[0])
    clean = inverse(last(gram), None)
    gram[2] = np.nan
    poisoned = inverse(last(gram), None)
    for one, other in zip(
        jax.tree.leaves(clean), jax.tree.leaves(poisoned), strict=True
    ):
        np.testing.assert_array_equal(
            np.delete(one, 2, axis=-1), np.delete(other, 2, axis=-1)
        )
