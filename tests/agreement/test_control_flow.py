"""Models of every construct of JAX, at every door that reads a jaxpr."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit
from jaxfit._functions.rowwise import rows_mixed_by


M = 37
T = np.linspace(0.1, 2.9, M)


def rk4(rate, y, t, steps):
    """The solution of y' = rate(y) at t, by `steps` steps of Runge and Kutta."""

    def step(y, _):
        h = t / steps
        a = rate(y)
        b = rate(y + h / 2 * a)
        c = rate(y + h / 2 * b)
        d = rate(y + h * c)
        return y + h / 6 * (a + 2 * b + 2 * c + d), None

    return jax.lax.scan(step, y, None, length=steps)[0]


def through_time(t, a, b):
    """An ODE solved from one time to the next."""

    def interval(carry, now):
        y, before = carry
        y = rk4(lambda y: -a * y + b, y, now - before, 4)
        return (y, now), y

    return jax.lax.scan(interval, (1.0 + 0 * a, 0.0 * a), t)[1]


def each_time(t, a, b):
    """The same, each time from the beginning."""
    return rk4(lambda y: -a * y + b, 1.0 + 0 * t, t, 12)


@jax.custom_jvp
def soft(x):
    return jnp.log1p(jnp.exp(x))


@soft.defjvp
def _(primals, tangents):
    return soft(*primals), jax.nn.sigmoid(primals[0]) * tangents[0]


def newton(t, a, b):
    """b s + s^3 = a t by a loop that ends when it has converged."""

    def step(carry):
        s, _, i = carry
        new = s - (b * s + s**3 - a * t) / (b + 3 * s**2)
        return new, jnp.max(jnp.abs(new - s)), i + 1

    return jax.lax.while_loop(
        lambda carry: (carry[1] > 1e-12) & (carry[2] < 60),
        step,
        (t, jnp.asarray(1.0, t.dtype), 0),
    )[0]


def fourier(t, a, b):
    spectrum = jnp.fft.rfft(a * jnp.exp(-b * t))
    return jnp.fft.irfft(spectrum * 0.5, n=t.size)


def solved(t, a, b):
    matrix = jnp.array([[2.0, 1.0], [1.0, 3.0]]) + a * jnp.eye(2)
    p = jnp.linalg.solve(matrix, jnp.stack([a, b]))
    return p[0] + p[1] * t


MODELS = {
    "scan over times": through_time,
    "scan of steps": each_time,
    "fori_loop": lambda t, a, b: jax.lax.fori_loop(
        0, 5, lambda i, s: s * a + b * t, 1 + 0 * t
    ),
    "fori_loop over rows": lambda t, a, b: jax.lax.fori_loop(
        0, t.size, lambda i, s: s.at[i].set(a * jnp.exp(-b * t[i])), 0 * t
    ),
    "while_loop": newton,
    "map": lambda t, a, b: jax.lax.map(lambda s: a * jnp.exp(-b * s), t),
    "map in batches": lambda t, a, b: jax.lax.map(
        lambda s: a * jnp.exp(-b * s), t, batch_size=8
    ),
    "cond": lambda t, a, b: jax.lax.cond(
        a > 0, lambda s: a * jnp.exp(-b * s), lambda s: a * s + b, t
    ),
    "switch": lambda t, a, b: jax.lax.switch(
        1, [lambda s: s, lambda s: a * s + b, lambda s: b * s], t
    ),
    "associative_scan": lambda t, a, b: b + jax.lax.associative_scan(jnp.add, a * t),
    "interp": lambda t, a, b: jnp.interp(
        t, jnp.linspace(0, 3, 5), jnp.stack([a, b, a + b, a, b])
    ),
    "interp of data": lambda t, a, b: a * jnp.interp(t, jnp.asarray(T), jnp.sin(T)) + b,
    "fft": fourier,
    "convolution": lambda t, a, b: jnp.convolve(
        jnp.exp(-a * t), jnp.stack([b, 1 - b, b]), mode="same"
    ),
    "gammaln": lambda t, a, b: a * jax.scipy.special.gammaln(t + b),
    "erf": lambda t, a, b: a * jax.scipy.special.erf(b * t),
    "bessel": lambda t, a, b: a * jax.scipy.special.i0e(b * t),
    "betainc": lambda t, a, b: a * jax.scipy.special.betainc(1.5, 2.0, t / 3) + b,
    "custom_jvp": lambda t, a, b: a * soft(b * t),
    "nested jit": lambda t, a, b: jax.jit(lambda s: a * jax.jit(jnp.exp)(-b * s))(t),
    "checkpoint": lambda t, a, b: jax.checkpoint(lambda s: a * jnp.exp(-b * s))(t),
    "polyval": lambda t, a, b: jnp.polyval(jnp.stack([a, b, a]), t),
    "solve": solved,
    "sort": lambda t, a, b: a * jnp.sort(jnp.sin(3 * t)) + b,
    "cumsum": lambda t, a, b: a * jnp.cumsum(t) + b,
    "gather": lambda t, a, b: jnp.stack([a, b])[jnp.where(t < 1, 0, 1)],
    "one size only": lambda t, a, b: (a * t.reshape(M, 1) + b).reshape(M),
}
TRUTH = {"while_loop": (1.4, 2.0), "switch": (1.4, 0.8)}


