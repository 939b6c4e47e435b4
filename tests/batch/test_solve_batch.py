"""`jaxfit.solve_batch`: what `vmap` of `solve` gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lanes import (
    LANES,
    SOLVER,
    TOLERANCES,
    M,
    N,
    P,
    T,
    alike,
    data,
    make_curves,
    own,
    plain,
    raw_curves,
    slopes,
)

import jaxfit
from jaxfit import TRF, Problem, Status, curve_problem, solve_batch
from jaxfit._batch.lane_data import LaneData
from jaxfit._batch.stack import Stack


GRAM = TRF(max_steps=60, linear_solver="gram", **TOLERANCES)


@functools.cache
def vmapped():
    """`vmap` of `solve`, the solver's arrays shared."""
    return jax.jit(jax.vmap(jaxfit.solve, in_axes=(0, None)))


def covariances(solution) -> np.ndarray:
    """(J'J)^-1 times 2 cost / dof by NumPy, from vmapped solutions without bounds."""
    lin = solution.linearisation
    if isinstance(lin, jaxfit.Gram):
        gram = np.asarray(lin.gram)
    else:
        root = np.asarray(lin.root)
        gram = np.swapaxes(root, 1, 2) @ root
    variance = 2 * np.asarray(solution.cost) / np.asarray(solution.dof)
    return np.linalg.inv(gram) * variance[:, None, None]


def same_as_vmap(problems, solver=SOLVER, kernel=GRAM, lanes=LANES, covariance=True):
    """Solve both ways, compare, and return both."""
    batch = solve_batch(problems, solver, lanes=lanes, covariance=covariance)
    solution = vmapped()(problems, kernel)
    alike(batch, solution)
    assert np.all(batch.status >= 0)
    if covariance and solution.fixed is None:
        want = covariances(solution)
        np.testing.assert_allclose(batch.covariance(), want, rtol=1e-7, atol=1e-12)
    return batch, solution


# --- The same as vmap of solve -----------------------------------------------------


