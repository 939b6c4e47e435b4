"""The derivative of `solve_batch` is that of each of its fits by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfit import TRF, curve_problem, solve, solve_batch


T = np.linspace(0, 3, 20)
YS = jnp.asarray(
    (1.0 + np.arange(4))[:, None] * np.exp(-0.5 * T) + 0.01 * np.cos(40 * T)
)
WAYS = {
    "plain": {},
    "bounds": {"bounds": (np.zeros(2), np.array([2.5, 50.0]))},  # active for some
    "loss": {"loss": "soft_l1", "f_scale": 0.1},
}


def make(y, **options):
    def model(x, p):
        return p[0] * jnp.exp(-p[1] * x)

    return curve_problem(model, T, y, np.ones(2), **options)


@pytest.mark.parametrize("way", WAYS)
def test_parameters_costs_and_errors_move_as_those_of_single_fits(way):
    problems = jax.vmap(lambda y: make(y, **WAYS[way]))

    def batch(ys):
        found = solve_batch(problems(ys))
        return found.params, found.cost, found.perr()

    def single(ys):
        found = jax.vmap(solve)(problems(ys))
        covariance = jax.vmap(lambda s: s.covariance())(found)
        variance = jax.vmap(jnp.diag)(covariance)
        held = variance == 0
        errors = jnp.where(held, 0, jnp.sqrt(jnp.where(held, 1, variance)))
        return found.params, found.cost, errors

    def scalar(fit):
        return lambda ys: sum(
            jnp.sum(jnp.where(jnp.isfinite(a) & (a > 0), a, 0) * (1 + jnp.arange(4.0))[
                (...,) + (None,) * (a.ndim - 1)
            ])
            for a in fit(ys)
        )  # fmt: skip

    right = jax.grad(scalar(single))(YS)
    assert np.abs(right).max() > 0.01
    np.testing.assert_allclose(jax.grad(scalar(batch))(YS), right, atol=1e-6)
    np.testing.assert_allclose(jax.jacfwd(scalar(batch))(YS), right, atol=1e-6)


def test_by_what_all_problems_share_and_twice():
    def rate(solver):
        def total(x):
            problems = [curve_problem(lambda x, p: p * x**2, x, y, 1.0) for y in YS[:2]]
            return jnp.sum(solver(problems))

        return total

    many = rate(lambda problems: solve_batch(problems).params)
    one = rate(lambda problems: jnp.stack([solve(p).params for p in problems]))
    x = jnp.asarray(T) + 0.5
    np.testing.assert_allclose(jax.grad(many)(x), jax.grad(one)(x), rtol=1e-8)
    np.testing.assert_allclose(
        jax.hessian(many)(x), jax.hessian(one)(x), rtol=1e-6, atol=1e-8
    )


def test_a_fit_that_failed_has_derivative_0():
    bad = YS.at[2, 3].set(jnp.nan)

    def total(ys):
        found = solve_batch(jax.vmap(make)(ys))
        return jnp.nansum(found.params) + jnp.nansum(found.perr())

    slope = jax.grad(total)(bad)
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(slope[2], 0)
    good = np.array([0, 1, 3])
    np.testing.assert_allclose(slope[good], jax.grad(total)(YS)[good], rtol=1e-9)


def test_by_the_kernels_step_and_over_devices():
    solver = TRF(linear_solver="qr")
    slopes = [
        jax.grad(
            lambda ys, keys=keys: jnp.sum(
                solve_batch(jax.vmap(make)(ys), **keys).params
            )
        )(YS)
        for keys in ({}, {"solver": solver}, {"devices": 2}, {"covariance": False})
    ]
    for slope in slopes[1:]:
        np.testing.assert_allclose(slope, slopes[0], rtol=1e-6, atol=1e-9)
