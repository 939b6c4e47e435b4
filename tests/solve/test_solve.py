"""`jaxfit.solve` as a function of one PyTree: models, data, lanes and outcomes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxfit
from jaxfit import TRF, Problem, Status, curve_problem


T = np.linspace(0.0, 3.0, 30)
NOISE = 0.05 * np.sin(17.0 * np.arange(30.0))
Y = 2.5 * np.exp(-1.3 * T) + 0.5 + NOISE
START = np.array([1.0, 1.0, 0.0])
LANES = 16
TIGHT = TRF(ftol=0.0, xtol=1e-15, gtol=1e-15)
SHIFTS = np.linspace(0.8, 1.2, LANES)


def decay(x, p):
    return p[0] * jnp.exp(-p[1] * x) + p[2]


def scipy_fit(fun, start, **kwargs):
    """The same fit by SciPy, to nearly all digits."""
    tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15, "x_scale": "jac"}
    return scipy.optimize.least_squares(fun, start, jac="3-point", **tight, **kwargs)


def numpy_decay(p):
    return p[0] * np.exp(-p[1] * T) + p[2] - Y


@eqx.filter_jit
def covariance(solution, scaled=True):
    return solution.covariance(scaled)


def close(actual, desired, rtol=1e-9, atol=1e-12):
    np.testing.assert_allclose(actual, desired, rtol=rtol, atol=atol)


def stack(*problems):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)


def take(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


@pytest.fixture(scope="module")
def lanes():
    """Fits of equal structure to data of different amplitude and noise."""
    return [curve_problem(decay, T, s * Y + 0.3 * s**2 * NOISE, START) for s in SHIFTS]


@pytest.fixture(scope="module")
def lane_solutions(lanes):
    return jax.vmap(jaxfit.solve)(stack(*lanes))


# --- One function of one PyTree --------------------------------------------------


def test_every_leaf_of_a_problem_and_of_a_solution_is_an_array():
    problem = curve_problem(decay, T, Y, START, bounds=(0.0, 9.0), loss="huber")
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(problem))
    solution = jax.eval_shape(jaxfit.solve, problem)
    assert all(
        isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(solution)
    )


def test_the_solution_is_that_of_scipy_and_consistent_with_itself():
    problem = curve_problem(decay, T, Y, START)
    solution = jaxfit.solve(problem)
    reference = scipy_fit(numpy_decay, START)
    close(solution.params, reference.x, rtol=1e-7)
    close(solution.cost, reference.cost, rtol=1e-12)
    residual = numpy_decay(np.asarray(solution.params))
    close(solution.cost, 0.5 * residual @ residual, rtol=1e-12)
    jacobian = np.stack(
        [
            np.exp(-solution.params[1] * T),
            -solution.params[0] * T * np.exp(-solution.params[1] * T),
            np.ones_like(T),
        ],
        axis=1,
    )
    close(solution.grad, jacobian.T @ residual, atol=1e-10)
    close(solution.optimality, np.abs(solution.grad).max())
    close(covariance(solution, scaled=False), np.linalg.inv(jacobian.T @ jacobian))
    close(
        covariance(solution),
        np.linalg.inv(jacobian.T @ jacobian) * 2 * reference.cost / 27,
    )
    assert (int(solution.num_rows), int(solution.dof)) == (30, 27)
    assert solution.success
    assert solution.status in (Status.FTOL, Status.XTOL, Status.FTOL_XTOL, Status.GTOL)
    assert solution.message == Status(int(solution.status)).message
    assert solution.nfev >= solution.njev > 1
    np.testing.assert_array_equal(solution.active_mask, 0)
    assert solution.fixed is None


def test_a_plain_call_and_a_jitted_one_agree():
    problem = curve_problem(decay, T, Y, START)
    plain, jitted = jaxfit.solve(problem), jax.jit(jaxfit.solve)(problem)
    jax.tree.map(np.testing.assert_array_equal, plain, jitted)


def test_lanes_equal_single_fits(lanes, lane_solutions):
    assert lane_solutions.params.shape == (LANES, 3)
    singles = stack(*map(jaxfit.solve, lanes))
    close(lane_solutions.params, singles.params)
    close(lane_solutions.cost, singles.cost)
    covariances = jax.jit(jax.vmap(lambda solution: solution.covariance()))
    close(covariances(lane_solutions), covariances(singles), rtol=1e-8)
    assert np.all(lane_solutions.success)
    # Each lane counts its own work, and lanes that end early do not go on.
    np.testing.assert_array_equal(lane_solutions.nfev, singles.nfev)
    np.testing.assert_array_equal(lane_solutions.num_rows, 30)


def test_pmap_of_vmap_over_eight_devices(lanes, lane_solutions):
    assert jax.device_count() == 8
    problems = jax.tree.map(
        lambda leaf: leaf.reshape(8, LANES // 8, *leaf.shape[1:]), stack(*lanes)
    )
    solutions = jax.pmap(jax.vmap(jaxfit.solve))(problems)
    assert len(solutions.params.sharding.device_set) == 8
    close(solutions.params.reshape(LANES, 3), lane_solutions.params)
    np.testing.assert_array_equal(
        solutions.status.reshape(LANES) > 0, lane_solutions.success
    )


@pytest.mark.slow
def test_sharded_lanes_stay_where_they_are(lanes, lane_solutions):
    mesh = jax.make_mesh((8,), ("lane",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("lane"))
    problems = jax.device_put(stack(*lanes), sharding)
    solutions = jax.jit(jax.vmap(jaxfit.solve))(problems)
    close(solutions.params, lane_solutions.params)


def test_a_lane_of_nan_leaves_the_others_bitwise_unchanged(lanes, lane_solutions):
    problems = stack(*lanes)
    bad = jnp.full_like(problems.args.y[0], jnp.nan)
    poisoned = eqx.tree_at(lambda p: p.args.y, problems, problems.args.y.at[5].set(bad))
    solutions = jax.vmap(jaxfit.solve)(poisoned)
    assert solutions.status[5] == Status.NONFINITE_START
    np.testing.assert_array_equal(solutions.params[5], START)
    others = np.delete(np.arange(LANES), 5)
    jax.tree.map(
        np.testing.assert_array_equal,
        take(solutions, others),
        take(lane_solutions, others),
    )


def test_a_solver_of_traced_tolerances(lanes):
    @jax.jit
    def steps(tolerance):
        solver = TRF(ftol=tolerance, xtol=tolerance, gtol=tolerance)
        return jaxfit.solve(lanes[0], solver).num_steps

    loose, tight = steps(1e-2), steps(1e-12)
    assert steps._cache_size() == 1
    assert 0 < loose < tight


def test_a_fit_is_traced_once_for_each_structure():
    calls = []

    def model(x, p):
        calls.append(1)
        return decay(x, p)

    for start in (START, 1.1 * START):
        jaxfit.solve(curve_problem(model, T, Y, start))
    assert len(calls) == 1


@pytest.mark.parametrize(
    "transform",
    [
        jax.grad,
        jax.jacfwd,
        jax.hessian,
        lambda f: jax.jit(jax.value_and_grad(f)),
        lambda f: lambda y: jax.vmap(jax.grad(f))(jnp.stack([y, y])),
    ],
    ids=["grad", "jacfwd", "hessian", "jit(grad)", "vmap(grad)"],
)
def test_the_model_is_traced_once_under_every_transformation(transform):
    calls, another = [], object()  # another model in every case

    def model(x, p):
        calls.append(another)
        return p[0] * jnp.exp(-p[1] * x)

    def rate(y):
        return jaxfit.solve(curve_problem(model, T, y, START[:2])).params[1]

    jax.eval_shape(transform(rate), Y)
    assert len(calls) == 1


# --- Nothing as long as the data is carried --------------------------------------


def eqns(jaxpr):
    """All equations of a jaxpr, those of inner jaxprs included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(
            list(eqn.params.values()),
            is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr"),
        ):
            if hasattr(inner, "jaxpr"):
                inner = inner.jaxpr
            if hasattr(inner, "eqns"):
                yield from eqns(inner)


