"""What JAX cannot trace runs on the host: right, told once, refused where asked."""

import functools
import math
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

import jaxfit
from jaxfit._scipy.host import HostFunctionWarning


T = np.linspace(0.1, 4, 40)
TRUTH = np.array([2.5, 1.3, 0.5])
START = [1.0, 1.0, 1.0]


def decay(t, a, k, c):
    return a * np.exp(-k * t) + c


Y = decay(T, *TRUTH)
TOLD = pytest.mark.filterwarnings("ignore::jaxfit._scipy.host.HostFunctionWarning")


def writing(t, a, k, c):
    out = np.zeros(len(t))
    out[:] = a * np.exp(-k * t)
    t += 100.0  # its own affair
    out += c
    return out


def counted(t, a, k, c):
    counted.calls += 1
    return decay(t, a, k, c)


counted.calls = 0

MODELS = {
    "numpy": decay,
    "math": lambda t, a, k, c: a * math.exp(0.0 * c) * np.exp(-k * t) + c,
    "if": lambda t, a, k, c: a * jnp.exp(-k * t) + c if k > 0 else 0 * t,
    "float": lambda t, a, k, c: float(a) * jnp.exp(-k * t) + c,
    "writing": writing,
    "special": lambda t, a, k, c: (
        a * scipy.special.expit(-k * t) ** 0 * np.exp(-k * t) + c
    ),
    "list": lambda t, a, k, c: [a * math.exp(-k * ti) + c for ti in t],
    "method": type("M", (), {"f": lambda self, t, a, k, c: decay(t, a, k, c)})().f,
    "partial": functools.partial(lambda held, t, *p: decay(t, *p) * held[0], [1.0]),
    "counting": counted,
}


@TOLD
@pytest.mark.parametrize("kind", MODELS)
def test_a_model_that_cannot_be_traced_is_fitted(kind):
    times = T.copy()
    fit = jaxfit.curve_fit(MODELS[kind], times, Y, START)
    np.testing.assert_array_equal(times, T)
    np.testing.assert_allclose(fit.popt, TRUTH, rtol=1e-6)
    np.testing.assert_allclose(fit.predict(T[:7]), Y[:7], rtol=1e-6)
    again = jaxfit.curve_fit(MODELS[kind], times, Y + 1, START)
    np.testing.assert_allclose(again.popt, TRUTH + np.eye(3)[2], rtol=1e-6)
    assert again.compile_time == 0


@TOLD
def test_it_is_double_precision_on_the_host_too():
    """JAX's functions, called there, see the precision of the fit."""
    seen = set()

    def model(t, a, k, c):
        value = float(a) * jnp.exp(-k * t) + c
        seen.add(str(value.dtype))
        return value

    y = Y + 1e-3 * np.cos(50 * T)
    fit = jaxfit.curve_fit(model, T, y, START)
    right = scipy.optimize.curve_fit(decay, T, y, START)[0]
    np.testing.assert_allclose(fit.popt, right, rtol=1e-6)
    assert seen == {"float64"}


def test_one_warning_for_one_function_says_what_it_costs():
    def model(t, a, k, c):
        return a * np.exp(-k * t) + c

    with pytest.warns(HostFunctionWarning) as caught:
        for _ in range(2):
            jaxfit.curve_fit(model, T, Y, START)
        jaxfit.CurveFit(model)(T[:20], Y[:20], START)
    (warning,) = caught
    says = str(warning.message)
    for word in ("`f` runs on the host", "np.exp(-k * t)", "jax.numpy", "host='allow'"):
        assert word in says


def test_functions_of_one_code_are_told_of_once_and_share_a_program():
    def make(gain, y):
        return lambda p: gain * p[0] * np.exp(-p[1] * T) + p[2] - y

    with pytest.warns(HostFunctionWarning) as caught:
        fits = [jaxfit.least_squares(make(g, Y + g), START) for g in (1.0, 2.0, 4.0)]
    assert len(caught) == 1
    for gain, fit in zip((1.0, 2.0, 4.0), fits, strict=True):
        np.testing.assert_allclose(
            fit.x, TRUTH / [gain, 1, 1] + [0, 0, gain], rtol=1e-6
        )
    assert [fit.compile_time > 0 for fit in fits] == [True, False, False]


def test_the_first_of_two_results_keeps_its_own_function():
    def make(gain):
        return lambda t, a: gain * a * np.exp(-t)

    fits = [
        jaxfit.curve_fit(make(g), T, 6 * np.exp(-T), [1.0], host="allow")
        for g in (1.0, 2.0)
    ]
    for fit in fits:
        np.testing.assert_allclose(fit.predict(T[:5]), 6 * np.exp(-T[:5]), rtol=1e-6)


def test_it_may_be_allowed_and_refused(without_type_checks):
    def fun(p):
        return decay(T, *p) - Y

    def model(t, a, k, c):
        return a * np.exp(-k * t) + c

    fit = jaxfit.least_squares(fun, START, host="allow")
    np.testing.assert_allclose(fit.x, TRUTH, rtol=1e-6)
    for call in (
        lambda host: jaxfit.least_squares(fun, START, host=host),
        lambda host: jaxfit.curve_fit(model, T, Y, START, host=host),
    ):
        with pytest.raises(TypeError, match=r"cannot be traced by JAX at line \d+"):
            call("refuse")
        with pytest.raises(ValueError, match=r"`host` must be .*'warn'"):
            call("maybe")
    with warnings.catch_warnings():
        warnings.simplefilter("error", HostFunctionWarning)
        for _ in range(2):
            with pytest.raises(HostFunctionWarning):
                jaxfit.curve_fit(model, T, Y, START)


