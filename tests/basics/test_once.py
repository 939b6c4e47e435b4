"""A boundary that XLA does not compute across: the same values, each computed once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfit._basics.once import once, only_where


def several(x):
    """Three results of a dozen cheap operations that they share."""
    y = x
    for k in range(12):
        y = (y * x + k) * (x - y)
    return {"first": y[0] + 1, "sum": jnp.sum(y, axis=0), "big": (y * y)[1] > 1}


@pytest.mark.smoke
def test_it_gives_what_the_function_gives():
    x = jnp.linspace(-1, 1, 30).reshape(3, 10).at[0, 3].set(jnp.nan)
    count = jnp.zeros(10, jnp.int32)
    expected = several(x)
    for found in (
        once(several, count, x),
        jax.jit(once, static_argnums=0)(several, count, x),
    ):
        assert found["big"].dtype == bool
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-12)


def test_it_runs_where_nothing_is_a_number():
    x = jnp.full((3, 10), jnp.nan)
    found = once(lambda x: jnp.isnan(x), jnp.ones(10, jnp.int32), x)
    assert found.all()


def test_what_results_share_is_compiled_once():
    x, count = jnp.ones((3, 1000)), jnp.zeros(1000, jnp.int32)
    plain = jax.jit(several).lower(x).compile().as_text()
    apart = jax.jit(lambda x, count: once(several, count, x))
    text = apart.lower(x, count).compile().as_text()
    assert text.count("subtract(") <= plain.count("subtract(")
    # One loop, which the compiler has not seen through.
    assert text.count(" while(") == 1 and plain.count(" while(") == 0


def test_what_is_not_needed_is_not_computed():
    """Alone and in lanes of which none needs it; and `one` is 1."""
    calls = []

    def told(x):
        calls.append(1)
        return np.asarray(2 * x)

    def expensive(one, x):
        like = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(told, like, x * one, vmap_method="sequential")

    def fn(needed, x):
        return only_where(needed, lambda one: expensive(one, x), x)

    x = jnp.arange(3.0)
    assert jax.jit(fn)(False, x).tolist() == [0, 1, 2] and not calls
    assert jax.jit(fn)(True, x).tolist() == [0, 2, 4] and len(calls) == 1
    lanes = jax.jit(jax.vmap(fn))
    assert lanes(jnp.zeros(3, bool), x).tolist() == [0, 1, 2] and len(calls) == 1
    assert lanes(jnp.array([True, False, False]), x + 1).tolist() == [2, 2, 3]
