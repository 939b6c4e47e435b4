"""`jaxfit.solve_batch`: what `vmap` of `solve` gives, whatever the lanes and devices.

Most tests share two families of 40 problems of 12 rows, so that few programs are
compiled: `curves` with bounds, masks, sigma and a robust loss, `plain` without any.
With so few rows the rows are summed in one go whatever the lanes, and all comes out
the same to the bit.
"""

import functools
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxfit
from jaxfit import TRF, Problem, Status, curve_problem, solve_batch
from jaxfit._batch.lane_data import LaneData
from jaxfit._batch.stack import Stack


P, M, N, LANES = 40, 12, 3, 16
T = np.linspace(0.0, 3.0, M)
START = np.array([1.0, 1.0, 0.1])
# Far enough above rounding that two orders of summation end at the same step.
TOLERANCES = types.MappingProxyType({"ftol": 1e-9, "xtol": 1e-9, "gtol": 1e-9})
SOLVER = TRF(max_steps=60, **TOLERANCES)
GRAM = TRF(max_steps=60, linear_solver="gram", trials=1, **TOLERANCES)


def decay(x, p):
    return p[0] * jnp.exp(-p[1] * x) + p[2]


def data(rows: int = M, count: int = P, seed: int = 0) -> np.ndarray:
    """Noisy decays."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0.0, 3.0, rows)
    a, b, c = rng.uniform([1, 0.5, 0.2], [3, 2, 1], (count, 3)).T[..., None]
    return a * np.exp(-b * t) + c + 0.05 * rng.normal(size=(count, rows))


@functools.cache
def vmapped():
    """`vmap` of `solve`, the solver's arrays shared."""
    return jax.jit(jax.vmap(jaxfit.solve, in_axes=(0, None)))


def leaves(tree) -> np.ndarray:
    """The arrays of a batched tree as one, problems first."""
    parts = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([a.reshape(len(a), -1) for a in parts], axis=1)


def same(one, other):
    """The same fits to rounding: another program, which XLA may fuse otherwise."""
    for part in ("counts", "active_mask", "num_rows", "lost"):
        np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
    for part in ("params", "cost", "half"):
        ours, theirs = getattr(one, part), getattr(other, part)
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-14)


