"""Doors that are called with numbers while JAX traces a function of the user."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit


X = np.linspace(0, 3, 30)
Y = 2 * np.exp(-X) + 0.01 * np.sin(20 * X)


def decay(x, a, b):
    return a * jnp.exp(-b * x)


def residual(p):
    return decay(X, *p) - Y


DOORS = {
    "curve_fit": lambda: jaxfit.curve_fit(decay, X, Y, [1.0, 2.0])[0],
    "least_squares": lambda: jaxfit.least_squares(residual, [1.0, 2.0]).x,
    "curve_fit_batch": lambda: jaxfit.curve_fit_batch(decay, X, Y[None], [1.0, 2.0])[0],
}
TRACES = {
    "jit": lambda fn: jax.jit(fn)(1.0),
    "vmap": lambda fn: jax.vmap(fn)(jnp.ones(2)),
    "grad": lambda fn: jax.grad(fn)(1.0),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_door_answers_at_once(door):
    expected = DOORS[door]()
    for trace in TRACES.values():
        found = []

        def traced(scale, found=found):
            found.append(DOORS[door]())
            return scale * jnp.asarray(found[0]).sum()

        trace(traced)
        assert isinstance(found[0], np.ndarray)
        np.testing.assert_array_equal(found[0], expected)


@pytest.mark.parametrize("door", ["curve_fit", "least_squares"])
def test_what_is_traced_is_refused(door):
    """Its values are not there: `solve` is what can be traced."""

    def fit(scale):
        if door == "curve_fit":
            return jaxfit.curve_fit(decay, X, scale * Y, [1.0, 2.0])[0]
        return jaxfit.least_squares(residual, scale * jnp.ones(2)).x

    with pytest.raises((TypeError, ValueError), match=r"jaxfit\.solve"):
        jax.jit(fit)(1.0)
