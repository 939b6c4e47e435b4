"""Rows spread over devices: what travels between them, and that nothing else changes.

What travels is read from the compiled program. Mostly one fit serves both questions.
"""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxfit
from jaxfit import TRF, curve_problem
from jaxfit._solve.watch import watch


M = 4000
RNG = np.random.default_rng(7)
T = np.linspace(0, 5, M)
Y = 2.5 * np.exp(-1.3 * T) + 0.5 + RNG.normal(0, 0.05, M)
Y[::50] += 3
SIGMA = RNG.uniform(0.5, 2, M)
MASK = RNG.random(M) < 0.9
START = np.array([1.0, 1.0, 0.2])
SMALL = slice(None, None, 10)


def decay(x, p):
    return p[0] * jnp.exp(-p[1] * x) + p[2]


def mesh_of(count, kind="Auto", shape=None, names=("d",)):
    devices = np.array(jax.devices()[:count]).reshape(shape or (count,))
    return Mesh(devices, names, axis_types=(AxisType[kind],) * devices.ndim)


def on(mesh, *axes):
    """Puts arrays on the mesh, their first axes along its axes."""
    where = NamedSharding(mesh, PartitionSpec(*axes))
    return lambda a: jax.device_put(a, where)


def problem(place=lambda a: a, rows=slice(None), **options):
    """With bounds, one of them active, a robust loss, a mask and sigma."""
    t, y, sigma, mask = (place(a[rows]) for a in (T, Y, SIGMA, MASK))
    given = {"sigma": sigma, "mask": mask, "loss": "soft_l1", "f_scale": 0.1} | options
    return curve_problem(decay, t, y, START, bounds=([0, 0, 0], [9, 9, 0.45]), **given)


def plain(place=lambda a: a, rows=slice(None)):
    return curve_problem(decay, place(T[rows]), place(Y[rows]), START)


@pytest.fixture(scope="module")
def alone():
    return jaxfit.solve(problem())


def same_fit(solution, reference, rtol=1e-12):
    for name in ("params", "cost"):
        value, expected = getattr(solution, name), getattr(reference, name)
        np.testing.assert_allclose(value, expected, rtol=rtol)
    assert solution.success
    assert solution.num_rows == reference.num_rows
    np.testing.assert_array_equal(solution.active_mask, reference.active_mask)
    assert solution.params.sharding.is_fully_replicated


COLLECTIVE = re.compile(
    r"= (?P<shape>.*?) (?P<name>all-reduce|all-gather|all-to-all|collective-permute|"
    r"reduce-scatter|collective-broadcast)(-start)?\("
)


def collectives(program):
    """(name, how many numbers) of each within the loop, and of each before it."""
    within, before = [], []
    for computation in program.as_text().split("\n\n"):
        found = before if "ENTRY" in computation else within
        for match in COLLECTIVE.finditer(computation):
            shapes = re.findall(r"\w\d*\[([\d,]*)\]", match["shape"])
            size = sum(
                int(np.prod([int(d) for d in s.split(",") if d])) for s in shapes
            )
            found.append((match["name"], size))
    return sorted(within), sorted(before)


# --- What travels ----------------------------------------------------------------

# A cost, gradient and J'J, and whether derivatives are differences: once a step.
GRAM = [("all-reduce", 14)]
QR = [("all-gather", 8 * 14)]
# The sums of a loop that runs where derivatives are not finite, and one product of all
# columns, with which the cost of a robust fit travels.
AUTO = [("all-reduce", 10), ("all-reduce", 16)]
ROBUST = [*AUTO[:1], ("all-reduce", 17)]


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("Auto", {"mesh": True}, QR),
        ("Auto", {"mesh": True, "linear_solver": "gram"}, GRAM),
        ("Explicit", {}, QR),
        ("Explicit", {"linear_solver": "gram", "chunk_size": 97}, GRAM),
        ("Auto", {}, ROBUST),
    ],
    ids=["mesh-qr", "mesh-gram", "explicit-qr", "explicit-gram", "auto"],
)
def test_an_evaluation_is_one_collective_and_data_stay(alone, kind, options, expected):
    mesh = mesh_of(8, kind)
    given = problem(on(mesh, "d"))
    solver = TRF(**options | ({"mesh": mesh} if "mesh" in options else {}))
    program = jax.jit(jaxfit.solve).lower(given, solver).compile()
    within, before = collectives(program)
    assert within == expected
    # The number of rows, for the loop and for the variance; and two sums over the rows,
    # which the variance of a robust fit is made of.
    assert before == [("all-reduce", 2), ("all-reduce", 2)]
    same_fit(program(given, solver), alone)