def carries(jaxpr):
    """The shapes of what each loop hands on, the outermost loop first."""
    for eqn in eqns(jaxpr):
        if eqn.primitive.name in ("while", "scan"):
            yield [v.aval.shape for v in eqn.outvars]


@pytest.mark.parametrize("linear_solver", ["qr", "gram", "matrix_free"])
@pytest.mark.parametrize("history", [False, True])
@pytest.mark.parametrize("loss", ["linear", "cauchy"])
def test_no_loop_carries_anything_as_long_as_the_data(linear_solver, history, loss):
    m, steps = 1237, 777
    x = np.linspace(0.0, 3.0, m)
    problem = curve_problem(
        decay,
        x,
        np.exp(-x),
        START,
        sigma=np.ones(m),
        mask=np.ones(m, bool),
        bounds=(-9.0, 9.0),
        loss=loss,
    )
    solver = TRF(linear_solver=linear_solver, history=history, max_steps=steps)
    jaxpr = jax.make_jaxpr(jaxfit.solve)(problem, solver)
    loops = list(carries(jaxpr.jaxpr))
    assert len(loops) >= 3
    shapes = [shape for loop in loops for shape in loop]
    assert all(m not in shape for shape in shapes)
    # Without a history not even its length appears; with it, in the outer loop alone.
    assert [steps in shape for shape in loops[0]].count(True) == 4 * history
    assert all(steps not in shape for loop in loops[1:] for shape in loop)
    small = [shape for shape in shapes if steps not in shape]
    assert max(int(np.prod(shape)) for shape in small) < 50


# --- Models ----------------------------------------------------------------------


def test_a_closure_over_an_array_is_the_function_of_it():
    rate = jnp.asarray(1.3)

    def model(x, p):
        return p[0] * jnp.exp(-rate * x) + p[1]

    solution = jaxfit.solve(curve_problem(model, T, Y, START[:2]))
    design = np.stack([np.exp(-1.3 * T), np.ones_like(T)], axis=1)
    close(solution.params, np.linalg.lstsq(design, Y)[0])


