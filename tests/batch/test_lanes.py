"""Lanes and devices change no bit of a fit, nor do other fits."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lanes import (
    ENDS,
    LANES,
    SOLVER,
    START,
    TOLERANCES,
    P,
    alike,
    auto_mesh,
    equal,
    make_curves,
    plain,
    poison,
    raw_curves,
)

from jaxfit import TRF, Status, solve_batch


# --- Lanes and devices -------------------------------------------------------------


@pytest.mark.bits
@pytest.mark.parametrize("lanes", [pytest.param(32, marks=pytest.mark.slow), 64])
def test_the_number_of_lanes_changes_no_bit(plain_fits, lanes):
    equal(solve_batch(plain(), SOLVER, lanes=lanes), plain_fits)


@pytest.mark.parametrize("lanes", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_few_lanes_give_the_results_in_the_order_of_the_problems(plain_fits, lanes):
    batch = solve_batch(plain(), SOLVER, lanes=lanes)
    alike(batch, plain_fits, rtol=1e-12)
    np.testing.assert_allclose(batch.half, plain_fits.half, rtol=1e-9)
    assert np.unique(np.asarray(batch.params)[:, 0]).size == P


def test_lanes_of_equal_problems_are_all_of_use(plain_fits):
    """Fits of equal length in few lanes: hardly a lane waits for another."""
    problems = plain()
    same = eqx.tree_at(
        lambda p: p.args.y, problems, jnp.tile(problems.args.y[:1], (P, 1))
    )
    batch = solve_batch(same, SOLVER, lanes=3)
    assert 0.9 <= batch.lane_efficiency <= 1
    assert np.unique(batch.counts, axis=0).shape[0] == 1
    assert 0 < plain_fits.lane_efficiency < 1


def test_under_jit(plain_fits):
    """But for rounding: XLA is told nothing of how to compile the user's programs."""
    fit = jax.jit(functools.partial(solve_batch, lanes=LANES))
    batch = fit(plain(), SOLVER)
    alike(batch, plain_fits, rtol=1e-12)
    assert batch.lane_efficiency == plain_fits.lane_efficiency


@pytest.mark.bits
@pytest.mark.parametrize(
    "devices", [pytest.param(8, marks=pytest.mark.slow), 3, "mesh"]
)
def test_over_devices(plain_fits, devices):
    """40 problems are 5 for each of 8, and with a remainder 14, 14 and 12 for 3."""
    assert jax.device_count() == 8
    where = {"devices": devices}
    if devices == "mesh":
        where = {"mesh": auto_mesh((4, 2), ("a", "b"))}
    equal(solve_batch(plain(), SOLVER, lanes=LANES, **where), plain_fits)


@pytest.mark.slow
def test_more_devices_than_problems():
    problems = jax.tree.map(lambda leaf: leaf[:5], plain())
    one = solve_batch(problems, SOLVER, lanes=LANES)
    equal(solve_batch(problems, SOLVER, lanes=LANES, devices=jax.devices()), one)


def test_inside_pmap(plain_fits):
    problems = jax.tree.map(lambda a: a.reshape(8, 5, *a.shape[1:]), plain())
    solve = functools.partial(solve_batch, solver=SOLVER, lanes=LANES)
    batch = jax.pmap(solve)(problems)
    assert len(batch.cost.sharding.device_set) == 8
    batch = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), batch)
    alike(batch, plain_fits)  # it is another program


def in_shard_map(check_vma):
    def part(problems):
        batch = solve_batch(problems, SOLVER, lanes=LANES)
        return eqx.tree_at(lambda s: s.lane_efficiency, batch, jnp.zeros(1))

    spec = jax.P("a")
    mesh = auto_mesh((8,), ("a",))
    return jax.shard_map(
        part, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma
    )


@pytest.mark.parametrize("check_vma", [False, True])
def test_inside_shard_map(plain_fits, check_vma):
    alike(jax.jit(in_shard_map(check_vma))(plain()), plain_fits)


# --- Fits do not see one another ---------------------------------------------------


POISONED = np.array([0, 5, 17, 38])


@pytest.mark.parametrize("kind", ENDS)
def test_a_poisoned_lane_changes_no_bit_of_the_others(curve_fits, kind):
    raw = raw_curves()
    raw["lower"][POISONED], raw["upper"][POISONED] = 0.0, np.inf
    raw["start"][POISONED] = START
    for at in POISONED:
        poison(raw, kind, at)
    batch = solve_batch(make_curves(raw), SOLVER, lanes=LANES)
    if ENDS[kind] is not None:
        np.testing.assert_array_equal(batch.status[POISONED], ENDS[kind])
    equal(batch, curve_fits, but=POISONED)
    covariance, clean = batch.covariance(), curve_fits.covariance()
    np.testing.assert_array_equal(
        np.delete(covariance, POISONED, 0), np.delete(clean, POISONED, 0)
    )
    if ENDS[kind] is not None and ENDS[kind] < 0:
        np.testing.assert_allclose(batch.params[POISONED], raw["start"][POISONED])
        assert np.all(np.isnan(covariance[POISONED]))
        assert np.all(np.isnan(batch.perr(scaled=False)[POISONED]))


def test_each_poisoned_lane_ends_in_its_own_way(curve_fits, all_kinds):
    batch, places = all_kinds
    for kind, at in places.items():
        if ENDS[kind] is not None:
            assert batch.status[at] == ENDS[kind], kind
    equal(batch, curve_fits, but=list(places.values()))
    assert batch.num_rows[places["no data"]] == 0
    assert batch.num_rows[places["two data"]] == 2
    np.testing.assert_array_equal(batch.nfev[places["outside"]], 0)


def test_a_poisoned_lane_of_many_parameters_changes_no_bit_of_the_others(wide):
    """The same where each lane takes the kernel's step."""
    choices = {"max_steps": 60, "linear_solver": "gram", **TOLERANCES}
    solver = TRF(**choices)
    clean = solve_batch(wide, solver, lanes=LANES, covariance=False)
    args = (
        jnp.asarray(wide.args)
        .at[jnp.array([2, 20]), 4]
        .set(jnp.array([jnp.nan, 1e200]))
    )
    poisoned = eqx.tree_at(lambda p: p.args, wide, args)
    batch = solve_batch(poisoned, solver, lanes=LANES, covariance=False)
    np.testing.assert_array_equal(
        np.asarray(batch.status)[[2, 20]], Status.NONFINITE_START
    )
    equal(batch, clean, but=[2, 20])