def test_large_data_on_auto_axes_are_not_cut_into_blocks():
    size = 80_000
    t = np.linspace(0, 5, size)
    y = decay(t, START)
    place = on(mesh_of(8), "d")
    given = curve_problem(decay, place(t), place(y), 1.5 * START)
    within, before = collectives(jax.jit(jaxfit.solve).lower(given).compile())
    assert within == AUTO
    assert before == []


def test_many_parameters_travel_as_one_vector():
    n = 10

    def series(x, p):
        return jnp.cos(x[:, None] * jnp.arange(n)) @ p

    place = on(mesh_of(8), "d")
    solver = TRF(mesh=mesh_of(8), linear_solver="gram")
    given = curve_problem(series, place(T), place(Y), np.zeros(n))
    program = jax.jit(jaxfit.solve).lower(given, solver).compile()
    assert collectives(program)[0] == [("all-reduce", 1), ("all-reduce", n * n + n + 2)]
    expected = jaxfit.solve(curve_problem(series, T, Y, np.zeros(n))).params
    np.testing.assert_allclose(program(given, solver).params, expected, rtol=1e-10)


# --- The number of devices, and rows that do not divide by it --------------------


@pytest.mark.parametrize(
    ("mesh", "options"),
    [
        (mesh_of(1), {}),
        (mesh_of(2), {"linear_solver": "gram"}),
        (mesh_of(8, "Explicit", (2, 4), ("a", "b")), {"chunk_size": 97}),
        (mesh_of(8), {"linear_solver": "gram", "chunk_size": 100}),
    ],
    ids=["1", "2", "2x4", "8"],
)
def test_the_number_of_devices_does_not_matter(mesh, options):
    rows = slice(0, 3997)
    solution = jaxfit.solve(problem(rows=rows), TRF(mesh=mesh, **options))
    same_fit(solution, jaxfit.solve(problem(rows=rows)))


def test_padding_counts_for_nothing():
    # One row a device, and one device without.
    t, y = T[:7], decay(T[:7], START) + np.array([1, -2, 1, 0, 2, -1, 1]) / 50
    given = curve_problem(lambda x, p: p[0] + p[1] * x, t, y, START[:2])
    solution = jaxfit.solve(given, TRF(mesh=mesh_of(8)))
    reference = jaxfit.solve(given)
    same_fit(solution, reference)
    assert solution.num_rows == 7
    np.testing.assert_allclose(
        solution.covariance(), reference.covariance(), rtol=1e-10
    )


def test_without_matrices_the_compiler_spreads():
    mesh = mesh_of(8)
    given = problem(rows=slice(None, -10, 10))
    solver = TRF(mesh=mesh, linear_solver="matrix_free")
    program = jax.jit(jaxfit.solve).lower(given, solver).compile()
    within, _ = collectives(program)
    assert {name for name, _ in within} == {"all-reduce"}
    same_fit(program(given, solver), jaxfit.solve(given), rtol=1e-6)


# --- Transformations -------------------------------------------------------------


def test_derivatives_are_those_of_one_device():
    weights = jnp.arange(1.0, 4)
    given = problem(rows=SMALL)

    def both(solver):
        def params(y):
            return jaxfit.solve(
                eqx.tree_at(lambda p: p.args.y, given, y), solver
            ).params

        def run(y):
            _, forward = jax.jvp(params, (y,), (jnp.cos(y),))
            return forward, jax.grad(lambda y: params(y) @ weights)(y)

        return jax.jit(run)(given.args.y)

    expected = both(TRF())
    for options in ({}, {"linear_solver": "gram", "chunk_size": 16}):
        got = both(TRF(mesh=mesh_of(8), **options))
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8 * np.abs(b).max())