def test_a_closure_over_tracers_is_differentiated():
    def amplitude(rate):
        def model(x, p):
            return p[0] * jnp.exp(-rate * x)

        return jaxfit.solve(curve_problem(model, T, Y, START[:1])).params[0]

    value, slope = jax.jit(jax.value_and_grad(amplitude))(1.3)
    e = np.exp(-1.3 * T)
    square = e @ e
    close(value, e @ Y / square)
    # The derivative of that quotient, with de = -T e.
    by_hand = (2 * (e @ Y) * (T * e @ e) / square - T * e @ Y) / square
    close(slope, by_hand)


class Network(eqx.Module):
    """A small network with a linear output layer of two parameters."""

    mlp: eqx.nn.MLP
    shift: float = 0.0

    def __call__(self, x, params):
        hidden = jax.vmap(self.mlp)(x[:, None])[:, 0]
        return params["gain"] * hidden + params["offset"] + self.shift


def network(seed):
    mlp = eqx.nn.MLP(1, 1, 8, 2, jnp.tanh, key=jax.random.key(seed))
    return Network(mlp)


@eqx.filter_jit
def hidden_layer(net):
    return net(jnp.asarray(T), {"gain": 1.0, "offset": 0.0})


def linear_answer(net):
    hidden = np.asarray(hidden_layer(net))
    design = np.stack([hidden, np.ones_like(T)], axis=1)
    return np.linalg.lstsq(design, Y)[0]


def test_the_weights_of_a_module_are_data():
    start = {"gain": 1.0, "offset": 0.0}
    nets = [network(seed) for seed in range(3)]
    problems = [curve_problem(net, T, Y, start) for net in nets]
    weights = [leaf.shape for leaf in jax.tree.leaves(problems[0].residual)]
    assert weights == [(8, 1), (8,), (8, 8), (8,), (1, 8), (1,)]
    solutions = jax.vmap(jaxfit.solve)(stack(*problems))
    for i, net in enumerate(nets):
        gain, offset = linear_answer(net)
        close(solutions.params["gain"][i], gain, rtol=1e-8)
        close(solutions.params["offset"][i], offset, rtol=1e-8)

    @eqx.filter_jit
    @eqx.filter_grad
    def slopes(net):
        return jaxfit.solve(curve_problem(net, T, Y, start)).params["gain"]

    # The gain of hidden + c does not depend on c; that of c * hidden is 1/c.
    last, slope = nets[0].mlp.layers[-1], slopes(nets[0]).mlp.layers[-1]
    close(slope.bias, 0.0, atol=1e-9)
    by_scale = jnp.vdot(slope.weight, last.weight) + jnp.vdot(slope.bias, last.bias)
    close(by_scale, -linear_answer(nets[0])[0], rtol=1e-8)


@pytest.mark.slow
def test_the_weights_of_a_network_can_be_the_parameters():
    net = eqx.nn.MLP(1, 1, 3, 1, jnp.tanh, key=jax.random.key(0))
    weights, rest = eqx.partition(net, eqx.is_array)

    def model(x, weights):
        return jax.vmap(eqx.combine(weights, rest))(x[:, None])[:, 0]

    solution = jaxfit.solve(curve_problem(model, T, Y, weights), TRF(max_steps=300))
    assert jax.tree.structure(solution.params) == jax.tree.structure(weights)
    before = 0.5 * np.sum((model(T, weights) - Y) ** 2)
    # As good as the curve the data came from, with as much freedom.
    assert solution.cost < 0.5 * NOISE @ NOISE < 0.01 * before


def test_a_residual_of_a_pytree_with_arguments():
    def residual(p, args):
        curve = p["amp"] * jnp.exp(-p["rate"] * args["t"]) - args["y"]
        return {"data": (curve, [0.1 * (p["amp"] - args["prior"])])}

    args = {"t": T, "y": Y - 0.5, "prior": 3}
    solution = jaxfit.solve(Problem(residual, {"amp": 1.0, "rate": 1.0}, args))

    def flat(p):
        curve = p[0] * np.exp(-p[1] * T) - (Y - 0.5)
        return np.append(curve, 0.1 * (p[0] - 3))

    reference = scipy_fit(flat, [1.0, 1.0])
    close(solution.params["amp"], reference.x[0], rtol=1e-7)
    close(solution.params["rate"], reference.x[1], rtol=1e-7)
    close(solution.cost, reference.cost)
    assert solution.num_rows == 31


@pytest.mark.parametrize("jacobian", ["reverse", "function"])
def test_another_jacobian_leads_to_the_same_solution(jacobian):
    def function(x, p):
        e = jnp.exp(-p[1] * x)
        return jnp.stack([e, -p[0] * x * e, jnp.ones_like(x)], axis=1)

    problem = curve_problem(decay, T, Y, START, sigma=0.5)
    solver = TRF(jacobian=function if jacobian == "function" else jacobian)
    mine, reference = jaxfit.solve(problem, solver), jaxfit.solve(problem)
    close(mine.params, reference.params)
    close(mine.linearisation.gram, reference.linearisation.gram)


