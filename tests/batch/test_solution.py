"""What a batch tells: outcomes, errors, what is undetermined, precision."""

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
    M,
    P,
    T,
    data,
    decay,
    equal,
    make_curves,
    plain,
    raw_curves,
)

from jaxfit import TRF, Status, curve_problem, solve_batch


def test_outcomes_summary_and_failed(all_kinds):
    batch, places = all_kinds
    status = np.asarray(batch.status)
    outcomes = batch.outcomes
    assert sum(outcomes.values()) == P
    assert list(outcomes.values()) == sorted(outcomes.values(), reverse=True)
    for outcome, count in outcomes.items():
        assert isinstance(outcome, Status)
        assert count == np.sum(status == outcome)
    np.testing.assert_array_equal(batch.failed, np.flatnonzero(status <= 0))
    bad = [at for kind, at in places.items() if ENDS[kind] is not None]
    assert set(bad) <= set(batch.failed.tolist())
    summary = batch.summary()
    lines = summary.splitlines()
    assert lines[0].startswith(f"{P} fits, {np.sum(status > 0)} of them converged")
    assert len(lines) == 1 + len(outcomes)
    for outcome in outcomes:
        assert f"{outcome.name}: {outcome.message}" in summary


def test_standard_errors_are_the_roots_of_the_variances(curve_fits):
    for scaled in (True, False):
        variances = np.diagonal(curve_fits.covariance(scaled), axis1=1, axis2=2)
        errors = curve_fits.perr(scaled)
        np.testing.assert_allclose(errors, np.sqrt(variances), rtol=1e-14)
    np.testing.assert_array_equal(errors[1::4, 2], 0)
    variance = curve_fits.squares[0] / curve_fits.dof[0]  # of a robust loss
    product = curve_fits.covariance(scaled=False)[0] * variance
    np.testing.assert_allclose(curve_fits.covariance()[0], product, rtol=1e-12)


def test_without_degrees_of_freedom_the_scale_is_unknown(curve_fits):
    """As many data as free parameters: an unscaled covariance and no scaled one."""
    raw = raw_curves()
    places = np.array([3, 7, 1])  # the last with a fixed parameter
    raw["mask"][places] = np.arange(M) < np.array([[3], [4], [2]])
    batch = solve_batch(make_curves(raw), SOLVER, lanes=LANES)
    np.testing.assert_array_equal(batch.dof[places], [0, 2, 0])  # one at a bound
    assert np.all(batch.status[places] >= 0)
    assert np.all(np.isnan(batch.covariance()[places[[0, 2]]]))
    assert np.all(np.isnan(batch.perr()[places[[0, 2]]]))
    assert np.all(np.isfinite(batch.covariance(scaled=False)[places[[0, 2]]]))
    assert np.all(np.isfinite(batch.covariance()[places[1]]))
    equal(batch, curve_fits, but=places)


@pytest.mark.parametrize(
    "linear_solver", ["gram", pytest.param("qr", marks=pytest.mark.slow)]
)
def test_parameters_that_the_data_do_not_determine(linear_solver):
    """Kinds side by side: full rank, badly scaled, collinear columns, a zero column."""
    n, kinds = 4, 5
    design = np.random.default_rng(7).normal(size=(P, M, n))
    design[1::kinds] *= 10.0 ** np.array([-6, -2, 2, 6])
    design[2::kinds, :, 3] = 2 * design[2::kinds, :, 1]
    design[3::kinds, :, 0] = 0
    design[4::kinds, :, 2] = design[4::kinds, :, 0]
    design[4::kinds, :, 3] = 0
    y = np.random.default_rng(8).normal(size=(P, M))

    def one(x, y):
        start = jnp.zeros(n)
        return curve_problem(lambda x, p: jnp.sum(x * p, axis=1), x, y, start)

    problems = jax.vmap(one)(design, y)
    solver = TRF(linear_solver=linear_solver, max_steps=60, **TOLERANCES)
    batch = solve_batch(problems, solver, lanes=LANES)
    assert np.all(batch.success)
    best = [np.linalg.lstsq(a, b)[0] for a, b in zip(design, y, strict=True)]
    rest = np.einsum("pmn,pn->pm", design, np.stack(best)) - y
    np.testing.assert_allclose(batch.cost, 0.5 * np.sum(rest**2, axis=1), rtol=1e-9)

    lost = np.zeros((P, n), bool)
    lost[2::kinds, [1]] = lost[2::kinds, [3]] = True
    lost[3::kinds, 0] = True
    lost[4::kinds, [0]] = lost[4::kinds, [2]] = lost[4::kinds, [3]] = True
    np.testing.assert_array_equal(batch.lost, lost)
    np.testing.assert_array_equal(np.isinf(batch.perr()), lost)
    covariance = np.asarray(batch.covariance(scaled=False))
    np.testing.assert_array_equal(
        np.isinf(np.diagonal(covariance, axis1=1, axis2=2)), lost
    )
    for i in range(P):
        known = np.flatnonzero(~lost[i])
        size = np.linalg.norm(design[i], axis=0)
        size[size == 0] = 1
        part = np.linalg.pinv(design[i] / size) / size[:, None]
        np.testing.assert_allclose(
            covariance[i][np.ix_(known, known)],
            (part @ part.T)[np.ix_(known, known)],
            rtol=1e-6,
            atol=1e-10,
        )
        off = ~np.eye(n, dtype=bool) & (lost[i][:, None] | lost[i])
        assert np.all(np.isnan(covariance[i][off]))


def test_float32_stays_float32():
    y = data().astype(np.float32)
    t, start = T.astype(np.float32), START.astype(np.float32)
    problems = jax.vmap(lambda y: curve_problem(decay, t, y, start))(y)
    batch = solve_batch(problems, lanes=LANES)
    for part in (batch.params, batch.cost, batch.optimality, batch.half):
        assert part.dtype == np.float32
    for part in (batch.covariance(), batch.covariance(False), batch.perr()):
        assert part.dtype == np.float32
    assert batch.counts.dtype == batch.active_mask.dtype == np.int32
    assert np.all(batch.success)
    double = solve_batch(plain(), SOLVER, lanes=LANES)
    np.testing.assert_allclose(batch.params, double.params, rtol=2e-2, atol=2e-2)
    np.testing.assert_allclose(batch.cost, double.cost, rtol=1e-3)
