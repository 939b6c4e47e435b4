"""The proof that a model treats its rows one by one, and what rests on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit
from jaxfit._functions.rowwise import rows_mixed_by


M = 300
X = jnp.linspace(0, 3, M)
X2 = jnp.stack([X, X**2], axis=1)
LONG = jnp.linspace(1, 2, M)

ROW_WISE = {
    "decay": lambda x, p: p[0] * jnp.exp(-p[1] * x) + p[2],
    "two columns": lambda x, p: p[0] * x[:, 0] + p[1] * x[:, 1] ** 2,
    "matrix product": lambda x, p: x @ p[:2] + p[2],
    "where": lambda x, p: jnp.where(x > p[0], x - p[0], 0.0) * p[1],
    "polyval": lambda x, p: jnp.polyval(p, x),
    "sum over peaks": lambda x, p: jnp.sum(jnp.exp(-((x[:, None] - p) ** 2)), axis=1),
    "vmap of a scalar model": lambda x, p: jax.vmap(lambda t: p[0] * jnp.sinc(t))(x),
    "jit inside": lambda x, p: jax.jit(lambda t: p[0] * jax.nn.softplus(t))(x),
    "logistic": lambda x, p: p[0] * jax.nn.sigmoid(p[1] * (x - p[2])),
    "constant": lambda x, p: p[0] + 0 * x,
    "stacked columns": lambda x, p: jnp.stack([x, x**2, 1 + 0 * x], axis=1) @ p,
    "stacked rows": lambda x, p: p @ jnp.stack([x, x**2, 1 + 0 * x]),
    "unstacked": lambda x, p: sum(c * q for c, q in zip(x.T, p[:2], strict=True)),
    "cumulated over parameters": lambda x, p: x * jnp.cumsum(p)[2],
}
MIXED = {
    "cumsum": lambda x, p: p[0] * jnp.cumsum(x),
    "normalised": lambda x, p: p[0] * x / jnp.max(x),
    "centred": lambda x, p: p[0] * (x - jnp.mean(x)),
    "reversed": lambda x, p: p[0] * x[::-1],
    "shifted": lambda x, p: p[0] * jnp.roll(x, 1),
    "convolution": lambda x, p: jnp.convolve(x, p, mode="same"),
    "closure as long as the data": lambda x, p: p[0] * LONG + x,
    "row numbers": lambda x, p: p[0] * x + jnp.arange(M),
    "ignores the data": lambda x, p: p[0] * LONG,
    "gradient": lambda x, p: p[0] * jnp.gradient(x),
    "all pairs": lambda x, p: p[0] * jnp.sum(jnp.abs(x[:, None] - x), axis=1),
    "stacked with a closure": lambda x, p: jnp.stack([x, LONG], axis=1) @ p[:2],
    "unstacked along the rows": lambda x, p: jnp.stack(list(x)[::-1]) * p[0],
    "sorted": lambda x, p: p[0] * jnp.sort(x),
}


def reason(model, x):
    program = jax.make_jaxpr(lambda p, x: model(x, p))(jnp.ones(3), x)
    return rows_mixed_by(program.jaxpr, [False, True])


@pytest.mark.parametrize("name", ROW_WISE)
def test_row_wise_models_are_proven(name):
    x = X2 if name in ("two columns", "matrix product", "unstacked") else X
    assert reason(ROW_WISE[name], x) is None


@pytest.mark.parametrize("name", MIXED)
def test_models_that_mix_rows_are_refused_with_a_reason(name):
    assert reason(MIXED[name], X)


def test_the_transposed_data_layout_is_not_mistaken_for_rows():
    assert reason(lambda x, p: p @ x, jnp.ones((3, M)))


BLOCKS = [7, 100, 299, 300, 1000]


@pytest.mark.parametrize("linear_solver", ["qr", "gram"])
@pytest.mark.parametrize("robust", [False, True])
def test_blocks_change_nothing(linear_solver, robust):
    """Any block size, with mask, sigma and loss: the same solution and statistics."""
    rng = np.random.default_rng(3)
    y = ROW_WISE["decay"](X, jnp.array([2.5, 1.3, 0.5])) + 0.1 * rng.normal(size=M)
    options = {"loss": "soft_l1", "f_scale": 0.5} if robust else {}
    problem = jaxfit.curve_problem(
        ROW_WISE["decay"],
        X,
        y,
        jnp.ones(3),
        sigma=0.5 + X,
        mask=X < 2.9,
        bounds=(0.0, jnp.array([2.2, 9.0, 9.0])),
        **options,
    )

    def solve(chunk_size):
        solver = jaxfit.TRF(linear_solver=linear_solver, chunk_size=chunk_size)
        return jaxfit.solve(problem, solver)

    whole = solve(None)
    assert whole.success and whole.active_mask[0] == 1
    for block in BLOCKS:
        cut = solve(block)
        np.testing.assert_allclose(cut.params, whole.params, rtol=1e-10)
        np.testing.assert_allclose(cut.cost, whole.cost, rtol=1e-12)
        np.testing.assert_allclose(cut.covariance(), whole.covariance(), rtol=1e-8)


def test_blocks_are_refused_where_rows_mix():
    problem = jaxfit.curve_problem(MIXED["cumsum"], X, X, jnp.ones(1))
    assert jaxfit.solve(problem).success
    with pytest.raises(ValueError, match=r"chunk_size.*not row-wise.*cumsum"):
        jaxfit.solve(problem, jaxfit.TRF(chunk_size=50))


def per_row(x, p):
    """Row-wise but for the number of rows, which is a constant of the program."""
    return p[0] * x / len(x)


def test_a_program_that_holds_the_number_of_rows_is_not_cut():
    """In a block the number would be another, and the answer wrong."""
    x = np.linspace(1, 2, 200_000)
    problem = jaxfit.curve_problem(per_row, x, 3 * x / x.size, jnp.ones(1))
    np.testing.assert_allclose(jaxfit.solve(problem).params, 3, rtol=1e-12)
    with pytest.raises(ValueError, match=r"chunk_size.*may use their number"):
        jaxfit.solve(problem, jaxfit.TRF(chunk_size=1000))
    short = jaxfit.curve_problem(per_row, x[:500], 3 * x[:500] / 500, jnp.ones(1))
    batch = jaxfit.solve_batch([short] * 3)
    np.testing.assert_allclose(batch.params, 3, rtol=1e-6)


def test_derivatives_pass_through_blocks():
    def rate(y, chunk_size):
        problem = jaxfit.curve_problem(ROW_WISE["decay"], X, y, jnp.ones(3))
        return jaxfit.solve(problem, jaxfit.TRF(chunk_size=chunk_size)).params[1]

    y = ROW_WISE["decay"](X, jnp.array([2.5, 1.3, 0.5])) + 0.1 * jnp.sin(40 * X)
    whole, cut = (jax.grad(rate)(y, chunk) for chunk in (None, 77))
    np.testing.assert_allclose(cut, whole, rtol=1e-7, atol=1e-10)