@pytest.mark.parametrize("linear_solver", ["gram", "matrix_free"])
def test_another_linear_solver_leads_to_the_same_solution(linear_solver):
    problem = curve_problem(decay, T, Y, START, bounds=(0.0, 2.0))
    solution = jaxfit.solve(problem, TRF(linear_solver=linear_solver))
    reference = scipy_fit(numpy_decay, START + 0.1, bounds=(0.0, 2.0))
    close(solution.params, reference.x, rtol=1e-6)
    np.testing.assert_array_equal(solution.active_mask, [1, 0, 0])
    assert solution.success
    if linear_solver == "matrix_free":
        assert solution.linearisation is None
        with pytest.raises(ValueError, match="matrix-free fit forms no J'J"):
            solution.covariance()
    else:
        assert isinstance(solution.linearisation, jaxfit.Gram)


# --- Parameters and bounds -------------------------------------------------------


def nested(x, p):
    return p["amp"] * jnp.exp(-p["rest"][0][0] * x) + p["rest"][1]


NESTED = {"amp": 1.0, "rest": (np.array([1.0]), 0.0)}


def test_nested_parameters_come_back_as_they_went_in():
    everything = (-np.inf, np.inf)
    solution = jaxfit.solve(curve_problem(nested, T, Y, NESTED, bounds=everything))
    flat = jaxfit.solve(curve_problem(decay, T, Y, START)).params
    assert jax.tree.structure(solution.params) == jax.tree.structure(NESTED)
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(solution.params)]
    assert shapes == [(), (1,), ()]
    close(jnp.hstack(jax.tree.leaves(solution.params)), flat)
    for like in (solution.grad, solution.active_mask):
        assert jax.tree.structure(like) == jax.tree.structure(NESTED)


@pytest.mark.parametrize(
    ("bounds", "lower", "upper"),
    [
        ((0.0, 2.0), [0, 0, 0], [2, 2, 2]),
        ((-np.inf, 2.0), [-np.inf] * 3, [2, 2, 2]),
        ((0.0, {"amp": 2.0, "rest": 3.0}), [0, 0, 0], [2, 3, 3]),
        (
            ({"amp": 0, "rest": (np.array([1.0]), -np.inf)}, np.inf),
            [0, 1, -np.inf],
            [np.inf] * 3,
        ),
        ([0, 2], [0, 0, 0], [2, 2, 2]),
    ],
    ids=["scalars", "one-sided", "prefix", "full", "list-of-integers"],
)
def test_bounds_may_be_a_prefix_of_the_parameters(bounds, lower, upper):
    problem = curve_problem(nested, T, Y, NESTED, bounds=bounds)
    np.testing.assert_array_equal(problem.lower, lower)
    np.testing.assert_array_equal(problem.upper, upper)
    solution = jaxfit.solve(problem)
    x = np.hstack(jax.tree.leaves(solution.params))
    inside = np.clip(START + 0.1, np.add(lower, 0.01), np.subtract(upper, 0.01))
    reference = scipy_fit(numpy_decay, inside, bounds=(lower, upper))
    close(x, reference.x, rtol=1e-6, atol=1e-7)
    close(solution.cost, reference.cost, rtol=1e-8)
    assert np.all(np.less_equal(lower, x)) and np.all(np.less_equal(x, upper))
    mask = np.hstack(jax.tree.leaves(solution.active_mask))
    at = np.isclose(x, upper, rtol=1e-6).astype(int) - np.isclose(x, lower, rtol=1e-6)
    np.testing.assert_array_equal(mask, at)
    assert solution.success


def test_a_scalar_parameter_with_a_bound_on_one_side():
    def model(x, p):
        return jnp.exp(-p * x)

    def fit(top):
        bounds = (-np.inf, top)
        return jaxfit.solve(
            curve_problem(model, T, np.exp(-1.3 * T), 1.0, bounds=bounds)
        )

    free, solution = fit(9.0), fit(1.2)
    close(free.params, 1.3)
    assert free.params.shape == ()
    assert free.active_mask == 0
    close(solution.params, 1.2)
    assert solution.params < 1.2
    assert solution.active_mask == 1
    assert solution.grad < -1e-3
    assert solution.optimality < 1e-9


@jax.jit
@jax.vmap
def bounded_fit(start, lower, upper):
    """A lane with its own start and bounds, so that none of its values is known."""
    problem = curve_problem(decay, T, Y, start, bounds=(lower, upper))
    return jaxfit.solve(problem)


def test_every_lane_has_its_own_bounds():
    tops = np.array([1.5, 2.0, 2.4, 9.0])
    solutions = bounded_fit(np.tile(START + 0.1, (4, 1)), np.zeros(4), tops)
    for top, x, active in zip(
        tops, solutions.params, solutions.active_mask, strict=True
    ):
        reference = scipy_fit(numpy_decay, START + 0.1, bounds=(0.0, top))
        close(x, reference.x, rtol=1e-6)
        np.testing.assert_array_equal(active, np.isclose(reference.x, top))
    assert np.unique(solutions.active_mask.sum(axis=1)).size > 1