def test_bounds_masks_sigma_and_a_robust_loss(curves, curve_fits):
    solution = vmapped()(curves, GRAM)
    alike(curve_fits, solution)
    np.testing.assert_array_equal(curve_fits.fixed, solution.fixed)
    np.testing.assert_array_equal(curve_fits.dof, solution.dof)
    want = jax.jit(jax.vmap(lambda s: (s.covariance(), s.covariance(False))))(solution)
    np.testing.assert_allclose(curve_fits.covariance(), want[0], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(curve_fits.covariance(False), want[1], rtol=1e-6)
    # The family holds what it is said to hold.
    assert np.all(curve_fits.success)
    active = np.asarray(curve_fits.active_mask)
    assert np.any(active[::4, 0] == 1) and np.any(active[2::4, 1] == -1)
    np.testing.assert_array_equal(active[1::4, 2], -1)
    np.testing.assert_array_equal(curve_fits.params[1::4, 2], 0.4)
    assert np.unique(curve_fits.num_rows).size > 3
    assert np.unique(curve_fits.num_steps).size > 5


@pytest.mark.smoke
def test_plain_curves(plain_fits):
    solution = vmapped()(plain(), GRAM)
    alike(plain_fits, solution)
    want = covariances(solution)
    np.testing.assert_allclose(plain_fits.covariance(), want, rtol=1e-8)
    assert plain_fits.fixed is None
    np.testing.assert_array_equal(plain_fits.dof, M - N)
    np.testing.assert_array_equal(plain_fits.active_mask, 0)


def test_residuals_that_see_one_another_and_parameters_in_a_pytree():
    """Not row by row: a running sum and a mean. The Jacobian is made in reverse."""

    def residual(p, args):
        rate = jnp.exp(-p["decay"]["rate"] * args["t"])
        total = jnp.cumsum(p["decay"]["amp"] * rate) / M + p["offset"]
        return {"curve": total - args["y"], "mean": jnp.mean(total) - args["mean"]}

    def one(y):
        args = {"t": T, "y": jnp.cumsum(y) / M, "mean": jnp.mean(y)}
        start = {"decay": {"amp": 1.0, "rate": 1.0}, "offset": np.array([0.1])}
        return Problem(residual, start, args)

    problems = jax.vmap(one)(data())
    modes = {"jacobian": "reverse", "max_steps": 60, **TOLERANCES}
    kernel = TRF(linear_solver="gram", **modes)
    batch, _ = same_as_vmap(problems, TRF(**modes), kernel)
    assert jax.tree.map(jnp.shape, batch.params) == {
        "decay": {"amp": (P,), "rate": (P,)},
        "offset": (P, 1),
    }
    assert jax.tree.structure(batch.active_mask) == jax.tree.structure(batch.params)
    np.testing.assert_array_equal(batch.num_rows, M + 1)


def test_a_jacobian_by_hand_with_scales_and_a_limit_of_evaluations():
    kernel = own(6, linear_solver="gram")
    batch, _ = same_as_vmap(plain(), own(6), kernel)
    outcomes = batch.outcomes
    assert outcomes[Status.MAX_STEPS] > 0
    assert len(outcomes) > 1
    assert np.all(batch.nfev <= 6)


def test_one_evaluation_is_one_evaluation():
    """A fit that may evaluate once ends where it started, as of `solve`."""
    batch = solve_batch(plain(), own(1), lanes=LANES)
    alike(batch, vmapped()(plain(), own(1, linear_solver="gram")))
    np.testing.assert_array_equal(batch.nfev, 1)


def test_a_fit_that_ends_unmoved_counts_no_further_jacobian():
    """With few evaluations some fits end at a trial that was rejected."""
    for limit in (2, 3, 4, 5):
        batch = solve_batch(plain(), own(limit), lanes=LANES)
        kernel = own(limit, linear_solver="gram")
        np.testing.assert_array_equal(batch.njev, vmapped()(plain(), kernel).njev)


def test_forty_rows_and_ten_parameters_in_blocks():
    """More parameters than are written out as products, rows cut with an overlap."""
    n, rows = 10, 40
    rng = np.random.default_rng(5)
    design = rng.normal(size=(P, rows, n))
    truth = rng.normal(size=(P, n))

    def model(x, p):
        return jnp.sum(x * p, axis=1) + 0.2 * jnp.sin(p[0] * x[:, 1])

    y = np.asarray(jax.vmap(model)(design, truth)) + 0.1 * rng.normal(size=(P, rows))
    mask = np.arange(rows) < rng.integers(20, rows + 1, (P, 1))

    def one(x, y, mask):
        return curve_problem(model, x, y, np.full(n, 0.1), mask=mask)

    problems = jax.vmap(one)(design, y, jnp.asarray(mask))
    problems = jax.tree.map(jnp.asarray, problems)
    lanes = 64
    assert 1 < LaneData.of(Stack.of(problems), SOLVER, lanes, lanes).block < rows
    batch, _ = same_as_vmap(problems, lanes=lanes, covariance=False)
    assert np.all(batch.success)


def test_many_parameters(wide):
    """Beyond the arithmetic of lanes each lane takes the kernel's step."""
    choices = {"max_steps": 60, "linear_solver": "gram", **TOLERANCES}
    solver = TRF(**choices)
    batch, _ = same_as_vmap(wide, solver, solver, covariance=False)
    assert np.all(batch.success)
    assert np.max(batch.cost) < 1e-15


def test_the_triangular_form():
    solver = TRF(max_steps=60, linear_solver="qr", **TOLERANCES)
    batch, _ = same_as_vmap(plain(), solver, solver)
    assert np.all(batch.success)


@pytest.mark.slow
def test_a_fit_without_a_matrix():
    solver = TRF(max_steps=300, linear_solver="matrix_free", **TOLERANCES)
    batch, _ = same_as_vmap(plain(), solver, solver, covariance=False)
    assert np.all(batch.success)
    for ask in (batch.covariance, batch.perr):
        with pytest.raises(ValueError, match="covariance=False"):
            ask()


# --- Blocks of rows ----------------------------------------------------------------


@pytest.fixture(scope="module")
def longer():
    """Plain curves of 30 rows, which 64 lanes visit 16 at a time."""
    return plain(30)


def test_rows_visited_in_blocks(longer):
    lanes = 64
    assert LaneData.of(Stack.of(longer), SOLVER, lanes, lanes).block == 15
    whole = solve_batch(longer, SOLVER, lanes=LANES)
    blocks = solve_batch(longer, SOLVER, lanes=lanes)
    alike(whole, blocks)
    np.testing.assert_allclose(whole.covariance(), blocks.covariance(), rtol=1e-8)


@pytest.mark.parametrize("jacobian", [slopes, "reverse"], ids=["by hand", "reverse"])
def test_another_jacobian_in_blocks(longer, jacobian):
    solver = TRF(jacobian=jacobian, max_steps=60, **TOLERANCES)
    alike(solve_batch(longer, solver, lanes=64), solve_batch(longer, SOLVER, lanes=64))


def test_a_jacobian_that_knows_its_x_by_itself(longer):
    x = jnp.linspace(0.0, 3.0, 30)
    solver = TRF(jacobian=lambda _, p: slopes(x, p), max_steps=60, **TOLERANCES)
    alike(solve_batch(longer, solver, lanes=64), solve_batch(longer, SOLVER, lanes=64))


# --- A property --------------------------------------------------------------------


@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 2**32 - 1))
def test_no_fit_ends_above_that_of_vmap(seed):
    """Random data, starts and boxes, with masks and a robust loss."""
    rng = np.random.default_rng(seed)
    raw = raw_curves()
    raw["y"] = data(seed=seed)
    raw["lower"] = rng.uniform([-1, 0, -1], [1, 1, 0.5], (P, N))
    raw["upper"] = raw["lower"] + rng.uniform(0.1, 4.0, (P, N))
    share = rng.uniform(0.05, 0.95, (P, N))
    raw["start"] = raw["lower"] + share * (raw["upper"] - raw["lower"])
    problems = make_curves(raw)
    batch = solve_batch(problems, SOLVER, lanes=LANES)
    solution = vmapped()(problems, GRAM)
    ended = np.asarray(batch.success & solution.success)
    assert np.mean(ended) > 0.9
    excess = np.asarray(batch.cost) / np.asarray(solution.cost) - 1
    assert np.max(excess[ended]) < 1e-7
    inside = (batch.params >= raw["lower"]) & (batch.params <= raw["upper"])
    assert np.all(inside)