def data_of(name):
    truth = np.array(TRUTH.get(name, (1.4, 0.8)))
    return truth, np.asarray(MODELS[name](jnp.asarray(T), *map(jnp.asarray, truth)))


@pytest.mark.parametrize("name", MODELS)
def test_curve_fit_takes_any_construct(name):
    truth, y = data_of(name)
    fit = jaxfit.curve_fit(MODELS[name], T, y, 0.9 * truth)
    np.testing.assert_allclose(fit.popt, truth, rtol=1e-5)


def test_models_solved_in_steps_are_still_proven_row_wise():
    """The steps of a solver that starts anew for each time are no rows."""
    for name in ("scan of steps", "fori_loop", "checkpoint", "nested jit"):
        program = jax.make_jaxpr(MODELS[name])(jnp.asarray(T), 1.4, 0.8)
        assert rows_mixed_by(program.jaxpr, [True, False, False]) is None
    for name in ("scan over times", "map", "fori_loop over rows", "cumsum"):
        program = jax.make_jaxpr(MODELS[name])(jnp.asarray(T), 1.4, 0.8)
        assert rows_mixed_by(program.jaxpr, [True, False, False])


def test_an_equation_that_is_not_known_is_not_proven():
    """A scan or a call with other parameters: what another JAX may write."""
    program = jax.make_jaxpr(MODELS["scan of steps"])(jnp.asarray(T), 1.4, 0.8).jaxpr
    (at,) = [i for i, e in enumerate(program.eqns) if e.primitive.name == "scan"]
    eqns = list(program.eqns)
    eqns[at] = eqns[at].replace(params={"length": 12})
    reason = rows_mixed_by(program.replace(eqns=eqns), [True, False, False])
    assert reason == "`scan` is not written in a way that is known"


@pytest.mark.parametrize("name", ["scan over times", "scan of steps", "cond", "fft"])
def test_every_door_takes_control_flow(name):
    truth, y = data_of(name)
    model = MODELS[name]
    batch = jaxfit.curve_fit_batch(model, T, np.stack([y, y]), 0.9 * truth)
    np.testing.assert_allclose(batch.popt, [truth, truth], rtol=1e-5)
    problem = jaxfit.curve_problem(lambda x, p: model(x, *p), T, y, 0.9 * truth)
    np.testing.assert_allclose(jaxfit.solve(problem).params, truth, rtol=1e-5)
    many = jaxfit.solve_batch([problem] * 2)
    np.testing.assert_allclose(many.params, [truth, truth], rtol=1e-5)


@pytest.mark.parametrize("name", ["scan of steps", "map", "one size only"])
def test_long_data_are_cut_only_where_that_is_proven(name, monkeypatch):
    truth, y = data_of(name)
    monkeypatch.setattr("jaxfit._problem.evaluation._LARGE", 50)
    problem = jaxfit.curve_problem(lambda x, p: MODELS[name](x, *p), T, y, 0.9 * truth)
    np.testing.assert_allclose(jaxfit.solve(problem).params, truth, rtol=1e-5)
    solver = jaxfit.TRF(chunk_size=10)
    if name == "scan of steps":
        solution = jaxfit.solve(problem, solver)
        np.testing.assert_allclose(solution.params, truth, rtol=1e-5)
    else:
        with pytest.raises(ValueError, match="not row-wise"):
            jaxfit.solve(problem, solver)