def test_equal_bounds_fix_a_parameter():
    fixed = (np.array([-9.0, 1.1, -9.0]), np.array([9.0, 1.1, 9.0]))
    start = np.array([1.0, 1.1, 0.0])
    problem = curve_problem(decay, T, Y, start, bounds=fixed)
    solution = jaxfit.solve(problem, TIGHT)

    def reduced(x, p):
        return p[0] * jnp.exp(-1.1 * x) + p[1]

    smaller = curve_problem(reduced, T, Y, start[::2], bounds=(-9.0, 9.0))
    reference = jaxfit.solve(smaller, TIGHT)
    assert solution.params[1] == 1.1
    close(solution.params[::2], reference.params, rtol=1e-12)
    close(solution.cost, reference.cost, rtol=1e-12)
    close(solution.optimality, reference.optimality, atol=1e-12)
    np.testing.assert_array_equal(solution.fixed, [False, True, False])
    assert solution.dof == reference.dof == 28
    matrix = covariance(solution)
    inverse = np.linalg.inv(reference.linearisation.gram)
    close(matrix[::2, ::2], inverse * 2 * reference.cost / 28, rtol=1e-9)
    np.testing.assert_array_equal(matrix[1], 0.0)
    np.testing.assert_array_equal(matrix[:, 1], 0.0)


def test_all_parameters_fixed_is_an_evaluation():
    problem = curve_problem(decay, T, Y, START, bounds=(START, START))
    solution = jaxfit.solve(problem, TIGHT)
    np.testing.assert_array_equal(solution.params, START)
    close(solution.cost, 0.5 * np.sum(numpy_decay(START) ** 2))
    assert solution.success
    assert (solution.nfev, solution.njev) == (1, 1)


def test_a_start_on_its_bound_moves_away():
    bounds = (np.array([0.0, 1.0, 0.0]), np.array([9.0, 9.0, 9.0]))
    problem = curve_problem(decay, T, Y, START, bounds=bounds)
    solution = jaxfit.solve(problem, TIGHT)
    close(solution.params, scipy_fit(numpy_decay, START).x, rtol=1e-7)


# --- Masks and weights -----------------------------------------------------------

MASK = np.arange(30) % 4 != 1
DIRTY_Y = np.where(MASK, Y, np.nan)
DIRTY_X = np.where(MASK, T, np.nan)
SIGMA = 0.1 + 0.02 * np.arange(30.0)
DIRTY_SIGMA = np.where(MASK, SIGMA, np.nan)


@pytest.fixture(scope="module")
def compacted():
    problem = curve_problem(decay, T[MASK], Y[MASK], START, sigma=SIGMA[MASK])
    return jaxfit.solve(problem)


@pytest.mark.parametrize(
    ("x", "y", "sigma"),
    [
        (T, Y, SIGMA),
        (T, DIRTY_Y, SIGMA),
        (DIRTY_X, DIRTY_Y, DIRTY_SIGMA),
        (np.where(MASK, T, np.inf), np.where(MASK, Y, 1e300), np.where(MASK, SIGMA, 0)),
    ],
    ids=["clean", "nan-y", "all-nan", "extremes"],
)
def test_a_mask_equals_compacted_data(x, y, sigma, compacted):
    problem = curve_problem(decay, x, y, START, sigma=sigma, mask=MASK)
    solution = jaxfit.solve(problem)
    close(solution.params, compacted.params)
    close(solution.cost, compacted.cost)
    close(covariance(solution), covariance(compacted), rtol=1e-8)
    assert int(solution.num_rows) == MASK.sum() == 22
    assert solution.dof == compacted.dof


def test_gradients_pass_a_mask_over_nan():
    def rate(x, y, sigma, mask, solver=None):
        problem = curve_problem(decay, x, y, START, sigma=sigma, mask=mask)
        return jaxfit.solve(problem, solver).params[1]

    gradient = jax.jit(jax.grad(rate, argnums=(0, 1, 2)))
    masked = gradient(DIRTY_X, DIRTY_Y, DIRTY_SIGMA, MASK)
    short = gradient(T[MASK], Y[MASK], SIGMA[MASK], None)
    for mine, reference in zip(masked, short, strict=True):
        close(mine[MASK], reference, rtol=1e-8)
        np.testing.assert_array_equal(mine[~MASK], 0.0)
        assert np.abs(reference).min() > 1e-6


def test_a_mask_of_a_residual_hides_its_rows(compacted):
    def residual(p, data):
        x, y = data
        return (decay(x, p) - y) / SIGMA

    problem = Problem(residual, START, (T, np.where(MASK, Y, 50.0)), mask=MASK)
    close(jaxfit.solve(problem).params, compacted.params)


def test_masks_and_sigmas_of_two_outputs_may_be_prefixes():
    def model(x, p):
        return {"a": decay(x, p), "b": 2 * decay(x, p)}

    y = {"a": Y, "b": 2 * Y[::-1]}
    prefix = {"a": np.array(True), "b": np.array(False)}
    problem = curve_problem(model, T, y, START, mask=prefix, sigma={"a": 0.5, "b": 1})
    reference = jaxfit.solve(curve_problem(decay, T, Y, START))
    solution = jaxfit.solve(problem)
    close(solution.params, reference.params)
    close(solution.cost, 4 * reference.cost)
    assert solution.num_rows == 30


