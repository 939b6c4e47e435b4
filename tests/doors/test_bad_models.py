"""Models, residuals and Jacobians that cannot be fitted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import put
from spoilt_calls import M, X, Y, decay, fit, minimise, refused, residual

from jaxfit import from_numpy


pytestmark = pytest.mark.usefixtures("without_type_checks")


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (lambda x, a, b: a + b, ValueError, "returned shape () ... has (12,)"),
        (lambda x, a, b: decay(x, a, b)[:1], ValueError, "(1,) ... has (12,)"),
        (lambda x, a, b: decay(x, a, b)[:-1], ValueError, "(11,) ... has (12,)"),
        (lambda x, a, b: decay(x, a, b)[:, None], ValueError, "(12, 1) ... (12,)"),
        (lambda x, a, b: {"y": decay(x, a, b)}, ValueError, "structure ... 'y'"),
        (lambda x, a, b: None, ValueError, "structure ... None"),
        (lambda x, a, b: decay(x, a, 1j * b), TypeError, "must be real, got complex"),
        (lambda x, a, b: a * undefined, NameError, "name 'undefined'"),
        (3, TypeError, "must be callable, got int"),
    ],
    ids="scalar one short column dict none complex undefined number".split(),  # noqa: SIM905
)
def test_models(model, error, text):
    """A scalar or a single value would be broadcast; nothing but (12,) is data."""
    refused(error, text, f=model)


def test_a_model_that_is_not_finite_at_the_start():
    def root(x, a, b):
        return a * jnp.sqrt(x - b)

    text = (
        "f(xdata, *p0) is nan at index 0, with a=1, b=1. Give another `p0`, or bounds"
    )
    refused(ValueError, text, f=root)
    text = "f(xdata, *p0) is nan at index 2, with a=1, b=0.4. Give another `p0`"
    refused(ValueError, text, f=root, xdata=put(X, [0, 1], 3.0), p0=[1.0, 0.4])


@pytest.mark.parametrize(
    "options",
    [
        {"f": lambda x, a, b: a * np.exp(-b * x)},
        {"f": lambda x, a, b: float(a) * jnp.exp(-b * x)},
        {"f": lambda x, a, b: decay(x, a, b) if b > 0 else a * x},
        {"f": lambda x, a, b: a * x[x > b].sum() * x},
    ],
    ids=["numpy", "float", "if", "boolean"],
)
def test_a_model_that_cannot_be_traced_is_told_where_and_what_to_do(options):
    with pytest.raises(TypeError) as caught:
        fit(**options, host="refuse")
    says = str(caught.value)
    line = options["f"].__code__.co_firstlineno
    assert f"line {line} of {__file__}" in says
    for word in ("`f` cannot be traced", "jax.numpy", "jaxfit.from_numpy"):
        assert word in says


def test_residuals_and_jacobians_that_cannot_be_traced_are_named():
    def numpy_residual(p, x, y):
        return p[0] * np.exp(-p[1] * x) - y

    def numpy_jacobian(x, a, b):
        return np.stack([np.exp(-b * x), -a * x * np.exp(-b * x)], axis=1)

    text = (
        "`fun` cannot be traced ... `return p[0] * np.exp(-p[1] * x) - y` ... from_nu"
    )
    asked = {"host": "refuse"}
    refused(TypeError, text, call=minimise, fun=numpy_residual, **asked)
    says = "`jac` cannot be traced ... from_numpy"
    refused(TypeError, says, jac=numpy_jacobian, **asked)
    loss = lambda z: np.log1p(z)  # noqa: E731
    refused(TypeError, "`loss` cannot be traced", loss=loss, **asked)


class Disaster(Exception):
    """Nothing that jaxfit or JAX would raise."""


@pytest.mark.parametrize("when", ["at the start", "later", "watched", "in jac"])
def test_an_exception_inside_a_numpy_model_is_raised_as_it_was(when):
    def model(x, a, b):
        if when == "at the start" or (a != 1 and when != "in jac"):
            raise Disaster("at", a)
        return a * np.exp(-b * x)

    def jac(x, a, b):
        raise Disaster("in jac")

    host = from_numpy(model, jac=jac if when == "in jac" else None)
    with pytest.raises(Disaster):
        fit(f=host, p0=[1.0, 1.0], verbose=int(when == "watched"))


def test_an_exception_inside_a_numpy_residual_is_raised_as_it_was():
    def fun(p, x, y):
        if p[0] != 1:
            raise Disaster
        return p[0] * np.exp(-p[1] * x) - y

    with pytest.raises(Disaster):
        minimise(fun=from_numpy(fun))


@pytest.mark.parametrize(
    ("jac", "text"),
    [
        (lambda x, a, b: jnp.ones((M, 3)), "`jac` ... each of the 2 par ... (12, 3)"),
        (lambda x, a, b: jnp.ones(M), "`jac` ... each of the 2 par ... (12,)"),
        (lambda x, a, b: jnp.ones((M - 1, 2)), "`jac ... (11, 2) ... (12, 2)"),
        (lambda x, a, b: jnp.ones((2, M)), "`jac` ... each of the 2 par ... (2, 12)"),
    ],
    ids=["wide", "vector", "short", "transposed"],
)
def test_a_jacobian_of_a_wrong_shape(jac, text):
    refused(ValueError, text, jac=jac)
    text = text.replace("each of the 2 par", "2 columns")
    refused(ValueError, text, call=minimise, jac=lambda p, x, y: jac(x, *p))


@pytest.mark.parametrize("name", ["xdata", "ydata", "sigma", "p0"])
def test_a_call_inside_jit_is_told_of_the_kernel(name):
    value = {"xdata": X, "ydata": Y, "sigma": Y, "p0": np.ones(2)}[name]
    with pytest.raises(TypeError, match=rf"`{name}` is traced.*curve_problem"):
        jax.jit(lambda v: fit(**{name: v})[0])(value)
    if name == "ydata":
        with pytest.raises(TypeError, match=r"`ydata` is traced.*curve_problem"):
            jax.vmap(lambda y: fit(ydata=y)[0])(jnp.stack([Y, Y]))


@pytest.mark.parametrize("door", ["curve_fit", "least_squares"])
def test_a_model_that_captures_a_tracer_is_told_of_the_kernel(door):
    def call(weight):
        if door == "curve_fit":
            return fit(f=lambda x, a, b: weight * decay(x, a, b)).popt
        return minimise(fun=lambda p, x, y: weight * residual(p, x, y)).x

    with pytest.raises(TypeError, match=r"traced.*jaxfit\.solve"):
        jax.jit(call)(2.0)


@pytest.mark.parametrize("name", ["x0", "args", "bounds"])
def test_least_squares_inside_jit_is_told_of_the_kernel(name):
    def call(v):
        value = {"x0": v, "args": (X, v), "bounds": (v, 9.0)}[name]
        return minimise(**{name: value}).x

    value = Y if name == "args" else np.zeros(2)
    with pytest.raises(TypeError, match=rf"`{name}.* is traced.*jaxfit\.solve"):
        jax.jit(call)(value)