@TOLD
@pytest.mark.parametrize("door", ["curve_fit", "least_squares"])
def test_a_jacobian_of_numpy(door):
    def columns(t, a, k, c):
        e = np.exp(-k * t)
        return np.stack([e, -a * t * e, np.ones(len(t))], axis=1)

    if door == "curve_fit":
        model = lambda t, a, k, c: a * jnp.exp(-k * t) + c  # noqa: E731
        for f in (model, decay):
            fit = jaxfit.curve_fit(f, T, Y, START, jac=columns)
            np.testing.assert_allclose(fit.popt, TRUTH, rtol=1e-9)
    else:
        fit = jaxfit.least_squares(
            lambda p: decay(T, *p) - Y, START, lambda p: columns(T, *p)
        )
        np.testing.assert_allclose(fit.x, TRUTH, rtol=1e-8)
        np.testing.assert_allclose(fit.jac, columns(T, *fit.x), rtol=1e-9)


@TOLD
@pytest.mark.parametrize("kind", ["traced", "on the host"])
def test_a_loss_of_numpy(kind):
    y = Y + np.where(np.arange(len(T)) == 7, 3.0, 0.0)

    def loss(z):
        rho = np.empty((3, len(z)))
        rho[0], rho[1], rho[2] = np.log1p(z), 1 / (1 + z), -1 / (1 + z) ** 2
        return rho

    traced = lambda p: p[0] * jnp.exp(-p[1] * T) + p[2] - y  # noqa: E731
    fun = traced if kind == "traced" else lambda p: decay(T, *p) - y
    right = jaxfit.least_squares(traced, START, loss="cauchy")
    fit = jaxfit.least_squares(fun, START, loss=loss)
    np.testing.assert_allclose(fit.x, right.x, rtol=1e-5)
    np.testing.assert_allclose(fit.cost, right.cost, rtol=1e-8)
    with pytest.raises(ValueError, match="rho, rho' and rho'' stacked"):
        jaxfit.least_squares(fun, START, loss=lambda z: np.log1p(z))


@TOLD
def test_a_mistake_in_a_model_stays_its_own_error():
    def wrong(t, a, k, c):
        return decay(t, a, k, c) + not_defined

    def fails(t, a, k, c):
        if a > 0:
            raise ZeroDivisionError("mine")
        return t

    def traced(t, a, k, c):
        raise KeyError("mine")

    with pytest.raises(NameError, match="not_defined"):
        jaxfit.curve_fit(wrong, T, Y, START)
    with pytest.raises(ZeroDivisionError, match="mine"):
        jaxfit.curve_fit(fails, T, Y, START)
    with pytest.raises(KeyError, match="mine"):
        jaxfit.curve_fit(traced, T, Y, START)
    with pytest.raises(KeyError, match="mine"):
        jaxfit.least_squares(lambda p: traced(T, *p), START)


def test_columns_of_a_table_by_their_names():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"time": T, "also": 0 * T})
    model = lambda x, a, k, c: a * jnp.exp(-k * x["time"]) + c  # noqa: E731
    fit = jaxfit.curve_fit(model, table, Y, START)  # traced: no warning
    np.testing.assert_allclose(fit.popt, TRUTH, rtol=1e-9)
    np.testing.assert_allclose(fit.predict(table[3:9]), Y[3:9], rtol=1e-9)

    def whole(x, a, k, c):
        assert list(x.columns) == ["time", "also"]
        return decay(x.time, a, k, c) + x.iloc[:, 1]

    for f, x in (
        (whole, table),
        (lambda x, a, k, c: decay(x.values, a, k, c), table["time"]),
    ):
        fit = jaxfit.curve_fit(f, x, pandas.Series(Y), START, host="allow")
        np.testing.assert_allclose(fit.popt, TRUTH, rtol=1e-6)
        np.testing.assert_allclose(fit.predict(x[3:9]), Y[3:9], rtol=1e-6)


def test_doors_without_a_host_say_so():
    for call in (
        lambda f: jaxfit.curve_fit_batch(f, T, np.stack([Y, Y]), START),
        lambda f: jaxfit.fit_large_dataset(f, T, Y, START),
    ):
        with pytest.raises(TypeError, match=r"jax\.numpy.*curve_fit"):
            call(decay)


def test_what_is_no_function_of_its_door_is_told_what_it_should_be():
    def swapped(p, t):
        return p["a"] * jnp.exp(-p["k"] * t)

    problem = jaxfit.curve_problem(swapped, T, Y, {"a": 1.0, "k": 1.0})
    with pytest.raises(TypeError, match=r"model\(x, params\).*x first"):
        jaxfit.solve(problem)
    with pytest.raises(TypeError, match=r"residual\(params, args\)"):
        jaxfit.solve(jaxfit.Problem(lambda p: p - 1, np.ones(2)))
    aux = jaxfit.Problem(lambda p, _: (p - 1, "hi"), np.ones(2))
    with pytest.raises(TypeError, match=r"residual.*arrays.*'hi'"):
        jaxfit.solve(aux)


def test_a_model_object_of_another_package(without_type_checks):
    lmfit = pytest.importorskip("lmfit")
    model = lmfit.models.ExponentialModel()
    with pytest.raises(TypeError, match=r"lmfit.*model\.func"):
        jaxfit.curve_fit(model, T, Y, [1.0, 1.0])