def test_a_scalar_sigma_scales_the_cost_and_an_array_weighs_the_data():
    plain = jaxfit.solve(curve_problem(decay, T, Y, START))
    scalar = jaxfit.solve(curve_problem(decay, T, Y, START, sigma=0.5))
    close(scalar.params, plain.params)
    close(scalar.cost, 4 * plain.cost)
    close(covariance(scalar), covariance(plain), rtol=1e-8)
    close(
        covariance(scalar, scaled=False), covariance(plain, scaled=False) / 4, rtol=1e-8
    )
    weighed = jaxfit.solve(curve_problem(decay, T, Y, START, sigma=SIGMA))
    reference = scipy_fit(lambda p: numpy_decay(p) / SIGMA, START)
    close(weighed.params, reference.x, rtol=1e-7)
    close(weighed.cost, reference.cost)


# --- Losses ----------------------------------------------------------------------

OUTLIERS = Y + np.where(np.arange(30) % 9 == 4, 2.0, 0.0)


def generalised(z):
    """Barron's loss with shape -2 (Geman-McClure), made to have rho'(0) = 1."""
    return z / (1 + z / 4)


def scipy_generalised(z):
    s = 1 + z / 4
    return np.stack([z / s, 1 / s**2, -0.5 / s**3])


@pytest.mark.parametrize(
    ("loss", "reference"),
    [
        ("linear", "linear"),
        ("soft_l1", "soft_l1"),
        ("huber", "huber"),
        ("cauchy", "cauchy"),
        ("arctan", "arctan"),
        (generalised, scipy_generalised),
    ],
)
def test_every_loss_agrees_with_scipy(loss, reference):
    scale = 0.3
    problem = curve_problem(decay, T, OUTLIERS, START, loss=loss, f_scale=scale)
    solution = jaxfit.solve(problem)
    expected = scipy_fit(
        lambda p: numpy_decay(p) + Y - OUTLIERS,
        np.array([2.5, 1.3, 0.5]),
        loss=reference,
        f_scale=scale,
    )
    assert solution.success
    close(solution.params, expected.x, rtol=1e-6)
    close(solution.cost, expected.cost, rtol=1e-10)
    if loss != "linear":
        close(solution.params, [2.5, 1.3, 0.5], rtol=0.3)
        assert solution.optimality < 1e-6


def test_a_loss_works_in_units_of_its_scale():
    def fit(unit):
        """The same fit with the response in another unit."""
        start = START / [unit, 1.0, unit]
        scale = 0.3 / unit
        y = OUTLIERS / unit
        problem = curve_problem(decay, T, y, start, loss="cauchy", f_scale=scale)
        return jaxfit.solve(problem)

    one, other = fit(1.0), fit(0.3)
    close(one.params, other.params * np.array([0.3, 1.0, 0.3]), rtol=1e-8)
    close(one.cost, 0.3**2 * other.cost, rtol=1e-8)


# --- History ---------------------------------------------------------------------


def test_a_history_is_the_fit_as_it_went():
    problem = curve_problem(decay, T, Y, START)
    solver = TRF(history=True, max_steps=50)
    solution = jaxfit.solve(problem, solver)
    history, steps = solution.history, int(solution.num_steps)
    assert isinstance(history, jaxfit.History)
    assert 3 < steps < 50
    for leaf in jax.tree.leaves(history):
        assert leaf.shape == (50,)
        assert np.all(np.isfinite(leaf[:steps]))
        assert np.all(np.isnan(leaf[steps:]))
    assert np.all(np.diff(history.cost[:steps]) <= 8e-16 * history.cost[0])
    close(history.cost[steps - 1], solution.cost, rtol=1e-12)
    assert history.cost[0] < 0.5 * np.sum(numpy_decay(START) ** 2)
    assert np.all(history.radius[:steps] > 0)
    assert np.all(history.step_norm[:steps] >= 0)
    # The optimality of a step is that of the point it starts from.
    close(history.optimality[0], np.abs(start_gradient()).max())
    assert history.optimality[steps - 1] < 1e-3 * history.optimality[0]


def start_gradient():
    return jax.grad(lambda p: 0.5 * jnp.sum((decay(T, p) - Y) ** 2))(START)


def test_without_a_history_nothing_of_it_remains(lane_solutions):
    assert lane_solutions.history is None
    shape = jax.eval_shape(
        jaxfit.solve, curve_problem(decay, T, Y, START), TRF(max_steps=777)
    )
    assert all(777 not in leaf.shape for leaf in jax.tree.leaves(shape))
    assert shape.history is None
    state = jax.eval_shape(lambda x: TRF(max_steps=777).init(x, None, None, 60), START)
    assert state.history is None
    assert all(777 not in leaf.shape for leaf in jax.tree.leaves(state))


def test_the_history_does_not_change_the_fit():
    problem = curve_problem(decay, T, Y, START)
    with_it = jaxfit.solve(problem, TRF(history=True, max_steps=50))
    without = jaxfit.solve(problem)
    close(with_it.params, without.params)
    assert with_it.nfev == without.nfev


# --- Outcomes --------------------------------------------------------------------


