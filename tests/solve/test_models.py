"""Models and residuals of `solve`: closures, Modules, networks, PyTrees."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from single_fits import (
    NOISE,
    START,
    T,
    Y,
    close,
    decay,
    numpy_decay,
    scipy_fit,
    stack,
)

import jaxfit
from jaxfit import TRF, Problem, curve_problem


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
