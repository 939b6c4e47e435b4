"""`jaxfit.covariance` as a function: batched, differentiated, in single precision."""

import jax
import jax.numpy as jnp
import numpy as np
from decays import SIGMA, START, Formulas, M, X, Y, close, decay, problem, solve

import jaxfit
from jaxfit import TRF


def all_kinds(y):
    there = problem(y)
    solution = solve(there)
    return solution.params, {
        (kind, noise): jaxfit.covariance(there, solution, kind=kind, noise=noise).matrix
        for kind, noise in [
            ("gauss_newton", "estimated"),
            ("hessian", "known"),
            ("sandwich", None),
        ]
    }


lanes = jax.jit(jax.vmap(all_kinds))


def test_lanes_equal_the_formulas_of_each():
    data = Y + 0.05 * np.random.default_rng(5).standard_normal((6, M))
    params, matrices = lanes(data)
    for i, y in enumerate(data):
        formulas = Formulas({k: v[i] for k, v in params.items()}, y)
        for (kind, noise), matrix in matrices.items():
            asked = None if noise == "estimated" else noise
            close(matrix[i], formulas.of(kind, asked), 1e-6)


def test_the_derivative_by_the_data_is_that_of_finite_differences():
    rows, step = [2, 4, 11], 1e-5
    there = np.stack([Y + s * step * np.eye(M)[i] for s in (1, -1) for i in rows])
    _, matrices = lanes(there)
    slopes = jax.jit(jax.jacfwd(lambda y: all_kinds(y)[1]))(Y)
    for key, slope in slopes.items():
        up, down = matrices[key][:3], matrices[key][3:]
        expected = np.moveaxis((up - down) / (2 * step), 0, -1)
        assert np.abs(expected).max() > 1e-3 * np.abs(up).max()
        size = np.abs(expected).max()
        np.testing.assert_allclose(slope[..., rows], expected, atol=1e-5 * size)


def test_a_jitted_function_may_close_over_a_solution():
    there = problem()
    solution = solve(there)
    inside = jax.jit(lambda: jaxfit.covariance(there, solution).matrix)()
    close(inside, jaxfit.covariance(there, solution).matrix, 1e-12)


def test_in_single_precision():
    def single(tree):
        return jax.tree.map(lambda a: np.asarray(a, np.float32), tree)

    there = jaxfit.curve_problem(
        decay, *single((X, Y, START)), sigma=SIGMA.astype(np.float32)
    )
    solution = jaxfit.solve(there)
    expected = Formulas(solution.params).of("sandwich")
    found = jaxfit.covariance(there, solution, kind="sandwich")
    assert found.matrix.dtype == jnp.float32
    close(found.errors, np.sqrt(np.diagonal(expected)), 2e-3)


def test_the_solver_tells_how_to_differentiate():
    """A model that JAX cannot see into has its Jacobian from a function."""

    def hidden(x, p):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        values = p["a"], p["b"], p["c"]
        return jax.pure_callback(
            lambda x, a, b, c: np.asarray(a * np.exp(-b * x) + c),
            shape,
            x,
            *values,
            vmap_method="sequential",
        )

    def jacobian(x, p):
        e = jnp.exp(-p["b"] * x)
        return {"a": e, "b": -p["a"] * x * e, "c": jnp.ones_like(x)}

    there = jaxfit.curve_problem(hidden, X, Y, START, sigma=SIGMA)
    solver = TRF(ftol=0.0, xtol=1e-15, gtol=1e-15, jacobian=jacobian)
    solution = jaxfit.solve(there, solver)
    formulas = Formulas(solution.params)
    close(jaxfit.covariance(there, solution).matrix, formulas.of("gauss_newton"))
    robust = jaxfit.covariance(there, solution, noise="robust", solver=solver)
    close(robust.matrix, formulas.of("gauss_newton", "robust"))
    found = jaxfit.influence(there, solution, solver=solver)
    close(found.leverage.sum(), 3)