def test_steps_run_out():
    problem = curve_problem(decay, T, Y, START)
    solution = jaxfit.solve(problem, TRF(max_steps=2))
    assert solution.status == Status.MAX_STEPS
    assert (int(solution.num_steps), int(solution.njev)) == (2, 3)
    assert not solution.success
    assert solution.message == "The maximum number of steps or evaluations was reached."
    # What is returned is the last point, with its own cost, gradient and covariance.
    assert solution.cost < 0.5 * np.sum(numpy_decay(START) ** 2)
    residual = numpy_decay(np.asarray(solution.params))
    close(solution.cost, 0.5 * residual @ residual)
    close(solution.optimality, np.abs(solution.grad).max())
    assert np.all(np.isfinite(covariance(solution)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_start_that_is_not_finite_is_an_outcome(bad):
    y = np.where(np.arange(30) == 7, bad, Y)
    solution = jaxfit.solve(curve_problem(decay, T, y, START))
    assert solution.status == Status.NONFINITE_START
    assert not solution.success
    np.testing.assert_array_equal(solution.params, START)
    assert (int(solution.nfev), int(solution.num_steps)) == (1, 0)


def test_an_infeasible_start_is_an_outcome_of_its_lane():
    starts = np.tile(START, (4, 1))
    starts[1, 1], starts[3, 0] = 9.5, np.nan
    solutions = bounded_fit(starts, np.full(4, -9.0), np.full(4, 9.0))
    infeasible = Status.INFEASIBLE_START
    np.testing.assert_array_equal(
        solutions.status == infeasible, [False, True, False, True]
    )
    np.testing.assert_array_equal(solutions.success, [True, False, True, False])
    np.testing.assert_array_equal(solutions.params[1], starts[1])
    np.testing.assert_array_equal(solutions.nfev[1], 0)
    reference = scipy_fit(numpy_decay, START).x
    close(solutions.params[0], reference, rtol=1e-7)
    close(solutions.params[2], reference, rtol=1e-7)


def test_crossed_bounds_in_a_trace_are_an_infeasible_start():
    lower, upper = np.array([-9.0, 9.0, np.nan, -9.0]), np.array([9.0, -9.0, 9.0, 9.0])
    status = bounded_fit(np.tile(START, (4, 1)), lower, upper).status
    np.testing.assert_array_equal(
        status == Status.INFEASIBLE_START, [False, True, True, False]
    )
    assert status[0] > 0


def test_a_jacobian_that_is_not_finite_is_stepped_back_from():
    # The Gauss-Newton step from 2 ends at 0, where the residual is exactly 0 and its
    # derivative is that of the square root of 0. What a user's Jacobian says stands:
    # the fit stays on this side of the edge.
    def residual(p, _):
        return jnp.sqrt(jnp.maximum(p - 1, 0))

    solver = jaxfit.TRF(jacobian=jax.grad(residual))
    solution = jaxfit.solve(Problem(residual, 2.0), solver)
    assert solution.params > 1
    assert solution.cost < 1e-6
    assert np.isfinite(solution.grad)


def test_trial_points_that_are_not_finite_are_rejected():
    # The Gauss-Newton step from 10 leads to -33, outside the domain of the logarithm.
    def residual(p, _):
        return jnp.log(p) + 2

    solution = jaxfit.solve(Problem(residual, 10.0))
    assert solution.success
    close(solution.params, np.exp(-2.0), rtol=1e-10)
    # More evaluations than linearisations: the difference was rejected.
    assert solution.nfev > solution.njev


@pytest.mark.parametrize("cost", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("lanes", [False, True])
def test_a_trial_cost_that_is_not_finite_is_rejected(cost, lanes):
    """That of a loss too, which may be -inf: the lowest of costs, and no minimum."""

    def residual(p, _):
        return jnp.log(p) + 2

    def wild(p, _):  # the Gauss-Newton step from 10 leads to -33
        return jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1)) + 2, 1e3)

    def loss(z):
        return jnp.where(z > 100.0, cost, z)

    def solve(problem):
        if lanes:
            return jaxfit.solve_batch(stack(problem, problem))
        return jaxfit.solve(problem)

    solution = solve(Problem(wild, 10.0, loss=loss))
    assert np.all(solution.success)
    assert np.all(np.isfinite(solution.cost))
    close(solution.params, solve(Problem(residual, 10.0)).params, rtol=1e-7)
    assert lanes or solution.nfev > solution.njev  # the difference was rejected


def test_a_fit_walled_in_by_nan_stays_and_shows_its_gradient():
    def residual(p, _):
        return jnp.where(p == 1.0, p, jnp.nan)

    solution = jaxfit.solve(Problem(residual, 1.0), TRF(max_steps=30))
    assert solution.params == 1.0
    assert solution.optimality == 1.0
    assert solution.status != Status.GTOL


def test_gtol_is_met_at_once_by_a_perfect_start():
    problem = curve_problem(decay, T, decay(T, START), START)
    solution = jaxfit.solve(problem)
    assert solution.status == Status.GTOL
    assert (int(solution.nfev), int(solution.njev)) == (1, 1)
    np.testing.assert_array_equal(solution.params, START)
    assert solution.cost == 0.0