def equal(one, other, but=(), efficiency=False):
    """All fits are the same to the bit, those of some problems aside."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    if not efficiency:
        one = eqx.tree_at(lambda s: s.lane_efficiency, one, 0.0)
        other = eqx.tree_at(lambda s: s.lane_efficiency, other, 0.0)

    def check(a, b):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if a.ndim and len(but):
            a, b = np.delete(a, but, axis=0), np.delete(b, but, axis=0)
        np.testing.assert_array_equal(a, b)

    jax.tree.map(check, one, other)


def alike(one, other, rtol=1e-9):
    """The same fits but for rounding."""
    np.testing.assert_array_equal(one.counts, other.counts)
    np.testing.assert_array_equal(one.num_rows, other.num_rows)
    np.testing.assert_array_equal(leaves(one.active_mask), leaves(other.active_mask))
    np.testing.assert_allclose(leaves(one.params), leaves(other.params), rtol, 1e-9)
    np.testing.assert_allclose(one.cost, other.cost, rtol, 1e-25)
    scale = np.maximum(np.asarray(other.cost), 1e-3)
    np.testing.assert_allclose(
        one.optimality / scale, other.optimality / scale, rtol=0, atol=1e-6
    )


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


# --- Two families of problems ----------------------------------------------------


@functools.cache
def plain(rows: int = M, count: int = P) -> Problem:
    t = jnp.linspace(0.0, 3.0, rows)

    def one(y):
        return curve_problem(decay, t, y, START)

    return jax.vmap(one)(data(rows, count))


def raw_curves() -> dict[str, np.ndarray]:
    """What differs among `curves`: data, starts, bounds, and rows that count."""
    rng = np.random.default_rng(1)
    upper = np.full((P, N), np.inf)
    lower = np.zeros((P, N))
    upper[::4, 0] = 1.2  # active in most of these
    lower[1::4, 2] = upper[1::4, 2] = 0.4  # fixed
    lower[2::4, 1] = 1.5  # active where the rate is less
    start = np.where(upper == lower, lower, START)
    start[2::4, 1] = 2.0
    y = data()
    y[::5, 2] += 1.0  # outliers
    return {
        "y": y,
        "sigma": rng.uniform(0.5, 2.0, (P, M)),
        "mask": np.arange(M) < rng.integers(7, M + 1, (P, 1)),
        "start": start,
        "lower": lower,
        "upper": upper,
    }


@jax.jit
@jax.vmap
def make_curves(raw) -> Problem:
    return curve_problem(
        decay,
        T,
        raw["y"],
        raw["start"],
        sigma=raw["sigma"],
        mask=raw["mask"],
        bounds=(raw["lower"], raw["upper"]),
        loss="soft_l1",
        f_scale=0.1,
    )


@pytest.fixture(scope="module")
def curves():
    return make_curves(raw_curves())


@pytest.fixture(scope="module")
def curve_fits(curves):
    return solve_batch(curves, SOLVER, lanes=LANES)


@pytest.fixture(scope="module")
def plain_fits():
    return solve_batch(plain(), SOLVER, lanes=LANES)


# --- The same as vmap of solve ---------------------------------------------------


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
    kernel = TRF(linear_solver="gram", trials=1, **modes)
    batch, _ = same_as_vmap(problems, TRF(**modes), kernel)
    assert jax.tree.map(jnp.shape, batch.params) == {
        "decay": {"amp": (P,), "rate": (P,)},
        "offset": (P, 1),
    }
    assert jax.tree.structure(batch.active_mask) == jax.tree.structure(batch.params)
    np.testing.assert_array_equal(batch.num_rows, M + 1)


def slopes(x, p):
    e = jnp.exp(-p[1] * x)
    return jnp.stack([e, -p[0] * x * e, jnp.ones_like(x)], axis=1)


def own(max_nfev, **choices) -> TRF:
    """A solver with a Jacobian and scales of its own, and few evaluations."""
    scale = np.array([2.0, 1.0, 0.5])
    more = {"jacobian": slopes, "x_scale": scale, "max_nfev": max_nfev}
    return TRF(**more, **TOLERANCES, **choices)


def test_a_jacobian_by_hand_with_scales_and_a_limit_of_evaluations():
    kernel = own(6, linear_solver="gram", trials=1)
    batch, _ = same_as_vmap(plain(), own(6), kernel)
    outcomes = batch.outcomes
    assert outcomes[Status.MAX_STEPS] > 0
    assert len(outcomes) > 1
    assert np.all(batch.nfev <= 6)


def test_one_evaluation_is_one_evaluation():
    """A fit that may evaluate once ends where it started, as of `solve`."""
    batch = solve_batch(plain(), own(1), lanes=LANES)
    alike(batch, vmapped()(plain(), own(1, linear_solver="gram", trials=1)))
    np.testing.assert_array_equal(batch.nfev, 1)


def test_a_fit_that_ends_unmoved_counts_no_further_jacobian():
    """With few evaluations some fits end at a trial that was rejected."""
    for limit in (2, 3, 4, 5):
        batch = solve_batch(plain(), own(limit), lanes=LANES)
        kernel = own(limit, linear_solver="gram", trials=1)
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


def broyden(p, target):
    """MGH 30, a tridiagonal system, with a right-hand side."""
    left, right = jnp.pad(p, (1, 0))[:-1], jnp.pad(p, (0, 1))[1:]
    return (3.0 - 2.0 * p) * p - left - 2.0 * right + 1.0 - target


@pytest.fixture(scope="module")
def wide():
    """Problems of 14 parameters."""
    target = 0.1 * np.random.default_rng(6).normal(size=(P, 14))
    return jax.vmap(lambda b: Problem(broyden, -jnp.ones(14), b))(target)


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


# --- Blocks of rows --------------------------------------------------------------


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


# --- Lanes and devices -----------------------------------------------------------


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


@pytest.mark.bits
def test_under_jit(plain_fits):
    fit = jax.jit(functools.partial(solve_batch, lanes=LANES))
    equal(fit(plain(), SOLVER), plain_fits, efficiency=True)


def auto_mesh(shape, names):
    kinds = (jax.sharding.AxisType.Auto,) * len(shape)
    return jax.make_mesh(shape, names, axis_types=kinds)


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


# --- Fits do not see one another -------------------------------------------------

POISONED = np.array([0, 5, 17, 38])


def poison(raw, kind, at):
    """Make the data of one problem bad in some way."""
    if kind == "NaN":
        raw["y"][at, 3] = np.nan
    elif kind == "inf":
        raw["y"][at, 0] = np.inf
    elif kind == "large":
        raw["y"][at] = 1e200
    elif kind == "no data":
        raw["mask"][at] = False
    elif kind == "two data":
        raw["mask"][at, 2:] = False
    elif kind == "outside":
        raw["start"][at, 0] = -1.0
    elif kind == "overflow":
        raw["lower"][at], raw["upper"][at] = -np.inf, np.inf
        raw["start"][at] = [1.0, -400.0, 0.1]
    elif kind == "nearly overflow":
        raw["lower"][at], raw["upper"][at] = -np.inf, np.inf
        raw["start"][at] = [1.0, -100.0, 0.1]
    else:
        raw["lower"][at], raw["upper"][at] = -np.inf, np.inf
        raw["start"][at] = START
        raw["mask"][at] = True
        raw["y"][at] = 3 - T  # an amplitude without end


ENDS = {
    "NaN": Status.NONFINITE_START,
    "inf": Status.NONFINITE_START,
    "large": Status.NONFINITE_START,
    "no data": Status.TOO_FEW_DATA,
    "two data": Status.TOO_FEW_DATA,
    "outside": Status.INFEASIBLE_START,
    "overflow": Status.NONFINITE_START,
    "nearly overflow": None,
    "endless": Status.MAX_STEPS,
}


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


@pytest.fixture(scope="module")
def all_kinds():
    """A batch with a poisoned problem of each kind, and where they are."""
    raw = raw_curves()
    places = dict(zip(ENDS, range(3, P, 4), strict=False))
    for kind, at in places.items():
        poison(raw, kind, at)
    return solve_batch(make_curves(raw), SOLVER, lanes=LANES), places


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


# --- What a batch tells ----------------------------------------------------------


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
    ratio = curve_fits.covariance()[0] / curve_fits.covariance(scaled=False)[0]
    variance = 2 * curve_fits.cost[0] / curve_fits.dof[0]
    np.testing.assert_allclose(ratio, variance, rtol=1e-12)


def test_without_degrees_of_freedom_the_scale_is_unknown(curve_fits):
    """As many data as free parameters: an unscaled covariance and no scaled one."""
    raw = raw_curves()
    places = np.array([3, 7, 1])  # the last with a fixed parameter
    raw["mask"][places] = np.arange(M) < np.array([[3], [4], [2]])
    batch = solve_batch(make_curves(raw), SOLVER, lanes=LANES)
    np.testing.assert_array_equal(batch.dof[places], [0, 1, 0])
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


# --- Stacking --------------------------------------------------------------------


def test_a_list_of_problems(plain_fits):
    """Stacked, but for what is one and the same array in all of them."""
    t = jnp.asarray(T)
    problems = [curve_problem(decay, t, y, START) for y in data()]
    stack = Stack.of(problems)
    assert stack.size == P
    assert stack.problems.args.x.shape == (M,)
    assert stack.problems.args.y.shape == (P, M)
    same(solve_batch(problems, SOLVER, lanes=LANES), plain_fits)
    # In a tuple, and with an x that each problem holds for itself.
    own = tuple(curve_problem(decay, T, y, START) for y in data())
    assert Stack.of(own).problems.args.x.shape == (P, M)


def test_a_list_of_one_problem_and_of_the_same_problem_thrice():
    problem = curve_problem(decay, T, data()[0], START)
    assert Stack.of([problem]).size == 1
    stack = Stack.of([problem] * 3)
    assert stack.size == 3
    assert stack.problems.args.y.shape == (3, M)


def axes_without_x(problems):
    axes = jax.tree.map(lambda _: 0, problems)
    return eqx.tree_at(lambda p: p.args.x, axes, None)


def test_an_x_that_all_problems_share(plain_fits):
    problems = eqx.tree_at(lambda p: p.args.x, plain(), jnp.asarray(T))
    axes = axes_without_x(problems)
    same(solve_batch(problems, SOLVER, in_axes=axes, lanes=LANES), plain_fits)


@pytest.mark.slow
def test_a_lower_bound_that_all_problems_share(curves):
    """One bound with the problems' axis and one without."""
    lower = jnp.zeros((P, N))
    start = jnp.maximum(curves.params, 0.1)
    upper = jnp.full((P, N), jnp.inf).at[::4, 0].set(1.2)

    def where(p):
        return p.lower, p.upper, p.params

    each = eqx.tree_at(where, curves, (lower, upper, start))
    shared = eqx.tree_at(lambda p: p.lower, each, lower[0])
    axes = eqx.tree_at(lambda p: p.lower, jax.tree.map(lambda _: 0, shared), None)
    batch = solve_batch(shared, SOLVER, in_axes=axes, lanes=LANES)
    equal(batch, solve_batch(each, SOLVER, lanes=LANES))
    assert batch.fixed.shape == (P, N)


