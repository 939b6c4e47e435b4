"""`jaxfit.solve` as a function of one PyTree: transformed, traced once, lean."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from single_fits import (
    LANES,
    START,
    T,
    Y,
    close,
    covariance,
    decay,
    numpy_decay,
    scipy_fit,
    stack,
)

import jaxfit
from jaxfit import TRF, Status, curve_problem


def take(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


# --- One function of one PyTree ----------------------------------------------------


def test_every_leaf_of_a_problem_and_of_a_solution_is_an_array():
    problem = curve_problem(decay, T, Y, START, bounds=(0.0, 9.0), loss="huber")
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(problem))
    solution = jax.eval_shape(jaxfit.solve, problem)
    assert all(
        isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(solution)
    )


@pytest.mark.smoke
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


# --- Nothing as long as the data is carried ----------------------------------------


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
