"""Fits inside `jax.shard_map` as it comes: it checks what varies between devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit
from jaxfit import TRF, curve_problem, solve, solve_batch


T = np.linspace(0, 3, 24)
AMPLITUDES = 1.0 + np.arange(16)
YS = AMPLITUDES[:, None] * np.exp(-0.5 * T) + 0.01 * np.cos(40 * T)
MESH = jax.sharding.Mesh(np.array(jax.devices()), ("d",))


def make(y, **options):
    return curve_problem(
        lambda x, p: p[0] * jnp.exp(-p[1] * x), T, y, np.ones(2), **options
    )


def spread(part, data=YS):
    mapped = jax.shard_map(part, mesh=MESH, in_specs=jax.P("d"), out_specs=jax.P("d"))
    return jax.jit(mapped)(data)


WAYS = {
    "plain": ({}, TRF()),
    "bounds": ({"bounds": (np.zeros(2), np.full(2, 50.0))}, TRF()),
    "loss": ({"loss": "soft_l1", "f_scale": 0.1}, TRF()),
    "mask": ({"mask": T > 0.2, "sigma": np.full(24, 0.1)}, TRF()),
    "gram": ({}, TRF(linear_solver="gram", chunk_size=7)),
    "reverse": ({}, TRF(jacobian="reverse")),
    "matrix-free": ({}, TRF(linear_solver="matrix_free")),
    "history": ({}, TRF(history=True, max_steps=30)),
    "scaled": ({}, TRF(x_scale=np.array([1.0, 2.0]), ftol=1e-12, max_nfev=50)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_fit_in_every_lane(way):
    options, solver = WAYS[way]

    def fits(ys):
        return jax.vmap(lambda y: solve(make(y, **options), solver).params)(ys)

    np.testing.assert_allclose(spread(fits), jax.jit(fits)(YS), rtol=1e-9)


def test_one_fit_for_each_device_and_its_covariance():
    def fit(ys):
        solution = solve(make(ys[0]))
        return jax.tree.map(lambda a: a[None], (solution.params, solution.covariance()))

    params, covariance = spread(fit, YS[:8])
    for i, y in enumerate(YS[:8]):
        right = solve(make(y))
        np.testing.assert_allclose(params[i], right.params, rtol=1e-9)
        np.testing.assert_allclose(covariance[i], right.covariance(), rtol=1e-6)


@pytest.mark.parametrize("transform", [jax.grad, jax.jacfwd])
def test_derivatives(transform):
    def slopes(ys):
        rate = transform(lambda y: solve(make(y)).params[1])
        return jax.vmap(rate)(ys)

    np.testing.assert_allclose(
        spread(slopes), jax.jit(slopes)(YS), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("solver", [TRF(), TRF(linear_solver="qr")], ids=["gram", "qr"])
def test_a_batch_on_every_device(solver):
    def fits(ys):
        batch = solve_batch(jax.vmap(make)(ys), solver)
        return batch.params, batch.perr()

    params, perr = spread(fits)
    right = solve_batch(jax.vmap(make)(YS), solver)
    np.testing.assert_allclose(params, right.params, rtol=1e-9)
    np.testing.assert_allclose(perr, right.perr(), rtol=1e-6)


def test_data_that_are_the_same_everywhere():
    """Nothing varies, and the result is the same on every device."""

    def fit(y):
        return solve(make(y)).params

    mapped = jax.shard_map(fit, mesh=MESH, in_specs=jax.P(), out_specs=jax.P())
    np.testing.assert_allclose(jax.jit(mapped)(YS[3]), solve(make(YS[3])).params)


def test_a_mesh_of_two_axes_of_which_one_varies():
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    fits = functools.partial(jax.vmap(lambda y: jaxfit.solve(make(y)).params))
    mapped = jax.shard_map(fits, mesh=mesh, in_specs=jax.P("a"), out_specs=jax.P("a"))
    np.testing.assert_allclose(jax.jit(mapped)(YS), jax.jit(fits)(YS), rtol=1e-9)


@pytest.mark.parametrize("door", ["solve", "solve_batch"])
def test_derivatives_that_are_not_finite(door):
    """The loops that replace them by differences vary as the data do."""

    def growth(y):
        return curve_problem(lambda x, p: p[0] * x ** p[1], T, y, np.ones(2))

    def fits(ys):
        if door == "solve":
            return jax.vmap(lambda y: solve(growth(y)).params)(ys)
        return solve_batch(jax.vmap(growth)(ys)).params

    ys = AMPLITUDES[:, None] * T**0.4
    found = spread(fits, ys)
    np.testing.assert_allclose(found[:, 1], 0.4, rtol=1e-6)
    np.testing.assert_allclose(found, jax.jit(fits)(ys), rtol=1e-9)