class Scaled(eqx.Module):
    """A decay of a given unit of time."""

    unit: jax.Array

    def __call__(self, x, p):
        return decay(x / self.unit, p)


@pytest.mark.slow
def test_arrays_of_a_model_differ_from_problem_to_problem(plain_fits):
    units = np.linspace(0.5, 2.0, P)

    def one(y, unit):
        return curve_problem(Scaled(unit), T, y, START)

    batch = solve_batch(jax.vmap(one)(data(), units), SOLVER, lanes=LANES)
    np.testing.assert_allclose(batch.cost, plain_fits.cost, rtol=1e-8)
    rates = np.asarray(plain_fits.params[:, 1]) * units
    np.testing.assert_allclose(batch.params[:, 1], rates, rtol=1e-5)


# --- What is refused -------------------------------------------------------------


def three(**changes):
    rows = {"y": [M, M, M], "loss": ["linear"] * 3, **changes}
    return [
        curve_problem(decay, T[:m], data()[0][:m], START, loss=loss)
        for m, loss in zip(rows["y"], rows["loss"], strict=True)
    ]


def test_ragged_data_are_named():
    with pytest.raises(ValueError, match=r"problems\[2\]\.args\.x.*\(9,\).*pad"):
        solve_batch(three(y=[M, M, 9]))
    problems = three()
    other = eqx.tree_at(lambda p: p.args.y, problems[1], jnp.ones(M, jnp.float32))
    with pytest.raises(ValueError, match=r"problems\[1\]\.args\.y.*float32"):
        solve_batch([problems[0], other])


