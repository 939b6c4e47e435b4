"""Functions in stages: the values of the function, each dear one computed once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfit._programs.abstract import abstract
from jaxfit._programs.primitives import equations
from jaxfit._programs.stages import in_stages


COUNT = jnp.asarray(0)
X = np.linspace(0.2, 0.9, 64)


@jax.jit
def nested(x):
    return jnp.sin(x) * jnp.exp(-x)


@jax.custom_jvp
def own_jvp(x):
    return jnp.cos(x)


own_jvp.defjvp(lambda primals, tangents: (own_jvp(*primals), tangents[0]))


@jax.custom_vjp
def own_vjp(x):
    return jnp.sin(3 * x)


own_vjp.defvjp(lambda x: (own_vjp(x), x), lambda x, bar: (bar * x,))

FUNCTIONS = {
    "none": lambda x: (x, x**2),
    "no dear one": lambda x: (jnp.exp(x), jnp.log(x)),
    "sine": lambda x: (jnp.sin(x), x * jnp.sin(x), jnp.cos(x) * jnp.exp(x)),
    "one of another": lambda x: (jnp.sin(jnp.cos(x) + jnp.tan(x)), jnp.cos(x)),
    "in a call": lambda x: (nested(x), 2 * nested(x + 1), jax.checkpoint(nested)(x)),
    "own rules": lambda x: (own_jvp(x) + 1, own_vjp(x) * 2),
    "in a loop": lambda x: (jax.lax.fori_loop(0, 3, lambda i, y: jnp.sin(y), x), x),
    "complex": lambda x: (jnp.abs(jnp.exp(1j * x)), jnp.real(jnp.sqrt(x + 1j))),
    "special": lambda x: (jax.lax.lgamma(x), jax.lax.digamma(x), jax.lax.erf_inv(x)),
    "a constant": lambda x: (jnp.sin(jnp.ones(3)), jnp.sin(x) * jnp.asarray(X)),
    "unused": lambda x: (x, jnp.sin(x))[:1],
    "an input": lambda x: (x, jnp.sin(x)),
    "matrix": lambda x: (jnp.sin(x[:, None] * x), jnp.sin(x[0])),
    "of one": lambda x: jnp.sin(x),
}


def staged(fn, x=X):
    return in_stages(fn, COUNT, 10, x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_values_are_those_of_the_function(name):
    fn = FUNCTIONS[name]
    for x in X, X.astype(np.float32):
        for of in (lambda f: f), jax.jit:
            ours, plain = of(lambda x: staged(fn, x))(x), of(fn)(x)
            assert jax.tree.structure(ours) == jax.tree.structure(plain)
            for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_allclose(
                    a, b, rtol=20 * float(jnp.finfo(b.dtype).eps)
                )


def outside_loops(fn, x):
    """The names of the operations that are not within a loop."""
    closed, _ = abstract(fn, x)
    return [eqn.primitive.name for eqn in closed.eqns]


def everywhere(fn, x):
    closed, _ = abstract(fn, x)
    return [eqn.primitive.name for eqn in equations(closed.jaxpr)]


def test_what_is_dear_is_computed_in_loops():
    names = outside_loops(lambda x: staged(FUNCTIONS["one of another"], x), X)
    assert {"sin", "cos", "tan"}.isdisjoint(names)
    assert names.count("while") == 2  # cos and tan, then the sine of both


def test_what_is_in_calls_is_computed_in_loops():
    for name in "in a call", "own rules":
        names = outside_loops(lambda x, name=name: staged(FUNCTIONS[name], x), X)
        assert names.count("while") == 1
        inner = everywhere(lambda x, name=name: staged(FUNCTIONS[name], x), X)
        assert {"jit", "custom_jvp_call", "custom_vjp_call"}.isdisjoint(inner)


def test_cheap_or_small_or_unused_there_are_no_loops():
    for name in "none", "no dear one", "unused":
        names = outside_loops(lambda x, name=name: staged(FUNCTIONS[name], x), X)
        assert "while" not in names
    few = outside_loops(lambda x: staged(FUNCTIONS["sine"], x), X[:9])
    assert "while" not in few


def test_a_function_that_calls_the_host_is_left_alone():
    calls = []

    def host(x):
        calls.append(1)
        return np.sin(x)

    def fn(x):
        y = jax.pure_callback(host, jax.ShapeDtypeStruct(x.shape, x.dtype), jnp.sin(x))
        return jnp.sin(y), jnp.cos(y)

    def debugged(x):
        jax.debug.callback(lambda _: None, x)
        return jnp.sin(x)

    for one in fn, debugged:
        assert "while" not in outside_loops(lambda x, one=one: staged(one, x), X)
    jax.block_until_ready(jax.jit(lambda x: staged(fn, x))(X))
    assert len(calls) == 1


def test_captured_tracers_and_lanes():
    def of(scale, x):
        return in_stages(lambda x: jnp.sin(scale * x) + jnp.cos(x), COUNT, 10, x)

    scales = jnp.array([1.0, 2.0, 3.0])
    ours = jax.jit(jax.vmap(of, (0, None)))(scales, X)
    np.testing.assert_allclose(
        ours, np.sin(np.outer(scales, X)) + np.cos(X), rtol=1e-14
    )
    _, tangent = jax.jvp(lambda s: of(s, X), (2.0,), (1.0,))
    np.testing.assert_allclose(tangent, X * np.cos(2 * X), rtol=1e-14)