@pytest.mark.parametrize(
    ("tolerances", "status"),
    [
        ({"ftol": 1e-3, "xtol": 0.0, "gtol": 0.0}, Status.FTOL),
        ({"ftol": 0.0, "xtol": 1e-3, "gtol": 0.0}, Status.XTOL),
        ({"ftol": 0.0, "xtol": 0.0, "gtol": 1e-3}, Status.GTOL),
        ({"ftol": 1e-2, "xtol": 1e-2, "gtol": 0.0}, Status.FTOL_XTOL),
        ({"ftol": 0.0, "xtol": 0.0, "gtol": 0.0, "atol": 1e-3}, Status.GTOL),
    ],
)
def test_each_tolerance_has_its_status(tolerances, status):
    solver = TRF(**{"atol": 0.0, **tolerances})
    solution = jaxfit.solve(curve_problem(decay, T, Y, START), solver)
    assert solution.status == status
    close(solution.params, scipy_fit(numpy_decay, START).x, rtol=0.05)


def test_default_tolerances_are_powers_of_eps():
    eps = np.finfo(float).eps
    problem = curve_problem(decay, T, Y, START)
    solver = TRF(ftol=eps, xtol=eps ** (2 / 3), gtol=eps ** (3 / 4))
    explicit, default = jaxfit.solve(problem, solver), jaxfit.solve(problem)
    close(explicit.params, default.params, rtol=1e-14)
    assert explicit.nfev == default.nfev
    assert explicit.status == default.status


def test_x_scale_is_the_size_of_the_parameters():
    problem = curve_problem(decay, T, Y, START)
    size = np.array([2.0, 1.0, 0.5])
    solution = jaxfit.solve(
        problem, TRF(x_scale=size, factor=1.0, history=True, max_steps=50)
    )
    close(solution.params, scipy_fit(numpy_decay, START).x, rtol=1e-7)
    # The first radius is the length of the start in units of x_scale; then it is halved
    # or doubled as often as the first step's trials ask for.
    growth = np.log2(solution.history.radius[0] / np.linalg.norm(START / size))
    close(growth, np.round(growth))


def test_fewer_data_than_parameters():
    def residual(p, _):
        return jnp.stack([jnp.sum(p**2) - 4.0, p[0] * p[1] - p[2]])

    solution = jaxfit.solve(Problem(residual, np.array([1.0, 2.0, 3.0])))
    assert solution.success
    assert solution.cost < 1e-20
    assert np.all(np.isnan(covariance(solution)))
    unscaled = covariance(solution, scaled=False)
    assert np.all(np.isinf(np.diagonal(unscaled)))


def test_parameters_that_the_data_do_not_determine():
    def model(x, p):
        return p[0] * jnp.exp(-p[1] * x) + p[2] + p[3] + 0 * p[4]

    start = np.array([1.0, 1.0, 0.0, 0.0, 7.0])
    solution = jaxfit.solve(curve_problem(model, T, Y, start))
    reference = jaxfit.solve(curve_problem(decay, T, Y, START))
    assert solution.success
    close(solution.cost, reference.cost)
    close(solution.params[2] + solution.params[3], reference.params[2], rtol=1e-7)
    assert solution.params[4] == 7.0
    matrix = covariance(solution, scaled=False)
    np.testing.assert_array_equal(np.isinf(np.diagonal(matrix)), [0, 0, 1, 1, 1])
    inverse = np.linalg.inv(reference.linearisation.gram)
    close(matrix[:2, :2], inverse[:2, :2], rtol=1e-6)
    assert np.isnan(matrix[2, 3]) and np.isnan(matrix[0, 4])


def test_gtol_is_about_the_columns_at_hand():
    """A Jacobian that has shrunk by many orders since the start ends no fit early."""
    far = jaxfit.Problem(lambda p, _: jnp.exp(p) - 1.0, jnp.array([60.0]))
    solution = jaxfit.solve(far)
    np.testing.assert_allclose(solution.params, 0.0, atol=1e-8)

    def rosenbrock(p, _):
        return jnp.stack([10 * (p[1] - p[0] ** 2), 1 - p[0]])

    problem = jaxfit.Problem(rosenbrock, jnp.array([-1.2, 1.0]))
    solution = jaxfit.solve(problem, jaxfit.TRF(x_scale=1e-12))
    assert not solution.success or solution.cost < 1e-12


@pytest.mark.parametrize("upper", [False, True])
def test_gtol_counts_a_parameter_at_its_bound_by_the_distance_to_it(upper):
    """The gradient there does not vanish, and its part of the way to the bound does."""
    sign = -1.0 if upper else 1.0

    def residual(p, _):
        return jnp.stack([sign * p[0] + 1.0, p[1] - 2.0, 0.3 * sign * p[0] + p[1]])

    bounds = (-np.inf, [0.0, np.inf]) if upper else ([0.0, -np.inf], np.inf)
    problem = Problem(residual, np.array([sign, 1.0]), bounds=bounds)
    solution = jaxfit.solve(problem, TRF(ftol=0.0, xtol=0.0, gtol=1e-8, max_steps=60))
    assert solution.status == Status.GTOL
    close(solution.params, [0.0, 1.0], rtol=1e-6, atol=1e-6)
    # The cosine of what is free of its bound decides as without one.
    solution = jaxfit.solve(
        Problem(residual, np.array([sign, 1.0])), TRF(ftol=0.0, xtol=0.0, gtol=1e-8)
    )
    assert solution.status == Status.GTOL
