"""Every door in a process that forbids promotion of ranks, or transfers."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit


T = np.linspace(0, 5, 60)
Y = 2.5 * np.exp(-1.3 * T) + 0.5
START = np.array([1.0, 1.0, 0.0])
SETTINGS = {
    "ranks": lambda: jax.numpy_rank_promotion("raise"),
    "transfers": lambda: jax.transfer_guard("disallow"),
    "neither": contextlib.nullcontext,
}


def decay(t, a, b, c):
    return a * jnp.exp(-b * t) + c


def kernel(t, p):
    return p[0] * jnp.exp(-p[1] * t) + p[2]


def residual(p, data):
    return kernel(data["t"], p) - data["y"]


def problem(**options):
    return jaxfit.Problem(residual, START, {"t": T, "y": Y}, **options)


def least_squares():
    return jaxfit.least_squares(
        lambda p, t, y: kernel(t, p) - y, START, args=(T, Y), bounds=(0, 9)
    ).x


def batch(**options):
    return jaxfit.curve_fit_batch(decay, T, np.stack([Y, Y]), START, **options)


def large(strategy):
    return jaxfit.fit_large_dataset(decay, T, Y, START, strategy=strategy).popt


DOORS = {
    "curve_fit": lambda: jaxfit.curve_fit(decay, T, Y, START, np.full(60, 0.1)).popt,
    "bounds": lambda: jaxfit.curve_fit(decay, T, Y, START, bounds=(0, 9)).popt,
    "least_squares": least_squares,
    "solve": lambda: jaxfit.solve(problem(bounds=(0.0, 9.0), loss="huber")).params,
    "curve_problem": lambda: (
        jaxfit.solve(
            jaxfit.curve_problem(kernel, T, Y, START, sigma=0.1, mask=T < 4)
        ).params
    ),
    "matrix_free": lambda: (
        jaxfit.solve(problem(), jaxfit.TRF(linear_solver="matrix_free")).params
    ),
    "solve_batch": lambda: jaxfit.solve_batch([problem(), problem()]).params,
    "curve_fit_batch": lambda: batch(bounds=(0, 9), mask=T < 4).popt,
    "in_memory": lambda: large("in_memory"),
    "streamed": lambda: large("streamed"),
}


@pytest.mark.parametrize("setting", ["ranks", "transfers"])
@pytest.mark.parametrize("door", DOORS)
def test_doors_work_where_the_process_is_strict(door, setting):
    with SETTINGS[setting]():
        found = DOORS[door]()
    np.testing.assert_allclose(
        np.asarray(found), np.broadcast_to([2.5, 1.3, 0.5], found.shape), rtol=1e-5
    )


def test_derivatives_of_a_fit_where_ranks_are_not_promoted():
    def rate(y):
        return jaxfit.solve(jaxfit.curve_problem(kernel, T, y, START)).params[1]

    want = jax.grad(rate)(jnp.asarray(Y))
    with SETTINGS["ranks"]():
        found = jax.grad(rate)(jnp.asarray(Y))
    np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-12)


def test_what_a_solution_tells_where_transfers_are_forbidden():
    with SETTINGS["transfers"]():
        solution = jaxfit.solve(problem())
        found = solution.covariance(), solution.dof, solution.success
    assert all(np.isfinite(np.asarray(part)).all() for part in found)
