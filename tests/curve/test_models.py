"""Models of `curve_fit` in all forms."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curve_fits import (
    BOUNDS,
    SIGMA,
    X,
    Y,
    close,
    decay,
    numpy_decay,
    polynomial,
    same,
    scipy_fit,
)

from jaxfit import CurveFit, curve_fit


def test_a_model_of_any_number_of_parameters():
    result = curve_fit(polynomial, X, Y, p0=np.ones(4))
    assert result.names == ("p0", "p1", "p2", "p3")
    close(result.popt, np.polyfit(X, Y, 3)[::-1], 1e-9)


def test_parameters_with_defaults_are_fitted_unless_p0_is_shorter(plain):
    """As in SciPy: the names make the number, and a shorter p0 leaves defaults."""
    assert plain.names == ("a", "b", "c")
    part = curve_fit(decay, X, Y, p0=[1.0, 1.0])
    assert part.names == ("a", "b")
    same(part, scipy_fit(lambda x, a, b: numpy_decay(x, a, b, 0.5), jac=None), 1e-6)


class Offset:
    """A model as an object: what it holds is part of it."""

    def __init__(self, c):
        self.c = c

    def __call__(self, x, a, b):
        return decay(x, a, b, self.c)

    def method(self, x, a, b):
        return decay(x, a, b, self.c)


@pytest.mark.parametrize("form", ["object", "partial", "jitted method"])
def test_callables(form):
    model = {
        "object": Offset(0.4),
        "partial": functools.partial(decay, c=0.4),
        "jitted method": jax.jit(Offset(0.4).method),
    }[form]
    p0 = [1.0, 1.0] if form == "partial" else None
    result = curve_fit(model, X, Y, p0)
    reference = scipy_fit(lambda x, a, b: numpy_decay(x, a, b, 0.4), jac=None)
    same(result, reference, 1e-6)
    assert result.names[:2] == ("a", "b")


class Shifted(eqx.Module):
    """A Module: its arrays are data of the program."""

    c: jax.Array

    def __call__(self, x, a, b):
        return decay(x, a, b, self.c)


def test_the_arrays_of_a_module_are_data():
    results = [curve_fit(Shifted(jnp.asarray(c)), X, Y) for c in (0.4, 0.6)]
    assert results[0].compile_time > 0
    assert results[1].compile_time == 0
    for result, c in zip(results, (0.4, 0.6), strict=True):
        fixed = functools.partial(numpy_decay, c=c)
        reference = scipy_fit(fixed, jac=None, p0=[1, 1])
        same(result, reference, 1e-6)


def test_a_fitter_is_curve_fit_kept(plain):
    fitter = CurveFit(decay)
    first, again = fitter(X, Y), fitter(X, 2 * Y, [1, 1, 1])
    assert again.compile_time == 0 and again.run_time > 0
    np.testing.assert_array_equal(first.popt, plain.popt)
    close(again.popt, plain.popt * [2, 1, 2], 1e-8)
    options = {"sigma": SIGMA, "bounds": BOUNDS}
    same(CurveFit(decay, method="dogbox")(X, Y, **options), scipy_fit(**options))