def test_problems_of_another_structure_are_named():
    with pytest.raises(ValueError, match=r"problems\[1\].*another structure"):
        solve_batch(three(loss=["linear", "huber", "linear"]))
    bounded = curve_problem(decay, T, data()[0], START, bounds=(0.0, 9.0))
    with pytest.raises(ValueError, match=r"problems\[3\].*another structure"):
        solve_batch([*three(), bounded])


def test_a_number_without_an_axis_is_named():
    problems = eqx.tree_at(lambda p: p.loss.f_scale, plain(), jnp.ones(()))
    with pytest.raises(ValueError, match=r"problems\.loss\.f_scale.*in_axes"):
        solve_batch(problems)
    with pytest.raises(ValueError, match="None for what all problems share"):
        solve_batch(curve_problem(decay, T, data()[0], START))


def test_different_numbers_of_problems_are_named():
    problems = eqx.tree_at(lambda p: p.args.x, plain(), jnp.asarray(T))
    with pytest.raises(ValueError, match=r"problems\.args\.x.* 12 .* 40"):
        solve_batch(problems)


def test_no_problems_are_refused():
    with pytest.raises(ValueError, match="nothing to fit"):
        solve_batch([])
    none = jax.tree.map(lambda leaf: leaf[:0], plain())
    with pytest.raises(ValueError, match="nothing to fit"):
        solve_batch(none)
    with pytest.raises(ValueError, match="nothing that differs"):
        solve_batch(plain(), in_axes=None)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"lanes": 0}, ValueError, "`lanes` must be at least 1"),
        ({"lanes": 1.5}, TypeError, "`lanes` must be an integer"),
        ({"devices": 9}, ValueError, "`devices` is 9 but there are 8"),
        ({"devices": 0}, ValueError, "`devices` must be at least 1"),
        ({"solver": TRF(history=True)}, ValueError, "history=True"),
        ({"solver": TRF(linear_solver="matrix_free")}, ValueError, "covariance=False"),
        ({"solver": "trf"}, TypeError, "`solver` must be a jaxfit.TRF"),
        ({"in_axes": 1}, ValueError, "0 and None only"),
        ({"in_axes": True}, ValueError, "0 and None only"),
        ({"in_axes": (0, None)}, ValueError, "prefix of the PyTree"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(without_type_checks, wrong, error, words):
    with pytest.raises(error, match=words):
        solve_batch(plain(), **wrong)


def test_devices_or_a_mesh_not_both():
    with pytest.raises(ValueError, match="not both"):
        solve_batch(plain(), devices=2, mesh=auto_mesh((2,), ("a",)))


@pytest.mark.parametrize("problems", [None, data(), {"a": 1}], ids=type)
def test_anything_but_problems_is_refused(without_type_checks, problems):
    with pytest.raises(TypeError, match="`problems` must be a jaxfit"):
        solve_batch(problems)


def test_anything_but_problems_in_a_list_is_refused(without_type_checks):
    with pytest.raises(TypeError, match=r"problems\[1\].*must be a jaxfit.Problem"):
        solve_batch([three()[0], 3.0])


# --- A property ------------------------------------------------------------------


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