def test_lanes_and_rows_on_a_mesh_of_two_axes():
    def fit(y):
        given = curve_problem(decay, T[SMALL], y, START)
        return jaxfit.solve(given, TRF(linear_solver="gram")).params

    lanes = Y[SMALL] * np.linspace(1, 1.1, 4)[:, None]
    expected = jax.vmap(fit)(lanes)
    mesh = mesh_of(8, "Explicit", (2, 4), ("lane", "row"))
    spread = on(mesh, "lane", "row")(lanes)
    program = jax.jit(jax.vmap(fit)).lower(spread).compile()
    params = program(spread)
    np.testing.assert_allclose(params, expected, rtol=1e-10)
    assert params.sharding.spec == PartitionSpec("lane", None)
    within, before = collectives(program)
    # Two lanes on each device; the rest asks whether a lane anywhere goes on.
    assert max(within) == ("all-reduce", 2 * 14)
    assert before == []


def test_weights_of_a_module_are_the_same_on_all_devices():
    class Net(eqx.Module):
        rates: jax.Array

        def __call__(self, x, p):
            return jnp.exp(-x[:, None] * self.rates) @ p

    def amplitude(net, solver):
        given = curve_problem(net, T[SMALL], Y[SMALL], START)
        return jaxfit.solve(given, solver).params[0]

    slope = jax.jit(jax.grad(amplitude))
    net = Net(jnp.array([0.3, 1.0, 2.0]))
    got, expected = slope(net, TRF(mesh=mesh_of(8))), slope(net, TRF())
    np.testing.assert_allclose(got.rates, expected.rates, rtol=1e-8)


def test_a_jacobian_of_the_users_own():
    def slopes(x, p):
        e = jnp.exp(-p[1] * x)
        return jnp.stack([e, -p[0] * x * e, jnp.ones_like(x)], axis=1)

    solver = TRF(mesh=mesh_of(8), jacobian=slopes)
    same_fit(jaxfit.solve(plain(rows=SMALL), solver), jaxfit.solve(plain(rows=SMALL)))


def test_watched_steps_and_the_hessian():
    place = on(mesh_of(8, "Explicit"), "d")
    spread, alone = plain(place, SMALL), plain(rows=SMALL)
    costs = []
    solution = watch(spread, TRF(), lambda state: costs.append(state.cost))
    reference = jaxfit.solve(alone)
    np.testing.assert_allclose(solution.params, reference.params, rtol=1e-12)
    assert len(costs) > 2
    for kind in ("exact", "gauss_newton"):
        np.testing.assert_allclose(
            jaxfit.hessian(spread, reference.params, kind=kind),
            jaxfit.hessian(alone, reference.params, kind=kind),
            rtol=1e-10,
        )


# --- What cannot be spread -------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda x, p: p[0] * jnp.cumsum(x), "`cumsum` works along the rows"),
        (lambda x, p: p[0] * x / len(x), "which may use their number"),
    ],
)
def test_a_mesh_needs_a_rowwise_residual(model, reason):
    given = curve_problem(model, T, Y, START)
    with pytest.raises(ValueError, match=f"`mesh` .* not row-wise: .*{reason}"):
        jax.eval_shape(jaxfit.solve, given, TRF(mesh=mesh_of(8)))


def test_other_residuals_on_a_mesh_are_left_to_the_compiler():
    def difference(x, p):
        f = decay(x, p)
        return f - f.mean()

    y = Y[SMALL] - Y[SMALL].mean()
    place = on(mesh_of(8, "Explicit"), "d")
    given = curve_problem(difference, place(T[SMALL]), place(y), START[:2])
    given = eqx.tree_at(lambda p: p.params, given, jnp.array(START))
    solution = jaxfit.solve(given, TRF(linear_solver="gram"))
    alone = curve_problem(difference, T[SMALL], y, START)
    expected = jaxfit.solve(alone, TRF(linear_solver="gram"))
    np.testing.assert_allclose(solution.cost, expected.cost, rtol=1e-10)


def test_data_on_another_mesh_than_the_solvers():
    given = plain(on(mesh_of(8, "Explicit"), "d"), SMALL)
    with pytest.raises(ValueError, match=r"`mesh` has axes \{'d': 2\}, but .*'d': 8"):
        jax.eval_shape(lambda: jaxfit.solve(given, TRF(mesh=mesh_of(2))))


def test_a_batch_is_spread_by_its_own_mesh():
    with pytest.raises(ValueError, match="`solver` has a mesh"):
        jaxfit.solve_batch([plain(rows=SMALL)], TRF(mesh=mesh_of(8)))
